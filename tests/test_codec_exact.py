"""Vectors do not depend on threads, and reference lists are what the encoder wrote."""

import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec import Clip, ClipSpec, MediaError, VideoWriter, iter_clips, run_diagnostics
from codec.container import opened
from codec.decoder import SourceFrame, read_frames
from codec.frame_schedule import TOLERANCE, FrameSchedule
from codec.h264 import Bits, nal_units
from codec.mvextractor_backend import read_frames_mvextractor
from tests.videos import even, scenes, write

FIELDS = ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")


@pytest.fixture(scope="module")
def pyramid_mp4(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "pyramid.mp4"
    return write(path, scenes((160, 96))["layers"], even(1.0, 25), "veryslow", 25)


def vectors_with(path: Path, threads: str, count: int) -> list[np.ndarray | None]:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_type, context.thread_count = threads, count
        context.options = {"flags2": "+export_mvs"}
        found = [frame.side_data.get("MOTION_VECTORS") for frame in container.decode(video=0)]
        return [None if data is None else data.to_ndarray() for data in found]


def test_any_number_of_threads_gives_the_same_vectors(pyramid_mp4):
    alone = vectors_with(pyramid_mp4, "NONE", 1)
    for _ in range(20):
        with opened(pyramid_mp4) as (container, stream):
            ours = [frame.vectors for frame in read_frames(container, stream, with_vectors=True)]
        assert len(ours) == len(alone)
        for one, other in zip(alone, ours, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                # fields, not bytes: the padding of the records is random
                assert all(np.array_equal(one[name], other[name]) for name in FIELDS)


def test_frames_are_left_out_only_where_nobody_needs_them(pyramid_mp4):
    def read(beat: FrameSchedule | None) -> dict[int, SourceFrame]:
        with opened(pyramid_mp4) as (container, stream):
            return {frame.index: frame for frame in read_frames(container, stream, with_vectors=True, beat=beat)}

    every, kept = read(None), read(FrameSchedule(Fraction(6)))
    left_out = {index: frame for index, frame in every.items() if index not in kept}
    assert len(left_out) > 5
    times = sorted(frame.pts_seconds for frame in every.values())
    looked_at = {max(time for time in times if time <= k / 6 + TOLERANCE) for k in range(6)}
    for frame in left_out.values():
        assert not frame.is_reference
        assert frame.pts_seconds not in looked_at
    for index, frame in kept.items():
        assert frame.pts_seconds == every[index].pts_seconds
        assert np.array_equal(frame.picture.to_ndarray(), every[index].picture.to_ndarray())


def test_reference_lists_hold_what_was_decoded_before(pyramid_mp4):
    with opened(pyramid_mp4) as (container, stream):
        frames = list(read_frames(container, stream, with_vectors=True))
    times = {frame.index: frame.pts_seconds for frame in frames}
    longest = 0
    for frame in frames:
        assert frame.headers is not None
        assert not frame.headers.is_interlaced
        assert not frame.headers.follows_loss
        forward, backward = frame.headers.lists
        longest = max(longest, len(set(forward)))
        assert all(index < frame.index and index in times for index in (*forward, *backward))
        if backward:
            # the first of list 1 is shown later, the first of list 0 earlier: a B frame lies between
            assert times[forward[0]] < frame.pts_seconds < times[backward[0]]
    assert longest > 2


def test_vectors_come_with_lists(pyramid_mp4):
    with opened(pyramid_mp4) as (container, stream):
        for frame in read_frames(container, stream, with_vectors=True):
            if frame.vectors is not None and frame.headers is not None:
                used = {0 if source < 0 else 1 for source in np.unique(frame.vectors["source"])}
                assert all(frame.headers.lists[which] for which in used)


@pytest.mark.parametrize("encoding", ["ultrafast", "medium"])
def test_the_peer_reads_the_same(encoding, tmp_path):
    pytest.importorskip("mvextractor")
    path = write(tmp_path / "clip.mp4", scenes((160, 96))["layers"], even(1.0, 25), encoding, 25)
    with opened(path) as (container, stream):
        ours = list(read_frames(container, stream, with_vectors=True))
    with opened(path) as (container, stream):
        theirs = list(read_frames_mvextractor(path, container, stream))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.index, one.headers) == (other.index, other.headers)
        assert one.pts_seconds == pytest.approx(other.pts_seconds)
        mine, his = one.vectors, other.vectors
        assert (mine is None or not len(mine)) == (his is None)
        if mine is not None and his is not None:
            assert all(np.array_equal(mine[name], his[name]) for name in FIELDS)
    clips = zip(iter_clips(path), iter_clips(path, backend="mvextractor"), strict=True)
    # it decodes the B frames that ours leaves out, too
    assert encoding == "medium" or all(alike(*pair) for pair in clips)


def test_any_number_of_decoders_gives_the_same_clips(tmp_path):
    path = tmp_path / "parts.mp4"
    options = {"preset": "medium", "x264-params": "keyint=8:min-keyint=8:scenecut=0"}
    with VideoWriter(path, 25, (160, 96), options=options) as writer:
        for frame in scenes((160, 96))["layers"].frames(map(float, even(1.2, 25))):
            writer.write(frame)
    spec = ClipSpec(frames=6)
    alone = list(iter_clips(path, spec))
    for repetition in range(20):
        parted = list(iter_clips(path, spec, decoders=2 + repetition % 3))
        for one, other in zip(alone, parted, strict=True):
            assert np.array_equal(one.motion.vectors, other.motion.vectors)
            assert np.array_equal(one.motion.valid, other.motion.valid)
            assert np.array_equal(one.keyframe, other.keyframe)
            assert (one.pts_seconds, one.damaged, one.cuts) == (other.pts_seconds, other.damaged, other.cuts)
    next(iter_clips(path, spec, decoders=3))
    assert not any(thread.name == "decoder" for thread in threading.enumerate())


def alike(one: Clip, other: Clip) -> bool:
    """Whether fields differ by no more than what is measured between slightly different pictures."""
    both = one.motion.valid & other.motion.valid
    miss = np.abs(one.motion.vectors - other.motion.vectors).max(-1)
    return float(np.mean(one.motion.valid != other.motion.valid)) < 0.02 and float(np.mean(miss[both] > 0.005)) < 0.02


def test_a_peer_that_is_not_there(pyramid_mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "mvextractor.videocap", None)
    with pytest.raises(MediaError, match=r"not installed; `pip install videotok\[peers\]`"):
        list(iter_clips(pyramid_mp4, backend="mvextractor"))


def test_fields_alone_have_the_same_vectors(pyramid_mp4):
    whole, alone = list(iter_clips(pyramid_mp4)), list(iter_clips(pyramid_mp4, keyframes=False))
    for one, other in zip(whole, alone, strict=True):
        assert other.keyframe.shape == (0, 0, 3)
        assert alike(one, other)
    with pytest.raises(MediaError, match="frames without keyframes"):
        list(iter_clips(pyramid_mp4, keyframes=False, frames=True))


def test_codes():
    # 1, 010, 011, 00100, 00101: 0 to 4 (table 9-2)
    bits = Bits(int("101001100100001010000000", 2).to_bytes(3, "big"))
    assert [bits.ue() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="ends inside"):
        Bits(b"\xff").read(9)
    with pytest.raises(ValueError, match="exp-Golomb"):
        Bits(bytes(8)).ue()


def test_signed_codes():
    # 1, 010, 011, 00100, 00101: 0, 1, -1, 2, -2 (table 9-3)
    bits = Bits(int("101001100100001010000000", 2).to_bytes(3, "big"))
    assert [bits.se() for _ in range(5)] == [0, 1, -1, 2, -2]


def test_emulation_bytes_are_taken_out():
    assert Bits(bytes([0, 0, 3, 1])).read(24) == 1


def test_nal_units():
    units = [b"\x67abc", b"\x68de", b"\x65" + b"f" * 300]
    assert list(nal_units(b"".join(b"\0\0\1" + unit for unit in units), 0)) == units
    assert list(nal_units(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units), 4)) == units
    assert list(nal_units(b"", 4)) == []


def test_the_doctor_finds_this_machine_well():
    checks = run_diagnostics()
    assert {check.name for check in checks} >= {"FFmpeg program", "vectors exported", "threads"}
    for check in checks:
        assert check.ok, check
        assert check.found
        assert not check.advice
