"""Extension of a text tokenizer and a causal language model by the ids of video.

`extend` adds the ids; `Codebooks` says what they mean, so that their embeddings start from the codebook vectors of the
video tokenizer and not from noise.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

AMOUNT_SCALE = 2.0
"""Largest signed amount in `signed_amount_vectors`; the constant there is 1, sine and cosine are 0.5 large."""


@dataclass(frozen=True)
class Codebooks:
    """Codebook vectors of a video tokenizer, and the sizes that a vocabulary needs."""

    visual: Tensor | None
    """float [visual_size, dim]; None where the keyframe tokenizer does not give its codebook."""
    motion: Tensor | None
    """float [motion_quantizers, motion_size, dim]; None without motion ids."""
    sizes: dict[str, Any]
    """Arguments of `Vocabulary`, all but `text_size`."""

    @classmethod
    def from_tokenizer(
        cls, tokenizer: "VideoTokenizer", *, motion_quantizers: int | None = None, interleaved: bool = False
    ) -> Self:
        """Return the codebooks of a video tokenizer.

        A finer quantizer's vectors are those of the residual stage of the same number. Where finer ids go to difficult
        patches only (`motion_vq.vector_quantizer`), most of its ids, not all, belong to that stage; this is good enough
        as an initialization.

        Args:
            tokenizer: the video tokenizer.
            motion_quantizers: residual quantizers of motion ids; None: the motion tokenizer's default.
            interleaved: as in `Vocabulary`.

        Raises:
            ValueError: more quantizers than the motion tokenizer has.
        """
        motion, keyframes = tokenizer.motion, tokenizer.keyframes
        visual = keyframes.codebook_vectors
        count = motion.default_num_quantizers if motion_quantizers is None else motion_quantizers
        if not 0 <= count <= motion.num_quantizers:
            raise ValueError(
                f"`motion_quantizers` (={count}) must be 0 to {motion.num_quantizers}, the motion tokenizer's number"
            )
        return cls(
            visual=None if visual is None else visual.detach().float(),
            motion=motion.codebook_vectors(count) if count else None,
            sizes={
                "visual_size": keyframes.codebook_size,
                "motion_size": motion.codebook_size,
                "motion_quantizers": count,
                "motion_ids_per_quantizer": motion.tokens_per_quantizer,
                "global_motion_size": motion.global_motion_codebook_size if motion.num_global_motion_ids else 0,
                "num_global_motion_ids": motion.num_global_motion_ids,
                "patches": keyframes.num_patches,
                "interleaved": interleaved,
            },
        )

    def vocabulary(self, text_size: int) -> Vocabulary:
        """Return the vocabulary of these codebooks after `text_size` text ids."""
        return Vocabulary(text_size, **self.sizes)

    def vectors(self, vocabulary: Vocabulary, span: str) -> Tensor | None:
        """Return one vector for each id of a span, float [size, dim]; None for ids that have no codebook vector.

        Global motion ids are signed amounts. Each term has dimensions of its own, so that all terms can be read from a
        sum of their embeddings. The lengths of runs of dropped and skipped patches are counts.
        """
        if span == "visual":
            return self.visual
        if span == "motion":
            return None if self.motion is None else self.motion.flatten(0, 1)
        if span == "global motion":
            amounts = signed_amount_vectors(vocabulary.global_motion_size)
            return torch.block_diag(*[amounts] * vocabulary.num_global_motion_ids)
        if span in ("drop", "skip"):
            return count_vectors(vocabulary.patches)
        return None


def signed_amount_vectors(size: int) -> Tensor:
    """Return vectors for the amounts 0 to `size` - 1 counted from the middle one, float [size, 4].

    The amounts are those of `motion_vq.global_motion`. The dimensions are a constant, which marks the term; the signed
    amount, which makes signs and comparisons linear; and a sine and a cosine, which tell neighbours apart.
    """
    middle = (size - 1) // 2
    amount = (torch.arange(size) - middle) / max(middle, 1)
    angle = 2 * math.pi * amount
    return torch.stack([torch.ones(size), AMOUNT_SCALE * amount, 0.5 * angle.sin(), 0.5 * angle.cos()], dim=1)


def count_vectors(size: int, dim: int = 16) -> Tensor:
    """Return sines and cosines of the counts 0 to `size` - 1, float [size, dim].

    Slow waves are the largest, so that near counts are alike; faster ones tell neighbours apart.
    """
    if size < 2:
        return torch.zeros(size, dim)
    frequencies = torch.logspace(0, math.log2(max(size / 8, 2)), dim // 2, base=2)
    angles = torch.linspace(-1, 1, size)[:, None] * frequencies * math.pi / 2
    return torch.cat([angles.sin(), angles.cos()], dim=1) / frequencies.sqrt().repeat(2)


def embedding_table(model: PreTrainedModel) -> nn.Parameter:
    """Return the input embeddings of a language model, [ids, width]."""
    return cast(nn.Parameter, cast(nn.Embedding, model.get_input_embeddings()).weight)


def extend(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    codebooks: Codebooks,
    *,
    seed: int = 0,
    add_tokens: bool = True,
) -> Vocabulary:
    """Add the ids of video to any Hugging Face tokenizer and causal language model, in place.

    New rows of the input embeddings, and of an output head that is not tied to them, are the codebook vectors under a
    random projection that keeps angles, with the mean and standard deviation of the existing embeddings. So similar
    codes start with similar embeddings, and nothing new is larger than what the model knows. Ids without a codebook
    vector start as noise of the same mean and standard deviation.

    Args:
        tokenizer: its new tokens are special: text that a user types never becomes one of them.
        model: may have more rows than the tokenizer has tokens; the spare rows are used.
        codebooks: of the video tokenizer.
        seed: of the projection.
        add_tokens: False: the model gets rows for the ids, and the tokenizer no names for them, which would be most of
            its file where text has few tokens. Only `Vocabulary` then knows the ids.

    Returns:
        The vocabulary; its text ids are the tokenizer's old ones.

    Raises:
        ValueError: the tokenizer has been extended before, or does not number new tokens consecutively.
    """
    text_size = len(tokenizer)
    vocabulary = codebooks.vocabulary(text_size)
    known, names = tokenizer.get_vocab(), vocabulary.new_names()
    if names[0] in known:
        raise ValueError(f"this tokenizer has {names[0]} already (id {known[names[0]]}): it was extended before")
    if add_tokens:
        _add_tokens(tokenizer, names, vocabulary.size)
    _initialize_rows(model, vocabulary, codebooks, text_size, seed)
    return vocabulary


def _add_tokens(tokenizer: PreTrainedTokenizerBase, names: list[str], size: int) -> None:
    """Add the names of ids to a tokenizer; the last one must get the id `size` - 1."""
    new: list[str | AddedToken] = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(new, special_tokens=True)  # type: ignore[arg-type]
    last = tokenizer.convert_tokens_to_ids(names[-1])
    if last != size - 1:
        raise ValueError(f"this tokenizer gave {names[-1]} the id {last}, expected {size - 1}")


@torch.no_grad()
def _initialize_rows(
    model: PreTrainedModel, vocabulary: Vocabulary, codebooks: Codebooks, text_size: int, seed: int
) -> None:
    """Resize the embeddings and an untied output head, and write the rows of all video ids."""
    old_rows = len(embedding_table(model))
    if old_rows < vocabulary.size:
        # transformers' own initialization is not needed: all new rows are written below
        model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    tables: list[Tensor] = [embedding_table(model)]
    head = getattr(model.get_output_embeddings(), "weight", None)  # models without a head return None
    if isinstance(head, Tensor) and head.data_ptr() != tables[0].data_ptr():
        tables.append(head)
    for table in tables:
        known = table[: min(text_size, old_rows)].float()
        generator = torch.Generator().manual_seed(seed)
        for span in vocabulary.spans:
            rows = _project(codebooks.vectors(vocabulary, span.name), span.size, known, generator)
            table[span.start : span.stop] = rows.to(table)


def _project(vectors: Tensor | None, size: int, known: Tensor, generator: torch.Generator) -> Tensor:
    """Return projected vectors, or noise, [size, width] with mean and standard deviation of `known` [n, width]."""
    width = known.shape[1]
    mean, std = known.mean(0).cpu(), known.std(0).cpu()
    if vectors is None or not vectors.numel():
        return mean + std * torch.randn(size, width, generator=generator)
    vectors = vectors.cpu()
    vectors = vectors - vectors.mean(0)
    projection = torch.randn(vectors.shape[1], width, generator=generator)
    # orthonormal rows keep angles; where the model is narrower than the vectors, orthonormal columns come nearest
    projection = torch.linalg.qr(projection.T).Q.T if vectors.shape[1] <= width else torch.linalg.qr(projection).Q
    projected = vectors @ projection
    return mean + std * projected / projected.std().clamp(min=1e-12)
