"""Decoding in a child that may die or hang: one refused video, and the next one is read as if nothing had been."""

import os
import signal

import numpy as np
import pytest
from corpora import SIZE
from videos import even, scenes, write

from codec import ClipSpec, MediaError, iter_clips
from videotok.corpus.decoder import Decoder, Part
from videotok.image_utils import squashed

SPEC = ClipSpec()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "pan.mp4", scenes(SIZE)["pan"], even(4.5, 24), "ultrafast", 24)


@pytest.fixture
def decoder():
    decoder = Decoder(SPEC, 64, patience_seconds=60)
    yield decoder
    decoder.close()


def test_clips_are_those_of_the_codec(decoder, video):
    for part, options in (
        (Part(str(video)), {}),
        (Part(str(video), 1.5, 2.0), {"start_seconds": 1.5, "duration_seconds": 2.0}),
    ):
        wanted = list(iter_clips(video, SPEC, **options))
        found = list(decoder.clips(part))
        assert len(found) == len(wanted)
        for clip, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(clip.vectors, other.motion.vectors)
            np.testing.assert_array_equal(clip.valid, other.motion.valid)
            picture = (squashed(other.keyframe, 64)[0].permute(1, 2, 0).numpy() + 1) * 127.5
            np.testing.assert_array_equal(clip.keyframe, picture.round().astype(np.uint8))
            assert (clip.pts_seconds, clip.num_frames) == (other.pts_seconds, other.num_frames)


def test_one_child_serves_many_files(decoder, video, tmp_path):
    list(decoder.clips(Part(str(video))))
    child = decoder.child_id
    (tmp_path / "bad.mp4").write_bytes(b"x" * 1000)
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        list(decoder.clips(Part(str(tmp_path / "bad.mp4"))))
    assert len(list(decoder.clips(Part(str(video))))) == 3
    assert decoder.child_id == child


def test_a_child_that_dies_is_one_refusal(decoder, video):
    clips = decoder.clips(Part(str(video)))
    next(clips)
    os.kill(decoder.child_id, signal.SIGKILL)
    with pytest.raises(MediaError, match=r"its decoder died \(exit code -9\); the file is damaged"):
        list(clips)
    assert len(list(decoder.clips(Part(str(video))))) == 3


def test_a_child_that_hangs_is_one_refusal(decoder, video):
    list(decoder.clips(Part(str(video))))
    child = decoder.child_id
    os.kill(child, signal.SIGSTOP)
    decoder.patience_seconds = 0.3
    with pytest.raises(MediaError, match=r"no clip for 0\.3 s"):
        list(decoder.clips(Part(str(video))))
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    decoder.patience_seconds = 60
    assert len(list(decoder.clips(Part(str(video))))) == 3


def test_what_nobody_wants_is_not_read_on(decoder, video):
    clips = decoder.clips(Part(str(video)))
    next(clips)
    clips.close()
    assert len(list(decoder.clips(Part(str(video), 0.0, 2.0)))) == 1
