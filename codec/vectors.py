"""The stream's vectors on an even lattice, and from there on the grid."""

from functools import lru_cache

import numpy as np

from codec.demux import SourceFrame

LATTICE = 8
"""Pixels a lattice cell: the smallest block FFmpeg exports."""


def lattice_of(frame: SourceFrame) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a frame, block by block on a lattice.

    Returns:
        vectors float32 [2, rows, columns, 2]: displacement in pixels towards the reference, for list 0 and list 1;
        known bool [2, rows, columns].
    """
    rows, columns = -(-frame.picture.height // LATTICE), -(-frame.picture.width // LATTICE)
    vectors = np.zeros((2, rows, columns, 2), np.float32)
    known = np.zeros((2, rows, columns), bool)
    records = frame.vectors
    if records is None or not len(records):
        return vectors, known
    which = (records["source"] > 0).astype(np.intp)
    scale = np.maximum(records["motion_scale"], 1).astype(np.float32)
    motion = np.stack([records["motion_x"] / scale, records["motion_y"] / scale], -1).astype(np.float32)
    block_width, block_height = records["w"].astype(np.intp), records["h"].astype(np.intp)
    left = (records["dst_x"] - block_width // 2) // LATTICE
    top = (records["dst_y"] - block_height // 2) // LATTICE
    for down in range(2):
        for right in range(2):
            here = (block_height > down * LATTICE) & (block_width > right * LATTICE)
            row, column = top + down, left + right
            here &= (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            place = which[here], row[here], column[here]
            vectors[place] = motion[here]
            known[place] = True
    return vectors, known


def velocity(frame: SourceFrame, previous_seconds: float, references: tuple[float | None, float | None]) -> np.ndarray:
    """Motion of one frame step on the lattice: what each vector says, divided by the time it spans.

    Args:
        frame: the frame.
        previous_seconds: time of the frame shown before.
        references: times of the frames that list 0 and list 1 point to, None where there is none.

    Returns:
        float32 [rows, columns, 3]: (dx, dy) in pixels times weight, and weight (0, 1 or 2 lists).
    """
    vectors, known = lattice_of(frame)
    total = np.zeros((*known.shape[1:], 3), np.float32)
    for which, reference_seconds in enumerate(references):
        if reference_seconds is None or reference_seconds == frame.pts_seconds:
            continue
        share = (frame.pts_seconds - previous_seconds) / (frame.pts_seconds - reference_seconds)
        total[..., :2] += vectors[which] * (np.float32(share) * known[which])[..., None]
        total[..., 2] += known[which]
    return total


def on_grid(total: np.ndarray, width: int, height: int, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Area-weighted pooling of a lattice to the grid.

    Args:
        total: float32 [rows, columns, 3] from `velocity`.
        width, height: of the picture in pixels; the lattice may reach past it.
        grid: (h, w) cells.

    Returns:
        vectors float32 [h, w, 2] in fractions of the frame, valid bool [h, w]: half of the cell or more has a vector.
    """
    rows, columns = total.shape[:2]
    down, across = overlap(grid[0], height, rows), overlap(grid[1], width, columns)
    covered = across @ (down @ (total[..., 2] > 0).astype(np.float32).reshape(rows, -1)).T
    pooled = np.einsum("hr,rcx,wc->hwx", down, total, across, optimize=True)
    mean = pooled[..., :2] / np.maximum(pooled[..., 2:], 1e-6)
    return (mean / np.array([width, height], np.float32)).astype(np.float32), covered.T >= 0.5


@lru_cache(maxsize=16)
def overlap(cells: int, length: int, lattice_cells: int) -> np.ndarray:
    """float32 [cells, lattice_cells]: share of each grid cell that each lattice cell covers; rows sum to 1."""
    edges = np.linspace(0, length, cells + 1)
    starts = np.arange(lattice_cells) * LATTICE
    shared = np.minimum(edges[1:, None], starts + LATTICE) - np.maximum(edges[:-1, None], starts)
    shared = np.maximum(shared, 0)
    return (shared / shared.sum(1, keepdims=True)).astype(np.float32)
