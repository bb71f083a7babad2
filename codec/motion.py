"""From decoded frames to one motion field a source frame."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from codec.demux import SourceFrame
from codec.field import fill, turned
from codec.probe import quarter_turns
from codec.vectors import on_grid, velocity

LOOKAHEAD = 16
"""Frames a B frame may be shown before the reference it points forward to (H.264 keeps 16 pictures at most)."""


@dataclass(frozen=True)
class MovedFrame:
    """A source frame and how it moved since the one shown before."""

    frame: SourceFrame
    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame, upright."""
    valid: np.ndarray
    """bool [h, w]"""


def motion_of(frames: Iterable[SourceFrame], grid: tuple[int, int]) -> Iterator[MovedFrame]:
    """Frames in display order, each with its motion since the frame before."""
    past: deque[SourceFrame] = deque(maxlen=LOOKAHEAD)
    ahead: deque[SourceFrame] = deque()
    source = iter(frames)
    ended = False
    while True:
        while not ended and (not ahead or (len(ahead) < LOOKAHEAD and not _has_future(ahead))):
            following = next(source, None)
            if following is None:
                ended = True
            else:
                ahead.append(following)
        if not ahead:
            return
        frame = ahead.popleft()
        yield _moved(frame, past, ahead, grid)
        past.append(frame)


def _has_future(ahead: deque[SourceFrame]) -> bool:
    """Whether the reference that follows the first frame is there (needed only where list 1 is used)."""
    first = ahead[0]
    if first.vectors is None or not (first.vectors["source"] > 0).any():
        return True
    return any(_can_refer(first, other) for other in ahead)


def _can_refer(frame: SourceFrame, other: SourceFrame) -> bool:
    return other.is_reference and other.decode_index < frame.decode_index


def _moved(
    frame: SourceFrame, past: deque[SourceFrame], ahead: deque[SourceFrame], grid: tuple[int, int]
) -> MovedFrame:
    turns = quarter_turns(frame.picture)
    coded_grid = (grid[1], grid[0]) if turns % 2 else grid
    if frame.vectors is None or not past:
        return MovedFrame(frame, np.zeros((*grid, 2), np.float32), np.zeros(grid, bool))
    before = next((other.pts_seconds for other in reversed(past) if _can_refer(frame, other)), None)
    after = next((other.pts_seconds for other in ahead if _can_refer(frame, other)), None)
    total = velocity(frame, past[-1].pts_seconds, (before, after))
    vectors, valid = on_grid(total, frame.picture.width, frame.picture.height, coded_grid)
    # filled before steps are composed: a hole must not read as standing still
    return MovedFrame(frame, *turned(fill(vectors, valid), valid, turns))
