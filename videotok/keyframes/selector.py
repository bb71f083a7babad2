"""Patch selection: predict the error that each patch leaves without a token, and keep the patches that save most."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.vector_quantizer import reduce_over_processes

LOG_ERROR_RANGE = (-16.0, 4.0)
"""Range of the log of a patch's mean squared error, for images in [-1, 1]: from below the rounding of grey levels to
beyond black for white."""
ERROR_EXPONENT = 0.6
"""Patches are compared by their squared error to this power. With 1, few tokens would all go to the largest errors and
leave the rest of the image without any."""
DISTANCE_EXPONENT = 0.5
"""A patch's score is multiplied by its distance to the nearest kept patch (in patches) to this power: the predicted
error takes only near patches into account, and underestimates what is lost far from every token."""

TURNS_BETWEEN_CHECKS = 16
"""Turns of the greedy selection between two looks at whether it may end: a GPU stops for each."""


@dataclass(frozen=True)
class PredictedErrors:
    """What the selector predicts of each patch, float [B, N] each."""

    log_error: Tensor
    """Log of the squared error that remains when the patch is kept."""
    log_saving: Tensor
    """Log of the squared error that keeping it saves where no patch near it is kept."""
    redundancy: Tensor
    """How fast that saving falls as patches near it are kept, 0 or more: high in smooth regions, low in detailed ones.
    Error when dropped = exp(log_error) + exp(log_saving - redundancy * sum of `neighbor_weights` of kept patches)."""


class Selector(nn.Module):
    """Scores the patches of images by their features.

    The layers are those of LaVIT (arXiv 2309.04669): each patch is judged by half of its own features and half of the
    image's mean. There the head's two numbers are keep / drop logits; here they are errors that can be measured (see
    `PredictedErrors`), so that one threshold spends tokens where they matter, within an image and between images.

    Patches are ranked greedily, each time the one that saves most in the whole image: its own error and that of the
    dropped patches near it. Kept patches thus spread evenly over smooth regions and lie denser in detailed ones, and
    encoding needs no random numbers.
    """

    distances: Tensor

    def __init__(self, width: int, side: int) -> None:
        """Build a selector for `side` x `side` patches with features of `width` values."""
        super().__init__()
        positions = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
        self.register_buffer("distances", torch.cdist(positions, positions), persistent=False)
        self.local = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.head = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )
        self.redundancy = nn.Linear(width, 1)
        nn.init.zeros_(self.redundancy.weight)
        nn.init.zeros_(self.redundancy.bias)

    def forward(self, features: Tensor) -> PredictedErrors:
        """Predict errors from features [B, N, width]."""
        mixed = self.mixed_features(features)
        log_error, log_saving = self.head(mixed).clamp(*LOG_ERROR_RANGE).unbind(-1)
        return PredictedErrors(log_error, log_saving, F.softplus(self.redundancy(mixed)[..., 0]))

    def mixed_features(self, features: Tensor) -> Tensor:
        """Return half of each patch's own features beside half of the image's mean, [B, N, width]."""
        own, shared = self.local(features).chunk(2, dim=-1)
        return torch.cat([own, shared.mean(dim=1, keepdim=True).expand_as(shared)], dim=-1)

    def log_error_of(self, predicted: PredictedErrors, keep_mask: Tensor) -> Tensor:
        """Return the log of the squared error predicted for each patch, [B, N], if `keep_mask` bool [B, N] is kept."""
        redundancy = predicted.redundancy
        neighbors = keep_mask.to(redundancy.dtype) @ neighbor_weights(self.distances.to(redundancy.dtype))
        dropped = torch.logaddexp(predicted.log_error, predicted.log_saving - redundancy * neighbors)
        return torch.where(keep_mask, predicted.log_error, dropped)

    def scores(self, features: Tensor, count: int | None = None, threshold: Tensor | None = None) -> Tensor:
        """Return how much each patch is worth its token, [B, N], from features [B, N, width].

        The score is the log of the error that the patch saves in its turn of `greedy_selection`, which also says what
        `count` and `threshold` are.
        """
        predicted = self(features)
        return greedy_selection(
            predicted.log_saving, predicted.redundancy, self.distances, count=count, threshold=threshold
        )


@torch.no_grad()
def greedy_selection(
    log_saving: Tensor,
    redundancy: Tensor,
    distances: Tensor,
    count: int | None = None,
    gumbel_noise: Tensor | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """Rank patches by taking them one after another, each time the one that saves most.

    This is the greedy rule for sums with diminishing returns (Nemhauser, Wolsey and Fisher, 1978).

    Args:
        log_saving, redundancy: [B, N], see `PredictedErrors`.
        distances: [N, N] between patches, in patches.
        count: patches to take; None: all N.
        gumbel_noise: [B, N], added to the logs when they are compared.
        threshold: []: patches whose score is below it need not be taken, so it may end early.

    Returns:
        [B, N]: log of the errors (to the power ERROR_EXPONENT) that each patch saved in its turn, falling from turn to
        turn; -inf for patches that were not taken.
    """
    distances = distances.to(redundancy.dtype)
    saving = (ERROR_EXPONENT * log_saving).exp()
    # [B, i, j]: part of patch j's saving that is gone once patch i is kept, and part that is left (of its own, nothing)
    explained = 1 - torch.exp(-redundancy[:, None] * neighbor_weights(distances))
    left = (1 - explained).masked_fill(distances == 0, 0.0)
    # -inf for a patch itself, so that no patch is taken twice
    log_distances = DISTANCE_EXPONENT * distances.log()
    log_nearest = log_distances.max().expand_as(saving)
    taken, values = [], []
    # a turn is a dozen small operations, whose number decides how long it takes on a GPU
    for turn in range(count or saving.shape[1]):
        gains = (saving + (explained @ saving[..., None])[..., 0]).clamp_(min=1e-30).log_()
        gains += log_nearest
        best = (gains if gumbel_noise is None else gains + gumbel_noise).argmax(dim=1, keepdim=True)
        taken.append(best)
        values.append(gains.gather(1, best))
        if threshold is not None and turn % TURNS_BETWEEN_CHECKS == 0 and (values[-1] < threshold).all():
            break
        saving = saving * left.gather(1, best[..., None].expand(-1, -1, saving.shape[1]))[:, 0]
        log_nearest = torch.minimum(log_nearest, log_distances[best[:, 0]])
    falling = _strictly_falling(torch.cat(values, dim=1))
    return torch.full_like(saving, -torch.inf).scatter_(1, torch.cat(taken, dim=1), falling)


def _strictly_falling(values: Tensor) -> Tensor:
    """Return values [B, n], each at most the one before less 1e-5: rounding must not let a later turn overtake."""
    columns = list(values.cpu().unbind(1))  # on a GPU every column would wait for its own operations
    for index in range(1, len(columns)):
        columns[index] = torch.minimum(columns[index], columns[index - 1] - 1e-5)
    return torch.stack(columns, dim=1).to(values.device)


def neighbor_weights(distances: Tensor) -> Tensor:
    """Return how much a kept patch tells about another: a Gaussian one patch wide of `distances`, 0 for itself."""
    return torch.exp(-0.5 * distances**2) * (distances > 0)


def keep_best(scores: Tensor, counts: Tensor) -> Tensor:
    """Return a mask bool [B, N] of the `counts[b]` patches of each image with the highest scores [B, N].

    Of equal scores the earlier patch is kept, so the mask does not depend on the sorting algorithm.
    """
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return ranks < counts[:, None]


def keep_above(scores: Tensor, threshold: Tensor) -> Tensor:
    """Return a mask bool [B, N] of the patches whose score reaches `threshold`, and the best patch of each image."""
    return (scores >= threshold) | keep_best(scores, torch.ones(len(scores), dtype=torch.long, device=scores.device))


class KeepThresholds(nn.Module):
    """The score that a given share of all patches exceeds, learned during training.

    Quantiles of the scores are tracked by stochastic approximation (Robbins and Monro, 1951): each moves up when too
    many scores lie above it and down when too few do, so they hold over the images of many batches.
    """

    shares: Tensor
    values: Tensor

    def __init__(self, count: int = 65) -> None:
        """Build thresholds for `count` shares, evenly from 0 to 1."""
        super().__init__()
        self.register_buffer("shares", torch.linspace(0, 1, count), persistent=False)
        self.register_buffer("values", torch.linspace(0.0, LOG_ERROR_RANGE[0], count))

    def forward(self, keep_ratio: float) -> Tensor:
        """Return the threshold that keeps the share `keep_ratio` (above 0 to 1) of patches; 1 keeps all of them."""
        if keep_ratio >= 1:
            return torch.full_like(self.values[0], -torch.inf)
        position = keep_ratio * (len(self.values) - 1)
        below = int(position)
        return torch.lerp(self.values[below], self.values[below + 1], position - below)

    @torch.no_grad()
    def update(self, scores: Tensor, step_size: float) -> None:
        """Move the thresholds towards the quantiles of `scores` (any shape), by at most `step_size` (in scores).

        Where several processes train, those of the scores of all of them.
        """
        above = (scores.flatten() > self.values[:, None]).to(self.values.dtype).sum(dim=1)
        total = torch.full_like(above[:1], scores.numel())
        reduce_over_processes(above, total)
        above = above / total
        moved = self.values + step_size * (above - self.shares.to(self.values.dtype))
        self.values.copy_(moved.sort(descending=True).values)

    @torch.no_grad()
    def fit(self, scores: Tensor) -> None:
        """Set the thresholds to the exact quantiles of `scores` (any shape), those of many images after training."""
        ordered = scores.flatten().sort(descending=True).values
        positions = (self.shares * (len(ordered) - 1)).round().long()
        self.values.copy_(ordered[positions])
