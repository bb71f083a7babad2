"""Hugging Face data sets: videos of a column to token columns, whatever form the videos have, and tokens read back."""

import io
import pickle
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from codec import MediaError
from videotok import DecodeConfig, EncodeConfig, VideoTokenizer
from videotok.errors import TokensError
from videotok.hf import ERROR_COLUMN, TokenizeVideos, read_tokens, token_features, tokenize_batch
from videotok.tokens import VideoTokens

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def tokenize(tiny_model):
    return TokenizeVideos(model=tiny_model)


@pytest.fixture(scope="module")
def wanted(clip_mp4, tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model).encode(clip_mp4)


def assert_equal_ids(tokens: VideoTokens, others: VideoTokens) -> None:
    for name in ("visual_ids", "visual_offsets", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids"):
        np.testing.assert_array_equal(getattr(tokens, name), getattr(others, name))


@pytest.mark.parametrize("form", ["paths", "content"])
def test_a_video_column_becomes_token_columns(tokenize, wanted, clip_mp4, tmp_path, form):
    video = str(clip_mp4) if form == "paths" else {"path": "some/clip.mp4", "bytes": clip_mp4.read_bytes()}
    dataset = datasets.Dataset.from_dict(
        {"video": [video, video], "caption": ["one", "two"]},
        features=datasets.Features({"video": datasets.Video(decode=False), "caption": datasets.Value("string")}),
    )
    features = datasets.Features(dataset.features | token_features())
    dataset = dataset.map(
        tokenize, batched=True, batch_size=2, features=features, cache_file_name=str(tmp_path / "cache.arrow")
    )
    assert dataset["caption"][:] == ["one", "two"]
    for row in dataset:
        assert [len(ids) for ids in row["visual_ids"]] == wanted.visual_counts.tolist()
        assert np.concatenate(row["visual_ids"]).tolist() == wanted.visual_ids.tolist()
        assert np.array_equal(row["motion_ids"], wanted.motion_ids)
        assert np.array_equal(row["global_motion_ids"], wanted.global_motion_ids)
        assert np.array_equal(row["keep_mask"], wanted.keep_mask)
        assert row["num_frames"] == [24, 12]
        tokens = read_tokens(row)
        assert_equal_ids(tokens, wanted)
        assert tokens.source.file == "clip.mp4"


def test_types_are_those_promised_without_features(tokenize, clip_mp4, tmp_path):
    """`map` finds the types in the first batch; they are those of `token_features`, so parts of a data set agree."""
    dataset = datasets.Dataset.from_dict({"video": [str(clip_mp4)]})
    dataset = dataset.map(tokenize, batched=True, cache_file_name=str(tmp_path / "cache.arrow"))
    found = {name: feature for name, feature in dataset.features.items() if name != "video"}
    assert found == dict(token_features())


def test_tokens_of_a_row_decode(tokenize, tiny_model, clip_mp4):
    row = tokenize({"video": str(clip_mp4)})  # not batched
    frames = list(VideoTokenizer.from_pretrained(tiny_model).decode(read_tokens(row), DecodeConfig(size=(64, 48))))
    assert len(frames) == 36
    assert frames[0].shape == (48, 64, 3)


def test_streams(tokenize, wanted, clip_mp4):
    stream = datasets.Dataset.from_dict({"video": [str(clip_mp4)]}).to_iterable_dataset()
    (row,) = stream.map(tokenize, batched=True)
    assert_equal_ids(read_tokens(row), wanted)


def test_a_webdataset_of_videos(tokenize, wanted, clip_mp4, tmp_path):
    with tarfile.open(tmp_path / "videos.tar", "w") as tar:
        tar.add(clip_mp4, "first.mp4")
        caption = tarfile.TarInfo("first.txt")
        caption.size = 3
        tar.addfile(caption, io.BytesIO(b"one"))
    files = str(tmp_path / "videos.tar")
    dataset = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    # pixels are not needed, so torchcodec is not either
    dataset = dataset.cast_column("mp4", datasets.Video(decode=False))
    (row,) = dataset.map(TokenizeVideos(tokenize.model, column="mp4"), batched=True)
    assert_equal_ids(read_tokens(row), wanted)
    assert row["__key__"] == "first"


class Decoder:
    """Has what `datasets.Video()` puts on a torchcodec decoder: where its file comes from."""

    def __init__(self, path, content):
        self._hf_encoded = {"path": path, "bytes": content}


def test_the_file_behind_a_decoder_is_read(tokenize, wanted, clip_mp4):
    decoders = [Decoder(str(clip_mp4), None), Decoder(None, clip_mp4.read_bytes())]
    columns = tokenize({"video": decoders})
    for row in range(2):
        assert_equal_ids(read_tokens({"vtok": columns["vtok"][row]}), wanted)


@pytest.mark.skipif(not datasets.config.TORCHCODEC_AVAILABLE, reason="no torchcodec; pip install torchcodec and FFmpeg")
def test_a_decoder_of_torchcodec(tokenize, wanted, clip_mp4):
    dataset = datasets.Dataset.from_dict({"video": [str(clip_mp4)]}).cast_column("video", datasets.Video())
    assert_equal_ids(read_tokens(tokenize(dataset[:1])), wanted)


def test_urls_are_read(tokenize, wanted, clip_mp4, tmp_path):
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as file:
        file.write(clip_mp4, "clip.mp4")
    url = f"zip://clip.mp4::{tmp_path / 'videos.zip'}"
    tokens = read_tokens(tokenize({"video": {"path": url, "bytes": None}}))
    assert_equal_ids(tokens, wanted)
    assert tokens.source.file == "clip.mp4"


@pytest.mark.parametrize("value", [None, 3, np.zeros((2, 4, 4, 3), np.uint8), SimpleNamespace(), {"path": None}])
def test_what_is_no_file_is_refused(tokenize, value):
    with pytest.raises(MediaError, match=r"row 0 of the batch: a video is .*decode=False"):
        tokenize({"video": [value]})


def test_a_bad_video_stops_or_is_skipped(tokenize, wanted, clip_mp4, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    rows = {"video": [str(clip_mp4), str(tmp_path / "broken.mp4"), str(tmp_path / "missing.mp4")]}
    with pytest.raises(MediaError, match=r"row 1 of the batch: .*broken.mp4.*skip_errors"):
        tokenize(rows)
    dataset = datasets.Dataset.from_dict(rows)
    skipping = TokenizeVideos(tokenize.model, skip_errors=True)
    features = datasets.Features(dataset.features | token_features(with_errors=True))
    first, broken, missing = dataset.map(
        skipping, batched=True, features=features, cache_file_name=str(tmp_path / "cache.arrow")
    )
    assert_equal_ids(read_tokens(first), wanted)
    assert first[ERROR_COLUMN] is None
    assert broken["visual_ids"] is None
    assert "broken.mp4" in broken[ERROR_COLUMN]
    assert "no such file" in missing[ERROR_COLUMN]
    with pytest.raises(TokensError, match=r"no tokens: .*broken\.mp4"):
        read_tokens(broken)


def test_another_column_is_named(tokenize):
    with pytest.raises(KeyError, match="no column video; columns are clip, caption"):
        tokenize({"clip": [], "caption": []})


def test_results_are_cached_by_options_and_weights(tokenize, other_model, tiny_model):
    from datasets.fingerprint import Hasher

    same = TokenizeVideos(model=tiny_model)
    assert Hasher.hash(tokenize) == Hasher.hash(same)  # with and without loaded weights
    others = [
        TokenizeVideos(model=tiny_model, config=EncodeConfig(fps=6)),
        TokenizeVideos(model=other_model),
        tokenize_batch,
    ]
    assert len({Hasher.hash(one) for one in [same, *others]}) == 4
    assert pickle.loads(pickle.dumps(tokenize)) == same
