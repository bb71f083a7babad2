"""The even times at which clips show a frame."""

import math
from fractions import Fraction

TOLERANCE = 6e-4
"""Seconds a frame may come late: containers round their times."""

DOUBT = 1e-6
"""Seconds by which two sums of the same times may differ."""


class FrameSchedule:
    """Times `origin` + `start_seconds` + k / fps.

    Args:
        fps: times a second.
        start_seconds: where the time with number 0 stands after the origin.
        duration_seconds: times this much after number 0 and later do not count; None for all.
        origin_seconds: time of the video's first frame; where not given, that of the first frame seen.
    """

    def __init__(
        self,
        fps: Fraction,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        origin_seconds: float | None = None,
    ) -> None:
        self._fps, self._start, self._origin = fps, start_seconds, origin_seconds
        self.first = -1 if start_seconds > 0 else 0
        """A frame before the first, never shown, gives the first its motion."""
        self.count: float = math.inf
        if duration_seconds is not None:
            self.count = max(1, math.ceil(float(duration_seconds * fps) - 1e-6))

    @property
    def step_seconds(self) -> float:
        """From one time to the next."""
        return float(1 / self._fps)

    def begin(self, seconds: float) -> None:
        """The video's first frame is shown at `seconds`, if nothing else was said before."""
        if self._origin is None:
            self._origin = seconds

    def time(self, number: int) -> float:
        """Seconds of time `number`."""
        return (self._origin or 0.0) + self._start + float(number / self._fps)

    def may_show(self, since: float, until: float) -> bool:
        """Whether a frame shown from `since` until `until` is on screen at one of the times; True where in doubt."""
        if self._origin is None:
            return True
        passed = (since - TOLERANCE - DOUBT - self.time(0)) * float(self._fps)
        return self.time(max(math.ceil(passed), self.first)) < until - TOLERANCE + DOUBT
