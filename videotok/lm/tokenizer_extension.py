"""The table of a language model's input embeddings

What the words of a video tokenizer are: where embeddings of their ids come from.

A text tokenizer and a causal language model, extended by the ids of video.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer


def embeddings(model: PreTrainedModel) -> Tensor:
    """The table of input embeddings, [ids, width]."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


AMOUNT = 2.0
"""How far the ends of an amount lie from its middle, where what all its ids share is 1 and its waves are 0.5 large."""


@dataclass(frozen=True)
class Codebooks:
    """Vectors of the visual and motion words, and the sizes of all that a vocabulary holds."""

    visual: Tensor | None
    """[visual_size, dim]; None where the keyframe tokenizer does not show its words."""
    motion: Tensor | None
    """[motion_quantizers, motion_size, dim]."""
    sizes: dict[str, Any]
    """Fields of a Vocabulary, all but `text_size`."""

    @classmethod
    def of(cls, tokenizer: "VideoTokenizer", *, levels: int | None = None, interleaved: bool = False) -> Self:
        """The codebooks of a video tokenizer, with its default number of motion levels unless told.

        Words of a finer level are those of the residual stage with its number. Where finer ids go to hard patches
        (`motion_vq.vector_quantizer`) most of a level's ids, not all, are of that stage: a start for training, no more.

        Raises:
            ValueError: more levels than the motion tokenizer has.
        """
        motion, keyframes = tokenizer.motion, tokenizer.keyframes
        levels = motion.default_num_quantizers if levels is None else levels
        if not 0 <= levels <= motion.num_quantizers:
            raise ValueError(
                f"`levels` (={levels}) must be 0 to {motion.num_quantizers}, the motion tokenizer's levels"
            )
        stages = [motion.quantize.stages[level].codebook for level in range(levels)]
        return cls(
            visual=_visual_words(keyframes),
            motion=torch.stack([stage.detach().float() for stage in stages]) if stages else None,  # type: ignore[union-attr]
            sizes={
                "visual_size": keyframes.codebook_size,
                "motion_size": motion.codebook_size,
                "motion_quantizers": levels,
                "motion_places": motion.tokens_per_quantizer,
                "global_motion_size": motion.global_motion_codebook_size if motion.num_global_motion_ids else 0,
                "global_motion_terms": motion.num_global_motion_ids,
                "patches": keyframes.num_patches,
                "interleaved": interleaved,
            },
        )

    def vocabulary(self, text_size: int) -> Vocabulary:
        """The vocabulary whose text ends at `text_size`."""
        return Vocabulary(text_size, **self.sizes)

    def words(self, vocabulary: Vocabulary, span: str) -> Tensor | None:
        """One vector an id of a span, [size, dim]; None where nothing is known of what its ids mean.

        Camera ids are signed amounts (`amounts`); those of each term lie in directions of their own: what all terms say
        can be read from a sum of them. Skips and carries are counts (`waves`).
        """
        if span == "visual":
            return self.visual
        if span == "motion":
            return None if self.motion is None else self.motion.flatten(0, 1)
        if span == "camera":
            return torch.block_diag(*[amounts(vocabulary.global_motion_size)] * vocabulary.global_motion_terms)
        if span in ("skip", "carry"):
            return waves(vocabulary.patches)
        return None


def amounts(size: int) -> Tensor:
    """[size, 4]: amounts 0 to size - 1, counted from the middle one, as `motion_vq.global_motion` writes them.

    What all have in common, by which a reader finds them; the signed amount itself, so that its sign, and which of two
    is larger, are sums away; and a sine and a cosine that tell neighbours apart.
    """
    middle = (size - 1) // 2
    amount = (torch.arange(size) - middle) / max(middle, 1)
    angle = 2 * math.pi * amount
    return torch.stack([torch.ones(size), AMOUNT * amount, 0.5 * angle.sin(), 0.5 * angle.cos()], dim=1)


def waves(size: int, dim: int = 16) -> Tensor:
    """[size, dim]: sines and cosines of counts 0 to size - 1: slow ones, which are the largest, so that what is near is
    alike, and faster ones that tell neighbours apart."""
    if size < 2:
        return torch.zeros(size, dim)
    turns = torch.logspace(0, math.log2(max(size / 8, 2)), dim // 2, base=2)
    amounts = torch.linspace(-1, 1, size)
    angles = amounts[:, None] * turns * math.pi / 2
    return torch.cat([angles.sin(), angles.cos()], dim=1) / turns.sqrt().repeat(2)


def _visual_words(keyframes: object) -> Tensor | None:
    for path in (("words",), ("codebook", "words"), ("model", "quantize", "embedding", "weight")):
        found: object = keyframes
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, Tensor):
            return found.detach().float()
    return None


def extend(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, codebooks: Codebooks, *, seed: int = 0
) -> Vocabulary:
    """Adds the ids of video to any Hugging Face tokenizer and causal language model, in place.

    New input embeddings, and new rows of an output head that is not tied to them, are the words of the codebooks seen
    through a random projection that keeps their angles, with the mean and the spread of the embeddings that are there:
    alike words begin with alike embeddings, and nothing new is larger than what the model knows. Marks, and words of
    tokenizers that do not show theirs, are drawn from the same mean and spread.

    Args:
        tokenizer: its new tokens are special: text that a user writes never becomes one of them.
        model: may have more rows than the tokenizer has tokens; those past its end are taken over.
        codebooks: of the video tokenizer.
        seed: of the projection.

    Returns:
        The vocabulary; its text ends where the tokenizer ended.

    Raises:
        ValueError: the tokenizer has been extended already, or does not number new tokens one after another.
    """
    text_size = len(tokenizer)
    vocabulary = codebooks.vocabulary(text_size)
    names = vocabulary.new_names()
    known = tokenizer.get_vocab()
    if names[0] in known:
        raise ValueError(f"this tokenizer has {names[0]} already (id {known[names[0]]}): it was extended before")
    new: list[str | AddedToken] = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(new, special_tokens=True)  # type: ignore[arg-type]
    last = tokenizer.convert_tokens_to_ids(names[-1])
    if last != vocabulary.size - 1:
        raise ValueError(f"this tokenizer gave {names[-1]} the id {last} where {vocabulary.size - 1} comes next")
    _grow(model, vocabulary, codebooks, text_size, seed)
    return vocabulary


@torch.no_grad()
def _grow(model: PreTrainedModel, vocabulary: Vocabulary, codebooks: Codebooks, text_size: int, seed: int) -> None:
    rows = len(embeddings(model))
    if rows < vocabulary.size:
        # the rows are written below, so that transformers' own guess of them is not needed
        model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    tables = [embeddings(model)]
    head = getattr(model.get_output_embeddings(), "weight", None)
    if isinstance(head, Tensor) and head.data_ptr() != tables[0].data_ptr():
        tables.append(head)
    for table in tables:
        known = table[: min(text_size, rows)].float()
        generator = torch.Generator().manual_seed(seed)
        for span in vocabulary.spans:
            start = _placed(codebooks.words(vocabulary, span.name), span.size, known, generator)
            table[span.start : span.stop] = start.to(table)


def _placed(words: Tensor | None, size: int, known: Tensor, generator: torch.Generator) -> Tensor:
    """[size, width]: words, or noise where there are none, with mean and spread of `known` [n, width]."""
    width = known.shape[1]
    mean, spread = known.mean(0).cpu(), known.std(0).cpu()
    if words is None or not words.numel():
        return mean + spread * torch.randn(size, width, generator=generator)
    words = words.cpu()
    words = words - words.mean(0)
    projection = torch.randn(words.shape[1], width, generator=generator)
    # orthonormal rows keep the angles between words; where the model is narrower than they are, they can only come near
    orthonormal: Callable[[Tensor], Tensor] = lambda matrix: torch.linalg.qr(matrix).Q  # noqa: E731
    projection = orthonormal(projection.T).T if words.shape[1] <= width else orthonormal(projection)
    seen = words @ projection
    return mean + spread * seen / seen.std().clamp(min=1e-12)
