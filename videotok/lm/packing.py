"""Documents of text and video as ids, and rows of documents as a training batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from videotok.lm.chat import ChatTemplate, Prompt, Turn
from videotok.tokens import VideoTokens
from videotok.vocabulary import Span, Vocabulary

IGNORED = -100
"""Label of a token that is not trained on."""


@dataclass(frozen=True)
class VideoInput:
    """A video as input of a language model.

    Discrete: `ids` alone. Continuous: the same ids at the same positions, and for some kinds of them feature vectors
    that replace their embeddings.
    """

    ids: Tensor
    """int64 [n]."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """`visual`, `motion` -> float [ids of that kind, dim], in the order of the ids."""

    @classmethod
    def from_tokens(
        cls,
        vocabulary: Vocabulary,
        tokens: VideoTokens,
        clips: Sequence[int] | None = None,
        *,
        keyframes_only: bool = False,
        features: Sequence[Mapping[str, Tensor]] | None = None,
        whole: Sequence[bool] | None = None,
    ) -> "VideoInput":
        """Return the input for some clips of a video.

        Args:
            vocabulary: of the language model.
            tokens: the video.
            clips: numbers of the clips; None: all.
            keyframes_only: leave motion out.
            features: of every clip of the video (`videotok.lm.features`); None: ids alone.
            whole: which of `clips` are whole; of the others there is the global motion alone. None: all.

        Raises:
            TokensError: the tokens do not fit the vocabulary.
            ValueError: the number of features of a kind is not the number of its ids.
        """
        chosen = range(tokens.num_clips) if clips is None else clips
        if whole is not None and not all(whole):
            if features:
                raise ValueError("`whole` leaves out ids, so there can be no features; give one of them")
            parts = [torch.from_numpy(vocabulary.ids(tokens, [clip])) for clip in chosen]
            pairs = zip(parts, whole, strict=True)
            return cls(torch.cat([ids if is_whole else global_motion_ids(vocabulary, ids) for ids, is_whole in pairs]))
        ids = torch.from_numpy(vocabulary.ids(tokens, chosen, keyframes_only=keyframes_only))
        found: dict[str, Tensor] = {}
        for kind in features[0] if features else ():
            if features is None or (kind == "motion" and keyframes_only):
                continue
            # a clip without motion ids has latents of its motion all the same
            has_ids = tokens.motion_quantizers > 0 if kind == "motion" else np.ones(tokens.num_clips, bool)
            rows = [features[clip][kind] for clip in chosen if has_ids[clip]]
            found[kind] = torch.cat(rows) if rows else features[0][kind][:0]
            count = int(is_in_span(ids, feature_span(vocabulary, kind)).sum())
            if len(found[kind]) != count:
                raise ValueError(f"{len(found[kind])} {kind} features for {count} {kind} ids: not of the same video")
        return cls(ids, found)


def global_motion_ids(vocabulary: Vocabulary, clip: Tensor) -> Tensor:
    """Return [MOV], the global-motion ids, [/MOV] of a clip or its motion, int64 [n]."""
    start = int((clip == vocabulary.motion_begin).nonzero()[0, 0])
    return torch.cat([clip[start : start + vocabulary.num_global_motion_ids + 1], clip[-1:]])


@dataclass(frozen=True)
class Document:
    """One training sequence, or a prompt to generate from."""

    ids: Tensor
    """int64 [n]."""
    is_target: Tensor
    """bool [n]: tokens that a model is trained to predict."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """As in `VideoInput`."""

    def __len__(self) -> int:
        return len(self.ids)


def feature_span(vocabulary: Vocabulary, kind: str) -> Span:
    """Return the ids that features of a kind replace: all visual ids, or the motion ids of the first quantizer."""
    if kind == "visual":
        return vocabulary.visual
    if kind == "motion":
        return Span("motion, first quantizer", vocabulary.motion.start, vocabulary.motion_size)
    raise ValueError(f"`kind` (={kind!r}) must be visual or motion")


def is_in_span(ids: Tensor, span: Span) -> Tensor:
    """Return which ids belong to a span, bool in the shape of `ids`."""
    return (ids >= span.start) & (ids < span.stop)


def conversation_document(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt | ChatTemplate,
    turns: Sequence[Turn],
    video: VideoInput | None = None,
    *,
    all_targets: bool = False,
) -> Document:
    """Return a conversation about a video as one document.

    Args:
        tokenizer: of the text.
        prompt: the format of the conversation.
        turns: user and assistant in turn.
        video: None: a conversation without a video.
        all_targets: train on every token, not only on the assistant's.

    Raises:
        ValueError: the video is marked twice, or the chat template cannot format these turns.
    """
    is_plain = isinstance(prompt, Prompt)
    parts: list[tuple[Tensor, bool]] = []
    if is_plain and tokenizer.bos_token_id is not None:  # a chat template writes its own
        parts.append((torch.tensor([tokenizer.bos_token_id]), False))
    for segment in prompt.segments(turns, video is not None, tokenizer):
        if segment.kind == "video" and video is not None:
            parts.append((video.ids, all_targets))
        elif segment.kind == "end":
            parts.append((torch.tensor([tokenizer.eos_token_id]), True))
        else:
            parts.append((_text_ids(tokenizer, segment.text, is_plain), segment.is_target or all_targets))
    ids = torch.cat([ids for ids, _ in parts])
    is_target = torch.cat([torch.full((len(ids),), wanted) for ids, wanted in parts])
    return Document(ids, is_target, video.features if video else {})


def video_document(tokenizer: PreTrainedTokenizerBase, video: VideoInput, caption: str = "") -> Document:
    """Return a video and its caption as one document, with every token a target."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    parts = [torch.tensor(begin, dtype=torch.long), video.ids]
    parts += [_text_ids(tokenizer, caption, is_plain=True)] if caption else []
    ids = torch.cat([*parts, torch.tensor([tokenizer.eos_token_id])])
    is_target = torch.ones(len(ids), dtype=torch.bool)
    is_target[: len(begin)] = False
    return Document(ids, is_target, video.features)


def generation_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Return the ids that stand before a video that a text describes, int64 [n]: they begin a `generation_document`.

    Without a text, the beginning of the sequence alone: also the unconditional form of classifier-free guidance.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    text_ids = _text_ids(tokenizer, text.strip(), is_plain=True)
    return torch.cat([torch.tensor(begin, dtype=torch.long), text_ids])


def generation_document(tokenizer: PreTrainedTokenizerBase, text: str, video: VideoInput) -> Document:
    """Return a text and the video that it describes as one document; the video and its end are the targets.

    A picture and a text, or the beginning of a video and a text, are prefixes of the same document.
    """
    prompt = generation_prompt(tokenizer, text)
    ids = torch.cat([prompt, video.ids, torch.tensor([tokenizer.eos_token_id])])
    return Document(ids, torch.arange(len(ids)) >= len(prompt), video.features)


def _text_ids(tokenizer: PreTrainedTokenizerBase, text: str, is_plain: bool) -> Tensor:
    # text that a user types never becomes a special token; those that a chat template writes must
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=is_plain)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """Return at most `limit` of the numbers 0 to `count` - 1, evenly spaced from the first to the last."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted({int(number) for number in np.linspace(0, count - 1, limit).round()})


@dataclass(frozen=True)
class PackedBatch:
    """A batch of rows, each with one or more documents."""

    ids: Tensor
    """int64 [B, L]."""
    position_ids: Tensor
    """int64 [B, L]: positions within each document."""
    document_index: Tensor
    """int64 [B, L]: which document of the row a token belongs to; -1: padding."""
    labels: Tensor
    """int64 [B, L]: the id where it is a target, else `IGNORED`. Not shifted."""
    features: dict[str, tuple[Tensor, Tensor]]
    """Kind -> (int64 [m] positions in the flattened batch, float [m, dim] vectors)."""

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the batch on another device."""
        features = {kind: (where.to(device), values.to(device)) for kind, (where, values) in self.features.items()}
        rows = (row.to(device) for row in (self.ids, self.position_ids, self.document_index, self.labels))
        return PackedBatch(*rows, features=features)

    def attention_mask(self) -> Tensor:
        """Return which tokens attend to which, bool [B, 1, L, L]: causal, within each document."""
        same = self.document_index[:, :, None] == self.document_index[:, None, :]
        return (same & torch.ones_like(same[0]).tril())[:, None]


def pack(rows: Sequence[Sequence[Document]], vocabulary: Vocabulary, padding_id: int) -> PackedBatch:
    """Return rows of documents as one batch, as long as its longest row."""
    length = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), length)
    ids, position_ids = torch.full(shape, padding_id), torch.zeros(shape, dtype=torch.long)
    document_index, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, row in enumerate(rows):
        start = 0
        for index, document in enumerate(row):
            span = slice(start, start + len(document))
            ids[number, span], document_index[number, span] = document.ids, index
            position_ids[number, span] = torch.arange(len(document))
            labels[number, span] = torch.where(document.is_target, document.ids, IGNORED)
            for kind, values in document.features.items():
                where = is_in_span(document.ids, feature_span(vocabulary, kind)).nonzero()[:, 0]
                found.setdefault(kind, []).append((where + number * length + start, values.float()))
            start += len(document)
    features = {
        kind: (torch.cat([where for where, _ in parts]), torch.cat([values for _, values in parts]))
        for kind, parts in found.items()
    }
    return PackedBatch(ids, position_ids, document_index, labels, features)
