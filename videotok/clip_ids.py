"""A clip as ids, and ids read back into clips; what cannot be read is named with its position."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from videotok.errors import TokensError

if TYPE_CHECKING:
    from videotok.tokens import VideoTokens
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
        return isinstance(token, int | np.integer) and self.start <= int(token) < self.stop


@dataclass(frozen=True)
class ClipIds:
    """What a sequence says of one clip, each kind counted from 0 again."""

    visual_ids: np.ndarray
    """int32 [n]."""
    keep_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary does not say."""
    carry_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary does not say."""
    motion_ids: np.ndarray
    """int32 [levels, ids a level]; no level at all where the clip has a keyframe only."""
    camera_ids: np.ndarray
    """int32 [K]; empty where the clip has a keyframe only."""


def written(vocabulary: "Vocabulary", tokens: "VideoTokens", clip: int, keyframes_only: bool) -> np.ndarray:
    """int64 [n]: one clip as ids."""
    visual = tokens.visual_ids_of(clip).astype(np.int64) + vocabulary.visual.start
    if vocabulary.patches:
        visual = _at_places(vocabulary, visual, tokens.keep_mask[clip], tokens.carry_mask[clip])
    parts = [[vocabulary.image_begin], visual, [vocabulary.image_end]]
    if not keyframes_only:
        levels = np.arange(tokens.num_motion_levels)[:, None] * vocabulary.motion_size
        motion = tokens.motion_ids[clip].astype(np.int64) + levels + vocabulary.motion.start
        terms = np.arange(vocabulary.camera_terms) * vocabulary.camera_size
        camera = tokens.camera_ids[clip].astype(np.int64) + terms + vocabulary.camera.start
        parts += [[vocabulary.motion_begin], camera, (motion.T if vocabulary.interleaved else motion).ravel()]
        parts.append([vocabulary.motion_end])
    return np.concatenate([np.asarray(part, np.int64) for part in parts])


def _at_places(
    vocabulary: "Vocabulary", visual: np.ndarray, keep_mask: np.ndarray, carry_mask: np.ndarray
) -> np.ndarray:
    """Visual ids with what is told of the patches between them."""
    kinds = keep_mask * 2 + carry_mask
    ends = np.flatnonzero(np.diff(kinds, append=-1)) + 1
    parts, told = [], 0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if keep_mask[start]:
            parts.append(visual[told : told + end - start])
            told += end - start
        elif carry_mask[start] or end < len(kinds):
            span = vocabulary.carry if carry_mask[start] else vocabulary.skip
            parts.append(np.array([span.start + end - start - 1]))
    return np.concatenate([np.zeros(0, np.int64), *parts])


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
        visual, keep_mask, carry_mask = self._keyframe()
        self._expect(vocabulary.image_end, "[/IMG]")
        motion, camera = np.zeros((0, vocabulary.motion_places), np.int32), np.zeros(0, np.int32)
        if self._next() == vocabulary.motion_begin:
            self.position += 1
            camera = np.array([self._run(term, 1, 0)[0] for term in self._terms()], np.int32)
            motion = self._motion()
            self._expect(vocabulary.motion_end, "[/MOV]")
        return ClipIds(visual, keep_mask, carry_mask, motion, camera)

    def _keyframe(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        vocabulary, found, place = self.vocabulary, [], 0
        masks = {name: np.zeros(vocabulary.patches, bool) for name in ("visual", "skip", "carry")}
        while True:
            token = self._next()
            span = next(
                (span for span in (vocabulary.visual, vocabulary.skip, vocabulary.carry) if token in span), None
            )
            if span is None:
                break
            told = 1 if span.name == "visual" else token - span.start + 1
            if vocabulary.patches and place + told > vocabulary.patches:
                self._fail(f"[/IMG]: a keyframe has {vocabulary.patches} patches, this would be number {place + told}")
            masks[span.name][place : place + told] = True
            if span.name == "visual":
                found.append(token - span.start)
            place += told
            self.position += 1
        if not vocabulary.patches:
            return np.array(found, np.int32), None, None
        return np.array(found, np.int32), masks["visual"], masks["carry"]

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

    def _terms(self) -> list[Span]:
        start, size = self.vocabulary.camera.start, self.vocabulary.camera_size
        return [Span(f"camera term {k}", start + k * size, size) for k in range(self.vocabulary.camera_terms)]

    def _level(self, level: int) -> Span:
        size = self.vocabulary.motion_size
        return Span(f"motion level {level}", self.vocabulary.motion.start + level * size, size)

    def _run(self, span: Span, count: int, done: int) -> np.ndarray:
        found = []
        for number in range(count):
            token = self._next()
            if token not in span:
                self._fail(f"an id of {span.name}" + (f", number {done + number + 1}" if count > 1 or done else ""))
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


def joined(
    clips: Sequence[ClipIds], camera_terms: int, like: "VideoTokens", keep_mask: np.ndarray | None
) -> "VideoTokens":
    """Clips as a video that is in all else `like` another one: see `Vocabulary.tokens`, also for what is raised."""
    masks = [clip.keep_mask for clip in clips] if keep_mask is None else list(keep_mask)
    if not clips or any(mask is None for mask in masks) or len(masks) != len(clips):
        raise TokensError(
            f"there are {len(clips)} clips and {sum(mask is not None for mask in masks)} rows that say which "
            "patches were kept; give one row of `keep_mask` a clip where the vocabulary has no skips"
        )
    levels = {len(clip.motion_ids) for clip in clips}
    if len(levels) > 1 or any(len(clip.camera_ids) != camera_terms for clip in clips):
        raise TokensError(f"clips have {sorted(levels)} motion levels: all must have the same, and their camera ids")
    count = len(clips)
    past = np.arange(1, max(count - like.num_clips, 0) + 1) * float(like.spec.duration_seconds)
    whole = np.full(len(past), like.spec.frames, np.int32)
    try:
        return replace(
            like,
            visual_ids=np.concatenate([clip.visual_ids for clip in clips]),
            visual_offsets=np.cumsum([0, *(len(clip.visual_ids) for clip in clips)], dtype=np.int64),
            keep_mask=np.stack([mask for mask in masks if mask is not None]),
            motion_ids=np.stack([clip.motion_ids for clip in clips]),
            camera_ids=np.stack([clip.camera_ids for clip in clips]),
            num_frames=np.concatenate([like.num_frames, whole])[:count],
            pts_seconds=np.concatenate([like.pts_seconds, like.pts_seconds[-1] + past])[:count],
            damaged=np.concatenate([like.damaged, np.zeros(len(past), bool)])[:count],
            carry_mask=np.stack([_mask(clip.carry_mask, masks[0]) for clip in clips]),
            pictures=like.pictures if count == like.num_clips else (),
        )
    except ValueError as error:
        raise TokensError(f"these ids are no video like {like.source.file}: {error}") from error


def _mask(found: np.ndarray | None, like: np.ndarray | None) -> np.ndarray:
    return np.zeros_like(like) if found is None else found
