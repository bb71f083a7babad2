"""Motion as Video-LaVIT reads it: pictures encoded with MPEG-4 Part 2, one vector a macroblock.

The published weights were trained on this: at the clips' rate and the picture's own size, 8 Mbit/s, groups of twelve
frames (one I, eleven P), one reference, no B frames. Blocks without a vector count as still. A clip is two groups: its
keyframe has no motion, the I frame in its middle takes the mean of its neighbours'. The field is resized bicubically.
"""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import PictureType

from codec.clock import Tick
from codec.decode import SourceFrame
from codec.field import turned
from codec.probe import quarter_turns
from codec.reencode import reencoded
from codec.types import ClipSpec

GROUP = 12
"""Frames from one I frame to the next."""

MACROBLOCK = 16

MPEG4: dict[str, Any] = {
    "format": "m4v",
    "vcodec": "mpeg4",
    "b:v": "8000k",
    "g": GROUP,
    "bf": 0,
    "threads": 1,
    # a cut would begin a group of its own, and all groups after it would stand askew to the clips
    "sc_threshold": 1_000_000_000,
}


@dataclass(frozen=True)
class Step:
    """A tick and the motion that the encoder found, or None at an I frame."""

    tick: Tick
    vectors: np.ndarray | None
    known: np.ndarray


def with_mpeg4(ticks: Generator[Tick, None, None], spec: ClipSpec) -> Generator[Tick, None, None]:
    """Ticks, each with the motion between its picture and the one before; held back by one."""
    last: Step | None = None
    held: Step | None = None
    for number, step in enumerate(_steps(ticks, spec)):
        if number % spec.frames == 0:
            # motion into a keyframe was never seen by these weights
            step = replace(step, vectors=np.zeros((*spec.grid, 2), np.float32), known=np.zeros(spec.grid, bool))
        if held is not None:
            done = _between(held, last, step)
            yield _moved(done)
            last = done
        held = step
    if held is not None:
        yield _moved(_between(held, last, None))


def _between(step: Step, before: Step | None, after: Step | None) -> Step:
    """An I frame with the mean motion of its neighbours; what is not there counts as still."""
    if step.vectors is not None:
        return step
    total = np.zeros((*step.known.shape, 2), np.float32)
    for other in (before, after):
        if other is not None and other.vectors is not None:
            total += other.vectors
    return replace(step, vectors=total / 2)


def _moved(step: Step) -> Tick:
    return replace(step.tick, vectors=step.vectors, valid=step.known)


def _steps(ticks: Generator[Tick, None, None], spec: ClipSpec) -> Iterator[Step]:
    waiting: deque[Tick] = deque()

    def pictures() -> Iterator[av.VideoFrame]:
        for tick in ticks:
            if tick.picture is not None:
                waiting.append(tick)
                yield tick.picture

    with closing(ticks), closing(reencoded(pictures(), spec.fps, MPEG4, long_side=None)) as frames:
        for frame in frames:
            tick = waiting.popleft()
            turns = quarter_turns(tick.picture) if tick.picture is not None else 0
            grid = (spec.grid[1], spec.grid[0]) if turns % 2 else spec.grid
            if frame.picture.pict_type == PictureType.I:
                yield Step(tick, None, np.zeros(spec.grid, bool))
                continue
            vectors, known = turned(*macroblock_field(frame, grid), turns)
            yield Step(tick, np.ascontiguousarray(vectors), np.ascontiguousarray(known))


def macroblock_field(frame: SourceFrame, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A P frame's vectors on the grid.

    Returns:
        vectors float32 [h, w, 2] in fractions of the frame, and bool [h, w]: cells half of which or more has vectors.
    """
    width, height = frame.picture.width, frame.picture.height
    rows, columns = -(-height // MACROBLOCK), -(-width // MACROBLOCK)
    blocks, known = np.zeros((rows, columns, 2), np.float32), np.zeros((rows, columns), np.float32)
    records = frame.vectors
    if records is not None and len(records):
        x = np.clip(records["dst_x"], 0, width - 1) // MACROBLOCK
        y = np.clip(records["dst_y"], 0, height - 1) // MACROBLOCK
        motion = np.stack([records["motion_x"], records["motion_y"]], -1) / records["motion_scale"][:, None]
        blocks[y, x] = motion / np.array([width, height])
        known[y, x] = 1
    size = grid[::-1]
    # both cubics have the coefficient -0.75, the one of torch and so of the published code
    vectors = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC).reshape(*grid, 2)
    return vectors, cv2.resize(known, size, interpolation=cv2.INTER_AREA).reshape(grid) >= 0.5
