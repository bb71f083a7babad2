"""k-means, and the nearest of many.

The visual words: vectors of length one, learned as running means of what they stand for.

The words follow the exponential moving average of VQ-VAE (van den Oord et al., arXiv 1711.00937, appendix A.1) on the
sphere, as ViT-VQGAN uses it (arXiv 2110.04627). vector-quantize-pytorch does the same with a one-hot matrix of tokens x
words, and looks words up in float32 only; with 16,384 words the matrix costs more than the networks on a CPU, and
encoding needs float64 to be the same on every machine, so both steps are written out here.

Residual quantizer whose finer levels go where the first level says that motion is hard.

Stage 1 gives every patch one id. Each further stage quantizes what the stages before left over. A plain residual
quantizer adds one stage everywhere with every level; motion is sparse, so here (where `adaptive`) a level's ids are
handed out by difficulty: stage s of a patch has the priority

    difficulty[first id of the patch] - stage_cost * (s - 2)

and level l takes the next `tokens_per_quantizer` (patch, stage) pairs in the order of priority. The decoder knows the first
ids and so the same order; nothing else is sent, and the first n levels of a code are a code. This is the reverse
water-filling of transform coding (Cover & Thomas, ch. 10), driven by the residual variance that each first id leaves.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

_CHUNK = 8192
_ROUNDS = 10


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row of `codebook` [K, D] for each of `points` [N, D]; the first of equals."""
    lengths = codebook.square().sum(-1) / 2
    return torch.cat([(lengths - chunk @ codebook.T).argmin(-1) for chunk in points.split(_CHUNK)])


def k_means(points: Tensor, num_codes: int, most_points: int = 65536) -> Tensor:
    """Words [num_codes, D] of points [N, D], by Lloyd's rounds from points drawn by torch's global generator.

    A word that lost all its points starts again at a point that is far from its own word; with fewer points than words
    the rest are points with a little noise. No two words are the same: a tie would leave the choice to rounding.
    """
    points = points[torch.randperm(len(points))[:most_points]]
    spread = points.std() * 1e-2 + 1e-6
    words = points[torch.arange(num_codes) % len(points)]
    words = words + torch.randn_like(words) * spread
    for _ in range(_ROUNDS):
        ids = nearest(points, words)
        counts = torch.bincount(ids, minlength=num_codes)
        sums = torch.zeros_like(words).index_add_(0, ids, points)
        empty = (counts == 0).nonzero().flatten()
        words = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], words)
        if len(empty):
            distances = (points - words[ids]).square().sum(-1) + 1e-9
            # torch.multinomial without replacement needs as many points as draws
            chosen = torch.multinomial(distances, len(empty), replacement=len(points) < len(empty))
            words[empty] = points[chosen] + torch.randn_like(points[chosen]) * spread
    return words


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


_PER_OCTAVE = 16  # difficulties are integers, so that no rounding decides an order: sixteenths of a factor of two
_LEARNING_DECAY = 0.99


class Quantized(NamedTuple):
    """Result of a training step's quantization."""

    latents: Tensor
    """[B, P, D], gradients pass straight through to the encoder."""
    commitment: Tensor
    """Scalar: mean squared distance of the encoder's latents to their codes."""


class ResidualQuantizer(nn.Module):
    """Latents [B, P, D] <-> ids [B, levels, P]; P = `tokens_per_quantizer`.

    `num_stages` codebooks; more than `num_quantizers` let one patch have more ids than there are levels. `normalized`:
    codes and latents on the unit sphere (one level only: a residual has no unit length).
    """

    first_error: Tensor
    difficulty: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        tokens_per_quantizer: int,
        num_quantizers: int,
        num_stages: int,
        *,
        normalized: bool = False,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()
        if not 1 <= num_quantizers <= num_stages:
            raise ValueError(
                f"`num_stages` (={num_stages}) must be at least `num_quantizers` (={num_quantizers}), and that 1"
            )
        if normalized and num_stages > 1:
            raise ValueError(
                f"`normalized` codebooks have one level and one stage, got {num_quantizers} and {num_stages}"
            )
        self.tokens_per_quantizer, self.num_quantizers, self.num_stages = (
            tokens_per_quantizer,
            num_quantizers,
            num_stages,
        )
        self.codebook_size, self.normalized = codebook_size, normalized
        self.adaptive = num_stages > num_quantizers
        self.stage_cost = _PER_OCTAVE // 2
        self.stages = nn.ModuleList(
            VectorQuantize(
                dim,
                codebook_size,
                decay=ema_decay,
                use_cosine_sim=normalized,
                kmeans_init=True,
                threshold_ema_dead_code=0.1,  # pyright: ignore[reportArgumentType] (a share of a use a batch)
                commitment_weight=0.0,
                rotation_trick=False,
            )
            for _ in range(num_stages)
        )
        self.register_buffer("first_error", torch.zeros(codebook_size))
        self.register_buffer("difficulty", torch.zeros(codebook_size, dtype=torch.int32))

    @property
    def started(self) -> bool:
        """Whether the codebooks come from data."""
        return bool(self.stages[0]._codebook.initted)  # type: ignore[union-attr]

    def forward(self, latents: Tensor, num_quantizers: int) -> Quantized:
        """Quantizes with `num_quantizers` levels and, in training mode, moves the codebooks towards what they code."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            target = F.normalize(latents, dim=-1) if self.normalized else latents
            codes, first_ids, _ = self.stages[0](target.detach())
            if self.adaptive and self.training:
                self._learn_difficulty(first_ids, (target.detach() - codes).square().mean(-1))
            counts = self.stage_counts(first_ids, num_quantizers)
            for number in range(1, int(counts.max())):
                chosen = counts > number
                residual = target.detach()[chosen] - codes[chosen]
                codes = codes.masked_scatter(
                    chosen[..., None], codes[chosen] + self.stages[number](residual[None])[0][0]
                )
            commitment = F.mse_loss(target, codes)
            return Quantized(target + (codes - target).detach(), commitment)

    def encode(self, latents: Tensor, num_quantizers: int) -> Tensor:
        """Latents [B, P, D] -> int64 ids [B, num_quantizers, P]; in the latents' own dtype, nearest code first to last."""
        residual = F.normalize(latents, dim=-1) if self.normalized else latents
        found = []
        for number in range(self.num_stages if self.adaptive else num_quantizers):
            codebook = self._codebook(number, residual.dtype)
            ids = nearest(residual.flatten(0, 1), codebook).view(residual.shape[:2])
            residual = residual - codebook[ids]
            found.append(ids)
        stages = torch.stack(found, -1)
        patches, numbers = self._layout(stages[..., 0], num_quantizers)
        return stages.flatten(1).gather(1, (patches * stages.shape[2] + numbers).flatten(1)).view_as(patches)

    def decode(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Ids [B, levels, P] -> latents [B, P, D]; no level at all gives zeros."""
        codebooks = torch.stack([self._codebook(number, dtype) for number in range(self.num_stages)])
        latents = codebooks.new_zeros(len(ids), self.tokens_per_quantizer, codebooks.shape[-1])
        if ids.shape[1] == 0:
            return latents
        patches, numbers = self._layout(ids[:, 0], ids.shape[1])
        codes = codebooks[numbers, ids].flatten(1, 2)
        return latents.scatter_add(1, patches.flatten(1)[..., None].expand_as(codes), codes)

    def stage_counts(self, first_ids: Tensor, num_quantizers: int) -> Tensor:
        """How many ids each patch has among `num_quantizers` levels: int64 [B, P] for first ids [B, P]."""
        patches, _ = self._layout(first_ids, num_quantizers)
        ones = torch.ones_like(patches).flatten(1)
        return torch.zeros_like(first_ids).scatter_add(1, patches.flatten(1), ones)

    def _layout(self, first_ids: Tensor, num_quantizers: int) -> tuple[Tensor, Tensor]:
        """Which patch, and which stage of it, each place of each level codes: two int64 [B, num_quantizers, P]."""
        size, device = self.tokens_per_quantizer, first_ids.device
        place = torch.arange(size, device=device).expand(len(first_ids), 1, size)
        if not self.adaptive:
            level = torch.arange(num_quantizers, device=device)[:, None]
            return place.expand(-1, num_quantizers, -1), level.expand(len(first_ids), -1, size)
        later = self.num_stages - 1
        stage = torch.arange(later, device=device)
        priority = self.difficulty[first_ids].long()[..., None] - self.stage_cost * stage
        # a stable sort: equal priorities in the order of patches; a patch's stages fall, so they stay in their order
        order = priority.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : size * (num_quantizers - 1)]
        pairs = order.view(len(first_ids), num_quantizers - 1, size).sort(-1).values
        patches = torch.cat([place, pairs // later], 1)
        return patches, torch.cat([torch.zeros_like(place), pairs % later + 1], 1)

    @torch.no_grad()
    def initialise(self, latents: Tensor) -> None:
        """Starting codebooks: k-means of latents [B, P, D], stage after stage, on what each is given to code."""
        residual = latents.clone()
        chosen = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        counts = chosen.long()
        for number, stage in enumerate(self.stages):
            points = residual[chosen]
            codebook = k_means(points, self.codebook_size)
            ids = nearest(points, codebook)
            _set_codebook(stage, codebook, torch.bincount(ids, minlength=self.codebook_size))  # type: ignore[arg-type]
            residual[chosen] -= codebook[ids]
            if number == 0:
                first_ids = ids.view_as(counts)
                if self.adaptive:
                    self._learn_difficulty(first_ids, residual.square().mean(-1))
                counts = self.stage_counts(first_ids, self.num_quantizers)
            chosen = counts > number + 1
            if not chosen.any():
                break

    @torch.no_grad()
    def _learn_difficulty(self, first_ids: Tensor, errors: Tensor) -> None:
        ids, errors = first_ids.flatten(), errors.flatten().to(self.first_error.dtype)
        counts = torch.zeros_like(self.first_error).index_add_(0, ids, torch.ones_like(errors))
        means = torch.zeros_like(self.first_error).index_add_(0, ids, errors) / counts.clamp(min=1)
        # an id seen once says less than one seen often; a new one starts from what it saw first
        weight = torch.where(self.first_error > 0, 1 - _LEARNING_DECAY ** counts.clamp(max=16), 1.0) * (counts > 0)
        self.first_error.lerp_(means.clamp(min=1e-6), weight)
        octaves = self.first_error.clamp(min=1e-6).log2() * _PER_OCTAVE
        self.difficulty.copy_(octaves.round().to(torch.int32))

    def _codebook(self, number: int, dtype: torch.dtype) -> Tensor:
        return self.stages[number]._codebook.embed[0].to(dtype)  # type: ignore[union-attr,index]


def _set_codebook(stage: VectorQuantize, codebook: Tensor, counts: Tensor) -> None:
    """Gives a stage a codebook, as if its moving averages had come to it."""
    book = stage._codebook
    # averages count codes a batch; a batch of training is some thousand points
    sizes = (counts / counts.sum() * 4096).clamp(min=1.0)[None]
    book.embed.data.copy_(codebook[None])  # type: ignore[operator]
    book.cluster_size.data.copy_(sizes)  # type: ignore[operator]
    book.embed_avg.data.copy_(codebook[None] * sizes[..., None])  # type: ignore[operator]
    book.initted.data.fill_(True)  # type: ignore[operator]
