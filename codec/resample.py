"""Resample frames of any rate to the fixed frame rate of clips, with the motion between resampled frames."""

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from codec.acceleration import CHOOSER
from codec.motion_composition import FrameWithMotion
from codec.motion_fields import StepField
from codec.side_data import UPRIGHT, Orientation
from codec.types import ClipSpec, VectorShares

TOLERANCE_SECONDS = 6e-4
"""How much later than the scheduled time a frame may begin and still be shown: containers round timestamps."""

ROUNDING_SECONDS = 1e-6
"""How much two sums of the same times may differ."""

FINE_FACTOR = 2
"""Motion between source frames is composed on a grid this much finer than the clip's: each composition blurs a
little."""


def fine_grid(spec: ClipSpec) -> tuple[int, int]:
    """Return the grid on which motion is composed from source frame to source frame."""
    return spec.grid[0] * FINE_FACTOR, spec.grid[1] * FINE_FACTOR


@dataclass(frozen=True)
class FrameSchedule:
    """The times of resampled frames: `origin_seconds` + `start_seconds` + index / fps."""

    fps: Fraction
    start_seconds: float = 0.0
    """Time of the frame with index 0, counted from the origin."""
    duration_seconds: float | None = None
    """Where the schedule ends, counted from the frame with index 0; None: never."""
    origin_seconds: float | None = None
    """Time of the video's first frame; None if not known yet."""

    @property
    def first_index(self) -> int:
        """Index of the first resampled frame: -1, never returned, if its motion to frame 0 is needed."""
        return -1 if self.start_seconds > 0 else 0

    @property
    def num_frames(self) -> float:
        """Number of resampled frames from index 0 on; infinite if the duration is not limited."""
        if self.duration_seconds is None:
            return math.inf
        return max(1, math.ceil(float(self.duration_seconds * self.fps) - 1e-6))

    @property
    def step_seconds(self) -> float:
        """Time from one resampled frame to the next."""
        return self.fps.denominator / self.fps.numerator

    def with_origin(self, seconds: float) -> "FrameSchedule":
        """Return a schedule whose origin is `seconds`, unless it is known already."""
        return self if self.origin_seconds is not None else replace(self, origin_seconds=seconds)

    def time(self, index: int) -> float:
        """Return the time of the frame `index` in seconds."""
        return self._time_from(self.origin_seconds or 0.0, index)

    def _time_from(self, origin: float, index: int) -> float:
        # arithmetic with fractions would take longer, and gives the same
        return origin + self.start_seconds + index * self.fps.denominator / self.fps.numerator

    def is_shown(self, since: float, until: float, first: float | None) -> bool:
        """Return whether a frame on screen from `since` until `until` becomes a resampled frame; True if in doubt.

        Args:
            since, until: in seconds.
            first: time of the video's first frame, used as origin; None before that frame is decoded.
        """
        origin = first if self.origin_seconds is None else self.origin_seconds
        if origin is None:
            return True
        fps = self.fps.numerator / self.fps.denominator
        elapsed = (since - TOLERANCE_SECONDS - ROUNDING_SECONDS - self._time_from(origin, 0)) * fps
        next_time = self._time_from(origin, max(math.ceil(elapsed), self.first_index))
        return next_time < until - TOLERANCE_SECONDS + ROUNDING_SECONDS


@dataclass(frozen=True)
class ResampledFrame:
    """One frame of the resampled video."""

    picture: av.VideoFrame | None
    """None once it is no longer needed: decoded pictures are large."""
    pts_seconds: float
    motion: StepField
    """Motion since the resampled frame before."""
    damaged: bool = False
    """Some data was lost since the resampled frame before."""
    shares: tuple[VectorShares, ...] = ()
    """Of each source frame since the resampled frame before, up to and including the one shown."""
    is_cut: bool = False
    """A new scene began since the resampled frame before."""
    orientation: Orientation = UPRIGHT
    """How the picture is turned and mirrored for display."""
    is_new_shape: bool = False
    """Pictures have another aspect ratio from here on."""
    is_truncated: bool = False
    """The file ends before its header says, with this frame."""

    def without_picture(self) -> "ResampledFrame":
        """Return the frame without its decoded picture, which is large."""
        return ResampledFrame(
            *(None, self.pts_seconds, self.motion, self.damaged, self.shares, self.is_cut),
            *(self.orientation, self.is_new_shape, self.is_truncated),
        )


class Resampler:
    """Yields a frame at each time of a schedule: the last source frame that is not after it.

    Its motion is composed over all source frames since the resampled frame before, and pooled to the grid of `spec`.
    """

    def __init__(self, spec: ClipSpec, schedule: FrameSchedule) -> None:
        self._grid, self._schedule = fine_grid(spec), schedule
        self._index = schedule.first_index
        self._shown: FrameWithMotion | None = None
        self._is_truncated = False
        self._reset()

    def resample(self, frames: Iterable[FrameWithMotion]) -> Generator[ResampledFrame, None, None]:
        """Yield the resampled frames of source frames in display order."""
        last: ResampledFrame | None = None
        for resampled in self._resample(frames):
            if last is not None:
                yield last
            last = resampled
        if last is not None:
            # losses after the last frame are reported with it
            yield replace(last, damaged=last.damaged or self._damaged, is_truncated=self._is_truncated)

    def _resample(self, frames: Iterable[FrameWithMotion]) -> Iterator[ResampledFrame]:
        for item in frames:
            self._schedule = self._schedule.with_origin(item.frame.pts_seconds)
            yield from self._frames_before(item.frame.pts_seconds - TOLERANCE_SECONDS)
            if self._index >= self._schedule.num_frames:
                return
            operations = CHOOSER.current(item.motion.valid.shape)
            self._motion = item.motion if self._motion is None else operations.compose(item.motion, self._motion)
            self._damaged |= item.frame.damaged
            self._is_truncated = item.frame.is_truncated
            self._is_cut |= item.is_cut
            self._shares.append(item.shares)
            self._shown = item
        if self._shown is not None:
            # half a step or more counts as a step; a video has one frame at least
            last = self._shown.frame
            end = last.pts_seconds + last.duration_seconds - self._schedule.step_seconds / 2 + TOLERANCE_SECONDS
            if self._schedule.first_index == 0:
                end = max(end, self._schedule.time(0) + TOLERANCE_SECONDS)
            yield from self._frames_before(end)

    def _frames_before(self, seconds: float) -> Iterator[ResampledFrame]:
        """Yield the resampled frames before `seconds`, all of which show the current source frame."""
        if self._shown is None:
            return
        while (time := self._schedule.time(self._index)) < seconds and self._index < self._schedule.num_frames:
            motion = self._motion or StepField.zeros(self._grid, valid=True)
            motion = CHOOSER.current(motion.valid.shape).pool(motion, FINE_FACTOR)
            if self._is_cut:
                motion = StepField.zeros(motion.valid.shape, valid=False)
            if self._index >= 0:
                shares = tuple(self._shares)
                source = self._shown.frame
                yield ResampledFrame(
                    source.picture, time, motion, self._damaged, shares, self._is_cut, source.orientation
                )
            self._reset()
            self._index += 1

    def _reset(self) -> None:
        """Forget what came since the resampled frame before."""
        self._motion: StepField | None = None
        self._damaged = self._is_cut = False
        self._shares: list[VectorShares] = []
