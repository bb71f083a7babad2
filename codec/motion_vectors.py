"""The stream's vectors on an even lattice, and from there on the grid.

What each frame says by itself: where its blocks stood in the frames it refers to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from codec.decoder import SourceFrame
from codec.types import NO_VECTORS, VectorShares

LATTICE = 8
"""Pixels a lattice cell: the smallest block FFmpeg exports."""

WHOLE = 16
"""Pixels a side of the largest block."""


def vectors_to_lattice(records: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
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


def lattice_to_grid(
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


TRUST = 0.1
"""How far motion may stray from what is expected, as a share of the vector, before it counts like a pixel."""

FIRST_IS_LIKELY = 0.3, 0.004
"""Misses that the first reference is forgiven: pixels, and a share of the picture's width. What cannot be expected of
motion grows with the picture."""

FARTHER = 0.1
"""The same for each further one."""


@dataclass(frozen=True)
class Link:
    """Displacement from one frame to another, as far as blocks of the one point to the other."""

    index: int
    """Place in the stream of the frame pointed to."""
    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero where nothing points there."""
    weight: np.ndarray
    """float32 [h, w]: share of the cell that points there, 0 to 1."""
    exact: bool
    """The list holds no other frame; otherwise that this one is meant is inferred."""


@dataclass(frozen=True)
class FrameReferences:
    """All that a frame says."""

    links: list[Link]
    shares: VectorShares
    """Of the frame's area."""


NOTHING = FrameReferences([], NO_VECTORS)


def reference_motion_of(
    frame: SourceFrame, lists: Sequence[Sequence[int]], times: Mapping[int, float], velocity: np.ndarray
) -> FrameReferences:
    """Pools a frame's blocks to a grid, one link for each frame pointed to.

    A picture coded in fields, in a stream that began without, has none: its vectors are not between frames.

    Args:
        frame: a frame with vectors.
        lists: places in the stream of the frames that list 0 and list 1 hold, by reference index.
        times: pts in seconds of the frames that can be pointed to.
        velocity: float32 [h, w, 2], fractions of the frame a second: how the picture moved just before. Where a list
            holds several frames, it tells which one a vector means.
    """
    if frame.vectors is None or not len(frame.vectors) or (frame.headers and frame.headers.is_interlaced):
        return NOTHING
    width, height, grid = frame.picture.width, frame.picture.height, velocity.shape[:2]
    vectors, known = vectors_to_lattice(frame.vectors, width, height)
    # MPEG-4 does not export the vectors of direct blocks, which are those of the P frame in proportion
    direct = np.asarray(known.all(0) & ~vectors.any((0, -1))) if frame.headers is None else None
    found: list[Link] = []
    sure, inferred = np.zeros((2, *known.shape[1:]), bool)
    # weighted prediction lists a frame more than once
    choices = [[place for place in dict.fromkeys(places) if place in times] for places in lists]
    expected = np.zeros((), np.float32)
    if direct is not None or max(map(len, choices), default=0) > 1:
        expected = cv2.resize(velocity, known.shape[:0:-1]) * np.array([width, height], np.float32)
    for which, (places, candidates) in enumerate(zip(lists, choices, strict=True)):
        if not candidates or not known[which].any():
            continue
        spans = np.array([frame.pts_seconds - times[place] for place in candidates], np.float32)
        if direct is not None:
            vectors[which] = np.where(direct[..., None], expected * spans[0], vectors[which])
        is_only = len(set(places)) == 1
        sure |= known[which] & is_only & (True if direct is None else ~direct)
        inferred |= known[which]
        if len(candidates) == 1:
            found.append(
                Link(candidates[0], *lattice_to_grid(vectors[which], known[which], width, height, grid), is_only)
            )
            continue
        meant = likely_reference(vectors[which], expected, spans, FIRST_IS_LIKELY[0] + FIRST_IS_LIKELY[1] * width)
        for number, place in enumerate(candidates):
            here = known[which] & (meant == number)
            if here.any():
                found.append(Link(place, *lattice_to_grid(vectors[which], here, width, height, grid), False))
    exact, either = float(np.mean(sure)), float(np.mean(np.logical_or(sure, inferred)))
    return FrameReferences(found, VectorShares(exact, either - exact, 1 - either))


def likely_reference(vectors: np.ndarray, velocity: np.ndarray, spans: np.ndarray, forgiven: float) -> np.ndarray:
    """Which of several references each vector most likely means: FFmpeg does not export the reference index.

    Args:
        vectors: float32 [rows, columns, 2] in pixels.
        velocity: float32 [rows, columns, 2], pixels a second: what is expected.
        spans: float32 [n]: seconds from each reference, by reference index, to the frame.
        forgiven: misses in pixels that the first reference is forgiven.

    Returns:
        int [rows, columns]: the first reference unless another one explains the vector much better; encoders use the
        first for nine blocks in ten.
    """
    x, y = np.ascontiguousarray(vectors.transpose(2, 0, 1))
    going_x, going_y = np.ascontiguousarray(velocity.transpose(2, 0, 1))
    allowed = 1 + TRUST * (np.abs(x) + np.abs(y))
    best, chosen = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.int8)
    for number, span in enumerate(spans):
        miss = np.abs(x - going_x * span) + np.abs(y - going_y * span)
        miss /= allowed
        if number:
            miss += np.float32(forgiven) + np.float32(FARTHER) * np.float32(number - 1)
        chosen[miss < best] = number
        np.minimum(best, miss, out=best)
    return chosen
