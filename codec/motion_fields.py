"""Motion of one frame on a grid: sampling, composition, pooling, orientation, and filling of holes.

Vectors are float32 [h, w, 2], (dx, dy) in fractions of the frame's width and height: the content of a cell at (x, y)
stood at (x + dx, y + dy) in the frame that the field leads to.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from codec.side_data import UPRIGHT, Orientation

MIN_VALID_SHARE = 0.5
"""Share of a cell that must be valid for the cell to be valid."""


@dataclass(frozen=True)
class StepField:
    """Motion from one frame to the one before."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame."""
    valid: np.ndarray
    """bool [h, w]; False where the vector is an estimate."""

    @classmethod
    def zeros(cls, grid: tuple[int, int], *, valid: bool) -> "StepField":
        """Return a field without motion on a grid of (h, w) cells."""
        return cls(np.zeros((*grid, 2), np.float32), np.full(grid, valid))


@dataclass(frozen=True)
class WeightedField:
    """Motion that is known for parts of cells only."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame."""
    weight: np.ndarray
    """float32 [h, w]: share of each cell that the vector is known for, or how much the vector is to be trusted."""


def sample(values: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Sample `values` bilinearly at a displacement from each cell; outside of the grid its border is repeated.

    Args:
        values: float32 [h, w, c], at most 4 channels.
        displacement: float32 [h, w, 2] in fractions of the frame.

    Returns:
        float32 [h, w, c].
    """
    positions = displacement * _grid_size(displacement.shape[:2])
    positions += _cell_positions(displacement.shape[:2])
    return cv2.remap(values, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]


@lru_cache(maxsize=8)
def _grid_size(grid: tuple[int, int]) -> np.ndarray:
    """Return float32 [2], (width, height)."""
    return np.array([grid[1], grid[0]], np.float32)


@lru_cache(maxsize=8)
def _cell_positions(grid: tuple[int, int]) -> np.ndarray:
    """Return float32 [h, w, 2], (column, row) of each cell."""
    return np.stack(np.meshgrid(np.arange(grid[1]), np.arange(grid[0])), -1).astype(np.float32)


def compose(later: StepField, earlier: StepField) -> StepField:
    """Return two consecutive steps as one: `earlier` is sampled where `later` points."""
    stacked = np.concatenate([earlier.vectors, earlier.valid[..., None].astype(np.float32)], -1)
    sampled = sample(stacked, later.vectors)
    return StepField(later.vectors + sampled[..., :2], later.valid & (sampled[..., 2] >= MIN_VALID_SHARE))


def pool(field: StepField, factor: int) -> StepField:
    """Return the field on a grid that is coarser by `factor`, with mean vectors."""
    height, width = field.valid.shape[0] // factor, field.valid.shape[1] // factor
    vectors = field.vectors.reshape(height, factor, width, factor, 2).mean((1, 3), dtype=np.float32)
    valid = field.valid.reshape(height, factor, width, factor).mean((1, 3)) >= MIN_VALID_SHARE
    return StepField(vectors, valid)


def orient(field: StepField, orientation: Orientation) -> StepField:
    """Return the field of the upright picture for that of the coded one."""
    # cells stay in the coded picture's order in memory: the rounding of sums depends on it
    if orientation == UPRIGHT:
        return StepField(np.ascontiguousarray(field.vectors), field.valid)
    vectors, valid = field.vectors, field.valid
    flips_rows, flips_columns = orientation.flips_y, orientation.flips_x
    if orientation.is_transposed:
        vectors = vectors[..., ::-1]
        flips_rows, flips_columns = flips_columns, flips_rows
    signs = np.array([-1 if orientation.flips_x else 1, -1 if orientation.flips_y else 1], np.float32)
    rows, columns = slice(None, None, -1 if flips_rows else 1), slice(None, None, -1 if flips_columns else 1)
    vectors, valid = np.ascontiguousarray(vectors[rows, columns] * signs), valid[rows, columns]
    if orientation.is_transposed:
        vectors, valid = vectors.swapaxes(0, 1), valid.swapaxes(0, 1)
    return StepField(vectors, valid)


def fill_holes(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill cells that are not known smoothly with the means of known cells around them, at coarser and coarser scales.

    Args:
        vectors: float32 [h, w, 2].
        known: bool [h, w].

    Returns:
        float32 [h, w, 2]; all zero if no cell is known.
    """
    if known.all():
        return vectors
    weight = known.astype(np.float32)
    return _fill_from_coarser(vectors * weight[..., None], weight)


def _fill_from_coarser(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return `weighted` / `weight`, its holes filled by the same at half the size (pull-push interpolation)."""
    height, width = weight.shape
    if not weight.any():
        return np.zeros_like(weighted)
    known = weighted / np.maximum(weight, 1e-6)[..., None]
    if weight.min() >= 1 or height == width == 1:
        return known
    half = (max(1, -(-width // 2)), max(1, -(-height // 2)))
    reduced = cv2.resize(np.dstack([weighted, weight]), half, interpolation=cv2.INTER_AREA)
    coarse_weight = reduced[..., 2]
    # a coarse cell with one known cell in four counts as wholly known
    gain = np.minimum(1, coarse_weight * 4) / np.maximum(coarse_weight, 1e-6)
    coarse = _fill_from_coarser(reduced[..., :2] * gain[..., None], coarse_weight * gain)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 2)
    share = np.minimum(weight, 1)[..., None]
    return (known * share + smooth * (1 - share)).astype(np.float32)
