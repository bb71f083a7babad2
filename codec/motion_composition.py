"""Compute the motion from each frame to the one shown before it, from vectors that point to any reference frame.

A vector does not say how the picture moved since the frame before: a P frame may refer to a frame four frames back, a B
frame to two others, one of which is shown later. Each vector keeps its meaning, a displacement to the frame it refers
to; the motion since the frame before is that displacement less the motion already known between those two frames.
Motion added up along any path thus ends where the stream's own vectors end, and errors do not accumulate.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import PictureType

from codec.acceleration import CHOOSER
from codec.decoder import SourceFrame
from codec.field_operations import MIN_KNOWN_WEIGHT, FieldOperations, ListCandidates, MotionPrior
from codec.motion_fields import StepField, WeightedField, orient
from codec.optical_flow import OpticalFlow
from codec.side_data import has_other_shape
from codec.types import NO_VECTORS, VectorShares

MAX_PENDING_STEPS = 32
"""Steps that are stored before they are accumulated."""

MAX_LOOKAHEAD = 16
"""Frames that are read ahead to find one that a frame refers to (an H.264 buffer has 16 pictures)."""

MAX_REFERENCES = 12
"""References to which the accumulated motion is kept, at most."""

EXTRA_REFERENCES = 3
"""References kept beyond the stream's own number: it may drop one before a frame that refers to it is shown."""

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


@dataclass(frozen=True)
class ReferenceMotion:
    """Motion from one frame to another that its blocks refer to."""

    index: int
    """Position in the stream of the frame referred to."""
    motion: WeightedField
    """Vectors are zero where no block refers to that frame; the weight is the share of the cell whose blocks do."""
    is_exact: bool
    """The reference list has no other frame. Otherwise it is inferred that this one is meant."""


@dataclass(frozen=True)
class MotionByReference:
    """Motion from one frame to all frames that its blocks refer to."""

    references: tuple[ReferenceMotion, ...]
    shares: VectorShares
    """Shares of the frame's area."""


NO_MOTION = MotionByReference((), NO_VECTORS)


def motion_by_reference(
    frame: SourceFrame,
    lists: Sequence[Sequence[int]],
    times: Mapping[int, float],
    velocity: np.ndarray,
    operations: FieldOperations,
) -> MotionByReference:
    """Pool a frame's vectors to a grid, separately for each frame that they refer to.

    A field-coded picture has no usable vectors: they do not lead from frame to frame.

    Args:
        frame: a frame with vectors.
        lists: indices of the frames in list 0 and list 1, by reference index.
        times: pts in seconds of the frames that can be referred to, by index.
        velocity: float32 [h, w, 2], the expected motion in fractions of the frame per second. Where a list has several
            frames, it decides which one a vector refers to.
        operations: what computes it.
    """
    if frame.vectors is None or not len(frame.vectors) or (frame.headers and frame.headers.is_interlaced):
        return NO_MOTION
    size = frame.picture.width, frame.picture.height
    # weighted prediction lists a frame more than once
    indices = [[index for index in dict.fromkeys(one) if index in times] for one in lists]
    candidates = [
        ListCandidates(
            np.array([frame.pts_seconds - times[index] for index in possible], np.float32), len(set(one)) == 1
        )
        for one, possible in zip(lists, indices, strict=True)
    ]
    pooled = operations.pool_vectors(frame.vectors, size, candidates, velocity, frame.headers is None)
    references = tuple(
        ReferenceMotion(indices[one.which][one.number], one.motion, candidates[one.which].is_exact)
        for one in pooled.references
    )
    exact, known = pooled.exact_share, pooled.any_share
    return MotionByReference(references, VectorShares(exact, known - exact, 1 - known))


class AccumulatedMotion:
    """The motion from the last frame to an earlier one. It is added up only on request: most is never used."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self._total = np.zeros((*grid, 2), np.float32)
        self._pending: list[np.ndarray] = []

    def add_step(self, vectors: np.ndarray) -> None:
        """Add a new last frame, whose motion since the one before is `vectors`, float32 [h, w, 2]."""
        self._pending.append(vectors)
        if len(self._pending) > MAX_PENDING_STEPS:
            self.total(FieldOperations())

    def total(self, operations: FieldOperations) -> np.ndarray:
        """Return the displacement float32 [h, w, 2] in fractions of the frame."""
        for vectors in self._pending:
            self._total = operations.add_step(self._total, vectors)
        self._pending.clear()
        return self._total


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
        measures_missing: measure motion between pictures where much of it is unknown, and look for scene cuts there.
    """

    def __init__(self, grid: tuple[int, int], measures_missing: bool = True) -> None:
        self._grid = grid
        self._measures_missing = measures_missing
        self._flow = OpticalFlow()
        self._operations = FieldOperations()
        self._last: SourceFrame | None = None
        self._last_motion = NO_MOTION
        self._to_references: OrderedDict[int, AccumulatedMotion] = OrderedDict()
        """Motion from the last frame to each earlier frame that may still be referred to, by index."""
        self._frame_motions: dict[int, MotionByReference] = {}
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
        self._operations = CHOOSER.for_next_frame(self._grid)
        last = self._last
        step = self._no_motion() if last is None else self._complete(frame, last, self._motion_to_last(frame))
        shares = self._frame_motions.get(frame.index, NO_MOTION).shares
        self._advance(frame, step.motion.vectors)
        return ComposedStep(step.motion, shares, step.is_cut)

    def _no_motion(self, is_cut: bool = False) -> ComposedStep:
        zeros = WeightedField(np.zeros((*self._grid, 2), np.float32), np.zeros(self._grid, np.float32))
        return ComposedStep(zeros, is_cut=is_cut)

    def _complete(self, frame: SourceFrame, last: SourceFrame, motion: WeightedField | None) -> ComposedStep:
        """Measure motion between the pictures where the vectors leave much of it unknown; look for a cut there."""
        if not self._measures_missing:
            return self._no_motion() if motion is None else ComposedStep(motion)
        if motion is None:
            flow = self._flow.measure(frame.picture, last.picture, self._grid, self._operations.is_scene_cut)
            return ComposedStep(WeightedField(flow.vectors, np.zeros(self._grid, np.float32)), is_cut=flow.is_cut)
        known = motion.weight >= MIN_KNOWN_WEIGHT
        if np.count_nonzero(known) / known.size > 1 - MAX_MISSING_SHARE:
            return ComposedStep(motion)
        flow = self._flow.measure(frame.picture, last.picture, self._grid, self._operations.is_scene_cut)
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
            self._frame_motions[frame.index] = motion_by_reference(
                frame, lists, self._times, velocity, self._operations
            )
        prior = MotionPrior(self._velocity, frame.pts_seconds - self._last.pts_seconds)
        candidates: list[WeightedField] = []
        for reference in self._frame_motions[frame.index].references:
            candidate = self._motion_over(reference, prior)
            if candidate is not None:
                candidates.append(candidate)
        # B frames have vectors where P frames have none: to this frame, from the last one
        forward = next((one.motion for one in self._last_motion.references if one.index == frame.index), None)
        if forward is not None:
            mean = self._operations.weighted_mean(candidates) if candidates else None
            candidates.append(self._operations.inverse(forward, mean, prior))
        if not candidates:
            return None
        motion = self._operations.filled_mean(candidates)
        if motion is None:
            return None
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

    def _motion_over(self, reference: ReferenceMotion, prior: MotionPrior) -> WeightedField | None:
        """Return the motion candidate to the last frame that leads over the frame `reference` refers to.

        Its weight is multiplied by its likelihood, unless the stream states that it leads to the last frame.
        """
        if reference.index in self._ahead:
            remaining = self._motion_to_last(self._ahead[reference.index])
            if remaining is None:
                return None
            return self._operations.over_later(reference.motion, remaining, prior)
        if self._last is not None and reference.index == self._last.index:
            return reference.motion if reference.is_exact else self._operations.weigh(reference.motion, prior)
        accumulated = self._to_references.get(reference.index)
        if accumulated is None:
            return None
        return self._operations.over_earlier(reference.motion, accumulated.total(self._operations), prior)

    def _reference_lists(self, frame: SourceFrame) -> tuple[tuple[int, ...], ...]:
        """Return the indices in list 0 and list 1; without headers, the nearest reference in each direction."""
        if frame.headers is not None:
            return frame.headers.lists
        following = next((other.index for other in self._ahead.values() if other.is_reference), -1)
        return (next(reversed(self._to_references), -1),), (following,)


def compose_motion(
    frames: Iterable[SourceFrame], grid: tuple[int, int], measures_missing: bool = True
) -> Iterator[FrameWithMotion]:
    """Yield each frame with its motion since the frame before, on a grid of (h, w) cells.

    Args:
        frames: in display order.
        grid: of the upright picture.
        measures_missing: as for `MotionComposer`.
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
            composer = MotionComposer(frame.orientation.coded_grid(grid), measures_missing)
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
