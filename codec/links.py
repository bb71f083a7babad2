"""What each frame says by itself: where its blocks stood in the frames it refers to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codec.decode import SourceFrame
from codec.vectors import lattice_of, on_grid


@dataclass(frozen=True)
class Link:
    """Displacement from one frame to another, as far as blocks of the one point to the other."""

    index: int
    """Place in the stream of the frame pointed to."""
    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero where nothing points there."""
    weight: np.ndarray
    """float32 [h, w]: share of the cell that points there, 0 to 1."""


def links_of(frame: SourceFrame, lists: Sequence[Sequence[int]], grid: tuple[int, int]) -> list[Link]:
    """Pools a frame's blocks to a grid, one link for each frame pointed to.

    A picture coded in fields, in a stream that began without, has none: its vectors are not between frames.

    Args:
        frame: a frame with vectors.
        lists: places in the stream of the frames that list 0 and list 1 hold, by reference index.
        grid: (h, w) cells.
    """
    if frame.vectors is None or not len(frame.vectors) or (frame.headers and frame.headers.is_interlaced):
        return []
    vectors, known = lattice_of(frame.vectors, frame.picture.width, frame.picture.height)
    found = []
    for which, candidates in enumerate(lists):
        # FFmpeg does not export the reference index; index 0 is what encoders use for nine blocks in ten
        if candidates and candidates[0] >= 0 and known[which].any():
            pooled = on_grid(vectors[which], known[which], frame.picture.width, frame.picture.height, grid)
            found.append(Link(candidates[0], *pooled))
    return found
