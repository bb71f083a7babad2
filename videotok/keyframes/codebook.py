"""The visual words: vectors of length one, learned as running means of what they stand for.

The words follow the exponential moving average of VQ-VAE (van den Oord et al., arXiv 1711.00937, appendix A.1) on the
sphere, as ViT-VQGAN uses it (arXiv 2110.04627). vector-quantize-pytorch does the same with a one-hot matrix of tokens x
words, and looks words up in float32 only; with 16,384 words the matrix costs more than the networks on a CPU, and
encoding needs float64 to be the same on every machine, so both steps are written out here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS_AT_ONCE = 64
"""Vectors compared with all words at once: the block of similarities stays in a CPU's cache."""
DEAD_BELOW = 0.05
"""A word used less than this part of the mean is dead: it starts again as a vector of the present batch."""

COLLAPSED_BELOW = 0.02
"""A codebook whose perplexity is less than this part of the words that could have been seen has collapsed."""


class Codebook(nn.Module):
    """`size` words of `dim` numbers; `words` float [size, dim], each of length one."""

    words: Tensor
    usage: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("words", F.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("usage", torch.ones(size))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """ids int64 [...] of the words that lie nearest to `vectors` [..., dim] on the sphere."""
        flat, words = vectors.flatten(0, -2), self.words.to(vectors.dtype).T.contiguous()
        # mixed precision would multiply in bfloat16, where most neighbouring words are the same word
        with torch.autocast(vectors.device.type, enabled=False):
            ids = [(rows @ words).argmax(dim=1) for rows in flat.split(ROWS_AT_ONCE)]
        return (torch.cat(ids) if ids else flat.new_zeros(0, dtype=torch.long)).view(vectors.shape[:-1])

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 [...] -> words [..., dim]."""
        return self.words[ids]

    @torch.no_grad()
    def start(self, vectors: Tensor, rounds: int = 5) -> None:
        """Spherical k-means (Lloyd's rounds from a random sample) on `vectors` [n, dim], n >= size."""
        if len(vectors) < len(self.words):
            raise ValueError(f"{len(vectors)} vectors cannot start {len(self.words)} words; give at least as many")
        self.words.copy_(vectors[torch.randperm(len(vectors), device=vectors.device)[: len(self.words)]])
        for _ in range(rounds):
            sums, counts = self._gather(vectors, self.nearest(vectors))
            found = counts > 0
            self.words[found] = F.normalize(sums[found], dim=-1)
        self.usage.fill_(1.0)
        self.started.fill_(True)

    @torch.no_grad()
    def learn(self, vectors: Tensor, ids: Tensor) -> int:
        """Moves the words towards `vectors` [n, dim] whose ids [n] they are; returns how many dead words began anew."""
        sums, counts = self._gather(vectors, ids)
        # in units of the mean word's share of this batch: usage is about one, however many tokens a batch has
        share = len(self.words) / max(len(ids), 1)
        sums, counts = sums * share, counts * share
        kept = self.decay * self.usage
        self.words.copy_(F.normalize(kept[:, None] * self.words + (1 - self.decay) * sums, dim=-1))
        self.usage.copy_(kept + (1 - self.decay) * counts)
        dead = (self.usage < DEAD_BELOW * self.usage.mean()).nonzero()[:, 0]
        dead = dead[torch.randperm(len(dead), device=dead.device)[: len(vectors)]]
        self.words[dead] = vectors[torch.randperm(len(vectors), device=vectors.device)[: len(dead)]]
        self.usage[dead] = self.usage.mean()
        return len(dead)

    def _gather(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.zeros_like(self.words).index_add_(0, ids, vectors.to(self.words.dtype))
        return sums, torch.bincount(ids, minlength=len(self.words)).to(self.words.dtype)


def codebook_use(ids: Tensor, size: int) -> tuple[float, float]:
    """How much of a codebook `ids` use: part of the words seen (0 to 1), and perplexity (exp of entropy, in words)."""
    shares = torch.bincount(ids.flatten(), minlength=size).double() / max(ids.numel(), 1)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return float((shares > 0).double().mean()), float(entropy.exp())


def collapsed(ids: Tensor, size: int) -> str | None:
    """What is wrong with a codebook that gave `ids`, in one line; None where it is in good use."""
    used, perplexity = codebook_use(ids, size)
    if perplexity >= COLLAPSED_BELOW * min(size, ids.numel()):
        return None
    return (
        f"the codebook has collapsed: {ids.numel()} patches use {used:.1%} of {size} words, "
        f"perplexity {perplexity:.1f}; lower the learning rate or begin anew"
    )
