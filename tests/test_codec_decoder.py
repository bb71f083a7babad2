"""Decoding: vectors do not depend on threads, unneeded frames are skipped, reference lists are right."""

import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codec import Clip, ClipSpec, MediaError, VideoWriter, clips, iter_clips, parallel_decoder, run_diagnostics
from codec.container import open_video
from codec.decoder import IsShown, SourceFrame, read_frames
from codec.mvextractor_backend import read_frames_mvextractor
from codec.resample import TOLERANCE_SECONDS, FrameSchedule
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


def test_vectors_do_not_depend_on_the_number_of_threads(pyramid_mp4):
    alone = vectors_with(pyramid_mp4, "NONE", 1)
    for _ in range(20):
        with open_video(pyramid_mp4) as (container, stream):
            ours = [frame.vectors for frame in read_frames(container, stream, with_vectors=True)]
        assert len(ours) == len(alone)
        for one, other in zip(alone, ours, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                # fields, not bytes: the padding of the records is random
                assert all(np.array_equal(one[name], other[name]) for name in FIELDS)


def test_only_frames_that_are_neither_shown_nor_referred_to_are_skipped(pyramid_mp4):
    def read(is_shown: IsShown | None) -> dict[int, SourceFrame]:
        with open_video(pyramid_mp4) as (container, stream):
            frames = read_frames(container, stream, with_vectors=True, is_shown=is_shown)
            return {frame.index: frame for frame in frames}

    every, kept = read(None), read(FrameSchedule(Fraction(6)).is_shown)
    skipped = {index: frame for index, frame in every.items() if index not in kept}
    assert len(skipped) > 5
    times = sorted(frame.pts_seconds for frame in every.values())
    shown = {max(time for time in times if time <= k / 6 + TOLERANCE_SECONDS) for k in range(6)}
    for frame in skipped.values():
        assert not frame.is_reference
        assert frame.pts_seconds not in shown
    for index, frame in kept.items():
        assert frame.pts_seconds == every[index].pts_seconds
        assert np.array_equal(frame.picture.to_ndarray(), every[index].picture.to_ndarray())


def test_reference_lists_hold_frames_decoded_before(pyramid_mp4):
    with open_video(pyramid_mp4) as (container, stream):
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


def test_frames_with_vectors_have_reference_lists(pyramid_mp4):
    with open_video(pyramid_mp4) as (container, stream):
        for frame in read_frames(container, stream, with_vectors=True):
            if frame.vectors is not None and frame.headers is not None:
                used = {0 if source < 0 else 1 for source in np.unique(frame.vectors["source"])}
                assert all(frame.headers.lists[which] for which in used)


@pytest.mark.parametrize("encoding", ["ultrafast", "medium"])
def test_mvextractor_reads_the_same(encoding, tmp_path):
    pytest.importorskip("mvextractor")
    path = write(tmp_path / "clip.mp4", scenes((160, 96))["layers"], even(1.0, 25), encoding, 25)
    with open_video(path) as (container, stream):
        ours = list(read_frames(container, stream, with_vectors=True))
    with open_video(path) as (container, stream):
        theirs = list(read_frames_mvextractor(path, container, stream))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.index, one.headers) == (other.index, other.headers)
        assert one.pts_seconds == pytest.approx(other.pts_seconds)
        vectors, other_vectors = one.vectors, other.vectors
        assert (vectors is None or not len(vectors)) == (other_vectors is None)
        if vectors is not None and other_vectors is not None:
            assert all(np.array_equal(vectors[name], other_vectors[name]) for name in FIELDS)
    clips = zip(iter_clips(path), iter_clips(path, backend="mvextractor"), strict=True)
    # it also decodes the B frames that are skipped here
    assert encoding == "medium" or all(alike(*pair) for pair in clips)


def write_segments(path: Path) -> Path:
    """Write a video with an IDR picture every 8 frames."""
    options = {"preset": "medium", "x264-params": "keyint=8:min-keyint=8:scenecut=0"}
    with VideoWriter(path, 25, (160, 96), options=options) as writer:
        for frame in scenes((160, 96))["layers"].frames(map(float, even(1.2, 25))):
            writer.write(frame)
    return path


@pytest.mark.parametrize("max_bytes", [1, 100_000, parallel_decoder.MAX_BUFFERED_BYTES])
@pytest.mark.parametrize("min_packets", [8, 12])
def test_clips_do_not_depend_on_the_number_of_decoders(max_bytes, min_packets, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_decoder, "MAX_BUFFERED_BYTES", max_bytes)
    monkeypatch.setattr(parallel_decoder, "MIN_SEGMENT_PACKETS", min_packets)
    path = write_segments(tmp_path / "parts.mp4")
    spec = ClipSpec(frames=6)
    alone = list(iter_clips(path, spec))
    for repetition in range(4):
        parallel = list(iter_clips(path, spec, decoders=2 + repetition % 3))
        for one, other in zip(alone, parallel, strict=True):
            assert np.array_equal(one.motion.vectors, other.motion.vectors)
            assert np.array_equal(one.motion.valid, other.motion.valid)
            assert np.array_equal(one.keyframe, other.keyframe)
            assert (one.pts_seconds, one.damaged, one.cuts) == (other.pts_seconds, other.damaged, other.cuts)
    next(iter_clips(path, spec, decoders=3))
    assert not any(thread.name == "decoder" for thread in threading.enumerate())


def test_a_file_is_opened_once_for_each_decoder_that_has_a_segment(tmp_path, monkeypatch):
    path, opened = write_segments(tmp_path / "parts.mp4"), []

    def count(*arguments):
        opened.append(arguments)
        return open_video(*arguments)

    for module in (clips, parallel_decoder):
        monkeypatch.setattr(module, "open_video", count)
    list(iter_clips(path, decoders=3))  # shorter than two segments
    assert len(opened) == 1
    monkeypatch.setattr(parallel_decoder, "MIN_SEGMENT_PACKETS", 8)
    opened.clear()
    list(iter_clips(path, decoders=3))
    assert len(opened) == 3


def test_a_seek_to_the_wrong_place_is_no_loss_but_an_error(tmp_path, monkeypatch):
    path = write_segments(tmp_path / "parts.mp4")
    monkeypatch.setattr(parallel_decoder, "MIN_SEGMENT_PACKETS", 8)
    right = parallel_decoder._segment_starts
    monkeypatch.setattr(
        parallel_decoder, "_segment_starts", lambda stream: [replace(one, seek_target=1 << 40) for one in right(stream)]
    )
    with pytest.raises(MediaError, match="read it with one decoder"):
        list(iter_clips(path, decoders=2))
    assert not any(thread.name == "decoder" for thread in threading.enumerate())


def alike(one: Clip, other: Clip) -> bool:
    """Return whether fields differ only by what is measured between slightly different pictures."""
    both = one.motion.valid & other.motion.valid
    miss = np.abs(one.motion.vectors - other.motion.vectors).max(-1)
    return float(np.mean(one.motion.valid != other.motion.valid)) < 0.02 and float(np.mean(miss[both] > 0.005)) < 0.02


def test_mvextractor_that_is_not_installed(pyramid_mp4, monkeypatch):
    monkeypatch.setitem(sys.modules, "mvextractor.videocap", None)
    with pytest.raises(MediaError, match=r"not installed; `pip install videotok\[peers\]`"):
        list(iter_clips(pyramid_mp4, backend="mvextractor"))


def test_motion_without_keyframes_is_the_same(pyramid_mp4):
    whole, alone = list(iter_clips(pyramid_mp4)), list(iter_clips(pyramid_mp4, keyframes=False))
    for one, other in zip(whole, alone, strict=True):
        assert other.keyframe.shape == (0, 0, 3)
        assert alike(one, other)
    with pytest.raises(MediaError, match="frames without keyframes"):
        list(iter_clips(pyramid_mp4, keyframes=False, frames=True))


def test_all_diagnostics_pass():
    checks = run_diagnostics()
    assert {check.name for check in checks} >= {"FFmpeg program", "vectors exported", "threads"}
    for check in checks:
        assert check.ok, check
        assert check.found
        assert not check.advice
