"""Samples that `videotok lm train` reads from a corpus written by the corpus job."""

import numpy as np
import pytest
from corpora import copied, make_corpus, make_videos, reorder

from videotok import TokensError, VideoTokenizer
from videotok.config import EncodeConfig
from videotok.corpus.storage import shard_paths
from videotok.lm.data import read_samples

NAMES = ["more/layers.mp4", "more/zoom.mp4", "pan.mp4", "turn.mp4"]
"""3, 2, 1 and 3 clips or so: with three rows a shard some are cut by a shard's end."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.fixture(scope="module")
def corpus(videos, tiny_model, tmp_path_factory):
    rows = "".join(f"{videos / name},it {name[:-4]}s\n" for name in NAMES[:-1])
    return make_corpus(tmp_path_factory.mktemp("corpus"), f"{rows}{videos / NAMES[-1]},\n", tiny_model)


def test_samples_are_what_encode_gives(corpus, videos, tiny_model):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    found = list(read_samples([corpus]))
    assert [sample.caption for sample in found] == ["it more/layerss", "it more/zooms", "it pans", ""]
    for sample, name in zip(found, NAMES, strict=True):
        tokens = tokenizer.encode(videos / name, EncodeConfig(predict_keyframes=False))
        assert sample.turns == ()
        assert sample.source.endswith(name)
        for field in ("visual_ids", "visual_offsets", "keep_mask", "motion_ids", "global_motion_ids", "num_frames"):
            np.testing.assert_array_equal(getattr(sample.video, field), getattr(tokens, field), err_msg=field)
        assert sample.video.models["motion"].sha256 == tokens.models["motion"].sha256


def test_clips_may_lie_in_any_order(corpus, tmp_path):
    place = reorder(copied(corpus, tmp_path / "tokens"))
    for sample, same in zip(read_samples([place]), read_samples([corpus]), strict=True):
        np.testing.assert_array_equal(sample.video.motion_ids, same.video.motion_ids)
        np.testing.assert_array_equal(sample.video.visual_ids, same.video.visual_ids)


def test_a_video_that_is_not_whole_is_refused(corpus, tmp_path):
    place = copied(corpus, tmp_path / "tokens")
    shard_paths(place)[-1].unlink()
    with pytest.raises(TokensError, match=r"turn\.mp4 has \d of its 3 clips; finish it"):
        list(read_samples([place]))
