"""The job that encodes a corpus, killed at any point and continued (on Ray: test_corpus_ray)."""

import errno
import json
import os
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import CachedEncoder, all_rows, copied, make_videos

from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.corpus import job, storage
from videotok.corpus.report import find_faults
from videotok.corpus.storage import CorpusFolder, read_shard, shard_paths
from videotok.errors import CorpusError
from videotok.pipeline import VideoTokenizer
from videotok.tokens import VideoTokens

VIDEOS = ["more/layers.mp4", "more/zoom.mp4", "pan.mp4", "turn.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.fixture(scope="module", autouse=True)
def _without_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "encode_on_ray", CachedEncoder())
        patch.setattr(job, "make_plan", cache(job.make_plan))
        yield


@pytest.fixture(scope="module")
def corpus(videos, tiny_model, tmp_path_factory, _without_ray):
    """An uninterrupted run: 8 clips in shards of 3."""
    return encode(videos, tmp_path_factory.mktemp("corpus") / "tokens", tiny_model)


def encode(videos, out, model, **options):
    job.encode_corpus(str(videos), out, model=str(model), **{"shard_rows": 3} | options)
    return out


def assert_same(one, other):
    assert all_rows(one).equals(all_rows(other), check_metadata=True)
    assert CorpusFolder(one).errors.equals(CorpusFolder(other).errors)
    assert list(find_faults(CorpusFolder(one))) == []


def test_ids_are_those_of_encode(corpus, videos, tiny_model):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    rows = all_rows(corpus)
    assert sorted(set(rows["video_id"].to_pylist())) == VIDEOS
    for name in VIDEOS:
        tokens: VideoTokens = tokenizer.encode(videos / name, EncodeConfig(predict_keyframes=False))
        found = [row for row in rows.to_pylist() if row["video_id"] == name]
        assert [row["clips"] for row in found] == [tokens.num_clips] * tokens.num_clips
        for clip, row in enumerate(found):
            assert row["visual_ids"] == tokens.visual_ids_of(clip).tolist()
            assert row["keep_mask"] == tokens.keep_mask[clip].tolist()
            assert row["motion_ids"] == tokens.motion_ids[clip].tolist()
            assert row["global_motion_ids"] == tokens.global_motion_ids[clip].tolist()
            assert row["num_frames"] == tokens.num_frames[clip]
            assert row["start_seconds"] == tokens.pts_seconds[clip]
            assert row["end_seconds"] == pytest.approx(row["start_seconds"] + row["num_frames"] / 12)
            assert (row["width"], row["height"], row["codec"]) == (128, 80, "h264")


def test_shards_are_full_but_for_the_last(corpus):
    assert [read_shard(path).num_rows for path in shard_paths(corpus)] == [3, 3, 2]


def test_a_bad_video_is_one_row(corpus):
    (row,) = CorpusFolder(corpus).errors.to_pylist()
    assert (row["video_id"], row["stage"]) == ("broken.mp4", "codec")
    assert row["message"].startswith("cannot read broken.mp4")


def test_report(corpus):
    facts = json.loads((corpus / "report.json").read_text())
    assert (facts["inputs"], facts["done"], facts["refused"], facts["pending"]) == (5, 4, 1, 0)
    assert facts["clips"] == 8
    assert facts["hours"] * 3600 == pytest.approx(11, abs=0.1)
    rates = facts["tokens_per_second"]
    assert rates["min"] < rates["median"] < rates["max"]
    assert facts["tokens"] == facts["visual_tokens"] + facts["motion_tokens"]
    assert "4 done, 1 refused" in (corpus / "report.txt").read_text()


def test_finished_files_are_not_read_again(corpus, videos, tiny_model, tmp_path, monkeypatch):
    place = copied(corpus, tmp_path / "tokens")
    monkeypatch.setattr(job, "encode_on_ray", None)
    encode(videos, place, tiny_model)
    assert_same(place, corpus)


def test_videos_that_come_later_are_added(corpus, videos, tiny_model, tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "pan.mp4").symlink_to(videos / "pan.mp4")
    place = encode(tmp_path / "first", tmp_path / "tokens", tiny_model)
    encode(videos, place, tiny_model)
    assert CorpusFolder(place).inputs["path"].to_pylist() == CorpusFolder(corpus).inputs["path"].to_pylist()
    assert all_rows(place).drop_columns("path").equals(all_rows(corpus).drop_columns("path"))


@pytest.mark.parametrize("write", range(1, 13))
def test_killed_at_every_write(corpus, videos, tiny_model, tmp_path, monkeypatch, write):
    """The job stops dead at its n-th write; before the rename, or (odd n) after it. The same command ends it."""
    count = 0

    def dying(real):
        def write_file(path, value, **options):
            nonlocal count
            count += 1
            if count == write:
                (path.parent / f".{path.stem}.left").write_bytes(b"half of a file")
                if write % 2:
                    real(path, value, **options)
            if count >= write:
                raise KeyboardInterrupt
            real(path, value, **options)

        return write_file

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_json"):
            patch.setattr(storage, name, dying(getattr(storage, name)))
        try:
            encode(videos, tmp_path / "tokens", tiny_model, commit_seconds=0)
        except KeyboardInterrupt:
            pass
        else:
            assert count < write
    encode(videos, tmp_path / "tokens", tiny_model)
    assert_same(tmp_path / "tokens", corpus)


def test_full_disk_is_one_line(corpus, videos, tiny_model, tmp_path, monkeypatch):
    real, fsync = storage.write_bytes, os.fsync
    is_full = False

    def write(path, data):
        nonlocal is_full
        is_full = path.name == "part-00001.parquet"
        real(path, data)

    def sync(handle):
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", write)
        patch.setattr(os, "fsync", sync)
        with pytest.raises(
            CorpusError, match=r"No space left on device; what was written is safe.* the same command again$"
        ):
            encode(videos, tmp_path / "tokens", tiny_model)
    assert [path.name for path in shard_paths(tmp_path / "tokens")] == ["part-00000.parquet"]
    encode(videos, tmp_path / "tokens", tiny_model)
    assert_same(tmp_path / "tokens", corpus)


def test_another_fingerprint_is_refused(corpus, videos, tiny_model, other_model, tmp_path):
    place = copied(corpus, tmp_path / "tokens")
    with pytest.raises(CorpusError, match=r"weights keyframes = [0-9a-f]{12}, now it is [0-9a-f]{12};.*overwrite"):
        encode(videos, place, other_model)
    with pytest.raises(CorpusError, match=r"config motion_quantizers = 2, now it is 1;"):
        encode(videos, place, tiny_model, config=EncodeConfig(predict_keyframes=False, motion_quantizers=1))
    assert_same(place, corpus)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncodeConfig(), "`predict_keyframes` = True: its clips are encoded independently"),
        (EncodeConfig(predict_keyframes=False, max_clips=3), "`max_clips` = 3"),
        (EncodeConfig(predict_keyframes=False, motion_quantizers=9), "`motion_quantizers` "),
    ],
)
def test_options_that_a_corpus_does_not_support_are_refused(videos, tiny_model, tmp_path, config, message):
    with pytest.raises(CorpusError, match=message):
        encode(videos, tmp_path / "tokens", tiny_model, config=config)
    assert not (tmp_path / "tokens").exists()


def test_options_that_do_not_change_ids_do_not_change_the_fingerprint(corpus, videos, tiny_model, tmp_path):
    place = copied(corpus, tmp_path / "tokens")
    encode(videos, place, tiny_model, config=EncodeConfig(predict_keyframes=False, batch_size=1, isolate=True))
    assert_same(place, corpus)


def test_overwrite_begins_anew_even_if_killed(corpus, videos, tiny_model, other_model, tmp_path, monkeypatch):
    place = copied(corpus, tmp_path / "tokens")
    with monkeypatch.context() as patch:
        patch.setattr(job, "repair", None)  # killed when the old shards are still there
        patch.setattr("videotok.corpus.storage.shard_paths", lambda folder: [])
        with pytest.raises(TypeError):
            encode(videos, place, other_model, overwrite=True)
    encode(videos, place, other_model)
    assert {row["fingerprint"] for row in all_rows(place).to_pylist()} == {CorpusFolder(place).fingerprint.sha256}
    assert list(find_faults(CorpusFolder(place))) == []
    encode(videos, place, tiny_model, overwrite=True)
    assert_same(place, corpus)


def test_other_columns_are_refused(videos, tiny_model, tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path,caption,label,start,duration\n{videos}/turn.mp4,it turns,7,1,2\n")
    encode(manifest, tmp_path / "tokens", tiny_model)
    (row,) = all_rows(tmp_path / "tokens").to_pylist()
    assert (row["video_id"], row["caption"], row["label"]) == (f"{videos}/turn.mp4#t=1,3", "it turns", 7)
    assert row["start_seconds"] == pytest.approx(1, abs=0.05)
    manifest.write_text(f"path,caption,mood\n{videos}/turn.mp4,it turns,good\n")
    with pytest.raises(CorpusError, match=r"label \(int64\), the manifest now has .*mood \(string\)"):
        encode(manifest, tmp_path / "tokens", tiny_model)


def test_refused_videos_can_be_read_again(corpus, videos, tiny_model, tmp_path):
    place = copied(corpus, tmp_path / "tokens")
    copies = tmp_path / "videos"
    copies.mkdir()
    for name in ("broken.mp4", "turn.mp4"):
        (copies / name).symlink_to(videos / "turn.mp4")
    encode(copies, place, tiny_model, retry_errors=True)
    assert CorpusFolder(place).errors.num_rows == 0
    rows = all_rows(place)
    assert rows["video_id"].to_pylist().count("broken.mp4") == rows["video_id"].to_pylist().count("turn.mp4") == 3


def test_two_jobs_do_not_share_a_folder(corpus, videos, tiny_model):
    with CorpusFolder(corpus).locked(), pytest.raises(CorpusError, match="another job"):
        encode(videos, corpus, tiny_model)


def change_first_shard(place, change):
    path = shard_paths(place)[0]
    table = read_shard(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.slice(1), "missing or there twice"),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "missing or there twice"),
        (lambda rows: rows.drop_columns("codec"), "has the columns"),
        (
            lambda rows: rows.set_column(
                rows.column_names.index("global_motion_ids"),
                rows.schema.field("global_motion_ids"),
                pa.array([[70_000]] * rows.num_rows, pa.list_(pa.int32())),
            ),
            "70000, the codebook to 255",
        ),
    ],
)
def test_verify_finds_changed_rows(corpus, tmp_path, change, message, capsys):
    place = copied(corpus, tmp_path / "tokens")
    change_first_shard(place, change)
    assert main(["corpus", "verify", str(place)]) == 2
    captured = capsys.readouterr()
    assert message in captured.out
    assert len(captured.err.splitlines()) == 1


def test_damaged_shards_are_repaired(corpus, videos, tiny_model, tmp_path):
    place = copied(corpus, tmp_path / "tokens")
    change_first_shard(place, lambda rows: rows.slice(1))
    encode(videos, place, tiny_model)
    assert_same(place, corpus)
    shard_paths(place)[1].write_bytes(b"noise")
    with pytest.raises(CorpusError, match=r"part-00001\.parquet is damaged"):
        encode(videos, place, tiny_model)
    shard_paths(place)[1].unlink()
    encode(videos, place, tiny_model)
    assert_same(place, corpus)


def test_status_and_verify_say_what_is_there(corpus, capsys):
    assert main(["corpus", "status", str(corpus), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["inputs"], facts["done"], facts["pending"], facts["is_being_written"]) == (5, 4, 0, False)
    assert main(["corpus", "status", str(corpus)]) == 0
    assert main(["corpus", "verify", str(corpus)]) == 0
    text = capsys.readouterr().out
    assert text.count("5: 4 done, 1 refused, 0 pending") == 2
    assert "broken.mp4: codec: cannot read broken.mp4" in text


def test_no_corpus_is_one_line(tmp_path, capsys):
    for command in (["status"], ["verify"], ["export", "--to", "ids", "--out", str(tmp_path / "x")]):
        assert main(["corpus", command[0], str(tmp_path), *command[1:]]) == 2
        assert "is no corpus" in capsys.readouterr().err
