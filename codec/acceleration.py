"""Choose between numpy's and numba's implementation of the array operations. Results are the same bit by bit."""

import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from codec.field_operations import FieldOperations, ListCandidates, MotionPrior
from codec.motion_fields import StepField, WeightedField
from codec.motion_vectors import MACROBLOCK_PIXELS
from codec.side_data import MotionRecord

VARIABLE = "VIDEOTOK_COMPILED"
"""Environment variable: `0` never uses compiled operations, `1` uses them from the first frame on."""

FRAMES_BEFORE_LOADING = 300
"""Frames of a process that are read in numpy first: importing numba and loading kernels takes 0.6 s, which compiled
operations save in some 400 frames."""

FRAMES_BEFORE_COMPILING = 3000
"""The same where the kernels have to be compiled first, once for each machine."""


class OperationsChooser:
    """Counts frames, and changes to compiled operations as soon as these pay."""

    def __init__(self, setting: str = "") -> None:
        self._numpy = FieldOperations()
        self.choose(setting)

    def choose(self, setting: str) -> None:
        """Begin anew: `0` never changes to compiled operations, `1` uses them at once, anything else when they pay."""
        self._num_frames = 0
        self._compiled: FieldOperations | None = None
        self._threshold = {"0": float("inf"), "1": 0.0}.get(setting, float(FRAMES_BEFORE_LOADING))

    def for_next_frame(self, grid: tuple[int, int]) -> FieldOperations:
        """Return the operations to use for a frame on a grid of (h, w) cells."""
        self._num_frames += 1
        return self.current(grid)

    def current(self, grid: tuple[int, int]) -> FieldOperations:
        """Return the operations in use, on a grid of (h, w) cells."""
        if self._compiled is None and self._num_frames > self._threshold:
            self._load()
        if self._compiled is None or not self._agree(grid):
            return self._numpy
        return self._compiled

    def _load(self) -> None:
        try:
            # these import numba, which is slow to import and may be missing
            from codec import compilation, compiled_fields
        except ImportError:
            self._threshold = float("inf")
            return
        if self._threshold and self._num_frames <= FRAMES_BEFORE_COMPILING and not compilation.is_compiled():
            self._threshold = float(FRAMES_BEFORE_COMPILING)
            return
        try:
            compilation.compile_kernels()
        except Exception:  # such as a full disk; no reason not to read a video
            self._threshold = float("inf")
            return
        self._compiled = compiled_fields.CompiledOperations()

    @lru_cache(maxsize=32)  # noqa: B019, there is one chooser
    def _agree(self, grid: tuple[int, int]) -> bool:
        return self._compiled is not None and differing_operation(self._numpy, self._compiled, grid) is None


CHOOSER = OperationsChooser(os.environ.get(VARIABLE, ""))
"""The chooser of this process."""


def differing_operation(one: FieldOperations, other: FieldOperations, grid: tuple[int, int]) -> str | None:
    """Return the name of the first operation whose results differ on a grid of (h, w) cells; None if all are equal.

    OpenCV decides how positions are rounded and which products are fused with sums: that depends on its version and on
    the processor, so that the operations are compared where they are used. This takes some milliseconds.
    """
    for name, run in _cases(grid).items():
        if not _equal(run(one), run(other)):
            return name
    return None


def _cases(grid: tuple[int, int]) -> dict[str, Callable[[FieldOperations], object]]:
    """Return one call of each operation, on random fields with holes and vectors that lead out of the frame."""
    random = np.random.default_rng(0)
    height, width = grid

    def field(scale: float) -> np.ndarray:
        return (random.normal(size=(*grid, 2)) * scale).astype(np.float32)

    def weighted(scale: float, known_share: float) -> WeightedField:
        weight = random.random(grid, np.float32) * (random.random(grid) < known_share)
        return WeightedField(field(scale) * (weight > 0)[..., None], weight.astype(np.float32))

    size, large_size = (8 * width + 4, 8 * height), (19 * width, 17 * height)
    records, many_records = random_records(random, size), random_records(random, large_size)
    lists = [ListCandidates(np.array([0.04, 0.08, 0.12], np.float32), False)]
    lists.append(ListCandidates(np.array([-0.04], np.float32), True))
    one, other, sparse = weighted(0.05, 0.9), weighted(0.5, 0.6), weighted(0.1, 0.05)
    total, prior = field(0.1), field(0.02)
    steps = [StepField(field(0.1), random.random(grid) < 0.8) for _ in range(2)]
    pictures = random.integers(0, 256, (2, *grid), np.uint8)
    even = StepField(*(array[: height // 2 * 2, : width // 2 * 2] for array in (steps[0].vectors, steps[0].valid)))
    return {
        "pool_vectors": lambda run: run.pool_vectors(records, size, lists, prior, False),
        "pool_vectors, large": lambda run: run.pool_vectors(many_records, large_size, lists, prior, True),
        "add_step": lambda run: run.add_step(total, one.vectors),
        "weigh": lambda run: run.weigh(one, MotionPrior(prior, 1.0)),
        "over_earlier": lambda run: run.over_earlier(one, total, MotionPrior(prior, 1.0)),
        "over_later": lambda run: run.over_later(other, one, MotionPrior(prior, 1.0)),
        "inverse": lambda run: run.inverse(other, sparse, MotionPrior(prior, 1.0)),
        "inverse alone": lambda run: run.inverse(other, None, MotionPrior(prior, 1.0)),
        "weighted_mean": lambda run: run.weighted_mean([one, other, sparse]),
        "filled": lambda run: run.filled(sparse),
        "filled_mean": lambda run: run.filled_mean([one]),
        "is_scene_cut": lambda run: run.is_scene_cut(*pictures),
        "compose": lambda run: run.compose(*steps),
        "pool": lambda run: run.pool(StepField(np.ascontiguousarray(even.vectors), even.valid), 2),
    }


def random_records(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return MotionRecord [n] of a frame of `size` (width, height) in pixels.

    In each list half of the macroblocks are whole; a quarter of these, and of the others, has smaller blocks of one
    size, some of which are missing.
    """
    rows, columns = -(-size[1] // MACROBLOCK_PIXELS), -(-size[0] // MACROBLOCK_PIXELS)
    parts: list[np.ndarray] = []
    for source in (-1, 1):
        kinds = random.integers(1, 13, (rows, columns))
        for kind, (wide, tall) in enumerate(((16, 16), (16, 8), (8, 16), (8, 8))):
            here = random.random((rows, columns)) < 0.5 if kind == 0 else kinds == kind
            here = here.repeat(MACROBLOCK_PIXELS // tall, 0).repeat(MACROBLOCK_PIXELS // wide, 1)
            y, x = np.nonzero(here & (random.random(here.shape) < 0.9))
            block = np.zeros(len(x), MotionRecord)
            block["source"], block["w"], block["h"], block["motion_scale"] = source, wide, tall, 4
            block["dst_x"], block["dst_y"] = x * wide + wide // 2, y * tall + tall // 2
            block["motion_x"], block["motion_y"] = random.integers(-200, 200, (2, len(x)))
            parts.append(block)
    return np.concatenate(parts).astype(MotionRecord)  # joined arrays have no gaps between fields


def _equal(one: object, other: object) -> bool:
    """Return whether two results are equal, bit by bit where they are arrays."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if type(one) is type(other) and hasattr(one, "__dataclass_fields__"):
        return all(_equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    return one == other
