"""A corpus in other layouts, and read without our code."""

import io
import json
import re
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from corpora import all_rows, copied, make_corpus, make_videos, reorder

from videotok.cli.main import main
from videotok.corpus.export import PackingOptions, to_huggingface, to_packed_ids, to_webdataset, video_tokens
from videotok.corpus.search import ClipFeatures, CodeRarity, CorpusSearch, encode_query
from videotok.corpus.storage import CorpusFolder
from videotok.errors import CorpusError
from videotok.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.fixture(scope="module")
def corpus(videos, tiny_model, tmp_path_factory):
    names = ["pan.mp4", "more/zoom.mp4", "turn.mp4", "more/layers.mp4"]
    rows = "".join(f"{videos / name},it {name[:-4]}s\n" for name in names)
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows, tiny_model)


@pytest.fixture(scope="module")
def reordered(corpus, tmp_path_factory):
    """The same clips, as a job that finished them in another order would have left them."""
    return reorder(copied(corpus, tmp_path_factory.mktemp("reordered") / "tokens"))


def test_webdataset(corpus, reordered, tmp_path):
    paths = to_webdataset(CorpusFolder(corpus), tmp_path / "one", 3)
    others = to_webdataset(CorpusFolder(reordered), tmp_path / "two", 3)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in others]
    samples: dict[str, dict[str, bytes]] = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    rows = all_rows(corpus).to_pylist()
    assert len(samples) == len(rows) == 8
    for sample, row in zip(samples.values(), rows, strict=True):
        for name in ("visual_ids", "keep_mask", "motion_ids", "global_motion_ids"):
            np.testing.assert_array_equal(np.load(io.BytesIO(sample[f"{name}.npy"])), np.array(row.pop(name)))
        assert json.loads(sample["json"]) == row


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset does not close the files it reads
def test_webdataset_reads_its_shards(corpus, tmp_path):
    import webdataset

    to_webdataset(CorpusFolder(corpus), tmp_path / "out")
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "clips-00000.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found][:3] == ["00000000-00000", "00000000-00001", "00000001-00000"]
    assert found[0]["motion_ids.npy"].shape == (2, 135)


def test_huggingface(corpus, reordered, tmp_path):
    import datasets

    to_huggingface(CorpusFolder(corpus), tmp_path / "one", 3)
    to_huggingface(CorpusFolder(reordered), tmp_path / "two", 3)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    loaded = datasets.load_dataset(str(tmp_path / "one"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == all_rows(corpus).to_pylist()


def test_rows_of_an_exported_corpus_become_tokens(corpus, tiny_model, tmp_path):
    """docs/corpus.md: `load_dataset` of the export, and the clips of a video decoded."""
    import datasets

    from videotok import DecodeConfig, VideoTokenizer

    to_huggingface(CorpusFolder(corpus), tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    table = rows.with_format("arrow")[:]
    video = table.filter(pc.equal(table["video_id"], rows[0]["video_id"]))
    tokens = video_tokens(video, CorpusFolder(corpus).facts)
    assert tokens.visual_ids_of(0).tolist() == rows[0]["visual_ids"]
    frames = list(VideoTokenizer.from_pretrained(tiny_model).decode(tokens, DecodeConfig(size=(64, 40))))
    assert len(frames) == sum(video["num_frames"].to_pylist())


def test_lance(corpus, tmp_path):
    lance = pytest.importorskip("lance", reason="no Lance: `pip install 'videotok[lance]'`")
    assert main(["corpus", "export", str(corpus), "--to", "lance", "--out", str(tmp_path / "out")]) == 0
    found = lance.dataset(tmp_path / "out" / "clips.lance")
    assert found.to_table().to_pylist() == all_rows(corpus).to_pylist()
    wanted = all_rows(corpus).to_pylist()[5]["motion_ids"]
    assert found.take([5], columns=["motion_ids"]).to_pylist() == [{"motion_ids": wanted}]


ENERGON = """
import sys
from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, basic_sample_keys, get_loader, get_train_dataset
from megatron.energon import stateless

@stateless
def cook(sample):
    return dict(**basic_sample_keys(sample), motion_ids=sample["motion_ids.npy"], facts=sample["json"])

class TaskEncoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

    def batch(self, samples):
        return samples

loader = get_loader(get_train_dataset(
    sys.argv[1], batch_size=2, shuffle_buffer_size=None, max_samples_per_sequence=None, repeat=False,
    worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), task_encoder=TaskEncoder(),
))
for batch in loader:
    for sample in batch:
        print(sample["__key__"], sample["motion_ids"].sum().item(), sample["facts"]["clip"])
"""


@pytest.mark.skipif(
    find_spec("megatron") is None, reason="no Energon: `pip install megatron-energon`, in an environment of its own"
)
def test_energon_reads_webdataset(corpus, tmp_path):
    """docs/corpus.md; in a process of its own, for its imports warn."""
    to_webdataset(CorpusFolder(corpus), tmp_path / "out", 3)
    prepare = "prepare --non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset --num-workers 1"
    program = str(Path(sys.executable).parent / "energon")
    subprocess.run([program, *prepare.split(), str(tmp_path / "out")], check=True, capture_output=True)
    command = [sys.executable, "-c", ENERGON, str(tmp_path / "out")]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = [(int(np.sum(row["motion_ids"])), row["clip"]) for row in all_rows(corpus).to_pylist()]
    assert sorted(tuple(map(int, line.split()[1:])) for line in found) == sorted(wanted)


def test_ids_are_the_videos(corpus, tmp_path):
    import datasets

    (path,) = to_packed_ids(CorpusFolder(corpus), tmp_path / "ids", PackingOptions(row_length=700, text_size=100))
    rows = list(datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True))
    vocabulary = Vocabulary.from_dict(json.loads((tmp_path / "ids" / "vocabulary.json").read_text())["vocabulary"])
    assert vocabulary.text_size == 100
    found = []
    for row in rows:
        ids, document = np.array(row["input_ids"]), np.array(row["document"])
        assert len(ids) == len(row["loss_mask"]) == len(row["position_ids"]) == 700
        assert np.array_equal(row["loss_mask"], document >= 0)
        for number in range(document.max() + 1):
            place = document == number
            assert np.array_equal(np.array(row["position_ids"])[place], np.arange(place.sum()))
            found += [clip.motion_ids.tolist() for clip in vocabulary.clips(ids[place])]
    wanted = [row["motion_ids"] for row in all_rows(corpus).to_pylist()]
    assert sorted(found) == sorted(wanted)


class LetterTokenizer:
    """A text tokenizer whose ids are letters."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self):
        return 200

    def __call__(self, text, **options):
        assert options == {"add_special_tokens": False, "split_special_tokens": True}
        return {"input_ids": [ord(letter) for letter in text]}


def test_exported_ids_are_read_as_documented(corpus, tmp_path, monkeypatch):
    """The program of docs/folder-to-language-model.md runs as it stands there."""
    monkeypatch.chdir(tmp_path)
    command = ["corpus", "export", str(corpus), "--to", "ids", "--out", "sequences", "--row-length", "2048"]
    assert main(command) == 0
    page = Path(__file__).parent.parent / "docs" / "folder-to-language-model.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(program, page.name, "exec"), names)
    ids = np.array(names["ids"])[np.array(names["row"]["document"]) == 0]
    assert len(names["ids"]) == len(names["learned"]) == 2048
    assert 1 <= len(names["vocabulary"].clips(ids)) <= 3


def test_captions_follow_their_videos(corpus, tmp_path):
    (path,) = to_packed_ids(CorpusFolder(corpus), tmp_path / "ids", PackingOptions(row_length=1500), LetterTokenizer())
    text = []
    for row in pq.read_table(path).to_pylist():
        ids, document, learned = (np.array(row[name]) for name in ("input_ids", "document", "loss_mask"))
        for number in range(document.max() + 1):
            mine = ids[document == number]
            assert (mine[0], mine[-1]) == (1, 2)
            assert learned[document == number].tolist() == [False] + [True] * (len(mine) - 1)
            text.append("".join(chr(token) for token in mine[1:-1] if token < 200))
        assert not learned[document < 0].any()
    assert sorted(text) == sorted(rows["caption"] for rows in all_rows(corpus).to_pylist() if rows["clip"] == 0)


def test_streams_and_shuffles_by_shard(corpus, tmp_path):
    import datasets

    paths = to_packed_ids(CorpusFolder(corpus), tmp_path / "ids", PackingOptions(row_length=360), shard_rows=2)
    assert len(paths) == 4
    rows = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train", streaming=True)
    assert rows.num_shards == 4
    shuffled = list(rows.shuffle(seed=3, buffer_size=1))
    assert [row["input_ids"] for row in shuffled] != [row["input_ids"] for row in rows]
    assert sorted(row["input_ids"] for row in shuffled) == sorted(row["input_ids"] for row in rows)


def test_a_clip_longer_than_a_row_is_refused(corpus, tmp_path):
    with pytest.raises(CorpusError, match=r"a clip of .* ids and 0 of text, a row has 100; choose longer rows"):
        to_packed_ids(CorpusFolder(corpus), tmp_path / "ids", PackingOptions(row_length=100))


def test_export_does_not_mix(corpus, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    assert main(["corpus", "export", str(corpus), "--to", "huggingface", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["corpus", "export", str(corpus), "--to", "webdataset", "--out", str(tmp_path / "new")]) == 0
    assert "1 files" in capsys.readouterr().out


def test_others_read_the_shards(corpus):
    """docs/corpus.md: pandas, DuckDB and datasets, without our code."""
    import datasets
    import duckdb
    import pandas

    wanted = all_rows(corpus)
    frame = pandas.read_parquet(corpus / "clips").sort_values(["video_id", "clip"])
    assert frame["video_id"].tolist() == wanted["video_id"].to_pylist()
    assert [row.tolist() for row in frame["visual_ids"]] == wanted["visual_ids"].to_pylist()
    rows = duckdb.sql(
        f"select video_id, clip, len(visual_ids), caption from '{corpus}/clips/*.parquet' order by video_id, clip"
    ).fetchall()
    assert rows == [
        (row["video_id"], row["clip"], len(row["visual_ids"]), row["caption"]) for row in wanted.to_pylist()
    ]
    streamed = datasets.load_dataset("parquet", data_files=f"{corpus}/clips/*.parquet", split="train", streaming=True)
    assert sum(1 for _ in streamed) == wanted.num_rows


def test_search_finds_the_clip_itself(corpus, videos, tiny_model):
    facts = CorpusFolder(corpus).facts
    search = CorpusSearch(corpus, facts["codebooks"])
    for name in ("turn.mp4", "more/layers.mp4"):
        query = encode_query(videos / name, facts, str(tiny_model))
        found = search.nearest(ClipFeatures.from_rows(query, facts["codebooks"]), 3)
        for hits in found.values():
            # the weights are random: another clip may have the very same codes
            assert str(videos / name) in [hit["video_id"] for hit in hits if hit["similarity"] == pytest.approx(1)]
            assert hits[0]["similarity"] >= hits[1]["similarity"] >= hits[2]["similarity"]


def test_search_distinguishes_look_and_motion():
    def clip(visual, motion, global_motion):
        rows = {"visual_ids": [visual], "motion_ids": [[motion]], "global_motion_ids": [global_motion]}
        return ClipFeatures.from_rows(pa.table(rows), {"visual": 50, "motion": 50, "global_motion": 256})

    rarity = CodeRarity(np.ones(50, np.float32), np.ones(50, np.float32))
    one = clip([1, 2, 3], [7, 8], [128, 128])
    moved = clip([1, 2, 3], [9, 9], [160, 128])
    other = clip([5], [8, 7], [128, 129])
    assert rarity.look_similarity(one, moved)[0] == pytest.approx(1)
    assert rarity.motion_similarity(one, moved)[0] < 0.2
    assert rarity.motion_similarity(one, other)[0] > 0.95
    assert rarity.look_similarity(one, other)[0] == 0


def test_search_with_other_weights_is_refused(corpus, videos, other_model, capsys):
    command = ["corpus", "search", str(corpus), "--like", str(videos / "pan.mp4"), "--model", str(other_model)]
    assert main(command) == 2
    assert "was made with keyframes weights" in capsys.readouterr().err
