"""The stream's vectors on an even lattice, and from there on the grid."""

from functools import lru_cache

import numpy as np

LATTICE = 8
"""Pixels a lattice cell: the smallest block FFmpeg exports."""


def lattice_of(records: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a frame of `width` x `height` pixels, block by block on a lattice.

    Args:
        records: FFmpeg's AVMotionVector fields.

    Returns:
        vectors float32 [2, rows, columns, 2]: displacement in pixels towards the reference, for list 0 and list 1;
        known bool [2, rows, columns].
    """
    rows, columns = -(-height // LATTICE), -(-width // LATTICE)
    vectors = np.zeros((2 * rows * columns, 2), np.float32)
    known = np.zeros(2 * rows * columns, bool)
    scale = records["motion_scale"]
    scale = scale[0] if len(scale) and scale.min() == scale.max() else np.maximum(scale, 1)[:, None]
    motion = np.stack([records["motion_x"], records["motion_y"]], -1) / np.float32(scale)
    block_width, block_height = records["w"], records["h"]
    left = (records["dst_x"] - block_width // 2) // LATTICE
    top = (records["dst_y"] - block_height // 2) // LATTICE
    place = ((records["source"] > 0) * np.intp(rows) + top) * columns + left
    inside = (left >= 0) & (top >= 0) & (left < columns) & (top < rows)
    wide = inside & (block_width > LATTICE) & (left + 1 < columns)
    tall = inside & (block_height > LATTICE) & (top + 1 < rows)
    for covered, offset in ((inside, 0), (wide, 1), (tall, columns), (wide & tall, columns + 1)):
        here = place[covered] + offset
        vectors[here] = motion[covered]
        known[here] = True
    return vectors.reshape(2, rows, columns, 2), known.reshape(2, rows, columns)


def on_grid(
    vectors: np.ndarray, known: np.ndarray, width: int, height: int, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted pooling of a lattice to the grid.

    Args:
        vectors: float32 [rows, columns, 2] in pixels.
        known: bool [rows, columns]; other cells do not count.
        width, height: of the picture in pixels; the lattice may reach past it.
        grid: (h, w) cells.

    Returns:
        vectors float32 [h, w, 2] in fractions of the frame, and the share of each cell they cover, float32 [h, w].
    """
    rows, columns = known.shape
    down, across = overlap(grid[0], height, rows), overlap(grid[1], width, columns)
    share = known.astype(np.float32)
    stacked = np.stack([share, vectors[..., 0] * share, vectors[..., 1] * share])
    covered, x, y = down @ stacked @ across.T
    mean = np.stack([x / width, y / height], -1) / np.maximum(covered, 1e-6)[..., None]
    return mean, covered


@lru_cache(maxsize=16)
def overlap(cells: int, length: int, lattice_cells: int) -> np.ndarray:
    """float32 [cells, lattice_cells]: share of each grid cell that each lattice cell covers; rows sum to 1."""
    edges = np.linspace(0, length, cells + 1)
    starts = np.arange(lattice_cells) * LATTICE
    shared = np.minimum(edges[1:, None], starts + LATTICE) - np.maximum(edges[:-1, None], starts)
    shared = np.maximum(shared, 0)
    return (shared / shared.sum(1, keepdims=True)).astype(np.float32)
