"""Source frames put on the even clock of clips."""

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import av
import numpy as np

from codec.field import compose, pooled
from codec.motion import MovedFrame
from codec.types import ClipSpec, VectorShares

FINER = 2
"""Frames passed between two ticks are put together on a grid this much finer: each step blurs a little."""

TOLERANCE = 6e-4
"""Seconds a frame may come late: containers round their times."""


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
    damaged: bool = False
    """Something was lost since the tick before."""
    shares: tuple[VectorShares, ...] = ()
    """Of each frame passed since the tick before, its own included."""
    cut: bool = False
    """A new scene began since the tick before."""


def fine_grid(spec: ClipSpec) -> tuple[int, int]:
    """The grid on which motion is followed from frame to frame."""
    return spec.grid[0] * FINER, spec.grid[1] * FINER


class Clock:
    """Ticks at `zero` + k / fps, each showing the last frame that is not after it, moved since the tick before over
    all frames between.

    Args:
        spec: rate and grid.
        start_seconds: where the first tick stands after `origin_seconds`.
        duration_seconds: ticks at this time after the first and later are left out; None for all.
        origin_seconds: time of the video's first frame; where not given, that of the first frame seen.
    """

    def __init__(
        self,
        spec: ClipSpec,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        origin_seconds: float | None = None,
    ) -> None:
        self._spec = spec
        self._start = start_seconds
        self._origin = origin_seconds
        self._count = math.inf
        if duration_seconds is not None:
            self._count = max(1, math.ceil(float(duration_seconds * spec.fps) - 1e-6))
        # a tick before the first, never shown, gives the first its motion
        self._number = -1 if start_seconds > 0 else 0
        self._shown: MovedFrame | None = None
        self._forget()

    def ticks(self, moved: Iterable[MovedFrame]) -> Generator[Tick, None, None]:
        """Puts frames, in display order, on the clock."""
        held: Tick | None = None
        for tick in self._ticks(moved):
            if held is not None:
                yield held
            held = tick
        if held is not None:
            # what was lost after the last tick is missing from it
            yield replace(held, damaged=held.damaged or self._damaged)

    def _ticks(self, moved: Iterable[MovedFrame]) -> Iterator[Tick]:
        for item in moved:
            if self._origin is None:
                self._origin = item.frame.pts_seconds
            yield from self._until(item.frame.pts_seconds - TOLERANCE)
            if self._number >= self._count:
                return
            self._since = compose((item.vectors, item.valid), self._since)
            self._damaged |= item.frame.damaged
            self._cut |= item.cut
            self._shares.append(item.shares)
            self._shown = item
        if self._shown is not None:
            # half a tick or more is a tick; a video has one at least
            last = self._shown.frame
            end = last.pts_seconds + last.duration_seconds - float(1 / self._spec.fps) / 2 + TOLERANCE
            yield from self._until(max(end, self._time(0) + TOLERANCE) if self._start == 0 else end)

    def _until(self, seconds: float) -> Iterator[Tick]:
        """Ticks before `seconds`, all of which show the frame now on screen."""
        if self._shown is None:
            return
        while (time := self._time(self._number)) < seconds and self._number < self._count:
            vectors, valid = pooled(*self._since, FINER)
            if self._cut:
                vectors, valid = np.zeros_like(vectors), np.zeros_like(valid)
            if self._number >= 0:
                picture, shares = self._shown.frame.picture, tuple(self._shares)
                yield Tick(picture, time, vectors, valid, self._damaged, shares, self._cut)
            self._forget()
            self._number += 1

    def _time(self, number: int) -> float:
        return (self._origin or 0.0) + self._start + float(number / self._spec.fps)

    def _forget(self) -> None:
        grid = fine_grid(self._spec)
        self._since = np.zeros((*grid, 2), np.float32), np.ones(grid, bool)
        self._damaged = self._cut = False
        self._shares: list[VectorShares] = []
