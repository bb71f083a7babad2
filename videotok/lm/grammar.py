"""The grammar of generated video: which ids may come next, so that every sequence of them is a video."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from videotok.errors import TokensError
from videotok.vocabulary import Span, Vocabulary

NUM_RANGES = 4
"""Ranges of ids that are legal at one place, at most: visual, drop, skip and [/IMG] inside a keyframe."""
CLIP_BEGIN, KEYFRAME, MOTION_BEGIN, MOTION, FINISHED = range(5)
"""Where a row stands: before [IMG], inside of a keyframe, before [MOV], inside of the motion, after the last clip."""
NO_RUN, DROP_RUN, SKIP_RUN = range(3)
"""What the last id of a keyframe was."""


@dataclass(frozen=True)
class VideoForm:
    """What a generated video has.

    Raises:
        ValueError: a number out of range.
    """

    num_clips: int = 1
    motion_quantizers: int = 1
    """Quantizers of the motion ids of each clip; 0: global motion alone."""
    keyframes_only: bool = False
    """Clips are pictures, without [MOV] … [/MOV]."""
    can_skip: bool = False
    """Keyframes after the first may skip patches, which are predicted from the clip before."""
    max_keyframe_ids: int | None = None
    """Ids between [IMG] and [/IMG] at most. None: as many as there are patches."""

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"`num_clips` (={self.num_clips}) must be at least 1")
        if self.motion_quantizers < 0:
            raise ValueError(f"`motion_quantizers` (={self.motion_quantizers}) must not be negative")
        if self.max_keyframe_ids is not None and self.max_keyframe_ids < 1:
            raise ValueError(f"`max_keyframe_ids` (={self.max_keyframe_ids}) must be at least 1")


class VideoGrammar:
    """The sequences of ids that are a video, exactly as `Vocabulary.ids` writes it.

        [IMG] (visual | drop g | skip g)* [/IMG] [MOV] global motion{K} quantizer 0{P} quantizer 1{P} .. [/MOV]

    for each of `form.num_clips` clips. Runs of dropped or skipped patches are one id, dropped patches before [/IMG] are
    not written, and a keyframe has something to show: a visual id, or patches of the keyframe before. So there is one
    sequence for each video. A vocabulary without drop ids (that of Video-LaVIT) does not say which patches are kept;
    there a keyframe has 1 to `patches` visual ids.

    Args:
        vocabulary: of the ids.
        form: of the video.
        patches: of a keyframe, where the vocabulary does not say.
        end_id: the id that is legal after the last clip; None: none is.

    Raises:
        ValueError: a form that the vocabulary has no ids for.
    """

    def __init__(
        self, vocabulary: Vocabulary, form: VideoForm, *, patches: int | None = None, end_id: int | None = None
    ) -> None:
        if form.motion_quantizers > vocabulary.motion_quantizers:
            raise ValueError(
                f"`motion_quantizers` (={form.motion_quantizers}): the vocabulary has {vocabulary.motion_quantizers}"
            )
        if form.can_skip and not vocabulary.patches:
            raise ValueError("`can_skip` (=True): the vocabulary has no skip ids")
        self.patches = vocabulary.patches or patches or 0
        if not self.patches:
            raise ValueError("`patches` (=None): the vocabulary does not know the patches of a keyframe, give them")
        self.vocabulary, self.form, self.end_id = vocabulary, form, end_id
        self.max_keyframe_ids = min(form.max_keyframe_ids or self.patches, self.patches)
        self.motion_spans = () if form.keyframes_only else tuple(_motion_spans(vocabulary, form.motion_quantizers))
        bounds = [(span.start, span.stop) for span in self.motion_spans]
        # after the last motion id there is [/MOV]
        self.motion_bounds = torch.tensor([*bounds, (vocabulary.motion_end, vocabulary.motion_end + 1)])

    @property
    def max_ids_per_clip(self) -> int:
        """Ids of a clip at most, markers included."""
        return self.max_keyframe_ids + 2 + (0 if self.form.keyframes_only else len(self.motion_spans) + 2)

    def start(self, batch: int = 1) -> "GrammarState":
        """Return the state before the first id, of `batch` rows."""
        return GrammarState(self, batch)


def _motion_spans(vocabulary: Vocabulary, quantizers: int) -> list[Span]:
    """Return the span of each id between [MOV] and [/MOV], in order."""
    spans, size = [], vocabulary.global_motion_size
    for number in range(vocabulary.num_global_motion_ids):
        spans.append(Span(f"global motion {number}", vocabulary.global_motion.start + number * size, size))
    size, count = vocabulary.motion_size, vocabulary.motion_ids_per_quantizer
    order = list(range(quantizers)) * count
    for quantizer in order if vocabulary.interleaved else sorted(order):
        spans.append(Span(f"motion quantizer {quantizer}", vocabulary.motion.start + quantizer * size, size))
    return spans


class GrammarState:
    """Where each row of a batch stands in a grammar; made by `VideoGrammar.start`.

    A step takes the same time however long the sequence is. All arrays are int64 [B] on the CPU.
    """

    def __init__(self, grammar: VideoGrammar, batch: int) -> None:
        self.grammar = grammar
        self.position, self.clip, self.place, self.patch, self.num_ids, self.run = torch.zeros(
            6, batch, dtype=torch.long
        ).unbind()
        """Ids read so far; complete clips; place in the clip; and of a keyframe the patches that its ids stand for, the
        number of its ids, and what the last one was. Inside of the motion `num_ids` counts motion ids."""
        self.is_shown = torch.zeros(batch, dtype=torch.bool)
        """Whether the keyframe has a visual or skip id already."""
        self._ranges: Tensor | None = None

    @property
    def is_finished(self) -> Tensor:
        """Which rows have all their clips, bool [B]."""
        return self.place == FINISHED

    def ranges(self) -> Tensor:
        """Return the legal next ids as ranges from a first id up to another (not included), int64 [B, NUM_RANGES, 2].

        Ranges that are not needed are empty.
        """
        if self._ranges is None:
            self._ranges = self._legal_ranges()
        return self._ranges

    def _legal_ranges(self) -> Tensor:
        grammar, vocabulary = self.grammar, self.grammar.vocabulary
        ranges = torch.zeros(len(self.place), NUM_RANGES, 2, dtype=torch.long)

        def allow(number: int, rows: Tensor, start: int | Tensor, count: int | Tensor) -> None:
            bounds = torch.stack(torch.broadcast_tensors(torch.as_tensor(start), torch.as_tensor(start + count)), -1)
            ranges[:, number] = torch.where(rows[:, None], bounds, ranges[:, number])

        allow(0, self.place == CLIP_BEGIN, vocabulary.image_begin, 1)
        allow(0, self.place == MOTION_BEGIN, vocabulary.motion_begin, 1)
        motion = grammar.motion_bounds[torch.where(self.place == MOTION, self.num_ids, 0)]
        allow(0, self.place == MOTION, motion[:, 0], motion[:, 1] - motion[:, 0])
        if grammar.end_id is not None:
            allow(0, self.is_finished, grammar.end_id, 1)
        keyframe = self.place == KEYFRAME
        patches_left, ids_left = grammar.patches - self.patch, grammar.max_keyframe_ids - self.num_ids
        allow(0, keyframe & self.is_shown & (self.run != DROP_RUN), vocabulary.image_end, 1)
        allow(1, keyframe & (patches_left > 0) & (ids_left > 0), vocabulary.visual.start, vocabulary.visual_size)
        if vocabulary.patches:
            # dropped patches are followed by others: those before [/IMG] are not written
            can_drop = keyframe & (patches_left > 1) & (ids_left > 1) & (self.run != DROP_RUN)
            allow(2, can_drop, vocabulary.drop.start, patches_left - 1)
        if grammar.form.can_skip:
            can_skip = keyframe & (self.clip > 0) & (ids_left > 0) & (self.run != SKIP_RUN)
            allow(3, can_skip, vocabulary.skip.start, patches_left)
        return ranges

    def legal(self, size: int, device: torch.device | str | None = None) -> Tensor:
        """Return which of the ids 0 to `size` - 1 are legal next, bool [B, size] on `device`."""
        ranges, ids = self.ranges().to(device), torch.arange(size, device=device)
        return ((ids >= ranges[..., :1]) & (ids < ranges[..., 1:])).any(1)

    def advance(self, ids: Tensor, active: Tensor | None = None) -> None:
        """Read the next id of each row.

        Args:
            ids: int64 [B].
            active: bool [B]: rows that read one; None: all.

        Raises:
            TokensError: an id that is not legal; names its position, what is there and what was expected.
        """
        ids = ids.detach().cpu()
        active = torch.ones_like(self.is_shown) if active is None else active.cpu()
        ranges = self.ranges()
        is_legal = ((ids[:, None] >= ranges[..., 0]) & (ids[:, None] < ranges[..., 1])).any(1)
        if (wrong := active & ~is_legal).any():
            row = int(wrong.nonzero()[0])
            self._fail(row, self.grammar.vocabulary.name(int(ids[row])))
        self._read(ids, active & ~self.is_finished)
        self.position += active
        self._ranges = None

    def _read(self, ids: Tensor, active: Tensor) -> None:
        """Change the state by legal ids of rows that are not finished."""
        grammar, vocabulary, place = self.grammar, self.grammar.vocabulary, self.place.clone()
        in_keyframe, in_motion = active & (place == KEYFRAME), active & (place == MOTION)
        image_end, motion_end = in_keyframe & (ids == vocabulary.image_end), in_motion & (ids == vocabulary.motion_end)
        is_drop, is_skip = (
            in_keyframe & (ids >= span.start) & (ids < span.stop) for span in (vocabulary.drop, vocabulary.skip)
        )
        patches = torch.where(is_drop, ids - vocabulary.drop.start + 1, 1)
        patches = torch.where(is_skip, ids - vocabulary.skip.start + 1, patches)
        self.patch += torch.where(in_keyframe & ~image_end, patches, 0)
        self.num_ids += (in_keyframe | in_motion).long()
        self.is_shown |= in_keyframe & ~image_end & ~is_drop
        self.run[in_keyframe] = (is_drop * DROP_RUN + is_skip * SKIP_RUN)[in_keyframe]

        self.place[active & (place == CLIP_BEGIN)] = KEYFRAME
        self.place[image_end] = MOTION_BEGIN
        self.place[active & (place == MOTION_BEGIN)] = MOTION
        is_clip_end = image_end if grammar.form.keyframes_only else motion_end
        self.clip += is_clip_end
        self.place[is_clip_end] = CLIP_BEGIN
        self.place[is_clip_end & (self.clip >= grammar.form.num_clips)] = FINISHED
        begins = active & (place != self.place)
        for counter in (self.patch, self.num_ids, self.run):
            counter[begins] = 0
        self.is_shown[begins] = False

    def check_finished(self) -> None:
        """Raise TokensError unless every row has all its clips; it names the position where the first one ends."""
        if not self.is_finished.all():
            self._fail(int((~self.is_finished).nonzero()[0]), "the end")

    def check_possible(self, scores: Tensor) -> None:
        """Raise TokensError where no legal id has a finite score, in scores [B, ids] with others at minus infinity."""
        if (impossible := ~scores.isfinite().any(1)).any():
            self._fail(int(impossible.nonzero()[0]), "scores that are all infinite or not a number")

    def _fail(self, row: int, found: str) -> None:
        name = f"position {int(self.position[row])} of the ids" + (f" of row {row}" if len(self.place) > 1 else "")
        raise TokensError(f"{name}: found {found}, expected {self._expected(row)}")

    def _expected(self, row: int) -> str:
        """Return what is legal in a row, for people."""
        vocabulary, names = self.grammar.vocabulary, []
        if self.is_finished[row] and self.grammar.end_id is None:
            return f"nothing: all {self.grammar.form.num_clips} clips are complete"
        for start, stop in self.ranges()[row].tolist():
            if stop - start == 1:
                names.append("the end of the sequence" if start == self.grammar.end_id else vocabulary.name(start))
            elif stop > start:
                names.append(f"{vocabulary.name(start)} to {vocabulary.name(stop - 1)}")
        return " or ".join(names)


class VideoGrammarProcessor(LogitsProcessor):
    """Let `generate` of transformers sample nothing but video, by greedy search or sampling (not by beams).

    Args:
        grammar: of the video.
        prompt_length: ids before the video in `input_ids`; 0 where `generate` is given `inputs_embeds`.

    Raises:
        TokensError: (when called) an id outside of the grammar, or no legal id with a finite score.
    """

    def __init__(self, grammar: VideoGrammar, prompt_length: int = 0) -> None:
        self.grammar, self.num_read = grammar, prompt_length
        self.state: GrammarState | None = None
        """None before the first call."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, ids] with those of illegal ids at minus infinity."""
        if self.state is None:
            self.state = self.grammar.start(len(input_ids))
        for ids in input_ids[:, self.num_read :].unbind(1):
            self.state.advance(ids)
        self.num_read = input_ids.shape[1]
        scores = scores.masked_fill(~self.state.legal(scores.shape[1], scores.device), -torch.inf)
        self.state.check_possible(scores)
        return scores
