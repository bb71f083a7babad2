"""Which patches deserve a token: the error each would leave if it had none, and what keeping it saves.

Kept patches take in what the dropped ones knew.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videotok.keyframes.vit import Attention, FeedForward

LOG_ERROR_RANGE = (-16.0, 4.0)
"""Log of a patch's squared error, pictures in [-1, 1]: from below a grey level's rounding to beyond black for white."""
POWER = 0.6
"""Patches are compared by their squared error to this power: few tokens, spent on the greatest errors alone, leave the
rest of the picture without any."""
ROOM = 0.5
"""Power of the distance to the nearest kept patch (in patches) that a patch's score is multiplied by: what is lost far
from every token is more than the forecast, which looks at near patches only, knows of."""


class Selector(nn.Module):
    """features [B, N, D] -> three numbers a patch, [B, N] each.

    The layers are LaVIT's (arXiv 2309.04669): each patch sees half of its own features and half of the picture's mean.
    There the two numbers a patch are keep / drop logits; here they have a meaning that can be measured, so that one
    threshold spends tokens where they matter, within a picture and between pictures:

        log_error    what remains of the patch's error when it is kept
        log_saving   what keeping it saves where no patch near it is kept
        reach        how fast that falls as patches near it are kept: a smooth wall is told by its surroundings,
                     a face is not. Error when dropped = exp(log_error) + exp(log_saving - reach * company)

    `company` is the sum of `closeness` to the kept patches. Patches are taken one after another, each time the one that
    saves most in the whole picture, its own error and that of the dropped patches near it (scores); so kept patches
    spread evenly over what is smooth and gather where it is not, and encoding draws nothing at random.
    """

    distances: Tensor

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
        self.register_buffer("distances", torch.cdist(places, places), persistent=False)
        self.local = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.judge = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )
        self.reach = nn.Linear(width, 1)
        nn.init.zeros_(self.reach.weight)
        nn.init.zeros_(self.reach.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, shared = self.local(features).chunk(2, dim=-1)
        seen = torch.cat([own, shared.mean(dim=1, keepdim=True).expand_as(shared)], dim=-1)
        log_error, log_saving = self.judge(seen).clamp(*LOG_ERROR_RANGE).unbind(-1)
        return log_error, log_saving, F.softplus(self.reach(seen)[..., 0])

    def predicted_error(self, log_error: Tensor, log_saving: Tensor, reach: Tensor, keep_mask: Tensor) -> Tensor:
        """Log of the squared error [B, N] that patches will have where `keep_mask` bool [B, N] is kept."""
        company = keep_mask.to(reach.dtype) @ closeness(self.distances.to(reach.dtype))
        return torch.where(keep_mask, log_error, torch.logaddexp(log_error, log_saving - reach * company))

    def scores(self, features: Tensor) -> Tensor:
        """features [B, N, D] -> what to keep first, [B, N]: log of the error that a patch saves in its turn."""
        _, log_saving, reach = self(features)
        return greedy_selection(log_saving, reach, self.distances)


@torch.no_grad()
def greedy_selection(
    log_saving: Tensor, reach: Tensor, distances: Tensor, count: int | None = None, gumbel_noise: Tensor | None = None
) -> Tensor:
    """Takes patches one after another, the one that saves most first (the greedy rule for a sum with falling returns,
    Nemhauser, Wolsey and Fisher, 1978).

    Args:
        log_saving, reach: [B, N], see Selector; distances [N, N] between patches, in patches.
        count: how many turns; all N if None.
        gumbel_noise: [B, N], added to the logs when comparing.

    Returns:
        [B, N]: log of the errors (to the POWER) that each patch saved in its turn, falling from turn to turn; -inf for
        those that had none.
    """
    saving = (POWER * log_saving).exp()
    # the part of patch j's saving that is gone once patch i is kept, [B, i, j]
    told = 1 - torch.exp(-reach[:, None] * closeness(distances.to(reach.dtype)))
    gumbel_noise = torch.zeros_like(saving) if gumbel_noise is None else gumbel_noise
    scores = torch.full_like(saving, -torch.inf)
    last = torch.full_like(saving[:, :1], torch.inf)
    room = torch.full_like(saving, float(distances.max()))
    for _ in range(count or saving.shape[1]):
        gains = (saving + (told @ saving[..., None])[..., 0]).clamp(min=1e-30).log() + ROOM * room.log()
        best = (gains + gumbel_noise).masked_fill(scores > -torch.inf, -torch.inf).argmax(dim=1, keepdim=True)
        # rounding must not let a later turn overtake an earlier one
        last = torch.minimum(gains.gather(1, best), last - 1e-5)
        scores.scatter_(1, best, last)
        saving = saving * (1 - told.gather(1, best[..., None].expand(-1, -1, saving.shape[1]))[:, 0])
        saving.scatter_(1, best, 0.0)
        room = torch.minimum(room, distances.to(room.dtype)[best[:, 0]])
    return scores


def closeness(distances: Tensor) -> Tensor:
    """How much a kept patch tells of another: a Gaussian of one patch's width; nothing of itself."""
    return torch.exp(-0.5 * distances**2) * (distances > 0)


def keep_best(scores: Tensor, counts: Tensor) -> Tensor:
    """The `counts[b]` best patches of each picture: scores [B, N], counts int [B] -> bool [B, N].

    Equal scores go to the earlier patch, so that the choice never depends on a sorting algorithm.
    """
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < counts[:, None]


def keep_above(scores: Tensor, threshold: Tensor) -> Tensor:
    """Every patch whose score reaches `threshold`, and the best one of each picture: bool [B, N]."""
    return (scores >= threshold) | keep_best(scores, torch.ones(len(scores), dtype=torch.long, device=scores.device))


class Thresholds(nn.Module):
    """The score that a given fraction of all patches exceeds, learned while training by following the scores seen.

    Quantiles are tracked by stochastic approximation (Robbins and Monro, 1951): each moves up when too many scores lie
    above it and down when too few do, so they hold over the pictures of many batches, not over one.
    """

    levels: Tensor
    values: Tensor

    def __init__(self, count: int = 65) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(0, 1, count), persistent=False)
        self.register_buffer("values", torch.linspace(0.0, LOG_ERROR_RANGE[0], count))

    def forward(self, keep: float) -> Tensor:
        """Threshold for keeping the fraction `keep` in (0, 1]; 1 keeps everything."""
        if keep >= 1:
            return torch.full_like(self.values[0], -torch.inf)
        place = keep * (len(self.values) - 1)
        low = int(place)
        return torch.lerp(self.values[low], self.values[low + 1], place - low)

    @torch.no_grad()
    def follow(self, scores: Tensor, step: float) -> None:
        """Moves towards the quantiles of `scores` (any shape); `step` in units of the score."""
        above = (scores.flatten() > self.values[:, None]).to(self.values.dtype).mean(dim=1)
        moved = self.values + step * (above - self.levels.to(self.values.dtype))
        self.values.copy_(moved.sort(descending=True).values)


class MergerBlock(nn.Module):
    """Causal self-attention over kept patches, cross-attention to dropped ones, MLP (LaVIT, arXiv 2309.04669)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm = nn.LayerNorm(width)
        self.causal = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, kept: Tensor, memory: Tensor, dropped: Tensor) -> Tensor:
        """kept [B, n, D], memory [B, m, D], dropped bool [B, 1, 1, m] -> [B, n, D]."""
        past = torch.ones(kept.shape[1], kept.shape[1], dtype=torch.bool, device=kept.device).tril()
        kept = kept + self.causal(self.causal_norm(kept), mask=past)
        kept = kept + self.cross(self.cross_norm(kept), self.memory_norm(memory), mask=dropped)
        return kept + self.mlp(self.mlp_norm(kept))


class Merger(nn.Module):
    """features [B, N, D] and which to keep -> kept tokens [B, n, D], which of these are there, bool [B, n].

    n is the largest number kept in the batch; shorter pictures are padded at the end, where the causal order keeps the
    padding out of every token's sight.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(MergerBlock(width, heads, hidden) for _ in range(depth))

    def forward(self, features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        kept, present = pack(features, keep_mask)
        # a picture that drops no patch still needs something to look at: attention over nothing is not a number
        memory = torch.cat([self.nothing.to(features.dtype).expand(len(features), 1, -1), features], dim=1)
        dropped = torch.cat([keep_mask.new_ones(len(features), 1), ~keep_mask], dim=1)[:, None, None]
        for block in self.blocks:
            kept = block(kept, memory, dropped)
        return kept, present


def pack(features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Moves kept patches to the front in raster order: [B, N, D], bool [B, N] -> [B, n, D], present bool [B, n]."""
    counts = keep_mask.sum(dim=1)
    longest = int(counts.max())
    order = (~keep_mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    present = torch.arange(longest, device=keep_mask.device) < counts[:, None]
    return features.gather(1, order[..., None].expand(-1, -1, features.shape[-1])), present


def unpack(kept: Tensor, present: Tensor, keep_mask: Tensor) -> Tensor:
    """The way back: tokens [B, n, D] at their patches, zero at the others -> [B, N, D]."""
    placed = kept.new_zeros(*keep_mask.shape, kept.shape[-1])
    placed[keep_mask] = kept[present]
    return placed
