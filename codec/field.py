"""Motion fields on a grid: steps put one after another, and holes filled."""

from functools import lru_cache

import cv2
import numpy as np


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
