"""Compute the motion from each frame to the one shown before it, from vectors that point to any reference frame.

A vector does not say how the picture moved since the frame before: a P frame may refer to a frame four frames back, a B
frame to two others, one of which is shown later. Each vector keeps its meaning, a displacement to the frame it refers
to; the motion since the frame before is that displacement less the motion already known between those two frames.
Motion added up along any path thus ends where the stream's own vectors end, and errors do not accumulate.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from av.video.frame import PictureType

from codec.decoder import SourceFrame
from codec.motion_fields import OpticalFlow, StepField, WeightedField, fill_holes, orient, sample
from codec.motion_vectors import NO_MOTION, FrameMotion, ReferenceMotion, motion_by_reference
from codec.side_data import has_other_shape
from codec.types import NO_VECTORS, VectorShares

PRIOR_TOLERANCE = 0.01, 0.5
"""Motion may differ from the step before by this share of the frame's width, plus this share of that step's length,
before it counts as a wrong match: encoders point to whatever looks alike."""

MAX_PENDING_STEPS = 32
"""Steps that are stored before they are accumulated."""

MAX_LOOKAHEAD = 16
"""Frames that are read ahead to find one that a frame refers to (an H.264 buffer has 16 pictures)."""

MAX_REFERENCES = 12
"""References to which the accumulated motion is kept, at most."""

EXTRA_REFERENCES = 3
"""References kept beyond the stream's own number: it may drop one before a frame that refers to it is shown."""

NUM_INVERSION_ROUNDS = 3
"""Rounds of the fixed-point iteration; steps are small, so it converges fast."""

MIN_KNOWN_WEIGHT = 0.25
"""Share of a cell that must have vectors for its motion to count as known."""

MIN_VALID_WEIGHT = 0.5
"""Share of a cell that must have vectors for the cell to be valid."""

MAX_MISSING_SHARE = 0.05
"""Share of a picture without known motion above which the motion is measured between the pictures."""


@dataclass(frozen=True)
class FrameWithMotion:
    """A source frame and the motion since the frame shown before it."""

    frame: SourceFrame
    motion: StepField
    """Upright. Where it is not valid, vectors are an estimate: measured between the two pictures if much is missing,
    else filled in from the cells around."""
    shares: VectorShares = NO_VECTORS
    is_cut: bool = False
    """A new scene begins with this frame: vectors are zero and not valid."""


class AccumulatedMotion:
    """The motion from the last frame to an earlier one. It is added up only on request: most is never used."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self._total = np.zeros((*grid, 2), np.float32)
        self._pending: list[np.ndarray] = []

    def add_step(self, vectors: np.ndarray) -> None:
        """Add a new last frame, whose motion since the one before is `vectors`, float32 [h, w, 2]."""
        self._pending.append(vectors)
        if len(self._pending) > MAX_PENDING_STEPS:
            self.total()

    def total(self) -> np.ndarray:
        """Return the displacement float32 [h, w, 2] in fractions of the frame."""
        for vectors in self._pending:
            self._total = vectors + sample(self._total, vectors)
        self._pending.clear()
        return self._total


class MotionPrior:
    """Judges motion by how near it is to `expected`, float32 [h, w, 2] in fractions of the frame."""

    def __init__(self, expected: np.ndarray) -> None:
        self._expected = expected
        self._tolerance: np.ndarray | None = None

    def likelihood(self, vectors: np.ndarray) -> np.ndarray:
        """Return float32 [h, w]: 1 where `vectors` are as expected, falling with the square of the difference."""
        if self._tolerance is None:
            self._tolerance = PRIOR_TOLERANCE[0] + PRIOR_TOLERANCE[1] * _length(self._expected)
        error = _length(vectors - self._expected)
        error /= self._tolerance
        error *= error
        error += 1
        return np.reciprocal(error, out=error)

    def weigh(self, candidate: WeightedField) -> WeightedField:
        """Return a motion candidate, its weight multiplied by the likelihood of its vectors."""
        return WeightedField(candidate.vectors, candidate.weight * self.likelihood(candidate.vectors))


def _length(vectors: np.ndarray) -> np.ndarray:
    """Return lengths float32 [h, w] in frame widths, as if the picture were 16 : 9."""
    x, y = vectors[..., 0], vectors[..., 1] * np.float32(9 / 16)
    return np.sqrt(x * x + y * y)


def weighted_mean(candidates: list[WeightedField]) -> WeightedField:
    """Return the mean of motion candidates, zero where all weights are, and the sum of their weights."""
    first, *others = candidates
    weight = first.weight
    total = first.vectors * weight[..., None]
    for other in others:
        total += other.vectors * other.weight[..., None]
        weight = weight + other.weight
    return WeightedField(total / np.maximum(weight, 1e-6)[..., None], weight)


@dataclass(frozen=True)
class ComposedStep:
    """Motion from a frame to the one shown before it, on the grid of the coded picture."""

    motion: WeightedField
    """The weight is the share of each cell that has vectors."""
    shares: VectorShares = NO_VECTORS
    is_cut: bool = False


class MotionComposer:
    """Computes the motion of one frame after another, in display order.

    Args:
        grid: (h, w) cells of the coded picture, before rotation.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self._grid = grid
        self._flow = OpticalFlow()
        self._last: SourceFrame | None = None
        self._last_motion = NO_MOTION
        self._to_references: OrderedDict[int, AccumulatedMotion] = OrderedDict()
        """Motion from the last frame to each earlier frame that may still be referred to, by index."""
        self._frame_motions: dict[int, FrameMotion] = {}
        self._times: dict[int, float] = {}
        self._velocity = np.zeros((*grid, 2), np.float32)
        """Motion of the step before, in fractions of the frame per second."""
        self._ahead: dict[int, SourceFrame] = {}
        self._to_last: dict[int, WeightedField | None] = {}
        """Motion from the current frame, and from frames ahead, to the last frame, by index; None if no vector leads
        there."""

    def needs_lookahead(self, frame: SourceFrame, ahead: Iterable[SourceFrame]) -> bool:
        """Return whether `frame` refers to frames that are not among those before it nor among `ahead`."""
        known = self._to_references.keys() | {other.index for other in ahead}
        if frame.headers is None:
            return frame.picture.pict_type == PictureType.B and not any(other.is_reference for other in ahead)
        oldest = min(self._to_references, default=0)
        return any(index > oldest and index not in known for index in frame.headers.lists[1])

    def add_frame(self, frame: SourceFrame, ahead: Iterable[SourceFrame]) -> ComposedStep:
        """Return the motion from `frame` to the frame of the previous call.

        Args:
            frame: the next frame in display order.
            ahead: the frames after it, as far as it refers to them.
        """
        self._ahead = {other.index: other for other in ahead}
        self._times.update({other.index: other.pts_seconds for other in self._ahead.values()})
        self._to_last = {}
        last = self._last
        step = self._no_motion() if last is None else self._complete(frame, last, self._motion_to_last(frame))
        shares = self._frame_motions.get(frame.index, NO_MOTION).shares
        self._advance(frame, step.motion.vectors)
        return replace(step, shares=shares)

    def _no_motion(self, is_cut: bool = False) -> ComposedStep:
        zeros = WeightedField(np.zeros((*self._grid, 2), np.float32), np.zeros(self._grid, np.float32))
        return ComposedStep(zeros, is_cut=is_cut)

    def _complete(self, frame: SourceFrame, last: SourceFrame, motion: WeightedField | None) -> ComposedStep:
        """Measure motion between the pictures where the vectors leave much of it unknown; look for a cut there."""
        if motion is None:
            flow = self._flow.measure(frame.picture, last.picture, self._grid)
            return ComposedStep(WeightedField(flow.vectors, np.zeros(self._grid, np.float32)), is_cut=flow.is_cut)
        known = motion.weight >= MIN_KNOWN_WEIGHT
        if known.mean() > 1 - MAX_MISSING_SHARE:
            return ComposedStep(motion)
        flow = self._flow.measure(frame.picture, last.picture, self._grid)
        if flow.is_cut:
            return self._no_motion(is_cut=True)
        return ComposedStep(WeightedField(np.where(known[..., None], motion.vectors, flow.vectors), motion.weight))

    def _advance(self, frame: SourceFrame, vectors: np.ndarray) -> None:
        """Make `frame`, whose motion since the last frame is `vectors`, the last frame."""
        if self._last is not None:
            self._velocity = vectors / np.float32(frame.pts_seconds - self._last.pts_seconds)
        for accumulated in self._to_references.values():
            accumulated.add_step(vectors)
        if frame.is_reference:
            self._to_references[frame.index] = AccumulatedMotion(self._grid)
            self._times[frame.index] = frame.pts_seconds
            num_references = frame.headers.num_references if frame.headers is not None else 1
            while len(self._to_references) > min(num_references + EXTRA_REFERENCES, MAX_REFERENCES):
                self._to_references.popitem(last=False)
        self._times = {
            index: time for index, time in self._times.items() if index in self._to_references or index in self._ahead
        }
        self._last, self._last_motion = frame, self._frame_motions.pop(frame.index, NO_MOTION)

    def _motion_to_last(self, frame: SourceFrame) -> WeightedField | None:
        """Return the motion from the current frame, or one ahead, to the last frame; None if no vector leads there."""
        if frame.index in self._to_last or self._last is None:
            return self._to_last.get(frame.index)
        # in a damaged stream frames may refer to each other in a circle: that leads nowhere
        self._to_last[frame.index] = None
        if frame.index not in self._frame_motions:
            lists = self._reference_lists(frame)
            velocity = self._expected_velocity(lists)
            self._frame_motions[frame.index] = motion_by_reference(frame, lists, self._times, velocity)
        prior = MotionPrior(self._velocity * np.float32(frame.pts_seconds - self._last.pts_seconds))
        candidates: list[WeightedField] = []
        for reference in self._frame_motions[frame.index].references:
            candidate = self._motion_over(reference)
            if candidate is not None:
                is_certain = reference.is_exact and reference.index == self._last.index
                candidates.append(candidate if is_certain else prior.weigh(candidate))
        inverse = self._inverse_of_last(frame, candidates)
        if inverse is not None:
            candidates.append(prior.weigh(inverse))
        if not candidates:
            return None
        mean = weighted_mean(candidates)
        known = mean.weight >= MIN_KNOWN_WEIGHT
        if not known.any():
            return None
        motion = WeightedField(fill_holes(mean.vectors, known), np.minimum(mean.weight, 1))
        self._to_last[frame.index] = motion
        return motion

    def _expected_velocity(self, lists: tuple[tuple[int, ...], ...]) -> np.ndarray:
        """Return the velocity by which ambiguous references are resolved.

        It is that of the frame decoded first among those ahead that are referred to (a P frame, which has few
        references itself), else that of the step before.
        """
        first = min((index for indices in lists for index in indices if index in self._ahead), default=None)
        if first is not None and self._last is not None:
            motion = self._motion_to_last(self._ahead[first])
            if motion is not None:
                return motion.vectors / np.float32(self._ahead[first].pts_seconds - self._last.pts_seconds)
        return self._velocity

    def _motion_over(self, reference: ReferenceMotion) -> WeightedField | None:
        """Return the motion candidate to the last frame that leads over the frame `reference` refers to."""
        vectors, weight = reference.motion.vectors, reference.motion.weight
        if reference.index in self._ahead:
            remaining = self._motion_to_last(self._ahead[reference.index])
            if remaining is None:
                return None
            sampled = sample(np.dstack([remaining.vectors, remaining.weight]), vectors)
            return WeightedField(vectors + sampled[..., :2], weight * sampled[..., 2])
        if self._last is not None and reference.index == self._last.index:
            return reference.motion
        accumulated = self._to_references.get(reference.index)
        if accumulated is None:
            return None
        # solves motion + total(x + motion) = vectors, with the total motion from the last frame to the reference
        total = accumulated.total()
        motion = vectors - total
        for _ in range(NUM_INVERSION_ROUNDS):
            motion = vectors - sample(total, motion)
        return WeightedField(motion, weight)

    def _inverse_of_last(self, frame: SourceFrame, candidates: list[WeightedField]) -> WeightedField | None:
        """Return the inverse of the last frame's motion to `frame`: B frames have vectors where P frames have none."""
        forward = next((one.motion for one in self._last_motion.references if one.index == frame.index), None)
        if forward is None:
            return None
        weight = forward.weight
        backward, is_known = -forward.vectors, weight >= MIN_KNOWN_WEIGHT
        if candidates:
            mean = weighted_mean(candidates)
            covered = mean.weight > 0
            motion = mean.vectors
            if not covered.all():
                motion = np.where(covered[..., None], motion, fill_holes(backward, is_known))
        else:
            motion = fill_holes(backward, is_known)
        stacked = np.dstack([backward * weight[..., None], weight])
        for _ in range(2):
            sampled = sample(stacked, motion)
            weight = sampled[..., 2]
            is_known = weight >= MIN_KNOWN_WEIGHT
            mean_vectors = sampled[..., :2] / np.maximum(weight, 1e-6)[..., None]
            motion = np.where(is_known[..., None], mean_vectors, motion)
        return WeightedField(motion, np.where(is_known, weight, 0))

    def _reference_lists(self, frame: SourceFrame) -> tuple[tuple[int, ...], ...]:
        """Return the indices in list 0 and list 1; without headers, the nearest reference in each direction."""
        if frame.headers is not None:
            return frame.headers.lists
        following = next((other.index for other in self._ahead.values() if other.is_reference), -1)
        return (next(reversed(self._to_references), -1),), (following,)


def compose_motion(frames: Iterable[SourceFrame], grid: tuple[int, int]) -> Iterator[FrameWithMotion]:
    """Yield each frame with its motion since the frame before, on a grid of (h, w) cells.

    Args:
        frames: in display order.
        grid: of the upright picture.
    """
    ahead: deque[SourceFrame] = deque()
    composer: MotionComposer | None = None
    last: SourceFrame | None = None
    source = iter(frames)
    following = next(source, None)
    while ahead or following is not None:
        if not ahead and following is not None:
            ahead.append(following)
            following = next(source, None)
        frame = ahead.popleft()
        is_new_shape = last is not None and has_other_shape(upright_size(last), upright_size(frame))
        if composer is None or is_new_shape:
            composer = MotionComposer(frame.orientation.coded_grid(grid))
        while following is not None and len(ahead) < MAX_LOOKAHEAD and composer.needs_lookahead(frame, ahead):
            ahead.append(following)
            following = next(source, None)
        step = composer.add_frame(frame, ahead)
        motion = StepField(step.motion.vectors, step.motion.weight >= MIN_VALID_WEIGHT)
        yield FrameWithMotion(frame, orient(motion, frame.orientation), step.shares, step.is_cut or is_new_shape)
        last = frame


def upright_size(frame: SourceFrame) -> tuple[int, int]:
    """Return the (width, height) in pixels of the upright picture, whose pixels may not be square."""
    return frame.orientation.upright_size(frame.picture.width, frame.picture.height)
