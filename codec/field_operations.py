"""Array operations that composing motion is made of, in numpy: the definition of every result.

`codec.compiled_fields` has the same operations compiled; `codec.acceleration` chooses between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from codec import motion_fields
from codec.motion_fields import StepField, WeightedField, fill_holes, sample
from codec.motion_vectors import (
    lattice_to_grid,
    likely_reference,
    vectors_to_lattice,
)
from codec.optical_flow import is_scene_cut

PRIOR_TOLERANCE = 0.01, 0.5
"""Motion may differ from the step before by this share of the frame's width, plus this share of that step's length,
before it counts as a wrong match: encoders point to whatever looks alike."""

NUM_INVERSION_ROUNDS = 3
"""Rounds of the fixed-point iteration; steps are small, so it converges fast."""

NUM_INVERSE_ROUNDS = 2
"""Rounds in which the inverse of a field is looked up where the rounds before lead."""

MIN_KNOWN_WEIGHT = 0.25
"""Share of a cell that must have vectors for its motion to count as known."""

FIRST_REFERENCE_BONUS = 0.3, 0.004
"""How much better another reference than the first must match: pixels, plus a share of the picture's width, since the
error of the expected motion grows with the picture."""


@dataclass(frozen=True)
class ListCandidates:
    """The frames that vectors of one reference list may point to."""

    spans: np.ndarray
    """float32 [n]: seconds from each of them to the frame, by reference index; empty if none of them is known."""
    is_exact: bool
    """The list has one frame only."""


@dataclass(frozen=True)
class PooledReference:
    """Motion to one of the frames in a list."""

    which: int
    """0 or 1: the list."""
    number: int
    """Position among the candidates of the list."""
    motion: WeightedField


@dataclass(frozen=True)
class PooledVectors:
    """A frame's vectors on a grid, separately for each frame that they refer to."""

    references: tuple[PooledReference, ...]
    exact_share: float
    """Share of the picture whose vectors point to a frame that the stream states."""
    any_share: float
    """Share of the picture that has vectors."""


class MotionPrior:
    """The motion that is expected; other motion is less likely. It is computed only on request: many frames need none.

    Args:
        velocity: float32 [h, w, 2], expected motion in fractions of the frame per second.
        seconds: the time that the motion takes.
    """

    def __init__(self, velocity: np.ndarray, seconds: float) -> None:
        self._velocity, self._seconds = velocity, seconds
        self._tolerance: np.ndarray | None = None

    @cached_property
    def expected(self) -> np.ndarray:
        """float32 [h, w, 2], in fractions of the frame."""
        return self._velocity * np.float32(self._seconds)

    def likelihood(self, vectors: np.ndarray) -> np.ndarray:
        """Return float32 [h, w]: 1 where `vectors` are as expected, falling with the square of the difference."""
        if self._tolerance is None:
            self._tolerance = PRIOR_TOLERANCE[0] + PRIOR_TOLERANCE[1] * _length(self.expected)
        error = _length(vectors - self.expected)
        error /= self._tolerance
        error *= error
        error += 1
        return np.reciprocal(error, out=error)


def _length(vectors: np.ndarray) -> np.ndarray:
    """Return lengths float32 [h, w] in frame widths, as if the picture were 16 : 9."""
    x, y = vectors[..., 0], vectors[..., 1] * np.float32(9 / 16)
    return np.sqrt(x * x + y * y)


class FieldOperations:
    """The operations in numpy. Fields are not changed in place."""

    def pool_vectors(
        self,
        records: np.ndarray,
        size: tuple[int, int],
        candidates: Sequence[ListCandidates],
        velocity: np.ndarray,
        may_be_direct: bool,
    ) -> PooledVectors:
        """Pool a frame's vectors to a grid, separately for each frame that they refer to.

        Args:
            records: MotionRecord [n]: the frame's vectors.
            size: (width, height) in pixels.
            candidates: of list 0 and list 1.
            velocity: float32 [h, w, 2], the expected motion in fractions of the frame per second. Where a list has
                several frames, it decides which one a vector refers to.
            may_be_direct: blocks with two vectors that are zero are MPEG-4's direct blocks, whose vectors FFmpeg does
                not export: they are those of the P frame in proportion.
        """
        lattice = vectors_to_lattice(records, *size)
        vectors, known = lattice.vectors, lattice.known
        direct = np.asarray(known.all(0) & ~vectors.any((0, -1))) if may_be_direct else None
        references: list[PooledReference] = []
        exact, inferred = np.zeros((2, *known.shape[1:]), bool)
        expected = np.zeros((), np.float32)
        if may_be_direct or max(len(one.spans) for one in candidates) > 1:
            expected = expected_on_lattice(velocity, known.shape[1:]) * np.array(size, np.float32)
        for which, one in enumerate(candidates):
            if not len(one.spans) or not known[which].any():
                continue
            if direct is not None:
                vectors[which] = np.where(direct[..., None], expected * one.spans[0], vectors[which])
            exact |= known[which] & one.is_exact & (True if direct is None else ~direct)
            inferred |= known[which]
            chosen = None
            if len(one.spans) > 1:
                chosen = likely_reference(vectors[which], expected, one.spans, first_reference_bonus(size[0]))
            for number in range(len(one.spans)):
                here = known[which] if chosen is None else known[which] & (chosen == number)
                if here.any():
                    motion = lattice_to_grid(vectors[which], here, *size, velocity.shape[:2])
                    references.append(PooledReference(which, number, motion))
        any_share = float(np.mean(np.logical_or(exact, inferred)))
        return PooledVectors(tuple(references), float(np.mean(exact)), any_share)

    def add_step(self, total: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the motion from a new last frame, float32 [h, w, 2].

        Args:
            total: motion from the frame before it.
            vectors: motion from the new frame to that one.
        """
        return vectors + sample(total, vectors)

    def weigh(self, candidate: WeightedField, prior: MotionPrior) -> WeightedField:
        """Return a motion candidate, its weight multiplied by the likelihood of its vectors."""
        return WeightedField(candidate.vectors, candidate.weight * prior.likelihood(candidate.vectors))

    def over_earlier(self, motion: WeightedField, total: np.ndarray, prior: MotionPrior) -> WeightedField:
        """Return the motion candidate to the last frame that leads over an earlier frame.

        Args:
            motion: from the current frame to the earlier one.
            total: float32 [h, w, 2], from the last frame to the earlier one.
            prior: what is expected of the candidate.
        """
        # solves v + total(x + v) = motion
        vectors = motion.vectors - total
        for _ in range(NUM_INVERSION_ROUNDS):
            vectors = motion.vectors - sample(total, vectors)
        return self.weigh(WeightedField(vectors, motion.weight), prior)

    def over_later(self, motion: WeightedField, remaining: WeightedField, prior: MotionPrior) -> WeightedField:
        """Return the motion candidate to the last frame that leads over a frame that is shown later.

        Args:
            motion: from the current frame to the later one.
            remaining: from the later frame to the last one.
            prior: what is expected of the candidate.
        """
        sampled = sample(np.dstack([remaining.vectors, remaining.weight]), motion.vectors)
        candidate = WeightedField(motion.vectors + sampled[..., :2], motion.weight * sampled[..., 2])
        return self.weigh(candidate, prior)

    def inverse(self, forward: WeightedField, mean: WeightedField | None, prior: MotionPrior) -> WeightedField:
        """Return the inverse of the motion from the last frame to the current one, as a motion candidate.

        Args:
            forward: from the last frame to the current one.
            mean: of the other candidates, where the inverse is looked up first; None if there are none.
            prior: what is expected of the candidate.
        """
        weight = forward.weight
        backward, is_known = -forward.vectors, weight >= MIN_KNOWN_WEIGHT
        if mean is not None:
            covered = mean.weight > 0
            motion = mean.vectors
            if not covered.all():
                motion = np.where(covered[..., None], motion, fill_holes(backward, is_known))
        else:
            motion = fill_holes(backward, is_known)
        stacked = np.dstack([backward * weight[..., None], weight])
        for _ in range(NUM_INVERSE_ROUNDS):
            sampled = sample(stacked, motion)
            weight = sampled[..., 2]
            is_known = weight >= MIN_KNOWN_WEIGHT
            mean_vectors = sampled[..., :2] / np.maximum(weight, 1e-6)[..., None]
            motion = np.where(is_known[..., None], mean_vectors, motion)
        return self.weigh(WeightedField(motion, np.where(is_known, weight, 0)), prior)

    def weighted_mean(self, candidates: Sequence[WeightedField]) -> WeightedField:
        """Return the mean of motion candidates, zero where all weights are, and the sum of their weights."""
        first, *others = candidates
        weight = first.weight
        total = first.vectors * weight[..., None]
        for other in others:
            total += other.vectors * other.weight[..., None]
            weight = weight + other.weight
        return WeightedField(total / np.maximum(weight, 1e-6)[..., None], weight)

    def filled_mean(self, candidates: Sequence[WeightedField]) -> WeightedField | None:
        """Return the mean of candidates, with its holes filled and weights of at most 1; None if nothing is known."""
        return self.filled(self.weighted_mean(candidates))

    def filled(self, motion: WeightedField) -> WeightedField | None:
        """Return motion with its holes filled and weights of at most 1; None if nothing of it is known."""
        known = motion.weight >= MIN_KNOWN_WEIGHT
        if not known.any():
            return None
        return WeightedField(fill_holes(motion.vectors, known), np.minimum(motion.weight, 1))

    def is_scene_cut(self, picture: np.ndarray, warped: np.ndarray) -> bool:
        """Return whether two pictures show two scenes; see `optical_flow.is_scene_cut`."""
        return is_scene_cut(picture, warped)

    def compose(self, later: StepField, earlier: StepField) -> StepField:
        """Return two consecutive steps as one; see `motion_fields.compose`."""
        return motion_fields.compose(later, earlier)

    def pool(self, field: StepField, factor: int) -> StepField:
        """Return the field on a coarser grid; see `motion_fields.pool`."""
        return motion_fields.pool(field, factor)


def expected_on_lattice(velocity: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a velocity, float32 [h, w, 2], interpolated to a lattice of (rows, columns)."""
    return cv2.resize(velocity, (shape[1], shape[0]))


def first_reference_bonus(width: int) -> float:
    """Return how many pixels better than the first another reference must match, for pictures of a width in pixels."""
    return FIRST_REFERENCE_BONUS[0] + FIRST_REFERENCE_BONUS[1] * width
