"""Ids of a sequence, read back into clips; what cannot be read is named with its position."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from videotok.errors import TokensError

if TYPE_CHECKING:
    from videotok.vocabulary import Vocabulary


@dataclass(frozen=True)
class Span:
    """A run of ids of one kind."""

    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size

    def __contains__(self, token: object) -> bool:
        return isinstance(token, int | np.integer) and self.start <= token < self.stop


@dataclass(frozen=True)
class ClipIds:
    """What a sequence says of one clip, each kind counted from 0 again."""

    visual_ids: np.ndarray
    """int32 [n]."""
    keep_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary has no skips."""
    motion_ids: np.ndarray
    """int32 [levels, ids a level]; no level at all where the clip has a keyframe only."""
    camera_ids: np.ndarray
    """int32 [K]; empty where the clip has a keyframe only."""


class Reader:
    """Reads a sequence from left to right."""

    def __init__(self, vocabulary: "Vocabulary", ids: np.ndarray) -> None:
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise TokensError(f"ids must be integers in one row, got {ids.dtype} {list(ids.shape)}")
        self.vocabulary, self.sequence, self.position = vocabulary, [int(token) for token in ids], 0

    def clips(self) -> list[ClipIds]:
        found = []
        while self.position < len(self.sequence):
            found.append(self._clip())
        return found

    def _clip(self) -> ClipIds:
        vocabulary = self.vocabulary
        self._expect(vocabulary.image_begin, "[IMG]")
        visual, keep_mask = self._keyframe()
        self._expect(vocabulary.image_end, "[/IMG], a visual id" if not vocabulary.patches else "[/IMG]")
        motion, camera = np.zeros((0, vocabulary.motion_places), np.int32), np.zeros(0, np.int32)
        if self._next() == vocabulary.motion_begin:
            self.position += 1
            camera = self._run(vocabulary.camera, vocabulary.camera_terms, 0)
            motion = self._motion()
            self._expect(vocabulary.motion_end, "[/MOV]")
        return ClipIds(visual, keep_mask, motion, camera)

    def _keyframe(self) -> tuple[np.ndarray, np.ndarray | None]:
        vocabulary, found, places, place = self.vocabulary, [], [], 0
        while True:
            token = self._next()
            if token in vocabulary.skip:
                place += token - vocabulary.skip.start + 1
                self.position += 1
                token = self._next()
                if token not in vocabulary.visual:
                    self._fail("a visual id after a skip")
            elif token not in vocabulary.visual:
                break
            if vocabulary.patches and place >= vocabulary.patches:
                self._fail(f"[/IMG]: a keyframe has {vocabulary.patches} patches, this would be number {place + 1}")
            found.append(token - vocabulary.visual.start)
            places.append(place)
            place += 1
            self.position += 1
        mask = None
        if vocabulary.patches:
            mask = np.zeros(vocabulary.patches, bool)
            mask[places] = True
        return np.array(found, np.int32), mask

    def _motion(self) -> np.ndarray:
        vocabulary, levels = self.vocabulary, []
        if vocabulary.interleaved:
            return self._interleaved()
        while len(levels) < vocabulary.motion_levels and self._next() != vocabulary.motion_end:
            levels.append(self._run(self._level(len(levels)), vocabulary.motion_places, 0))
        return np.array(levels, np.int32).reshape(-1, vocabulary.motion_places)

    def _interleaved(self) -> np.ndarray:
        places, levels = self.vocabulary.motion_places, 0
        # the first place tells how many levels there are
        while levels < self.vocabulary.motion_levels and self._next(levels) in self._level(levels):
            levels += 1
        if not levels:
            return np.zeros((0, places), np.int32)
        rows = [[self._run(self._level(level), 1, place)[0] for level in range(levels)] for place in range(places)]
        return np.array(rows, np.int32).T

    def _level(self, level: int) -> Span:
        size = self.vocabulary.motion_size
        return Span(f"motion level {level}", self.vocabulary.motion.start + level * size, size)

    def _run(self, span: Span, count: int, done: int) -> np.ndarray:
        found = []
        for number in range(count):
            token = self._next()
            if token not in span:
                self._fail(f"an id of {span.name}, number {done + number + 1}")
            found.append(token - span.start)
            self.position += 1
        return np.array(found, np.int32)

    def _next(self, ahead: int = 0) -> int:
        """The token to come; -1 at the end."""
        place = self.position + ahead
        return self.sequence[place] if place < len(self.sequence) else -1

    def _expect(self, token: int, name: str) -> None:
        if self._next() != token:
            self._fail(name)
        self.position += 1

    def _fail(self, wanted: str) -> None:
        found = "the end" if self.position >= len(self.sequence) else self.vocabulary.name(self.sequence[self.position])
        raise TokensError(f"position {self.position} of the ids: found {found}, expected {wanted}")
