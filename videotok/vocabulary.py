"""Vocabulary: text, keyframes and motion in one id space, and videos written to and read from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from videotok.errors import TokensError
from videotok.tokens import VideoTokens, pad_motion_ids

MARKERS = ("[IMG]", "[/IMG]", "[MOV]", "[/MOV]")
OLD_NAMES = {
    "motion_levels": "motion_quantizers",
    "motion_places": "motion_ids_per_quantizer",
    "camera_size": "global_motion_size",
    "camera_terms": "num_global_motion_ids",
}
"""Name of a size in folders of earlier versions -> its name today."""


@dataclass(frozen=True)
class Span:
    """A range of ids of one kind."""

    name: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The first id after the range."""
        return self.start + self.size

    def __contains__(self, token: object) -> bool:
        return isinstance(token, int | np.integer) and self.start <= int(token) < self.stop


@dataclass(frozen=True)
class ClipIds:
    """The ids of one clip as they were read from a sequence, each kind counted from 0 again."""

    visual_ids: np.ndarray
    """int32 [n]."""
    keep_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary has no ids for it."""
    skip_mask: np.ndarray | None
    """bool [patches]; None where the vocabulary has no ids for it."""
    motion_ids: np.ndarray
    """int32 [quantizers, ids per quantizer]; no quantizer at all where the clip has a keyframe only."""
    global_motion_ids: np.ndarray
    """int32 [K]; empty where the clip has a keyframe only."""


@dataclass(frozen=True)
class Vocabulary:
    """One id space of text and video.

        0 .. text_size - 1 | [IMG] [/IMG] visual | [MOV] [/MOV] motion, one quantizer after another | global motion, one
                           | of the K ids of a clip after another | drop | skip

    A video is its clips one after another. A clip is its keyframe and its motion:

        [IMG] (drop | skip | visual)* [/IMG] [MOV] global motion{K} quantizer 0{P} quantizer 1{P} .. [/MOV]

    Patches are written in raster order: a visual id is one patch, a drop id `g` stands for g dropped patches, and a
    skip id `g` for g patches that are predicted from the keyframe before. So `keep_mask` and `skip_mask` can be read
    back from the ids. Patches that are not written before [/IMG] were dropped. Every quantizer and every global-motion
    id of a clip has a range of its own, so a sequence may stop after any quantizer, and the meaning of an id does not
    depend on where it stands. `interleaved` writes patch after patch of the motion, each with its ids of all
    quantizers, instead of quantizer after quantizer.

    The layout of Video-LaVIT (arXiv 2402.03161) is `Vocabulary.published()`: one quantizer, no global motion, and
    neither drop nor skip ids. There the mask is not part of the ids and has to be given separately.

    Raises:
        ValueError: a size below its minimum.
    """

    text_size: int
    """Ids below are the text tokenizer's."""
    visual_size: int = 16384
    """Size of the visual codebook."""
    motion_size: int = 1024
    """Size of the motion codebook; the vocabulary has `motion_quantizers` times as many motion ids."""
    motion_quantizers: int = 1
    motion_ids_per_quantizer: int = 135
    """P: motion ids of a clip, per quantizer."""
    global_motion_size: int = 0
    """Size of the global-motion codebook; the vocabulary has `num_global_motion_ids` times as many."""
    num_global_motion_ids: int = 0
    """K: global-motion ids of a clip."""
    patches: int = 0
    """Patches of a keyframe, where the ids say which were kept; 0: they do not."""
    interleaved: bool = False
    """Motion patch after patch instead of quantizer after quantizer."""

    def __post_init__(self) -> None:
        for name in ("text_size", "visual_size", "motion_size", "motion_ids_per_quantizer"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1")
        for name in ("motion_quantizers", "global_motion_size", "num_global_motion_ids", "patches"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must not be negative")
        if bool(self.global_motion_size) != bool(self.num_global_motion_ids):
            raise ValueError(
                f"`num_global_motion_ids` (={self.num_global_motion_ids}) and `global_motion_size` "
                f"(={self.global_motion_size}) must both be 0 or both be above 0"
            )

    @classmethod
    def published(cls) -> Self:
        """Return Video-LaVIT's vocabulary: text 0..31999, [IMG] 32000, [/IMG] 32001, visual 32002..48385, [MOV] 48386,
        [/MOV] 48387, motion 48388..49411."""
        return cls(32000)

    @classmethod
    def of(
        cls,
        tokens: VideoTokens,
        text_size: int,
        *,
        motion_quantizers: int | None = None,
        interleaved: bool = False,
    ) -> Self:
        """Return the vocabulary for all that `tokens` hold, with as many motion quantizers where no number is given."""
        return cls(
            text_size,
            visual_size=tokens.codebooks["visual"],
            motion_size=tokens.codebooks["motion"],
            motion_quantizers=tokens.num_motion_quantizers if motion_quantizers is None else motion_quantizers,
            motion_ids_per_quantizer=tokens.motion_ids.shape[2],
            global_motion_size=tokens.codebooks["global_motion"] if tokens.global_motion_ids.shape[1] else 0,
            num_global_motion_ids=tokens.global_motion_ids.shape[1],
            patches=tokens.keep_mask.shape[1],
            interleaved=interleaved,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as plain values, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> Self:
        """Build a vocabulary from what `to_dict` returned, in this version or an earlier one.

        Raises:
            TypeError: a size that does not exist.
            ValueError: a size below its minimum.
        """
        return cls(**{OLD_NAMES.get(name, name): size for name, size in sizes.items()})

    @property
    def image_begin(self) -> int:
        """The id of [IMG]."""
        return self.text_size

    @property
    def image_end(self) -> int:
        """The id of [/IMG]."""
        return self.text_size + 1

    @property
    def visual(self) -> Span:
        """Visual ids."""
        return Span("visual", self.text_size + 2, self.visual_size)

    @property
    def motion_begin(self) -> int:
        """The id of [MOV]."""
        return self.visual.stop

    @property
    def motion_end(self) -> int:
        """The id of [/MOV]."""
        return self.visual.stop + 1

    @property
    def motion(self) -> Span:
        """Motion ids of all quantizers: those of quantizer q begin at `motion.start + q * motion_size`."""
        return Span("motion", self.visual.stop + 2, self.motion_quantizers * self.motion_size)

    @property
    def global_motion(self) -> Span:
        """Global-motion ids: the k-th one of a clip begins at `global_motion.start + k * global_motion_size`."""
        return Span("global motion", self.motion.stop, self.num_global_motion_ids * self.global_motion_size)

    @property
    def drop(self) -> Span:
        """`drop.start + g - 1`: g patches were dropped."""
        return Span("drop", self.global_motion.stop, self.patches)

    @property
    def skip(self) -> Span:
        """`skip.start + g - 1`: g patches are predicted from the keyframe before."""
        return Span("skip", self.drop.stop, self.patches)

    @property
    def size(self) -> int:
        """Number of ids, text included."""
        return self.skip.stop

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """All that is not text, in order of id; a marker is a span of one id."""
        starts = (self.image_begin, self.image_end, self.motion_begin, self.motion_end)
        markers = [Span(name, start, 1) for name, start in zip(MARKERS, starts, strict=True)]
        spans = [*markers, self.visual, self.motion, self.global_motion, self.drop, self.skip]
        return tuple(sorted(spans, key=lambda span: span.start))

    def name(self, token: int) -> str:
        """Return an id as text, for people and text tokenizers: `[IMG]`, `<visual 17>`, `<motion 1 17>` …"""
        if 0 <= token < self.text_size:
            return f"text {token}"
        for span in self.spans:
            if token in span:
                number = token - span.start
                if span.name in MARKERS:
                    return span.name
                if span.name in ("motion", "global motion"):
                    size = self.motion_size if span.name == "motion" else self.global_motion_size
                    return f"<{span.name} {number // size} {number % size}>"
                return f"<{span.name} {number + (span.name in ('drop', 'skip'))}>"
        return f"{token}, past the end of the vocabulary ({self.size} ids)"

    def new_names(self) -> list[str]:
        """Return the names of all ids that are not text, in order of id."""
        return [self.name(token) for token in range(self.text_size, self.size)]

    def ids(
        self, tokens: VideoTokens, clips: Sequence[int] | None = None, *, keyframes_only: bool = False
    ) -> np.ndarray:
        """Return a video, or some of its clips, as ids: int64 [n].

        Args:
            tokens: a video of this vocabulary's codebooks and shapes; it may have fewer motion quantizers.
            clips: numbers of the clips; all where not given. A clip with predicted patches must follow its predecessor.
            keyframes_only: leave out [MOV] … [/MOV].

        Raises:
            TokensError: tokens that this vocabulary has no ids for.
        """
        self.check(tokens)
        chosen = list(range(tokens.num_clips) if clips is None else clips)
        for before, clip in zip([None, *chosen], chosen, strict=False):
            if not tokens.independent[clip] and before != clip - 1:
                raise TokensError(
                    f"clip {clip} of {tokens.source.file} has patches predicted from clip {clip - 1} and cannot be "
                    "taken alone; take clips in a row from an independent one on, or encode with "
                    "`predict_keyframes=False`"
                )
        parts = [self._clip_ids(tokens, clip, keyframes_only) for clip in chosen]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def check(self, tokens: VideoTokens) -> None:
        """Check that this vocabulary has ids for all that tokens hold.

        Raises:
            TokensError: other codebooks or shapes, more motion quantizers, or predicted patches without skip ids.
        """
        if tokens.skip_mask.any() and not self.patches:
            raise TokensError(
                f"tokens of {tokens.source.file} have patches predicted from the keyframe before, which this "
                "vocabulary has no ids for; encode the video with `predict_keyframes=False`"
            )
        codebooks = {"visual": self.visual_size, "motion": self.motion_size}
        if self.num_global_motion_ids:
            codebooks["global_motion"] = self.global_motion_size
        sizes = [(f"codes in the {name} codebook", tokens.codebooks[name], size) for name, size in codebooks.items()]
        sizes += [
            ("motion ids per quantizer", tokens.motion_ids.shape[2], self.motion_ids_per_quantizer),
            ("global-motion ids per clip", tokens.global_motion_ids.shape[1], self.num_global_motion_ids),
        ]
        if self.patches:
            sizes.append(("patches per keyframe", tokens.keep_mask.shape[1], self.patches))
        for what, found, wanted in sizes:
            if found != wanted:
                raise TokensError(
                    f"tokens of {tokens.source.file} have {found} {what}, the vocabulary has {wanted}; "
                    "use the vocabulary and the video weights that belong together"
                )
        if tokens.num_motion_quantizers > self.motion_quantizers:
            raise TokensError(
                f"tokens of {tokens.source.file} have {tokens.num_motion_quantizers} motion quantizers, the vocabulary "
                f"has {self.motion_quantizers}; take `tokens.first_quantizers({self.motion_quantizers})`"
            )

    def clips(self, ids: Sequence[int] | np.ndarray) -> list[ClipIds]:
        """Read the clips of a sequence that holds nothing but video: the inverse of `ids`.

        Raises:
            TokensError: the sequence is not a video; names the position, what is there and what was expected.
        """
        return _Parser(self, np.asarray(ids)).clips()

    def tokens(
        self, ids: Sequence[int] | np.ndarray, like: VideoTokens, keep_mask: np.ndarray | None = None
    ) -> VideoTokens:
        """Return ids as VideoTokens.

        Args:
            ids: nothing but video, every clip with its motion.
            like: what ids do not hold: spec, source and models and, clip by clip, num_frames, pts_seconds and damaged.
                Clips past its last one are complete and follow each other without a gap.
            keep_mask: bool [clips, patches], where the vocabulary has no drop ids.

        Raises:
            TokensError: the ids are not a video, a clip has no motion, or it is not known which patches were kept.
        """
        clips = self.clips(ids)
        masks = [clip.keep_mask for clip in clips] if keep_mask is None else list(keep_mask)
        if not clips or any(mask is None for mask in masks) or len(masks) != len(clips):
            raise TokensError(
                f"there are {len(clips)} clips and {sum(mask is not None for mask in masks)} rows that say which "
                "patches were kept; give one row of `keep_mask` per clip where the vocabulary has no drop ids"
            )
        without = [
            number for number, clip in enumerate(clips) if len(clip.global_motion_ids) != self.num_global_motion_ids
        ]
        if without:
            raise TokensError(f"clip {without[0]} has no motion: every clip must have global motion")
        return _join(clips, np.stack([mask for mask in masks if mask is not None]), like)

    def keyframe_ids(self, visual_ids: np.ndarray, keep_mask: np.ndarray, skip_mask: np.ndarray) -> np.ndarray:
        """Return a keyframe from [IMG] to [/IMG], int64 [n].

        Args:
            visual_ids: int [m], counted from 0.
            keep_mask, skip_mask: bool [patches], as in `VideoTokens`.
        """
        visual = visual_ids.astype(np.int64) + self.visual.start
        if self.patches:
            visual = self._with_runs(visual, keep_mask, skip_mask)
        return np.concatenate([[self.image_begin], visual, [self.image_end]])

    def _clip_ids(self, tokens: VideoTokens, clip: int, keyframes_only: bool) -> np.ndarray:
        keyframe = self.keyframe_ids(tokens.visual_ids_of(clip), tokens.keep_mask[clip], tokens.skip_mask[clip])
        parts: list[np.ndarray | list[int]] = [keyframe]
        if not keyframes_only:
            motion = tokens.motion_ids_of(clip).astype(np.int64)
            motion += np.arange(len(motion))[:, None] * self.motion_size + self.motion.start
            offsets = np.arange(self.num_global_motion_ids) * self.global_motion_size + self.global_motion.start
            global_motion = tokens.global_motion_ids[clip].astype(np.int64) + offsets
            parts += [[self.motion_begin], global_motion, (motion.T if self.interleaved else motion).ravel()]
            parts.append([self.motion_end])
        return np.concatenate([np.asarray(part, np.int64) for part in parts])

    def _with_runs(self, visual: np.ndarray, keep_mask: np.ndarray, skip_mask: np.ndarray) -> np.ndarray:
        """Return visual ids with ids for the runs of dropped and skipped patches between them."""
        kinds = keep_mask * 2 + skip_mask
        ends = np.flatnonzero(np.diff(kinds, append=-1)) + 1
        parts, used = [], 0
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if keep_mask[start]:
                parts.append(visual[used : used + end - start])
                used += end - start
            elif skip_mask[start] or end < len(kinds):
                span = self.skip if skip_mask[start] else self.drop
                parts.append(np.array([span.start + end - start - 1]))
        return np.concatenate([np.zeros(0, np.int64), *parts])


class _Parser:
    """Reads clips from a sequence of ids, from left to right."""

    def __init__(self, vocabulary: Vocabulary, ids: np.ndarray) -> None:
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
        motion, global_motion = np.zeros((0, vocabulary.motion_ids_per_quantizer), np.int32), np.zeros(0, np.int32)
        if self._next() == vocabulary.motion_begin:
            self.position += 1
            spans = [self._global_motion_span(number) for number in range(vocabulary.num_global_motion_ids)]
            global_motion = np.array([self._run(span, 1)[0] for span in spans], np.int32)
            motion = self._motion()
            self._expect(vocabulary.motion_end, "[/MOV]")
        return ClipIds(visual, keep_mask, skip_mask, motion, global_motion)

    def _keyframe(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Read visual ids [n], keep_mask and skip_mask."""
        vocabulary, ids, patch = self.vocabulary, [], 0
        masks = {name: np.zeros(vocabulary.patches, bool) for name in ("visual", "drop", "skip")}
        spans = (vocabulary.visual, vocabulary.drop, vocabulary.skip)
        while span := next((span for span in spans if self._next() in span), None):
            number = self._next() - span.start
            length = 1 if span.name == "visual" else number + 1
            if vocabulary.patches and patch + length > vocabulary.patches:
                self._fail(
                    f"[/IMG]: a keyframe has {vocabulary.patches} patches, this would be number {patch + length}"
                )
            masks[span.name][patch : patch + length] = True
            if span.name == "visual":
                ids.append(number)
            patch += length
            self.position += 1
        if not vocabulary.patches:
            return np.array(ids, np.int32), None, None
        return np.array(ids, np.int32), masks["visual"], masks["skip"]

    def _motion(self) -> np.ndarray:
        vocabulary, quantizers = self.vocabulary, []
        if vocabulary.interleaved:
            return self._interleaved_motion()
        while len(quantizers) < vocabulary.motion_quantizers and self._next() != vocabulary.motion_end:
            span = self._quantizer_span(len(quantizers))
            quantizers.append(self._run(span, vocabulary.motion_ids_per_quantizer))
        return np.array(quantizers, np.int32).reshape(-1, vocabulary.motion_ids_per_quantizer)

    def _interleaved_motion(self) -> np.ndarray:
        length, count = self.vocabulary.motion_ids_per_quantizer, 0
        # the first patch shows how many quantizers there are
        while count < self.vocabulary.motion_quantizers and self._next(count) in self._quantizer_span(count):
            count += 1
        if not count:
            return np.zeros((0, length), np.int32)
        spans = [self._quantizer_span(quantizer) for quantizer in range(count)]
        patches = [[self._run(span, 1, patch)[0] for span in spans] for patch in range(length)]
        return np.array(patches, np.int32).T

    def _global_motion_span(self, number: int) -> Span:
        size = self.vocabulary.global_motion_size
        return Span(f"global motion {number}", self.vocabulary.global_motion.start + number * size, size)

    def _quantizer_span(self, quantizer: int) -> Span:
        size = self.vocabulary.motion_size
        return Span(f"motion quantizer {quantizer}", self.vocabulary.motion.start + quantizer * size, size)

    def _run(self, span: Span, count: int, before: int = 0) -> np.ndarray:
        """Read `count` ids of a span, of which `before` were read already."""
        found = []
        for number in range(count):
            token = self._next()
            if token not in span:
                self._fail(f"an id of {span.name}" + (f", number {before + number + 1}" if count > 1 or before else ""))
            found.append(token - span.start)
            self.position += 1
        return np.array(found, np.int32)

    def _next(self, ahead: int = 0) -> int:
        """Return the next id, or one `ahead` of it; -1 at the end."""
        position = self.position + ahead
        return self.sequence[position] if position < len(self.sequence) else -1

    def _expect(self, token: int, name: str) -> None:
        if self._next() != token:
            self._fail(name)
        self.position += 1

    def _fail(self, expected: str) -> None:
        found = "the end" if self.position >= len(self.sequence) else self.vocabulary.name(self.sequence[self.position])
        raise TokensError(f"position {self.position} of the ids: found {found}, expected {expected}")


def _join(clips: Sequence[ClipIds], keep_mask: np.ndarray, like: VideoTokens) -> VideoTokens:
    """Return clips as a video that is otherwise like another one; see `Vocabulary.tokens`."""
    count = len(clips)
    later = np.arange(1, max(count - like.num_clips, 0) + 1) * float(like.spec.duration_seconds)
    complete = np.full(len(later), like.spec.frames, np.int32)
    skip_masks = [np.zeros_like(keep_mask[0]) if clip.skip_mask is None else clip.skip_mask for clip in clips]
    try:
        return replace(
            like,
            visual_ids=np.concatenate([clip.visual_ids for clip in clips]),
            visual_offsets=np.cumsum([0, *(len(clip.visual_ids) for clip in clips)], dtype=np.int64),
            keep_mask=keep_mask,
            **pad_motion_ids([clip.motion_ids for clip in clips]),
            global_motion_ids=np.stack([clip.global_motion_ids for clip in clips]),
            num_frames=np.concatenate([like.num_frames, complete])[:count],
            pts_seconds=np.concatenate([like.pts_seconds, like.pts_seconds[-1] + later])[:count],
            damaged=np.concatenate([like.damaged, np.zeros(len(later), bool)])[:count],
            skip_mask=np.stack(skip_masks),
            pictures=like.pictures if count == like.num_clips else (),
        )
    except ValueError as error:
        raise TokensError(f"these ids are not a video like {like.source.file}: {error}") from error
