"""A clip as ids, and ids read back into clips; what cannot be read is named with its position.

Vocabulary: text, keyframes and motion as one row of integers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from videotok.errors import TokensError
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    from videotok.tokens import VideoTokens


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
    skip_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary does not say."""
    motion_ids: np.ndarray
    """int32 [levels, ids a level]; no level at all where the clip has a keyframe only."""
    global_motion_ids: np.ndarray
    """int32 [K]; empty where the clip has a keyframe only."""


def written(vocabulary: "Vocabulary", tokens: "VideoTokens", clip: int, keyframes_only: bool) -> np.ndarray:
    """int64 [n]: one clip as ids."""
    visual = tokens.visual_ids_of(clip).astype(np.int64) + vocabulary.visual.start
    if vocabulary.patches:
        visual = _at_places(vocabulary, visual, tokens.keep_mask[clip], tokens.skip_mask[clip])
    parts = [[vocabulary.image_begin], visual, [vocabulary.image_end]]
    if not keyframes_only:
        levels = np.arange(tokens.num_motion_quantizers)[:, None] * vocabulary.motion_size
        motion = tokens.motion_ids[clip].astype(np.int64) + levels + vocabulary.motion.start
        terms = np.arange(vocabulary.global_motion_terms) * vocabulary.global_motion_size
        camera = tokens.global_motion_ids[clip].astype(np.int64) + terms + vocabulary.camera.start
        parts += [[vocabulary.motion_begin], camera, (motion.T if vocabulary.interleaved else motion).ravel()]
        parts.append([vocabulary.motion_end])
    return np.concatenate([np.asarray(part, np.int64) for part in parts])


def _at_places(
    vocabulary: "Vocabulary", visual: np.ndarray, keep_mask: np.ndarray, skip_mask: np.ndarray
) -> np.ndarray:
    """Visual ids with what is told of the patches between them."""
    kinds = keep_mask * 2 + skip_mask
    ends = np.flatnonzero(np.diff(kinds, append=-1)) + 1
    parts, told = [], 0
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if keep_mask[start]:
            parts.append(visual[told : told + end - start])
            told += end - start
        elif skip_mask[start] or end < len(kinds):
            span = vocabulary.carry if skip_mask[start] else vocabulary.skip
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
        visual, keep_mask, skip_mask = self._keyframe()
        self._expect(vocabulary.image_end, "[/IMG]")
        motion, camera = np.zeros((0, vocabulary.motion_places), np.int32), np.zeros(0, np.int32)
        if self._next() == vocabulary.motion_begin:
            self.position += 1
            camera = np.array([self._run(term, 1, 0)[0] for term in self._terms()], np.int32)
            motion = self._motion()
            self._expect(vocabulary.motion_end, "[/MOV]")
        return ClipIds(visual, keep_mask, skip_mask, motion, camera)

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
        while len(levels) < vocabulary.motion_quantizers and self._next() != vocabulary.motion_end:
            levels.append(self._run(self._level(len(levels)), vocabulary.motion_places, 0))
        return np.array(levels, np.int32).reshape(-1, vocabulary.motion_places)

    def _interleaved(self) -> np.ndarray:
        places, levels = self.vocabulary.motion_places, 0
        # the first place tells how many levels there are
        while levels < self.vocabulary.motion_quantizers and self._next(levels) in self._level(levels):
            levels += 1
        if not levels:
            return np.zeros((0, places), np.int32)
        rows = [[self._run(self._level(level), 1, place)[0] for level in range(levels)] for place in range(places)]
        return np.array(rows, np.int32).T

    def _terms(self) -> list[Span]:
        start, size = self.vocabulary.camera.start, self.vocabulary.global_motion_size
        return [Span(f"camera term {k}", start + k * size, size) for k in range(self.vocabulary.global_motion_terms)]

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
    clips: Sequence[ClipIds], global_motion_terms: int, like: "VideoTokens", keep_mask: np.ndarray | None
) -> "VideoTokens":
    """Clips as a video that is in all else `like` another one: see `Vocabulary.tokens`, also for what is raised."""
    masks = [clip.keep_mask for clip in clips] if keep_mask is None else list(keep_mask)
    if not clips or any(mask is None for mask in masks) or len(masks) != len(clips):
        raise TokensError(
            f"there are {len(clips)} clips and {sum(mask is not None for mask in masks)} rows that say which "
            "patches were kept; give one row of `keep_mask` a clip where the vocabulary has no skips"
        )
    levels = {len(clip.motion_ids) for clip in clips}
    if len(levels) > 1 or any(len(clip.global_motion_ids) != global_motion_terms for clip in clips):
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
            global_motion_ids=np.stack([clip.global_motion_ids for clip in clips]),
            num_frames=np.concatenate([like.num_frames, whole])[:count],
            pts_seconds=np.concatenate([like.pts_seconds, like.pts_seconds[-1] + past])[:count],
            damaged=np.concatenate([like.damaged, np.zeros(len(past), bool)])[:count],
            skip_mask=np.stack([_mask(clip.skip_mask, masks[0]) for clip in clips]),
            pictures=like.pictures if count == like.num_clips else (),
        )
    except ValueError as error:
        raise TokensError(f"these ids are no video like {like.source.file}: {error}") from error


def _mask(found: np.ndarray | None, like: np.ndarray | None) -> np.ndarray:
    return np.zeros_like(like) if found is None else found


MARKS = ("[IMG]", "[/IMG]", "[MOV]", "[/MOV]")


@dataclass(frozen=True)
class Vocabulary:
    """One id space over text and video.

        0 .. text_size - 1 | [IMG] [/IMG] visual | [MOV] [/MOV] motion, level after level | camera, term after term
                           | skip | carry

    A video is its clips one after another, a clip is its keyframe and its motion:

        [IMG] (skip | carry | visual)* [/IMG] [MOV] camera{K} level 0{P} level 1{P} .. [/MOV]

    Patches are told in reading order: a visual id is one patch, a skip `g` says that the next g were dropped, a carry
    `g` that the next g are the keyframe before, moved on. So `keep_mask` and `skip_mask` can be read back from the
    ids. What is not told before [/IMG] was dropped. Every level and every camera term has ids of its own: a
    sequence may stop after any level, and what an id means does not hang on where it stands. `interleaved` writes place
    after place, each with its ids of all levels, instead of level after level.

    Video-LaVIT's layout (arXiv 2402.03161) is the instance `Vocabulary.published()`: one level, no camera, and neither
    skips nor carries: there the mask is no part of the ids and has to be given beside them.

    Raises:
        ValueError: a size below its least.
    """

    text_size: int
    """Ids below are the text tokenizer's."""
    visual_size: int = 16384
    motion_size: int = 1024
    """Values of one motion id; the vocabulary holds `motion_quantizers` times as many."""
    motion_quantizers: int = 1
    motion_places: int = 135
    """Ids of a level."""
    global_motion_size: int = 0
    """Values of one camera id; the vocabulary holds `global_motion_terms` times as many."""
    global_motion_terms: int = 0
    """Camera ids of a clip, before its first level."""
    patches: int = 0
    """Patches of a keyframe where the ids say which were kept; 0: they do not."""
    interleaved: bool = False

    def __post_init__(self) -> None:
        for name, least in (("text_size", 1), ("visual_size", 1), ("motion_size", 1), ("motion_places", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least {least}")
        for name in ("motion_quantizers", "global_motion_size", "global_motion_terms", "patches"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must not be negative")
        if bool(self.global_motion_size) != bool(self.global_motion_terms):
            raise ValueError(
                f"of `global_motion_terms` and `global_motion_size` ({self.global_motion_terms}, {self.global_motion_size}) one is 0"
            )

    @classmethod
    def published(cls) -> Self:
        """Video-LaVIT's: text 0..31999, [IMG] 32000, [/IMG] 32001, visual 32002..48385, [MOV] 48386, [/MOV] 48387,
        motion 48388..49411."""
        return cls(32000)

    @classmethod
    def of(cls, tokens: VideoTokens, text_size: int, *, levels: int | None = None, interleaved: bool = False) -> Self:
        """The vocabulary that says everything of `tokens`, with as many motion levels as they have unless told."""
        return cls(
            text_size,
            visual_size=tokens.codebooks["visual"],
            motion_size=tokens.codebooks["motion"],
            motion_quantizers=tokens.num_motion_quantizers if levels is None else levels,
            motion_places=tokens.motion_ids.shape[2],
            global_motion_size=tokens.codebooks["camera"] if tokens.global_motion_ids.shape[1] else 0,
            global_motion_terms=tokens.global_motion_ids.shape[1],
            patches=tokens.keep_mask.shape[1],
            interleaved=interleaved,
        )

    @property
    def image_begin(self) -> int:
        return self.text_size

    @property
    def image_end(self) -> int:
        return self.text_size + 1

    @property
    def visual(self) -> Span:
        return Span("visual", self.text_size + 2, self.visual_size)

    @property
    def motion_begin(self) -> int:
        return self.visual.stop

    @property
    def motion_end(self) -> int:
        return self.visual.stop + 1

    @property
    def motion(self) -> Span:
        """All levels: level l's ids begin at `motion.start + l * motion_size`."""
        return Span("motion", self.visual.stop + 2, self.motion_quantizers * self.motion_size)

    @property
    def camera(self) -> Span:
        """All terms: term k's ids begin at `camera.start + k * global_motion_size`."""
        return Span("camera", self.motion.stop, self.global_motion_terms * self.global_motion_size)

    @property
    def skip(self) -> Span:
        """`skip.start + g - 1`: g patches were dropped here."""
        return Span("skip", self.camera.stop, self.patches)

    @property
    def carry(self) -> Span:
        """`carry.start + g - 1`: g patches show the keyframe before."""
        return Span("carry", self.skip.stop, self.patches)

    @property
    def size(self) -> int:
        """All ids, text included."""
        return self.carry.stop

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Everything that is not text, in order of id, marks as spans of one."""
        marks = (self.image_begin, self.image_end, self.motion_begin, self.motion_end)
        runs = [Span(name, start, 1) for name, start in zip(MARKS, marks, strict=True)]
        return tuple(
            sorted([*runs, self.visual, self.motion, self.camera, self.skip, self.carry], key=lambda span: span.start)
        )

    def name(self, token: int) -> str:
        """How an id is written for people and in a text tokenizer: `[IMG]`, `<visual 17>`, `<motion 1 17>` …"""
        if 0 <= token < self.text_size:
            return f"text {token}"
        for span in self.spans:
            if token in span:
                number = token - span.start
                if span.name in MARKS:
                    return span.name
                if span.name in ("motion", "camera"):
                    size = self.motion_size if span.name == "motion" else self.global_motion_size
                    return f"<{span.name} {number // size} {number % size}>"
                return f"<{span.name} {number + (span.name in ('skip', 'carry'))}>"
        return f"{token}, past the end of the vocabulary ({self.size} ids)"

    def new_names(self) -> list[str]:
        """Names of all ids that are not text, in their order."""
        return [self.name(token) for token in range(self.text_size, self.size)]

    def facts(self) -> dict[str, Any]:
        """Plain values, `Vocabulary(**facts)` is the same again."""
        return asdict(self)

    def ids(
        self, tokens: VideoTokens, clips: Sequence[int] | None = None, *, keyframes_only: bool = False
    ) -> np.ndarray:
        """int64 [n]: a video, or some of its clips, as ids.

        Args:
            tokens: a video whose codebooks and shapes are this vocabulary's; it may have fewer motion levels.
            clips: which clips; all where not given. A clip that carries patches over follows the one it has them of.
            keyframes_only: leave [MOV] … [/MOV] out.

        Raises:
            TokensError: tokens that this vocabulary cannot say.
        """
        self.check(tokens)
        chosen = list(range(tokens.num_clips) if clips is None else clips)
        for before, clip in zip([None, *chosen], chosen, strict=False):
            if not tokens.independent[clip] and before != clip - 1:
                raise TokensError(
                    f"clip {clip} of {tokens.source.file} carries patches of clip {clip - 1} over and cannot be taken "
                    "alone; take clips in a row from an independent one on, or encode with --no-predict-keyframes"
                )
        return np.concatenate(
            [np.zeros(0, np.int64), *(written(self, tokens, clip, keyframes_only) for clip in chosen)]
        )

    def check(self, tokens: VideoTokens) -> None:
        """Raises TokensError where these tokens have other codebooks or shapes than the vocabulary, or carry patches
        over where it has no ids for that."""
        if tokens.skip_mask.any() and not self.patches:
            raise TokensError(
                f"tokens of {tokens.source.file} carry patches over from keyframe to keyframe, which this vocabulary "
                "cannot say; encode the video with --no-predict-keyframes"
            )
        sizes = {"visual": self.visual_size, "motion": self.motion_size}
        if self.global_motion_terms:
            sizes["camera"] = self.global_motion_size
        pairs = [(f"words of the {name} codebook", tokens.codebooks[name], size) for name, size in sizes.items()]
        pairs += [
            ("motion ids a level", tokens.motion_ids.shape[2], self.motion_places),
            ("camera ids a clip", tokens.global_motion_ids.shape[1], self.global_motion_terms),
        ]
        if self.patches:
            pairs.append(("patches a keyframe", tokens.keep_mask.shape[1], self.patches))
        for what, found, wanted in pairs:
            if found != wanted:
                raise TokensError(
                    f"tokens of {tokens.source.file} have {found} {what}, the vocabulary has {wanted}; "
                    "use the vocabulary and the video weights that belong together"
                )
        if tokens.num_motion_quantizers > self.motion_quantizers:
            raise TokensError(
                f"tokens of {tokens.source.file} have {tokens.num_motion_quantizers} motion levels, the vocabulary has "
                f"{self.motion_quantizers}; take `tokens.first_quantizers({self.motion_quantizers})`"
            )

    def clips(self, ids: Sequence[int] | np.ndarray) -> list[ClipIds]:
        """Reads the clips of a sequence that holds nothing but video: the other way of `ids`.

        Raises:
            TokensError: the sequence is no video; says at which position, what stands there and what should.
        """
        return Reader(self, np.asarray(ids)).clips()

    def tokens(
        self, ids: Sequence[int] | np.ndarray, like: VideoTokens, keep_mask: np.ndarray | None = None
    ) -> VideoTokens:
        """Ids as VideoTokens again.

        Args:
            ids: nothing but video, every clip with its motion, all with the same number of levels.
            like: says what ids do not: spec, source and models and, clip by clip, num_frames, pts_seconds and damaged;
                clips past its last follow each other whole.
            keep_mask: bool [clips, patches], where the vocabulary has no skips.

        Raises:
            TokensError: the ids are no video, the clips are not alike, or it cannot be known which patches were kept.
        """
        return joined(self.clips(ids), self.global_motion_terms, like, keep_mask)
