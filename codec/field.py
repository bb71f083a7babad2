"""Motion fields on a grid: steps put one after another, and holes filled."""

import cv2
import numpy as np


def sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bilinear samples of `values` [h, w, c] at displacements `at` [h, w, 2] (fractions of the frame) from each cell;
    the border goes on outside."""
    height, width = values.shape[:2]
    x = np.clip(np.arange(width, dtype=np.float32) + at[..., 0] * width, 0, width - 1)
    y = np.clip(np.arange(height, dtype=np.float32)[:, None] + at[..., 1] * height, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    upper = values[top, left] * (1 - fx) + values[top, right] * fx
    lower = values[bottom, left] * (1 - fx) + values[bottom, right] * fx
    return upper * (1 - fy) + lower * fy


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
