"""Ways from a frame back to the last one shown: what each says, how likely it is, and what they say together.

From decoded frames to motion between one frame and the next.

A stream's vectors do not say how the picture moved since the frame before: a P frame may point four frames back, a
B frame at two others, one of them not shown yet. Here each vector keeps what it says, a displacement to the frame it
refers to, and the step since the frame before is what is left when the known way from there to that frame is taken
off: steps added up along any path end where the stream's own vectors end.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from av.video.frame import PictureType

from codec.decoder import SourceFrame
from codec.motion_fields import PictureFlow, fill, sample, turned
from codec.motion_vectors import NOTHING, FrameReferences, Link, reference_motion_of
from codec.probe import quarter_turns
from codec.types import NO_VECTORS, VectorShares

STEADY = 0.01, 0.5
"""A way may differ from the step before by this much of the frame's width and this much of that step before it counts
as a wrong match: encoders point to whatever looks alike."""

LONGEST_TRAIL = 32
"""Steps that are kept before they are put together."""

Evidence = tuple[np.ndarray, np.ndarray]
"""A way float32 [h, w, 2], and the share of each cell it speaks for [h, w]."""


class Trail:
    """The way from the last frame to an earlier one, put together only when it is asked for: most never are."""

    def __init__(self, way: np.ndarray) -> None:
        self._way = way
        self._steps: list[np.ndarray] = []

    def add(self, step: np.ndarray) -> None:
        """A new last frame, moved by `step` float32 [h, w, 2] since the one before."""
        self._steps.append(step)
        if len(self._steps) > LONGEST_TRAIL:
            self.way()

    def way(self) -> np.ndarray:
        """Displacement float32 [h, w, 2] in fractions of the frame."""
        for step in self._steps:
            self._way = step + sample(self._way, step)
        self._steps.clear()
        return self._way


class Usual:
    """The way that the step before leads one to expect, float32 [h, w, 2]."""

    def __init__(self, way: np.ndarray) -> None:
        self._way = way
        self._allowed: np.ndarray | None = None

    def likelihood(self, way: np.ndarray) -> np.ndarray:
        """float32 [h, w]: 1 where `way` is as usual, falling with the square of the difference."""
        if self._allowed is None:
            self._allowed = STEADY[0] + STEADY[1] * _length(self._way)
        miss = _length(way - self._way)
        miss /= self._allowed
        miss *= miss
        miss += 1
        return np.reciprocal(miss, out=miss)


def _length(way: np.ndarray) -> np.ndarray:
    """float32 [h, w]: lengths in frame widths, of a picture of 16 : 9."""
    x, y = way[..., 0], way[..., 1] * np.float32(9 / 16)
    return np.sqrt(x * x + y * y)


def weighted_mean(evidence: list[Evidence]) -> tuple[np.ndarray, np.ndarray]:
    """The mean way float32 [h, w, 2], zero where nothing speaks for a cell, and what speaks for it [h, w]."""
    way, weight = evidence[0]
    total = way * weight[..., None]
    for way, share in evidence[1:]:
        total += way * share[..., None]
        weight = weight + share
    return total / np.maximum(weight, 1e-6)[..., None], weight


LOOKAHEAD = 16
"""Frames that may be shown before one they point to (H.264 keeps 16 pictures at most)."""

MOST_REMEMBERED = 12
"""References to which the way back is kept, at most."""

SHOWN_LATE = 3
"""References that a stream may have dropped already when a frame that points to them is shown."""

ROUNDS = 3
"""Rounds of the fixed point; steps are small against what they cross, so it settles fast."""

ENOUGH = 0.25
"""Share of a cell that must have vectors for them to speak for it."""

HOLES = 0.05
"""Share of a picture without vectors above which it is worth while to measure its motion."""


@dataclass(frozen=True)
class MovedFrame:
    """A source frame and how it moved since the one shown before."""

    frame: SourceFrame
    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame, upright."""
    valid: np.ndarray
    """bool [h, w]; elsewhere the vectors are a guess: measured between the two pictures where much is missing, else
    taken from the cells around."""
    shares: VectorShares = NO_VECTORS
    cut: bool = False
    """A new scene begins here: vectors are zero, valid False."""


@dataclass(frozen=True)
class Step:
    """Motion into a frame from the one shown before, on the grid of the coded picture."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame."""
    share: np.ndarray
    """float32 [h, w]: how much of each cell has vectors."""
    shares: VectorShares = NO_VECTORS
    cut: bool = False


class MotionComposer:
    """Follows frames in display order; `grid` is that of the coded picture, before rotation."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self._grid = grid
        self._flow = PictureFlow()
        self._last: SourceFrame | None = None
        self._last_links = NOTHING
        self._back: OrderedDict[int, Trail] = OrderedDict()
        """The way from the last frame to each frame before it that may still be pointed to."""
        self._links: dict[int, FrameReferences] = {}
        self._times: dict[int, float] = {}
        self._velocity = np.zeros((*grid, 2), np.float32)
        """Fractions of the frame a second, from the step before."""
        self._ahead: dict[int, SourceFrame] = {}

    def waits_for(self, frame: SourceFrame, ahead: Iterable[SourceFrame]) -> bool:
        """Whether frames that `frame` points to have yet to come."""
        known = self._back.keys() | {other.index for other in ahead}
        if frame.headers is None:
            return frame.picture.pict_type == PictureType.B and not any(other.is_reference for other in ahead)
        oldest = min(self._back, default=0)
        return any(index > oldest and index not in known for index in frame.headers.lists[1])

    def step(self, frame: SourceFrame, ahead: Iterable[SourceFrame]) -> Step:
        """Motion into `frame` from the frame of the call before.

        Args:
            frame: the next frame in display order.
            ahead: frames that come after it, as far as it points to them.
        """
        self._ahead = {other.index: other for other in ahead}
        self._times.update({other.index: other.pts_seconds for other in self._ahead.values()})
        last = self._last
        found = self._nothing() if last is None else self._completed(frame, last, self._way(frame, {}))
        shares = self._links.get(frame.index, NOTHING).shares
        self._advance(frame, found.vectors)
        return replace(found, shares=shares)

    def _nothing(self, cut: bool = False) -> Step:
        return Step(np.zeros((*self._grid, 2), np.float32), np.zeros(self._grid, np.float32), cut=cut)

    def _completed(self, frame: SourceFrame, last: SourceFrame, way: tuple[np.ndarray, np.ndarray] | None) -> Step:
        """The way, or what the pictures show where it says nothing; at a cut nothing."""
        if way is None:
            flow = self._flow.between(frame.picture, last.picture, self._grid)
            return Step(flow.vectors, np.zeros(self._grid, np.float32), cut=flow.is_cut)
        vectors, share = way
        known = share >= ENOUGH
        if known.mean() <= 1 - HOLES:
            flow = self._flow.between(frame.picture, last.picture, self._grid)
            if flow.is_cut:
                return self._nothing(cut=True)
            vectors = np.where(known[..., None], vectors, flow.vectors)
        return Step(vectors, share)

    def _advance(self, frame: SourceFrame, vectors: np.ndarray) -> None:
        if self._last is not None:
            self._velocity = vectors / np.float32(frame.pts_seconds - self._last.pts_seconds)
        for trail in self._back.values():
            trail.add(vectors)
        if frame.is_reference:
            self._back[frame.index] = Trail(np.zeros((*self._grid, 2), np.float32))
            self._times[frame.index] = frame.pts_seconds
            kept = frame.headers.num_references if frame.headers is not None else 1
            while len(self._back) > min(kept + SHOWN_LATE, MOST_REMEMBERED):
                self._back.popitem(last=False)
        self._times = {
            index: time for index, time in self._times.items() if index in self._back or index in self._ahead
        }
        self._last, self._last_links = frame, self._links.pop(frame.index, NOTHING)

    def _way(
        self, frame: SourceFrame, ways: dict[int, tuple[np.ndarray, np.ndarray] | None]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Displacement from `frame` to the last frame, over whatever it points to; None where no vector leads there."""
        if frame.index in ways or self._last is None:
            return ways.get(frame.index)
        # what points in a circle, in a damaged stream, leads nowhere
        ways[frame.index] = None
        if frame.index not in self._links:
            lists = self._lists(frame)
            self._links[frame.index] = reference_motion_of(frame, lists, self._times, self._expected(lists, ways))
        usual = Usual(self._velocity * np.float32(frame.pts_seconds - self._last.pts_seconds))
        evidence: list[Evidence] = []
        for link in self._links[frame.index].links:
            over = self._over(link, ways)
            if over is not None:
                way, trust = over
                certain = link.exact and link.index == self._last.index
                evidence.append((way, trust if certain else trust * usual.likelihood(way)))
        returned = self._returned(frame, evidence)
        if returned is not None:
            evidence.append((returned[0], returned[1] * usual.likelihood(returned[0])))
        if not evidence:
            return None
        mean, weight = weighted_mean(evidence)
        known = weight >= ENOUGH
        if not known.any():
            return None
        ways[frame.index] = found = fill(mean, known), np.minimum(weight, 1)
        return found

    def _expected(
        self, lists: tuple[tuple[int, ...], ...], ways: dict[int, tuple[np.ndarray, np.ndarray] | None]
    ) -> np.ndarray:
        """Velocity by which a vector's reference is told: that towards the first decoded of the frames still to be
        shown (a P frame, which has few references itself), else that of the step before."""
        first = min((index for places in lists for index in places if index in self._ahead), default=None)
        if first is not None and self._last is not None:
            way = self._way(self._ahead[first], ways)
            if way is not None:
                return way[0] / np.float32(self._ahead[first].pts_seconds - self._last.pts_seconds)
        return self._velocity

    def _over(self, link: Link, ways: dict[int, tuple[np.ndarray, np.ndarray] | None]) -> Evidence | None:
        """The way to the last frame over the frame that `link` points to."""
        if link.index in self._ahead:
            onwards = self._way(self._ahead[link.index], ways)
            if onwards is None:
                return None
            read = sample(np.dstack(onwards), link.vectors)
            return link.vectors + read[..., :2], link.weight * read[..., 2]
        if self._last is not None and link.index == self._last.index:
            return link.vectors, link.weight
        trail = self._back.get(link.index)
        if trail is None:
            return None
        back = trail.way()
        way = link.vectors - back
        for _ in range(ROUNDS):
            way = link.vectors - sample(back, way)
        return way, link.weight

    def _returned(self, frame: SourceFrame, evidence: list[Evidence]) -> tuple[np.ndarray, np.ndarray] | None:
        """What the last frame said about this one, turned round: B frames know where P frames have no vectors."""
        forward = next((link for link in self._last_links.links if link.index == frame.index), None)
        if forward is None:
            return None
        share = forward.weight
        if evidence:
            mean, weight = weighted_mean(evidence)
            known = weight > 0
            way = mean if known.all() else np.where(known[..., None], mean, fill(-forward.vectors, share >= ENOUGH))
        else:
            way = fill(-forward.vectors, share >= ENOUGH)
        packed = np.dstack([-forward.vectors * share[..., None], share])
        covered = share
        for _ in range(2):
            read = sample(packed, way)
            covered = read[..., 2]
            there = (covered >= ENOUGH)[..., None]
            way = np.where(there, read[..., :2] / np.maximum(covered, 1e-6)[..., None], way)
        return way, np.where(covered >= ENOUGH, covered, 0)

    def _lists(self, frame: SourceFrame) -> tuple[tuple[int, ...], ...]:
        if frame.headers is not None:
            return frame.headers.lists
        after = next((other.index for other in self._ahead.values() if other.is_reference), -1)
        return (next(reversed(self._back), -1),), (after,)


def motion_of(frames: Iterable[SourceFrame], grid: tuple[int, int]) -> Iterator[MovedFrame]:
    """Frames in display order, each with its motion since the frame before on a grid of (h, w) cells."""
    ahead: deque[SourceFrame] = deque()
    chain: MotionComposer | None = None
    source = iter(frames)
    following = next(source, None)
    while ahead or following is not None:
        if not ahead and following is not None:
            ahead.append(following)
            following = next(source, None)
        frame = ahead.popleft()
        turns = quarter_turns(frame.picture)
        chain = chain or MotionComposer((grid[1], grid[0]) if turns % 2 else grid)
        while following is not None and len(ahead) < LOOKAHEAD and chain.waits_for(frame, ahead):
            ahead.append(following)
            following = next(source, None)
        step = chain.step(frame, ahead)
        yield MovedFrame(frame, *turned(step.vectors, step.share >= 0.5, turns), step.shares, step.cut)
