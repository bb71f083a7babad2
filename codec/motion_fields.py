"""Motion fields on a grid: steps put one after another, and holes filled.

Motion measured from pictures, for what a stream has no vectors for: I frames, and intra blocks.
"""

from dataclasses import dataclass
from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter


def sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear samples of `values` float32 [h, w, c], at most 4 channels, at displacements `at` float32 [h, w, 2]
    (fractions of the frame) from each cell; the border goes on outside."""
    places = at * _size(at.shape[:2])
    places += _cells(at.shape[:2])
    return cv2.remap(values, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


@lru_cache(maxsize=8)
def _size(grid: tuple[int, int]) -> np.ndarray:
    return np.array([grid[1], grid[0]], np.float32)


@lru_cache(maxsize=8)
def _cells(grid: tuple[int, int]) -> np.ndarray:
    """float32 [h, w, 2]: (column, row) of each cell."""
    return np.stack(np.meshgrid(np.arange(grid[1]), np.arange(grid[0])), -1).astype(np.float32)


def compose(
    later: tuple[np.ndarray, np.ndarray], earlier: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Two steps as one: the earlier field is read where the later one points.

    Both are (vectors float32 [h, w, 2] in fractions of the frame, valid bool [h, w]); so is the result.
    """
    vectors, valid = later
    before = np.concatenate([earlier[0], earlier[1][..., None].astype(np.float32)], -1)
    read = sample(before, vectors)
    return vectors + read[..., :2], valid & (read[..., 2] >= 0.5)


def pooled(vectors: np.ndarray, valid: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The field on a grid `factor` times coarser: means of vectors; valid where half of a cell or more is."""
    height, width = valid.shape[0] // factor, valid.shape[1] // factor
    means = vectors.reshape(height, factor, width, factor, 2).mean((1, 3), dtype=np.float32)
    return means, valid.reshape(height, factor, width, factor).mean((1, 3)) >= 0.5


def fill(vectors: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Holes filled smoothly: each takes the mean of the valid cells around it, from coarser and coarser means.

    Returns vectors float32 [h, w, 2]; all zero where nothing is valid.
    """
    if valid.all():
        return vectors
    weight = valid.astype(np.float32)
    return _pulled(vectors * weight[..., None], weight)


def _pulled(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The mean of `weighted` / `weight`, with holes taken from the same at half the size."""
    height, width = weight.shape
    if not weight.any():
        return np.zeros_like(weighted)
    known = weighted / np.maximum(weight, 1e-6)[..., None]
    if weight.min() >= 1 or height == width == 1:
        return known
    half = (max(1, -(-width // 2)), max(1, -(-height // 2)))
    both = cv2.resize(np.dstack([weighted, weight]), half, interpolation=cv2.INTER_AREA)
    coarse_weight = both[..., 2]
    crowded = np.minimum(1, coarse_weight * 4) / np.maximum(coarse_weight, 1e-6)
    coarse = _pulled(both[..., :2] * crowded[..., None], coarse_weight * crowded)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 2)
    share = np.minimum(weight, 1)[..., None]
    return (known * share + smooth * (1 - share)).astype(np.float32)


def turned(vectors: np.ndarray, valid: np.ndarray, quarter_turns: int) -> tuple[np.ndarray, np.ndarray]:
    """The field of a picture turned counter-clockwise by 90 degrees times `quarter_turns`."""
    for _ in range(quarter_turns % 4):
        vectors = np.rot90(vectors)
        # what pointed right points up, what pointed down points right
        vectors = np.stack([vectors[..., 1], -vectors[..., 0]], -1)
        valid = np.rot90(valid)
    return vectors, valid


LONG_SIDE, SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the grid is far coarser."""

UNLIKE = 0.37
"""Mean correlation of WINDOW x WINDOW pixels between a picture and the one before moved along, below which they are two
scenes. On 1,026 pairs around 35 cuts, six encodings: 0.29 at most where there was a cut, 0.45 at least elsewhere."""

WINDOW = 17

TEXTURE = 25.0
"""Variance of a window, in squared levels of 255, above which it can be told what it shows."""

PLAIN, PLAIN_CUT = 0.02, 20
"""Share of windows with texture below which pictures are plain, and the mean difference of plain ones at a cut."""


@dataclass(frozen=True)
class Measured:
    """Motion between two pictures."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero at a cut."""
    is_cut: bool
    """The pictures show two scenes."""


class PictureFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) between two pictures, made small."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def between(self, picture: av.VideoFrame, before: av.VideoFrame, grid: tuple[int, int]) -> Measured:
        """Displacement of each cell from `picture` to `before`."""
        now, then = self._small(picture), self._small(before)
        height, width = now.shape
        threads = cv2.getNumThreads()
        # the search divides its work, and with it its result, among threads
        cv2.setNumThreads(1)
        try:
            flow = self._search.calc(now, then, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(threads)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        moved = cv2.remap(then, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if shows_cut(now, np.asarray(moved)):
            return Measured(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return Measured(cells / np.array([width, height], np.float32), False)

    def _small(self, picture: av.VideoFrame) -> np.ndarray:
        size = (LONG_SIDE, SHORT_SIDE) if picture.width >= picture.height else (SHORT_SIDE, LONG_SIDE)
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()


def shows_cut(now: np.ndarray, moved: np.ndarray) -> bool:
    """Whether two pictures show two scenes, one of them moved to look like the other as far as it can.

    Structure is compared, not brightness: a flash or a fade is no cut. Both are uint8 [h, w].
    """
    one, other = now.astype(np.float32), moved.astype(np.float32)
    window = (WINDOW, WINDOW)
    mean, other_mean = cv2.blur(one, window), cv2.blur(other, window)
    variance = cv2.blur(one * one, window) - mean * mean
    other_variance = cv2.blur(other * other, window) - other_mean * other_mean
    both = cv2.blur(one * other, window) - mean * other_mean
    textured = np.maximum(variance, other_variance) > TEXTURE
    if textured.mean() < PLAIN:
        return float(np.abs(one - other).mean()) > PLAIN_CUT
    likeness = both[textured] / np.sqrt(np.maximum(variance * other_variance, 1))[textured]
    return float(likeness.mean()) < UNLIKE
