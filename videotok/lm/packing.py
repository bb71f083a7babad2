"""What a language model reads: text and video as one row of ids, and which of them it learns to write.

Documents packed into rows of one length: each sees only itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from videotok.lm.chat import ChatTemplate, Prompt, Turn
from videotok.tokens import VideoTokens
from videotok.vocabulary import Span, Vocabulary


@dataclass(frozen=True)
class VideoInput:
    """A video as a language model takes it, either way.

    Discrete: `ids` alone. Continuous: the same ids at the same places, so that everything else stays as it is, and for
    some kinds of them vectors that are read instead of their embeddings.
    """

    ids: Tensor
    """int64 [n]."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """`visual`, `motion`: float [ids of that kind, dim], in the order of the ids."""

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        tokens: VideoTokens,
        clips: Sequence[int] | None = None,
        *,
        keyframes_only: bool = False,
        features: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> "VideoInput":
        """Some clips of a video (all where not given).

        Args:
            vocabulary: of the language model.
            tokens: the video.
            clips: which clips.
            keyframes_only: leave motion out.
            features: of every clip of the video (`videotok.lm.features`), where they are to be read.

        Raises:
            TokensError: tokens of another vocabulary.
            ValueError: as many features as ids of their kind are needed.
        """
        chosen = range(tokens.num_clips) if clips is None else clips
        ids = torch.from_numpy(vocabulary.ids(tokens, chosen, keyframes_only=keyframes_only))
        found: dict[str, Tensor] = {}
        for kind in features[0] if features else ():
            if kind == "motion" and keyframes_only:
                continue
            found[kind] = torch.cat([features[clip][kind] for clip in chosen]) if features else ids
            count = int(within(ids, span_of(vocabulary, kind)).sum())
            if len(found[kind]) != count:
                raise ValueError(f"{len(found[kind])} {kind} features for {count} {kind} ids: not of one video")
        return cls(ids, found)


@dataclass(frozen=True)
class Document:
    """One sequence, from its beginning to its end."""

    ids: Tensor
    """int64 [n]."""
    is_target: Tensor
    """bool [n]: what a model learns to write."""
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


def span_of(vocabulary: Vocabulary, kind: str) -> Span:
    """Where features of a kind stand: all visual ids, or the first level of motion."""
    if kind == "visual":
        return vocabulary.visual
    if kind == "motion":
        return Span("motion level 0", vocabulary.motion.start, vocabulary.motion_size)
    raise ValueError(f"`kind` (={kind!r}) must be visual or motion")


def within(ids: Tensor, span: Span) -> Tensor:
    """bool, where ids are of a span."""
    return (ids >= span.start) & (ids < span.stop)


def conversation(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt | ChatTemplate,
    turns: Sequence[Turn],
    video: VideoInput | None = None,
    *,
    all_targets: bool = False,
) -> Document:
    """Turns and a video as one sequence. What the assistant says is learned; `all_targets`: everything is.

    Raises:
        ValueError: the video's place is named twice, or the chat template cannot do these turns.
    """
    rows: list[tuple[Tensor, bool]] = []
    for piece in prompt.pieces(turns, video is not None, tokenizer):
        if piece.kind == "video" and video is not None:
            rows.append((video.ids, all_targets))
        elif piece.kind == "end":
            rows.append((torch.tensor([tokenizer.eos_token_id]), True))
        else:
            rows.append((_text(tokenizer, piece.text, isinstance(prompt, Prompt)), piece.is_target or all_targets))
    if isinstance(prompt, Prompt) and tokenizer.bos_token_id is not None:  # a chat template writes its own
        rows.insert(0, (torch.tensor([tokenizer.bos_token_id]), False))
    ids = torch.cat([ids for ids, _ in rows])
    is_target = torch.cat([torch.full((len(ids),), wanted) for ids, wanted in rows])
    return Document(ids, is_target, video.features if video else {})


def film(tokenizer: PreTrainedTokenizerBase, video: VideoInput, caption: str = "") -> Document:
    """A video and what is written under it, as it stands, all of it to be learned."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    parts = [torch.tensor(begin, dtype=torch.long), video.ids]
    parts += [_text(tokenizer, caption, True)] if caption else []
    ids = torch.cat([*parts, torch.tensor([tokenizer.eos_token_id])])
    is_target = torch.ones(len(ids), dtype=torch.bool)
    is_target[: len(begin)] = False
    return Document(ids, is_target, video.features)


def evenly(clips: int, most: int | None) -> list[int]:
    """At most so many of a video's clips, spread evenly from the first to the last."""
    if most is None or clips <= most:
        return list(range(clips))
    return sorted({int(place) for place in np.linspace(0, clips - 1, most).round()})


def _text(tokenizer: PreTrainedTokenizerBase, text: str, is_plain: bool) -> Tensor:
    # users' text never becomes a mark; a chat template's own marks are special tokens, and must
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=is_plain)["input_ids"]
    return torch.tensor(found, dtype=torch.long)


IGNORED = -100
"""Label of a token that is not learned."""


@dataclass(frozen=True)
class Packed:
    """A batch of rows."""

    ids: Tensor
    """int64 [B, L]."""
    position_ids: Tensor
    """int64 [B, L]: places within each document."""
    document: Tensor
    """int64 [B, L]: which document of the row a token belongs to; -1 is padding."""
    labels: Tensor
    """int64 [B, L]: the id itself where it is learned, else -100. Not shifted."""
    features: dict[str, tuple[Tensor, Tensor]]
    """Kind -> (int64 [m] places in the flattened batch, float [m, dim] vectors)."""

    def to(self, device: torch.device) -> "Packed":
        moved = {kind: (place.to(device), values.to(device)) for kind, (place, values) in self.features.items()}
        rows = (row.to(device) for row in (self.ids, self.position_ids, self.document, self.labels))
        return Packed(*rows, features=moved)

    def mask(self) -> Tensor:
        """bool [B, 1, L, L]: who sees whom: what came before in one's own document, and oneself."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return (same & torch.ones_like(same[0]).tril())[:, None]


def pack(rows: Sequence[Sequence[Document]], vocabulary: Vocabulary, padding: int) -> Packed:
    """Rows of documents as one batch, as long as its longest row."""
    length = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), length)
    ids, places = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long)
    document, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, row in enumerate(rows):
        start = 0
        for index, item in enumerate(row):
            span = slice(start, start + len(item))
            ids[number, span], document[number, span] = item.ids, index
            places[number, span] = torch.arange(len(item))
            labels[number, span] = torch.where(item.is_target, item.ids, IGNORED)
            for kind, values in item.features.items():
                where = within(item.ids, span_of(vocabulary, kind)).nonzero()[:, 0] + number * length + start
                found.setdefault(kind, []).append((where, values.float()))
            start += len(item)
    features = {kind: (torch.cat([w for w, _ in v]), torch.cat([x for _, x in v])) for kind, v in found.items()}
    return Packed(ids, places, document, labels, features)


def first_fit(documents: Sequence[Document], order: Sequence[int], length: int) -> Iterator[list[int]]:
    """Rows of documents, in `order`, none longer than `length`; a document goes to the first row that has room.

    A row is given out when eight are open and a document fits none of them; the fullest goes first.

    Raises:
        ValueError: a document is longer than a row.
    """
    rows: list[tuple[int, list[int]]] = []
    for index in order:
        size = len(documents[index])
        if size > length:
            raise ValueError(f"document {index} has {size} tokens, a row has {length}; cut it, or take longer rows")
        place = next((i for i, (used, _) in enumerate(rows) if used + size <= length), None)
        if place is None:
            if len(rows) == 8:
                rows.sort(key=lambda row: -row[0])
                yield rows.pop(0)[1]
            rows.append((size, [index]))
        else:
            rows[place] = (rows[place][0] + size, [*rows[place][1], index])
    for _, row in sorted(rows, key=lambda row: -row[0]):
        yield row
