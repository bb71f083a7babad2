"""Ways from a frame back to the last one shown: what each says, how likely it is, and what they say together."""

import numpy as np

from codec.field import sample

STEADY = 0.01, 0.5
"""A way may differ from the step before by this much of the frame's width and this much of that step before it counts
as a wrong match: encoders point to whatever looks alike."""

LONGEST_TRAIL = 32
"""Steps that are kept before they are put together."""

Evidence = tuple[np.ndarray, np.ndarray]
"""A way float32 [h, w, 2], and the share of each cell it speaks for [h, w]."""


class Trail:
    """The way from the last frame to an earlier one, put together only when it is asked for: most never are."""

    def __init__(self, way: np.ndarray) -> None:
        self._way = way
        self._steps: list[np.ndarray] = []

    def add(self, step: np.ndarray) -> None:
        """A new last frame, moved by `step` float32 [h, w, 2] since the one before."""
        self._steps.append(step)
        if len(self._steps) > LONGEST_TRAIL:
            self.way()

    def way(self) -> np.ndarray:
        """Displacement float32 [h, w, 2] in fractions of the frame."""
        for step in self._steps:
            self._way = step + sample(self._way, step)
        self._steps.clear()
        return self._way


class Usual:
    """The way that the step before leads one to expect, float32 [h, w, 2]."""

    def __init__(self, way: np.ndarray) -> None:
        self._way = way
        self._allowed: np.ndarray | None = None

    def likelihood(self, way: np.ndarray) -> np.ndarray:
        """float32 [h, w]: 1 where `way` is as usual, falling with the square of the difference."""
        if self._allowed is None:
            self._allowed = STEADY[0] + STEADY[1] * _length(self._way)
        miss = _length(way - self._way)
        miss /= self._allowed
        miss *= miss
        miss += 1
        return np.reciprocal(miss, out=miss)


def _length(way: np.ndarray) -> np.ndarray:
    """float32 [h, w]: lengths in frame widths, of a picture of 16 : 9."""
    x, y = way[..., 0], way[..., 1] * np.float32(9 / 16)
    return np.sqrt(x * x + y * y)


def weighted_mean(evidence: list[Evidence]) -> tuple[np.ndarray, np.ndarray]:
    """The mean way float32 [h, w, 2], zero where nothing speaks for a cell, and what speaks for it [h, w]."""
    way, weight = evidence[0]
    total = way * weight[..., None]
    for way, share in evidence[1:]:
        total += way * share[..., None]
        weight = weight + share
    return total / np.maximum(weight, 1e-6)[..., None], weight
