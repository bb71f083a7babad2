"""Source frames put on the even clock of clips."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import av
import numpy as np

from codec.frame_schedule import TOLERANCE, FrameSchedule
from codec.motion_composition import MovedFrame
from codec.motion_fields import compose, pooled
from codec.types import ClipSpec, VectorShares

FINER = 2
"""Frames passed between two ticks are put together on a grid this much finer: each step blurs a little."""


@dataclass(frozen=True)
class ResampledFrame:
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


class Resampler:
    """Ticks at the times of `beat`, each showing the last frame that is not after it, moved since the tick before over
    all frames between, on the grid of `spec`."""

    def __init__(self, spec: ClipSpec, beat: FrameSchedule) -> None:
        self._spec, self._beat = spec, beat
        self._number = beat.first
        self._shown: MovedFrame | None = None
        self._forget()

    def ticks(self, moved: Iterable[MovedFrame]) -> Generator[ResampledFrame, None, None]:
        """Puts frames, in display order, on the clock."""
        held: ResampledFrame | None = None
        for tick in self._ticks(moved):
            if held is not None:
                yield held
            held = tick
        if held is not None:
            # what was lost after the last tick is missing from it
            yield replace(held, damaged=held.damaged or self._damaged)

    def _ticks(self, moved: Iterable[MovedFrame]) -> Iterator[ResampledFrame]:
        for item in moved:
            self._beat.begin(item.frame.pts_seconds)
            yield from self._until(item.frame.pts_seconds - TOLERANCE)
            if self._number >= self._beat.count:
                return
            step = item.vectors, item.valid
            self._since = step if self._since is None else compose(step, self._since)
            self._damaged |= item.frame.damaged
            self._cut |= item.cut
            self._shares.append(item.shares)
            self._shown = item
        if self._shown is not None:
            # half a tick or more is a tick; a video has one at least
            last = self._shown.frame
            end = last.pts_seconds + last.duration_seconds - self._beat.step_seconds / 2 + TOLERANCE
            yield from self._until(max(end, self._beat.time(0) + TOLERANCE) if self._beat.first == 0 else end)

    def _until(self, seconds: float) -> Iterator[ResampledFrame]:
        """Ticks before `seconds`, all of which show the frame now on screen."""
        if self._shown is None:
            return
        while (time := self._beat.time(self._number)) < seconds and self._number < self._beat.count:
            vectors, valid = pooled(*(self._since or self._still()), FINER)
            if self._cut:
                vectors, valid = np.zeros_like(vectors), np.zeros_like(valid)
            if self._number >= 0:
                picture, shares = self._shown.frame.picture, tuple(self._shares)
                yield ResampledFrame(picture, time, vectors, valid, self._damaged, shares, self._cut)
            self._forget()
            self._number += 1

    def _still(self) -> tuple[np.ndarray, np.ndarray]:
        grid = fine_grid(self._spec)
        return np.zeros((*grid, 2), np.float32), np.ones(grid, bool)

    def _forget(self) -> None:
        self._since: tuple[np.ndarray, np.ndarray] | None = None
        self._damaged = self._cut = False
        self._shares: list[VectorShares] = []
