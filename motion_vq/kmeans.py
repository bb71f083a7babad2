"""k-means, and the nearest of many."""

import torch
from torch import Tensor

_CHUNK = 8192
_ROUNDS = 10


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest row of `codebook` [K, D] for each of `points` [N, D]; the first of equals."""
    lengths = codebook.square().sum(-1) / 2
    return torch.cat([(lengths - chunk @ codebook.T).argmin(-1) for chunk in points.split(_CHUNK)])


def k_means(points: Tensor, num_words: int, most_points: int = 65536) -> Tensor:
    """Words [num_words, D] of points [N, D], by Lloyd's rounds from points drawn by torch's global generator.

    A word that lost all its points starts again at a point that is far from its own word; with fewer points than words
    the rest are points with a little noise. No two words are the same: a tie would leave the choice to rounding.
    """
    points = points[torch.randperm(len(points))[:most_points]]
    spread = points.std() * 1e-2 + 1e-6
    words = points[torch.arange(num_words) % len(points)]
    words = words + torch.randn_like(words) * spread
    for _ in range(_ROUNDS):
        ids = nearest(points, words)
        counts = torch.bincount(ids, minlength=num_words)
        sums = torch.zeros_like(words).index_add_(0, ids, points)
        empty = (counts == 0).nonzero().flatten()
        words = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], words)
        if len(empty):
            distances = (points - words[ids]).square().sum(-1) + 1e-9
            # torch.multinomial without replacement needs as many points as draws
            chosen = torch.multinomial(distances, len(empty), replacement=len(points) < len(empty))
            words[empty] = points[chosen] + torch.randn_like(points[chosen]) * spread
    return words
