"""A video as clips: one keyframe and the motion of the frames after it, on a clock of its own."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from codec.demux import NATIVE_CODECS, opened, read_frames
from codec.errors import MediaError
from codec.field import compose, pooled, turned
from codec.motion import MovedFrame, motion_of
from codec.probe import displayed_size, quarter_turns
from codec.reencode import reencoded
from codec.types import Clip, ClipSpec, MotionField, MotionSource

FINER = 2
"""Frames passed between two ticks are put together on a grid this much finer: each step blurs a little."""


@dataclass(frozen=True)
class Tick:
    """One frame on the clips' clock."""

    picture: av.VideoFrame | None
    """None once it is no longer needed: decoded pictures are large."""
    pts_seconds: float
    vectors: np.ndarray
    """float32 [h, w, 2]: motion since the tick before."""
    valid: np.ndarray
    """bool [h, w]"""


def iter_clips(
    path: str | Path,
    spec: ClipSpec | None = None,
    *,
    frames: bool = False,
    frame_size: tuple[int, int] | None = None,
    motion_source: Literal["auto", "native", "reencode"] = "auto",
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
) -> Iterator[Clip]:
    """Cuts a video into clips, in constant memory.

    Frame k of the video stands at its start + k / spec.fps and shows the source frame that is on screen then; its
    motion is composed over all source frames passed since frame k - 1.

    Args:
        path: any file FFmpeg reads.
        spec: frames, rate and grid of a clip; 24 frames at 12 fps on 20 x 36 where not given.
        frames: give each clip its pictures too.
        frame_size: (width, height) of those pictures; the picture's own size where not given.
        motion_source: `auto` takes the stream's own vectors where FFmpeg exports them, else those of a re-encoding.
        start_seconds: where to begin, counted from the video's first frame.
        duration_seconds: how much to read; to the end where not given.
        max_clips: how many clips at most.

    Raises:
        MediaError: the file cannot be read, holds no frame that can be decoded, or has no vectors of its own although
            `native` was asked for.
    """
    spec = spec or ClipSpec()
    with opened(path) as (container, stream):
        source = _chosen_source(path, stream, motion_source)
        limit = math.inf if duration_seconds is None else start_seconds + duration_seconds
        if source == "native":
            moved = motion_of(read_frames(container, stream, with_vectors=True), fine_grid(spec))
            ticks = ticks_of(moved, spec, start_seconds, limit)
        else:
            still = _still(read_frames(container, stream, with_vectors=False), spec)
            shown = ticks_of(still, spec, start_seconds, limit)
            ticks = _measured(shown, spec)
        found = False
        for clip in islice(_clips(ticks, stream, spec, source, frames, frame_size), max_clips):
            found = True
            yield clip
        if not found and max_clips != 0:
            raise MediaError(f"cannot read {path}: no frame of its video can be decoded in the part asked for")


def _chosen_source(path: str | Path, stream: VideoStream, wanted: str) -> MotionSource:
    name = stream.codec_context.name
    if wanted == "native" and name not in NATIVE_CODECS:
        raise MediaError(f"{path}: {name} gives no motion vectors; choose motion source `reencode` or `auto`")
    return "native" if wanted != "reencode" and name in NATIVE_CODECS else "reencode"


def fine_grid(spec: ClipSpec) -> tuple[int, int]:
    """The grid on which motion is followed from frame to frame."""
    return spec.grid[0] * FINER, spec.grid[1] * FINER


def _still(source: Iterable, spec: ClipSpec) -> Iterator[MovedFrame]:
    grid = fine_grid(spec)
    none = np.zeros((*grid, 2), np.float32), np.zeros(grid, bool)
    for frame in source:
        yield MovedFrame(frame, *none)


def ticks_of(moved: Iterable[MovedFrame], spec: ClipSpec, start_seconds: float, limit_seconds: float) -> Iterator[Tick]:
    """Source frames put on the clock: each tick shows the last frame that is not after it.

    A frame may come half a millisecond late: containers round their times.
    """
    grid = fine_grid(spec)
    still = np.zeros((*grid, 2), np.float32), np.ones(grid, bool)
    zero = None
    shown: MovedFrame | None = None
    since, number, length, tick_seconds = still, 0, 0.0, float(1 / spec.fps)
    for item in moved:
        seconds = item.frame.pts_seconds
        zero = seconds + start_seconds if zero is None else zero
        if shown is not None:
            length = seconds - shown.frame.pts_seconds
            while zero + float(number / spec.fps) < seconds - 5e-4:
                if number / spec.fps + start_seconds >= limit_seconds:
                    return
                yield Tick(shown.frame.picture, zero + float(number / spec.fps), *pooled(*since, FINER))
                since, number = still, number + 1
        since = compose((item.vectors, item.valid), since)
        shown = item
    if shown is None or zero is None:
        return
    # the last frame stays as long as the one before it did; half a tick or more is a tick
    end = shown.frame.pts_seconds + length - tick_seconds / 2
    while number == 0 or zero + float(number / spec.fps) < end + 5e-4:
        if number / spec.fps + start_seconds >= limit_seconds:
            return
        yield Tick(shown.frame.picture, zero + float(number / spec.fps), *pooled(*since, FINER))
        since, number = still, number + 1


def _measured(shown: Iterable[Tick], spec: ClipSpec) -> Iterator[Tick]:
    """Ticks with the motion of a re-encoding of their pictures."""
    waiting: list[Tick] = []

    def pictures() -> Iterator[av.VideoFrame]:
        for tick in shown:
            waiting.append(tick)
            yield tick.picture

    for moved in motion_of(reencoded(pictures(), spec.fps), fine_grid(spec)):
        tick = waiting.pop(0)
        turns = quarter_turns(tick.picture)
        yield Tick(tick.picture, tick.pts_seconds, *pooled(*turned(moved.vectors, moved.valid, turns), FINER))


def _clips(
    ticks: Iterator[Tick],
    stream: VideoStream,
    spec: ClipSpec,
    source: MotionSource,
    with_frames: bool,
    frame_size: tuple[int, int] | None,
) -> Iterator[Clip]:
    paint = Painter(stream)
    paint_small = Painter(stream, frame_size) if with_frames else None
    is_first = True
    while group := list(_group(ticks, spec.frames, paint_small)):
        vectors = np.zeros((spec.frames, *spec.grid, 2), np.float32)
        valid = np.zeros((spec.frames, *spec.grid), bool)
        for step, (tick, _) in enumerate(group):
            vectors[step], valid[step] = tick.vectors, tick.valid
        if is_first and len(group) > 1:
            # nothing was shown before the first frame: its step is a guess, the one after it
            vectors[0], is_first = vectors[1], False
        pictures = [picture for _, picture in group if picture is not None]
        yield Clip(
            keyframe=paint(group[0][0].picture),
            motion=MotionField(vectors, valid),
            pts_seconds=group[0][0].pts_seconds,
            num_frames=len(group),
            motion_source=source,
            frames=np.stack(pictures) if with_frames else None,
        )


def _group(ticks: Iterator[Tick], count: int, paint: "Painter | None") -> Iterator[tuple[Tick, np.ndarray | None]]:
    """The next ticks, their pictures made small at once; only the first keeps its full one."""
    for number, tick in enumerate(islice(ticks, count)):
        picture = paint(tick.picture) if paint else None
        yield tick if number == 0 else replace(tick, picture=None), picture


EXACT_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without the two flags swscale's pictures are one to two levels too dark, and 2 to 4 dB further from the source."""


class Painter:
    """Turns decoded pictures into upright RGB with square pixels; keeps the scaler, which is dear to set up."""

    def __init__(self, stream: VideoStream, size: tuple[int, int] | None = None) -> None:
        self._stream, self._size = stream, size
        self._scaler = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3] RGB at the size given, else at the size the picture is shown at."""
        turns = quarter_turns(picture)
        width, height = self._size or displayed_size(picture, self._stream)
        if turns % 2:
            width, height = height, width
        scaled = self._scaler.reformat(picture, width, height, "rgb24", interpolation=EXACT_AREA)
        image = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
