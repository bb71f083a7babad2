"""Turn a frame's motion vectors into motion on a grid, one field for each frame that its blocks refer to.

Blocks are laid on a lattice of 8 x 8 pixels (the smallest blocks that FFmpeg exports), then pooled to the grid by area.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from codec.motion_fields import WeightedField

LATTICE_PIXELS = 8
"""Side of a lattice cell."""

MACROBLOCK_PIXELS = 16
"""Side of the largest block."""

MOTION_TOLERANCE = 0.1
"""Deviation from the expected motion, as a share of the vector's length, that counts as much as one pixel."""

FARTHER_REFERENCE_PENALTY = 0.1
"""How much better, in pixels, each further reference must match than the one before it."""


@dataclass(frozen=True)
class VectorLattice:
    """Vectors of one frame, block by block on a lattice of 8 x 8 pixels."""

    vectors: np.ndarray
    """float32 [2, rows, columns, 2]: displacement in pixels towards the reference, for list 0 and list 1."""
    known: np.ndarray
    """bool [2, rows, columns]"""


def lattice_shape(width: int, height: int) -> tuple[int, int]:
    """Return the (rows, columns) of the lattice of a picture of `width` x `height` pixels."""
    return -(-height // LATTICE_PIXELS), -(-width // LATTICE_PIXELS)


def vectors_to_lattice(records: np.ndarray, width: int, height: int) -> VectorLattice:
    """Lay the vectors of a frame of `width` x `height` pixels on a lattice.

    Args:
        records: MotionRecord [n]; each block stands at a multiple of its size.
    """
    block_rows, block_columns = -(-height // MACROBLOCK_PIXELS), -(-width // MACROBLOCK_PIXELS)
    right, bottom = block_columns * MACROBLOCK_PIXELS, block_rows * MACROBLOCK_PIXELS
    x, y = records["dst_x"].astype(np.int32), records["dst_y"].astype(np.int32)
    if len(records) and (min(x.min(), y.min()) < 0 or x.max() >= right or y.max() >= bottom):
        inside = (x >= 0) & (y >= 0) & (x < right) & (y < bottom)
        records, x, y = records[inside], x[inside], y[inside]
    motion, second = _packed_displacements(records), records["source"] > 0
    wide, tall = records["w"] == MACROBLOCK_PIXELS, records["h"] == MACROBLOCK_PIXELS
    vectors, known = np.zeros((2, block_rows, block_columns), np.uint64), np.zeros((2, block_rows, block_columns), bool)
    whole = np.flatnonzero(wide & tall)
    position = ((y // MACROBLOCK_PIXELS + second * block_rows) * block_columns + x // MACROBLOCK_PIXELS)[whole]
    vectors.reshape(-1)[position] = motion[whole]
    known.reshape(-1)[position] = True
    vectors, known = _repeat_twice(vectors), _repeat_twice(known)
    parts = np.flatnonzero(~(wide & tall))
    if len(parts):
        wide, tall = wide[parts], tall[parts]
        left, top = (x[parts] - 4 * (1 + wide)) // LATTICE_PIXELS, (y[parts] - 4 * (1 + tall)) // LATTICE_PIXELS
        position = (top + second[parts] * 2 * block_rows) * 2 * block_columns + left
        for covered, offset in ((slice(None), 0), (wide, 1), (tall, 2 * block_columns)):
            here = position[covered] + offset
            vectors.reshape(-1)[here] = motion[parts[covered]]
            known.reshape(-1)[here] = True
    rows, columns = lattice_shape(width, height)
    return VectorLattice(vectors[:, :rows, :columns, None].view(np.float32), known[:, :rows, :columns])


def _packed_displacements(records: np.ndarray) -> np.ndarray:
    """Return uint64 [n]: the two float32 of each displacement in pixels, packed to be copied in one piece."""
    motion = np.empty((len(records), 2), np.float32)
    motion[:, 0], motion[:, 1] = records["motion_x"], records["motion_y"]
    motion /= np.maximum(records["motion_scale"], 1)[:, None]
    return motion.view(np.uint64)[:, 0]


def _repeat_twice(blocks: np.ndarray) -> np.ndarray:
    """Return [2, 2 rows, 2 columns] of [2, rows, columns]: each value in four cells."""
    lists, rows, columns = blocks.shape
    cells = np.empty((lists, rows, 2, columns, 2), blocks.dtype)
    cells[:, :, 0, :, 0] = cells[:, :, 0, :, 1] = blocks
    cells[:, :, 1] = cells[:, :, 0]
    return cells.reshape(lists, 2 * rows, 2 * columns)


def lattice_to_grid(
    vectors: np.ndarray, known: np.ndarray, width: int, height: int, grid: tuple[int, int]
) -> WeightedField:
    """Pool one list of a lattice to a grid, weighted by area.

    Args:
        vectors: float32 [rows, columns, 2] in pixels.
        known: bool [rows, columns]; other cells do not count.
        width, height: size of the picture in pixels; the lattice may reach beyond it.
        grid: (h, w) cells.

    Returns:
        Mean vectors in fractions of the frame; the weight is the share of each cell that they cover.
    """
    rows, columns = known.shape
    stacked = np.empty((rows, 3, columns))
    stacked[:, 0] = known
    np.multiply(vectors[..., 0], stacked[:, 0], out=stacked[:, 1])
    np.multiply(vectors[..., 1], stacked[:, 0], out=stacked[:, 2])
    pooled = _pool_rows(stacked.reshape(rows, -1), grid[0], height).reshape(-1, columns)
    covered, x, y = _pool_rows(pooled.T, grid[1], width).reshape(grid[1], grid[0], 3).transpose(2, 1, 0)
    divisor = np.maximum(covered, 1e-6)
    means = np.stack([x / (width * divisor), y / (height * divisor)], -1)
    return WeightedField(means.astype(np.float32), covered.astype(np.float32))


def _pool_rows(values: np.ndarray, num_cells: int, length: int) -> np.ndarray:
    """Return the means of rows over `num_cells` equal parts of a picture, [n, m] -> [num_cells, m] in float64.

    Sums up to each edge are subtracted from each other. No matrix product: BLAS would sum in another order on another
    number of threads, and its threads wait for each other on a busy machine (27 ms a call instead of 0.1).

    Args:
        values: float64 [n, m], one row for each `LATTICE_PIXELS` pixels.
        num_cells: parts of the picture.
        length: width or height of the picture in pixels, at most n * LATTICE_PIXELS.
    """
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    edges = pooling_edges(num_cells, length, len(values))
    at_edges = sums[edges.row] + edges.fraction[:, None] * values[edges.row]
    return np.diff(at_edges, axis=0) * (num_cells * LATTICE_PIXELS / length)


@dataclass(frozen=True)
class PoolingEdges:
    """Where the edges of a grid's cells lie on a lattice."""

    row: np.ndarray
    """int64 [num_cells + 1]: the lattice row that the edge crosses."""
    fraction: np.ndarray
    """float64 [num_cells + 1]: the share of that row that lies before the edge, 0 to 1."""


@lru_cache(maxsize=16)
def pooling_edges(num_cells: int, length: int, num_rows: int) -> PoolingEdges:
    """Return the edges of `num_cells` equal parts of `length` pixels on a lattice of `num_rows` rows."""
    edges = np.linspace(0, length / LATTICE_PIXELS, num_cells + 1)
    row = np.minimum(edges.astype(np.int64), num_rows - 1)
    return PoolingEdges(row, edges - row)


def likely_reference(vectors: np.ndarray, velocity: np.ndarray, spans: np.ndarray, bonus: float) -> np.ndarray:
    """Return which of several references each vector most likely points to: FFmpeg does not export the reference index.

    The first reference is chosen unless another one explains the vector much better: encoders use the first for nine
    blocks in ten.

    Args:
        vectors: float32 [rows, columns, 2] in pixels.
        velocity: float32 [rows, columns, 2], the expected motion in pixels per second.
        spans: float32 [n], seconds from each reference to the frame, by reference index.
        bonus: how many pixels better than the first another reference must match.

    Returns:
        int8 [rows, columns]
    """
    x, y = np.ascontiguousarray(vectors.transpose(2, 0, 1))
    velocity_x, velocity_y = np.ascontiguousarray(velocity.transpose(2, 0, 1))
    tolerance = 1 + MOTION_TOLERANCE * (np.abs(x) + np.abs(y))
    least, chosen = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.int8)
    for number, span in enumerate(spans):
        error = np.abs(x - velocity_x * span) + np.abs(y - velocity_y * span)
        error /= tolerance
        if number:
            error += np.float32(bonus) + np.float32(FARTHER_REFERENCE_PENALTY) * np.float32(number - 1)
        chosen[error < least] = number
        np.minimum(least, error, out=least)
    return chosen
