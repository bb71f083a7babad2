"""Motion of one frame on a grid: sampling, composition, pooling, orientation, filling of holes, and optical flow.

Vectors are float32 [h, w, 2], (dx, dy) in fractions of the frame's width and height: the content of a cell at (x, y)
stood at (x + dx, y + dy) in the frame that the field leads to.
"""

from dataclasses import dataclass
from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from codec.side_data import Orientation

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
    vectors, valid = field.vectors, field.valid
    flips_rows, flips_columns = orientation.flips_y, orientation.flips_x
    if orientation.is_transposed:
        vectors = vectors[..., ::-1]
        flips_rows, flips_columns = flips_columns, flips_rows
    signs = np.array([-1 if orientation.flips_x else 1, -1 if orientation.flips_y else 1], np.float32)
    rows, columns = slice(None, None, -1 if flips_rows else 1), slice(None, None, -1 if flips_columns else 1)
    # cells stay in the coded picture's order in memory: the rounding of sums depends on it
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


FLOW_LONG_SIDE, FLOW_SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the motion grid is far coarser."""

MIN_SCENE_CORRELATION = 0.37
"""Below this mean correlation of windows, a picture and the motion-compensated one before show two scenes. On 1,026
pairs around 35 cuts in six encodings: at most 0.29 at a cut, at least 0.45 elsewhere."""

CORRELATION_WINDOW = 17
"""Pixels a side of a window."""

MIN_TEXTURE_VARIANCE = 25.0
"""Windows with less variance, in squared levels of 255, are not compared."""

MIN_TEXTURED_SHARE = 0.02
"""With fewer windows to compare, the mean difference of brightness decides."""

PLAIN_CUT_DIFFERENCE = 20
"""Mean difference, in levels of 255, above which two pictures without texture show two scenes."""


@dataclass(frozen=True)
class FlowResult:
    """Motion measured between two pictures."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero at a scene cut."""
    is_cut: bool
    """The pictures show two scenes."""


class OpticalFlow:
    """Measures motion between two pictures at low resolution: dense inverse search (Kroeger et al., ECCV 2016).

    It serves frames without vectors: I frames, and frames with many intra blocks.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def measure(self, picture: av.VideoFrame, previous: av.VideoFrame, grid: tuple[int, int]) -> FlowResult:
        """Return the displacement of each cell of a (h, w) grid from `picture` to `previous`."""
        now, before = self._shrink(picture), self._shrink(previous)
        height, width = now.shape
        num_threads = cv2.getNumThreads()
        # the result depends on how many threads share the search
        cv2.setNumThreads(1)
        try:
            flow = self._search.calc(now, before, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(num_threads)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        warped = cv2.remap(
            before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if is_scene_cut(now, np.asarray(warped)):
            return FlowResult(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return FlowResult(cells / np.array([width, height], np.float32), False)

    def _shrink(self, picture: av.VideoFrame) -> np.ndarray:
        """Return the picture in grey, uint8 [h, w]."""
        is_wide = picture.width >= picture.height
        size = (FLOW_LONG_SIDE, FLOW_SHORT_SIDE) if is_wide else (FLOW_SHORT_SIDE, FLOW_LONG_SIDE)
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()


def is_scene_cut(picture: np.ndarray, warped: np.ndarray) -> bool:
    """Return whether two pictures show two scenes.

    Structure is compared, not brightness, so that a flash or a fade is no cut.

    Args:
        picture: uint8 [h, w].
        warped: uint8 [h, w], the picture before, motion-compensated to match `picture`.
    """
    one, other = picture.astype(np.float32), warped.astype(np.float32)
    window = (CORRELATION_WINDOW, CORRELATION_WINDOW)
    mean, other_mean = cv2.blur(one, window), cv2.blur(other, window)
    variance = cv2.blur(one * one, window) - mean * mean
    other_variance = cv2.blur(other * other, window) - other_mean * other_mean
    covariance = cv2.blur(one * other, window) - mean * other_mean
    textured = np.maximum(variance, other_variance) > MIN_TEXTURE_VARIANCE
    if textured.mean() < MIN_TEXTURED_SHARE:
        return float(np.abs(one - other).mean()) > PLAIN_CUT_DIFFERENCE
    correlation = covariance[textured] / np.sqrt(np.maximum(variance * other_variance, 1))[textured]
    return float(correlation.mean()) < MIN_SCENE_CORRELATION
