"""Vector quantization: one codebook, a residual quantizer made of several, k-means, and codebook usage.

Codebooks follow the exponential moving average of VQ-VAE (van den Oord et al., arXiv 1711.00937, appendix A.1),
normalized ones on the unit sphere as in ViT-VQGAN (arXiv 2110.04627). Assignments are summed with `index_add_`, since a
one-hot matrix of vectors x codes would cost more than the networks with 16,384 codes, and codes are looked up in the
vectors' own dtype, since float64 ids are the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

_CPU_PRODUCTS, _GPU_PRODUCTS = 1 << 20, 1 << 27
"""Products of vectors and codes at once. On a CPU they stay in its cache: with 16,384 codes these are 64 vectors, and
1,350 vectors with 1,024 codes take four times as long at once. A GPU takes as many as fit a gigabyte in float64, since
it waits for each call."""
_RESET_BELOW = 0.05
_COLLAPSED_BELOW = 0.02
"""A codebook whose perplexity is below this share of the codes that could have been used has collapsed."""
_LEVELS_PER_OCTAVE = 16
"""Difficulties are integers, sixteenths of a factor of two, so that no rounding decides an order."""
_DIFFICULTY_DECAY = 0.99


def _blocks(vectors: Tensor, codes: Tensor) -> Sequence[Tensor]:
    """Return vectors [N, D] in parts that are multiplied with all codes [K, D] at once."""
    products = _CPU_PRODUCTS if vectors.device.type == "cpu" else _GPU_PRODUCTS
    return vectors.split(max(64, products // len(codes)))


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids int64 [N] of the codes [K, D] nearest to vectors [N, D]; the first among equals."""
    half_squared_norms = codes.square().sum(-1) / 2
    return torch.cat([(half_squared_norms - rows @ codes.T).argmin(-1) for rows in _blocks(vectors, codes)])


def nearest_by_angle(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the ids int64 [N] of the codes [K, D] with the largest dot product with vectors [N, D]."""
    transposed = codes.T.contiguous()
    ids = [(rows @ transposed).argmax(dim=1) for rows in _blocks(vectors, codes)]
    return torch.cat(ids) if ids else vectors.new_zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class NearestCodes:
    """Nearest codes of vectors that are not exact."""

    ids: Tensor
    """int64 [N]."""
    is_certain: Tensor
    """bool [N]: whether the exact vector has this nearest code too."""


def nearest_of_inexact(vectors: Tensor, codes: Tensor, error: float) -> NearestCodes:
    """Find the codes with the largest dot product, and say which of them do not depend on errors of the vectors.

    A code stays the nearest where a vector is farther than its error from all planes that lie between it and another
    code. Products are float32; vectors with a second code within reach are looked at again in float64.

    Args:
        vectors: float64 [N, D] of unit length.
        codes: float32 or float64 [K, D] of unit length.
        error: bound on the length of a vector's error.
    """
    # the rounding of vectors and of two dot products in float32, whose sums have D terms
    within_reach = 2 * error + (vectors.shape[1] + 2) * torch.finfo(torch.float32).eps
    transposed = codes.float().T.contiguous()
    ids, are_alone = [], []
    for rows in _blocks(vectors.float(), codes):
        products = rows @ transposed
        best = products.max(dim=1, keepdim=True)
        second = products.scatter_(1, best.indices, -torch.inf).amax(dim=1)
        ids.append(best.indices[:, 0])
        are_alone.append(second < best.values[:, 0] - within_reach)
    found, is_certain = torch.cat(ids), torch.cat(are_alone)
    close = (~is_certain).nonzero()[:, 0]
    if not len(close):
        return NearestCodes(found, is_certain)
    exact = codes.double()
    for rows in close.split(64):
        products = vectors[rows] @ exact.T
        best = products.max(dim=1, keepdim=True)
        distances = torch.cdist(exact[best.indices[:, 0]], exact, compute_mode="donot_use_mm_for_euclid_dist")
        is_beaten = best.values - products > error * distances
        is_beaten.scatter_(1, best.indices, True)
        found[rows], is_certain[rows] = best.indices[:, 0], is_beaten.all(dim=1)
    return NearestCodes(found, is_certain)


def k_means(
    vectors: Tensor, num_codes: int, *, normalized: bool = False, rounds: int = 10, max_vectors: int = 65536
) -> Tensor:
    """Return the codes [num_codes, D] of vectors [N, D] by Lloyd's algorithm.

    An empty code moves to a vector drawn in proportion to its squared error. Codes get a little noise, so that no two
    are equal: a tie would leave the choice to rounding.

    Args:
        normalized: vectors and codes lie on the unit sphere.
        max_vectors: so many vectors are drawn where there are more.
    """
    find = nearest_by_angle if normalized else nearest
    vectors = vectors[torch.randperm(len(vectors))[:max_vectors]]
    noise = vectors.std() * 1e-2 + 1e-6
    codes = vectors[torch.arange(num_codes) % len(vectors)]
    codes = codes + torch.randn_like(codes) * noise
    for _ in range(rounds):
        ids = find(vectors, codes)
        sums, counts = _sum_by_id(vectors, ids, num_codes)
        empty = (counts == 0).nonzero().flatten()
        codes = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codes)
        if len(empty):
            errors = (vectors - codes[ids]).square().sum(-1) + 1e-9
            # torch.multinomial without replacement needs as many vectors as draws
            chosen = torch.multinomial(errors, len(empty), replacement=len(vectors) < len(empty))
            codes[empty] = vectors[chosen] + torch.randn_like(vectors[chosen]) * noise
        if normalized:
            codes = F.normalize(codes, dim=-1)
    return codes


def _sum_by_id(vectors: Tensor, ids: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Return the sum [K, D] and the number [K] of the vectors [N, D] that have each id."""
    sums = vectors.new_zeros(num_codes, vectors.shape[-1]).index_add_(0, ids, vectors)
    return sums, torch.bincount(ids, minlength=num_codes)


def reduce_over_processes(*values: Tensor, largest: bool = False) -> None:
    """Replace values by their sum (or the largest) over all processes of a training run; nothing where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    for value in values:
        torch.distributed.all_reduce(value, operation)


class VectorQuantizer(nn.Module):
    """A codebook of `num_codes` vectors with `dim` numbers each, learned by exponential moving averages.

    Args:
        normalized: vectors and codes lie on the unit sphere; the nearest code has the largest dot product.
        decay: of the moving averages, for each `update`.
        reset_below: a code used less than this share of the mean is dead and starts again as a vector of the batch.
    """

    codes: Tensor
    """Float [K, D]."""
    usage: Tensor
    """Float [K]: moving average of how often each code is used, in units of the mean code's use."""
    initialized: Tensor
    """Bool []: whether the codes come from data."""

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        normalized: bool = False,
        decay: float = 0.99,
        reset_below: float = _RESET_BELOW,
    ) -> None:
        super().__init__()
        self.normalized, self.decay, self.reset_below = normalized, decay, reset_below
        codes = torch.randn(num_codes, dim)
        self.register_buffer("codes", F.normalize(codes, dim=-1) if normalized else codes)
        self.register_buffer("usage", torch.ones(num_codes))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the ids int64 [...] of the codes nearest to vectors [..., D]."""
        find = nearest_by_angle if self.normalized else nearest
        # mixed precision would multiply in bfloat16, in which most neighbouring codes are equal
        with torch.autocast(vectors.device.type, enabled=False):
            ids = find(vectors.flatten(0, -2), self.codes.to(vectors))
        return ids.view(vectors.shape[:-1])

    @torch.no_grad()
    def nearest_of_inexact(self, vectors: Tensor, error: float) -> NearestCodes:
        """Return the codes nearest to float64 vectors [..., D], each off by at most `error`; a normalized codebook's.

        Ids and `is_certain` are [...].
        """
        found = nearest_of_inexact(vectors.flatten(0, -2), self.codes.to(vectors.device), error)
        shape = vectors.shape[:-1]
        return NearestCodes(found.ids.view(shape), found.is_certain.view(shape))

    def lookup(self, ids: Tensor) -> Tensor:
        """Return the codes [..., D] of ids int64 [...]."""
        return self.codes[ids]

    @torch.no_grad()
    def initialize(self, vectors: Tensor) -> None:
        """Set the codes to those of k-means on vectors [N, D].

        Raises:
            ValueError: fewer vectors than codes.
        """
        num_codes = len(self.codes)
        if len(vectors) < num_codes:
            raise ValueError(f"{len(vectors)} vectors cannot initialize {num_codes} codes; give at least as many")
        self.set_codes(k_means(vectors, num_codes, normalized=self.normalized, max_vectors=max(65536, 6 * num_codes)))

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Replace the codes by [K, D], all equally used so far."""
        self.codes.copy_(codes)
        self.usage.fill_(1.0)
        self.initialized.fill_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, ids: Tensor) -> int:
        """Move the codes towards the vectors [N, D] with those ids [N]; return how many dead codes were reset.

        Where several processes train, each calls it with its share of a batch, and all count. Which codes are dead and
        where they start again is drawn by each; the first one's are kept (DistributedDataParallel broadcasts buffers).
        """
        num_codes = len(self.codes)
        vectors = vectors.to(self.codes.dtype)
        sums, counts = _sum_by_id(vectors, ids, num_codes)
        reduce_over_processes(sums, counts)
        # in units of the mean code's share of this batch, so that usage does not depend on the size of a batch
        share = num_codes / counts.sum().clamp(min=1)
        sums, counts = sums * share, counts * share
        old_weight = self.decay * self.usage
        new_usage = old_weight + (1 - self.decay) * counts
        moved = old_weight[:, None] * self.codes + (1 - self.decay) * sums
        self.codes.copy_(F.normalize(moved, dim=-1) if self.normalized else moved / new_usage[:, None].clamp(min=1e-12))
        self.usage.copy_(new_usage)
        dead = (self.usage < self.reset_below * self.usage.mean()).nonzero()[:, 0]
        dead = dead[torch.randperm(len(dead), device=dead.device)[: len(vectors)]]
        self.codes[dead] = vectors[torch.randperm(len(vectors), device=vectors.device)[: len(dead)]]
        self.usage[dead] = self.usage.mean()
        return len(dead)


@dataclass(frozen=True)
class CodebookUsage:
    """How a set of ids uses a codebook."""

    used_share: float
    """Share of the codes that occur, 0 to 1."""
    perplexity: float
    """Exponential of the ids' entropy: the number of equally likely codes that would carry as much."""


def codebook_usage(ids: Tensor, num_codes: int) -> CodebookUsage:
    """Measure how ids int64 [...] use a codebook of `num_codes`."""
    shares = torch.bincount(ids.flatten(), minlength=num_codes).double() / max(ids.numel(), 1)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return CodebookUsage(float((shares > 0).double().mean()), float(entropy.exp()))


def collapse_message(ids: Tensor, num_codes: int) -> str | None:
    """Return one line about a codebook that has collapsed, judged by the ids it gave; None where it is in good use."""
    usage = codebook_usage(ids, num_codes)
    if usage.perplexity >= _COLLAPSED_BELOW * min(num_codes, ids.numel()):
        return None
    return (
        f"the codebook has collapsed: {ids.numel()} patches use {usage.used_share:.1%} of {num_codes} codes, "
        f"perplexity {usage.perplexity:.1f}; lower the learning rate or start again"
    )


@dataclass(frozen=True)
class QuantizedLatents:
    """Result of quantizing in training."""

    latents: Tensor
    """[B, P, D], the codes; gradients pass straight through to the encoder."""
    commitment: Tensor
    """[]: mean squared distance of the encoder's latents to their codes."""


class ResidualQuantizer(nn.Module):
    """Residual vector quantizer: latents [B, P, D] <-> ids [B, num_quantizers, P], P = `tokens_per_quantizer`.

    Each codebook ("stage") quantizes what the stages before it left over. A plain residual quantizer adds one stage at
    every patch with every quantizer. Motion is sparse: where there are more stages than quantizers (`adaptive`), the
    first quantizer holds stage 1 of every patch, and the ids of the others go where the first one says that motion is
    hard to code. Stage s of a patch has the priority

        difficulty[first id of the patch] - stage_cost * (s - 2)

    and quantizer q holds the next P (patch, stage) pairs in the order of priority. The decoder knows the first ids and
    so the same order: nothing else is sent, and the first q quantizers are a valid coarser code. This is the reverse
    water-filling of transform coding (Cover & Thomas, Elements of Information Theory, ch. 10), driven by the error that
    each first id leaves.

    Args:
        dim, codebook_size: of every stage's codebook.
        num_quantizers: the most quantizers there are ids of.
        num_stages: codebooks, at least `num_quantizers`.
        normalized: latents and codes on the unit sphere; one stage only, since a residual has no unit length.
        decay: of the codebooks' moving averages.

    Raises:
        ValueError: fewer stages than quantizers, or more than one normalized stage.
    """

    first_error: Tensor
    """Float [K]: moving average of the squared error that each first id leaves."""
    difficulty: Tensor
    """Int32 [K]: 16 * log2 of it."""

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        tokens_per_quantizer: int,
        num_quantizers: int,
        num_stages: int,
        *,
        normalized: bool = False,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        if not 1 <= num_quantizers <= num_stages:
            raise ValueError(
                f"`num_stages` (={num_stages}) must be at least `num_quantizers` (={num_quantizers}), and that 1"
            )
        if normalized and num_stages > 1:
            raise ValueError(f"`normalized` codebooks have one stage, got `num_stages` (={num_stages})")
        self.tokens_per_quantizer = tokens_per_quantizer
        self.num_quantizers, self.num_stages = num_quantizers, num_stages
        self.codebook_size, self.normalized = codebook_size, normalized
        self.adaptive = num_stages > num_quantizers
        self.stage_cost = _LEVELS_PER_OCTAVE // 2
        self.stages = nn.ModuleList(
            VectorQuantizer(codebook_size, dim, normalized=normalized, decay=decay) for _ in range(num_stages)
        )
        self.register_buffer("first_error", torch.zeros(codebook_size))
        self.register_buffer("difficulty", torch.zeros(codebook_size, dtype=torch.int32))

    @property
    def initialized(self) -> bool:
        """Whether the codebooks come from data."""
        return bool(self.stage(0).initialized)

    def forward(self, latents: Tensor, num_quantizers: int) -> QuantizedLatents:
        """Quantize latents [B, P, D] with `num_quantizers`; in training mode, also update the codebooks."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            target = F.normalize(latents, dim=-1) if self.normalized else latents
            fixed = target.detach()
            first_ids, codes = self._quantize(0, fixed)
            if self.adaptive and self.training:
                self._update_difficulty(first_ids, (fixed - codes).square().mean(-1))
            counts = self.stage_counts(first_ids, num_quantizers)
            most = counts.max()
            if self.training:  # every process updates the same codebooks
                reduce_over_processes(most, largest=True)
            for number in range(1, int(most)):
                chosen = counts > number
                _, refinement = self._quantize(number, fixed[chosen] - codes[chosen])
                codes = codes.masked_scatter(chosen[..., None], codes[chosen] + refinement)
            commitment = F.mse_loss(target, codes)
            return QuantizedLatents(target + (codes - target).detach(), commitment)

    def encode(self, latents: Tensor, num_quantizers: int) -> Tensor:
        """Return the ids int64 [B, num_quantizers, P] of latents [B, P, D], computed in the latents' own dtype."""
        residual = (F.normalize(latents, dim=-1) if self.normalized else latents.clone()).flatten(0, 1)
        stage_ids = torch.zeros(len(residual), self.num_stages, dtype=torch.long, device=latents.device)
        rows = torch.arange(len(residual), device=latents.device)
        for number in range(self.num_stages if self.adaptive else num_quantizers):
            codes = self.stage(number).codes.to(residual.dtype)
            # not by angle, even where normalized: the distance of the published model counts the codes' lengths
            ids = nearest(residual[rows], codes)
            residual[rows] -= codes[ids]
            stage_ids[rows, number] = ids
            if latents.device.type == "cpu":  # a GPU would wait to be told how many patches go on
                first_ids = stage_ids[:, 0].view(latents.shape[:2])
                rows = (self.stage_counts(first_ids, num_quantizers).flatten() > number + 1).nonzero()[:, 0]
                if not len(rows):
                    break
        stage_ids = stage_ids.view(*latents.shape[:2], -1)
        patches, stages = self._layout(stage_ids[..., 0], num_quantizers)
        return stage_ids.flatten(1).gather(1, (patches * stage_ids.shape[2] + stages).flatten(1)).view_as(patches)

    def decode(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the latents [B, P, D] of ids [B, n, P], any n up to `num_quantizers`; zeros where n is 0."""
        codebooks = torch.stack([self.stage(number).codes.to(dtype) for number in range(self.num_stages)])
        latents = codebooks.new_zeros(len(ids), self.tokens_per_quantizer, codebooks.shape[-1])
        if ids.shape[1] == 0:
            return latents
        patches, stages = self._layout(ids[:, 0], ids.shape[1])
        codes = codebooks[stages, ids].flatten(1, 2)
        return latents.scatter_add(1, patches.flatten(1)[..., None].expand_as(codes), codes)

    def stage_counts(self, first_ids: Tensor, num_quantizers: int) -> Tensor:
        """Return how many ids each patch has with `num_quantizers`: int64 [B, P], for first ids [B, P]."""
        patches, _ = self._layout(first_ids, num_quantizers)
        ones = torch.ones_like(patches).flatten(1)
        return torch.zeros_like(first_ids).scatter_add(1, patches.flatten(1), ones)

    def _layout(self, first_ids: Tensor, num_quantizers: int) -> tuple[Tensor, Tensor]:
        """Return the patch and the stage of every id: two int64 [B, num_quantizers, P]."""
        size, device = self.tokens_per_quantizer, first_ids.device
        all_patches = torch.arange(size, device=device).expand(len(first_ids), 1, size)
        if not self.adaptive:
            stages = torch.arange(num_quantizers, device=device)[:, None]
            return all_patches.expand(-1, num_quantizers, -1), stages.expand(len(first_ids), -1, size)
        num_later = self.num_stages - 1
        stages = torch.arange(num_later, device=device)
        priority = self.difficulty[first_ids].long()[..., None] - self.stage_cost * stages
        # stable: equal priorities stay in the order of patches; a patch's own fall, so that its stages keep their order
        order = priority.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : size * (num_quantizers - 1)]
        pairs = order.view(len(first_ids), num_quantizers - 1, size).sort(-1).values
        patches = torch.cat([all_patches, pairs // num_later], 1)
        return patches, torch.cat([torch.zeros_like(all_patches), pairs % num_later + 1], 1)

    @torch.no_grad()
    def initialize(self, latents: Tensor) -> None:
        """Set the codebooks to those of k-means on latents [B, P, D], stage after stage, on what each has to code."""
        residual = latents.clone()
        chosen = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        counts = chosen.long()
        for number in range(self.num_stages):
            vectors = residual[chosen]
            codes = k_means(vectors, self.codebook_size)
            ids = nearest(vectors, codes)
            self.stage(number).set_codes(codes)
            residual[chosen] -= codes[ids]
            if number == 0:
                first_ids = ids.view_as(counts)
                if self.adaptive:
                    self._update_difficulty(first_ids, residual.square().mean(-1))
                counts = self.stage_counts(first_ids, self.num_quantizers)
            chosen = counts > number + 1
            if not chosen.any():
                break

    @torch.no_grad()
    def _quantize(self, number: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids [...] and codes [..., D] of vectors [..., D] in one stage; in training, update the stage."""
        stage = self.stage(number)
        flat = vectors.flatten(0, -2)
        if self.training and not stage.initialized:
            stage.set_codes(k_means(flat, self.codebook_size, normalized=self.normalized))
        ids = stage.nearest(flat)
        codes = stage.lookup(ids)
        if self.training:
            stage.update(flat, ids)
        return ids.view(vectors.shape[:-1]), codes.view_as(vectors)

    @torch.no_grad()
    def _update_difficulty(self, first_ids: Tensor, errors: Tensor) -> None:
        """Take in the squared errors [B, P] that first ids [B, P] left."""
        ids, errors = first_ids.flatten(), errors.flatten().to(self.first_error.dtype)
        counts = torch.zeros_like(self.first_error).index_add_(0, ids, torch.ones_like(errors))
        sums = torch.zeros_like(self.first_error).index_add_(0, ids, errors)
        reduce_over_processes(sums, counts)
        means = sums / counts.clamp(min=1)
        # an id that occurs often moves its average further; a new one starts from its first errors
        weight = torch.where(self.first_error > 0, 1 - _DIFFICULTY_DECAY ** counts.clamp(max=16), 1.0) * (counts > 0)
        self.first_error.lerp_(means.clamp(min=1e-6), weight)
        octaves = self.first_error.clamp(min=1e-6).log2() * _LEVELS_PER_OCTAVE
        self.difficulty.copy_(octaves.round().to(torch.int32))

    def stage(self, number: int) -> VectorQuantizer:
        """Return the codebook of a stage, counted from 0."""
        return self.stages[number]  # type: ignore[return-value]
