"""A text tokenizer and a causal language model, extended by the ids of video."""

from collections.abc import Callable

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from videotok.lm.codebooks import Codebooks
from videotok.lm.embeddings import embeddings
from videotok.vocabulary import Vocabulary


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
