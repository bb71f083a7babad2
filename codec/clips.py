"""A video as clips: one keyframe and the motion of the frames after it, on a clock of its own."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from codec.beat import Beat
from codec.clock import Clock, Tick, fine_grid
from codec.decode import SourceFrame, read_frames
from codec.demux import NATIVE_CODECS, opened
from codec.errors import MediaError
from codec.motion import MovedFrame, motion_of
from codec.paint import Painter
from codec.probe import displayed_size, probe
from codec.reencode import with_motion
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares

MotionChoice = Literal["auto", "native", "reencode"]


def iter_clips(
    path: str | Path,
    spec: ClipSpec | None = None,
    *,
    frames: bool = False,
    frame_size: tuple[int, int] | None = None,
    motion_source: MotionChoice = "auto",
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
    split_at_cuts: bool = False,
) -> Iterator[Clip]:
    """Cuts a video into clips, in constant memory.

    Frame k of the video stands at its start + k / spec.fps and shows the source frame that is on screen then; its
    motion is composed over all source frames passed since frame k - 1. A video of one frame is one clip of one frame.

    Args:
        path: any file FFmpeg reads.
        spec: frames, rate and grid of a clip; 24 frames at 12 fps on 20 x 36 where not given.
        frames: give each clip its pictures too.
        frame_size: (width, height) of those pictures; the size the clip's keyframe has where not given.
        motion_source: `auto` takes the stream's own vectors where they can be had, else those of a re-encoding.
        start_seconds: where to begin, counted from the video's first frame.
        duration_seconds: how much to read; to the end where not given.
        max_clips: how many clips at most.
        split_at_cuts: begin a new clip with every new scene, so that its keyframe shows it; the clip before is short.

    Raises:
        MediaError: the file cannot be read, holds no frame that can be decoded in the part asked for, or has no
            vectors of its own although `native` was asked for.
    """
    spec = spec or ClipSpec()
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds <= 0):
        raise MediaError(
            f"cannot read {path} from {start_seconds} s for {duration_seconds} s: the start must be 0 or more and the "
            "duration more than 0"
        )
    source = _chosen_source(path, motion_source)
    with opened(path) as (container, stream):
        beat = Beat(spec.fps, start_seconds, duration_seconds, _sought(container, stream, start_seconds))
        clock = Clock(spec, beat)
        if source == "native":
            read = read_frames(container, stream, with_vectors=True, beat=beat)
            ticks = clock.ticks(motion_of(read, fine_grid(spec)))
        else:
            read = read_frames(container, stream, with_vectors=False, threads="AUTO")
            ticks = with_motion(clock.ticks(_unmoved(read, spec)), spec)
        found = False
        with closing(ticks):
            for clip in islice(_clips(ticks, stream, spec, source, frames, frame_size, split_at_cuts), max_clips):
                found = True
                yield clip
        if not found and max_clips != 0:
            where = f" after {start_seconds} s" if start_seconds else ""
            raise MediaError(f"cannot read {path}: no frame of its video can be decoded{where}")


def _chosen_source(path: str | Path, wanted: MotionChoice) -> MotionSource:
    if wanted == "reencode":
        return "reencode"
    facts = probe(path)
    if wanted == "native" and not facts.has_native_vectors:
        why = "interlaced" if facts.is_interlaced and facts.codec in NATIVE_CODECS else facts.codec
        raise MediaError(f"{path}: {why} video has no usable motion vectors; choose motion source `reencode` or `auto`")
    return "native" if facts.has_native_vectors else "reencode"


def _sought(container: InputContainer, stream: VideoStream, start_seconds: float) -> float | None:
    """Goes to the last place before `start_seconds` where decoding can begin; gives the time of the video's start,
    None where the file does not say and everything has to be read."""
    if start_seconds <= 1 or stream.start_time is None or stream.time_base is None:
        return None
    # a second earlier: the frames before the first one tell how it moved
    target = stream.start_time + int((start_seconds - 1) / stream.time_base)
    try:
        container.seek(target, stream=stream, backward=True)
    except FFmpegError:
        return None
    return float(stream.start_time * stream.time_base)


def _unmoved(source: Iterable[SourceFrame], spec: ClipSpec) -> Iterator[MovedFrame]:
    grid = fine_grid(spec)
    nothing = np.zeros((*grid, 2), np.float32), np.zeros(grid, bool)
    for frame in source:
        yield MovedFrame(frame, *nothing)


def _clips(
    ticks: Iterator[Tick],
    stream: VideoStream,
    spec: ClipSpec,
    source: MotionSource,
    with_frames: bool,
    frame_size: tuple[int, int] | None,
    split_at_cuts: bool,
) -> Iterator[Clip]:
    paint, paint_frames = Painter(stream), Painter(stream, frame_size)
    is_first = True
    first = next(ticks, None)
    while first is not None and first.picture is not None:
        following = None
        # a stream may change its size on the way: all frames of a clip have the first one's
        size = frame_size or displayed_size(first.picture, stream)
        group, pictures = [replace(first, picture=None)], []
        if with_frames:
            pictures.append(paint_frames(first.picture, size))
        while len(group) < spec.frames and (tick := next(ticks, None)) is not None:
            if split_at_cuts and tick.cut:
                following = tick
                break
            if with_frames and tick.picture is not None:
                pictures.append(paint_frames(tick.picture, size))
            group.append(replace(tick, picture=None))
        yield Clip(
            keyframe=paint(first.picture),
            motion=_field(group, spec, is_first),
            pts_seconds=first.pts_seconds,
            num_frames=len(group),
            motion_source=source,
            shares=VectorShares.mean(shares for tick in group[1:] for shares in tick.shares),
            cuts=tuple(step for step, tick in enumerate(group) if tick.cut),
            damaged=any(tick.damaged for tick in group),
            frames=np.stack(pictures) if with_frames else None,
        )
        is_first = False
        first = following or next(ticks, None)


def _field(group: list[Tick], spec: ClipSpec, is_first: bool) -> MotionField:
    vectors = np.zeros((spec.frames, *spec.grid, 2), np.float32)
    valid = np.zeros((spec.frames, *spec.grid), bool)
    for step, tick in enumerate(group):
        vectors[step], valid[step] = tick.vectors, tick.valid
    if is_first and not valid[0].any() and len(group) > 1:
        # nothing was shown before the first frame: its step is a guess, the one after it
        vectors[0] = vectors[1]
    return MotionField(vectors, valid)
