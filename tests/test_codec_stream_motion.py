"""Motion at the stream's own rate, without pictures."""

from fractions import Fraction

import numpy as np
import pytest

from codec import (
    ClipSpec,
    MediaError,
    VideoWriter,
    iter_clips,
    iter_motion,
    iter_vectors,
    motion_composition,
    read_motion,
)
from tests.videos import even, scenes, write


@pytest.fixture(scope="module")
def pan_mp4(tmp_path_factory):
    """A pan of 36 frames at 25 fps with B frames, and IDR pictures on the way."""
    path = tmp_path_factory.mktemp("stream") / "pan.mp4"
    options = {"preset": "medium", "g": "12", "x264-params": "scenecut=0"}
    scene = scenes((192, 112))["pan"]
    with VideoWriter(path, 25, scene.size, options=options) as writer:
        for time in even(36 / 25, 25):
            writer.write(scene.frame(float(time)))
    return path


def test_motion_is_that_of_clips_at_the_same_rate(tmp_path, monkeypatch):
    """If no motion is measured between pictures, both must be equal."""
    monkeypatch.setattr(motion_composition, "MAX_MISSING_SHARE", 1.0)
    path = write(tmp_path / "v.mp4", scenes((192, 112))["pan"], even(1.2, 25), fps=25)
    spec = ClipSpec(frames=30, fps=Fraction(25))
    (clip,) = iter_clips(path, spec, keyframes=False)
    found = read_motion(path, spec.grid)
    assert found.motion.valid[1:].mean() > 0.5
    assert np.array_equal(found.motion.vectors[1:], clip.motion.vectors[1:])
    assert np.array_equal(found.motion.valid, clip.motion.valid)
    assert found.pts_seconds == pytest.approx(np.arange(30) / 25)


def test_frames_of_a_stream(pan_mp4):
    found = read_motion(pan_mp4, (10, 18))
    assert found.motion.vectors.shape == (36, 10, 18, 2)
    assert found.frame_types[0] == "I"
    assert set(found.frame_types) == {"I", "P", "B"}
    assert not found.motion.valid[0].any()
    assert not found.motion.vectors[0].any()
    assert len(found.shares) == 36
    assert not found.damaged.any()
    moving = found.motion.valid & (found.frame_types != "I")[:, None, None]
    assert np.median(found.motion.vectors[moving][:, 0]) * 25 == pytest.approx(0.24, abs=0.03)


def test_vectors_are_the_streams_own(pan_mp4):
    frames = list(iter_vectors(pan_mp4))
    assert [frame.pts_seconds for frame in frames] == pytest.approx([number / 25 for number in range(36)])
    types = {frame.index: frame.frame_type for frame in frames}
    assert sorted(types) == list(range(1, 37))
    for frame in frames:
        assert (frame.width, frame.height) == (192, 112)
        assert (len(frame.records) == 0) == (frame.frame_type == "I")
        assert frame.references is not None
        first, second = frame.references
        assert bool(first) == (frame.frame_type != "I")
        assert bool(second) == (frame.frame_type == "B")
        assert all(0 < index < frame.index for index in (*first, *second)), "frames refer to frames decoded before"
    dense = next(frame for frame in frames if frame.frame_type == "P").dense()
    assert dense.vectors.shape == (2, 14, 24, 2)
    assert dense.known[0].mean() > 0.5
    assert not dense.known[1].any(), "a P frame has no list 1"


def test_motion_does_not_depend_on_the_number_of_decoders(pan_mp4):
    one, two = read_motion(pan_mp4), read_motion(pan_mp4, decoders=2)
    assert one.motion.vectors.tobytes() == two.motion.vectors.tobytes()
    assert np.array_equal(one.pts_seconds, two.pts_seconds)


def test_streams_without_vectors_are_refused(tmp_path):
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 25, (64, 48), codec="libx265", options={"x265-params": "log-level=none"}) as writer:
        for _ in range(5):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    for read in (iter_motion, iter_vectors):
        with pytest.raises(MediaError, match="hevc video has no usable motion vectors"):
            next(iter(read(path)))


def test_arguments_are_checked(pan_mp4):
    with pytest.raises(ValueError, match="grid"):
        next(iter_motion(pan_mp4, (0, 4)))
    with pytest.raises(ValueError, match="decoders"):
        next(iter_motion(pan_mp4, decoders=0))
    with pytest.raises(MediaError, match="no such file"):
        read_motion("missing.mp4")
