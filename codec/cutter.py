"""Ticks of the clock, gathered into clips."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from av.video.stream import VideoStream

from codec.clock import Tick
from codec.paint import Painter
from codec.probe import displayed_size
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares


@dataclass(frozen=True)
class Cutter:
    """Makes clips as `iter_clips` was asked to."""

    spec: ClipSpec
    frames: bool = False
    frame_size: tuple[int, int] | None = None
    split_at_cuts: bool = False
    keyframes: bool = True

    def clips(self, ticks: Iterator[Tick], stream: VideoStream, source: MotionSource) -> Iterator[Clip]:
        """Clips of `spec.frames` ticks; the last one, and one before a cut, may be shorter."""
        paint, paint_frames = Painter(stream), Painter(stream, self.frame_size)
        is_first = True
        first = next(ticks, None)
        while first is not None and first.picture is not None:
            following = None
            # a stream may change its size on the way: all frames of a clip have the first one's
            size = self.frame_size or displayed_size(first.picture, stream)
            group, pictures = [replace(first, picture=None)], []
            if self.frames:
                pictures.append(paint_frames(first.picture, size))
            while len(group) < self.spec.frames and (tick := next(ticks, None)) is not None:
                if self.split_at_cuts and tick.cut:
                    following = tick
                    break
                if self.frames and tick.picture is not None:
                    pictures.append(paint_frames(tick.picture, size))
                group.append(replace(tick, picture=None))
            yield Clip(
                keyframe=paint(first.picture) if self.keyframes else np.zeros((0, 0, 3), np.uint8),
                motion=_field(group, self.spec, is_first and source != "mpeg4"),
                pts_seconds=first.pts_seconds,
                num_frames=len(group),
                motion_source=source,
                shares=VectorShares.mean(shares for tick in group[1:] for shares in tick.shares),
                cuts=tuple(step for step, tick in enumerate(group) if tick.cut),
                damaged=any(tick.damaged for tick in group),
                frames=np.stack(pictures) if self.frames else None,
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
