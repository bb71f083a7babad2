"""Which patches deserve a token: the error each would leave if it had none, and what keeping it saves."""

import torch
from torch import Tensor, nn

SPREAD = 1.0
"""Strength of what is added to the scores so that kept patches do not huddle (log of a squared error)."""
LOG_ERROR_RANGE = (-16.0, 4.0)
"""Log of a patch's squared error, pictures in [-1, 1]: from below a grey level's rounding to beyond black for white."""


class Selector(nn.Module):
    """features [B, N, D] -> two logs of squared error a patch, [B, N] each.

    The layers are LaVIT's (arXiv 2309.04669): each patch sees half of its own features and half of the picture's mean.
    There the two numbers a patch are keep / drop logits; here they have a meaning that can be measured, so that one
    threshold spends tokens where they matter, within a picture and between pictures:

        log_error    what remains of the patch's error when it is kept
        log_saving   what keeping it saves: error when dropped = exp(log_error) + exp(log_saving)

    Scores are log_saving and a fixed pattern. By the saving alone, either every patch of a smooth wall is kept or none,
    and one in sixteen would be best. In training Gumbel noise keeps the few (a draw in proportion to the saving); the
    pattern has the noise's distribution, but is ordered, so it spreads them evenly and encoding draws nothing.
    """

    pattern: Tensor

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.register_buffer("pattern", SPREAD * gumbel_pattern(side), persistent=False)
        self.local = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.judge = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        own, shared = self.local(features).chunk(2, dim=-1)
        whole = shared.mean(dim=1, keepdim=True).expand_as(shared)
        log_error, log_saving = self.judge(torch.cat([own, whole], dim=-1)).clamp(*LOG_ERROR_RANGE).unbind(-1)
        return log_error, log_saving

    def scores(self, features: Tensor) -> Tensor:
        """features [B, N, D] -> what to keep first, [B, N]."""
        return self(features)[1] + self.pattern


def gumbel_pattern(side: int) -> Tensor:
    """Quantiles of the standard Gumbel distribution, [side**2], in the order of Bayer's dither matrix (1973)."""
    order = torch.zeros(1, 1)
    while len(order) < side:
        upper, lower = torch.cat([4 * order, 4 * order + 2], dim=1), torch.cat([4 * order + 3, 4 * order + 1], dim=1)
        order = torch.cat([upper, lower])
    places = (order + 0.5) / order.numel()
    return -(-places.log()).log()[:side, :side].flatten()


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
