"""The stream's vectors on an even lattice, and from there on the grid."""

from functools import lru_cache

import numpy as np

LATTICE = 8
"""Pixels a lattice cell: the smallest block FFmpeg exports."""

WHOLE = 16
"""Pixels a side of the largest block."""


def lattice_of(records: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a frame of `width` x `height` pixels, block by block on a lattice.

    Args:
        records: FFmpeg's AVMotionVector fields; each block stands at a multiple of its size.

    Returns:
        vectors float32 [2, rows, columns, 2]: displacement in pixels towards the reference, for list 0 and list 1;
        known bool [2, rows, columns].
    """
    down, across = -(-height // WHOLE), -(-width // WHOLE)
    x, y = records["dst_x"].astype(np.int32), records["dst_y"].astype(np.int32)
    if len(records) and (min(x.min(), y.min()) < 0 or x.max() >= across * WHOLE or y.max() >= down * WHOLE):
        inside = (x >= 0) & (y >= 0) & (x < across * WHOLE) & (y < down * WHOLE)
        records, x, y = records[inside], x[inside], y[inside]
    motion, second = _as_words(records), records["source"] > 0
    wide, tall = records["w"] == WHOLE, records["h"] == WHOLE
    vectors, known = np.zeros((2, down, across), np.uint64), np.zeros((2, down, across), bool)
    whole = np.flatnonzero(wide & tall)
    place = ((y // WHOLE + second * down) * across + x // WHOLE)[whole]
    vectors.reshape(-1)[place] = motion[whole]
    known.reshape(-1)[place] = True
    vectors, known = _doubled(vectors), _doubled(known)
    parts = np.flatnonzero(~(wide & tall))
    if len(parts):
        wide, tall = wide[parts], tall[parts]
        left, top = (x[parts] - 4 * (1 + wide)) // LATTICE, (y[parts] - 4 * (1 + tall)) // LATTICE
        place = (top + second[parts] * 2 * down) * 2 * across + left
        for covered, offset in ((slice(None), 0), (wide, 1), (tall, 2 * across)):
            here = place[covered] + offset
            vectors.reshape(-1)[here] = motion[parts[covered]]
            known.reshape(-1)[here] = True
    rows, columns = -(-height // LATTICE), -(-width // LATTICE)
    return vectors[:, :rows, :columns, None].view(np.float32), known[:, :rows, :columns]


def _as_words(records: np.ndarray) -> np.ndarray:
    """uint64 [n]: the two float32 of each displacement in pixels, side by side, to be moved about in one piece."""
    motion = np.empty((len(records), 2), np.float32)
    motion[:, 0], motion[:, 1] = records["motion_x"], records["motion_y"]
    scale = records["motion_scale"].copy()
    motion /= scale[0] if len(scale) and scale.min() == scale.max() else np.maximum(scale, 1)[:, None]
    return motion.view(np.uint64)[:, 0]


def _doubled(blocks: np.ndarray) -> np.ndarray:
    """[2, rows, columns], each value in four cells: [2, 2 rows, 2 columns]."""
    which, rows, columns = blocks.shape
    cells = np.empty((which, rows, 2, columns, 2), blocks.dtype)
    cells[:, :, 0, :, 0] = cells[:, :, 0, :, 1] = blocks
    cells[:, :, 1] = cells[:, :, 0]
    return cells.reshape(which, 2 * rows, 2 * columns)


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
    stacked = np.empty((rows, 3, columns), np.float32)
    stacked[:, 0] = known
    np.multiply(vectors[..., 0], stacked[:, 0], out=stacked[:, 1])
    np.multiply(vectors[..., 1], stacked[:, 0], out=stacked[:, 2])
    pooled = (down @ stacked.reshape(rows, -1)).reshape(-1, columns) @ across.T
    covered, x, y = pooled.reshape(grid[0], 3, grid[1]).transpose(1, 0, 2)
    some = np.maximum(covered, 1e-6)
    return np.stack([x / width / some, y / height / some], -1), covered


@lru_cache(maxsize=16)
def overlap(cells: int, length: int, lattice_cells: int) -> np.ndarray:
    """float32 [cells, lattice_cells]: share of each grid cell that each lattice cell covers; rows sum to 1."""
    edges = np.linspace(0, length, cells + 1)
    starts = np.arange(lattice_cells) * LATTICE
    shared = np.minimum(edges[1:, None], starts + LATTICE) - np.maximum(edges[:-1, None], starts)
    shared = np.maximum(shared, 0)
    return (shared / shared.sum(1, keepdims=True)).astype(np.float32)
