"""Patch selection: predict the error that each patch leaves without a token, and keep the patches that save most."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.model_base import as_double
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
LEAST_FALL = 1e-5
"""Scores fall by at least so much from turn to turn."""


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


@dataclass(frozen=True)
class Selection:
    """Which patches are kept."""

    keep_mask: Tensor
    """bool [B, N]."""
    is_certain: Tensor
    """bool [B]: whether the mask of an image does not depend on the rounding of what the selector predicted."""


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
        return self.log_errors_of(predicted, keep_mask[:, None])[:, 0]

    def log_errors_of(self, predicted: PredictedErrors, keep_masks: Tensor) -> Tensor:
        """Return `log_error_of` each of the masks bool [B, L, N], [B, L, N]."""
        redundancy = predicted.redundancy
        neighbors = keep_masks.to(redundancy.dtype) @ neighbor_weights(self.distances.to(redundancy.dtype))
        kept, saving = predicted.log_error[:, None], predicted.log_saving[:, None]
        return torch.where(keep_masks, kept, torch.logaddexp(kept, saving - redundancy[:, None] * neighbors))

    def scores(self, features: Tensor, count: int | None = None, threshold: Tensor | None = None) -> Tensor:
        """Return how much each patch is worth its token, [B, N], from features [B, N, width].

        The score is the log of the error that the patch saves in its turn of `greedy_selection`, which also says what
        `count` and `threshold` are.
        """
        return self.scores_of(self(features), count, threshold)

    def scores_of(
        self, predicted: PredictedErrors, count: int | None = None, threshold: Tensor | None = None
    ) -> Tensor:
        """Return `scores` of the errors that were predicted from features."""
        return greedy_selection(
            predicted.log_saving, predicted.redundancy, self.distances, count=count, threshold=threshold
        )

    def select_by_inexact(
        self, features: Tensor, error: float, count: int | None = None, threshold: Tensor | None = None
    ) -> Selection:
        """Keep the `count` patches of each image that are taken first, or those whose score reaches `threshold` [].

        Args:
            features: [B, N, width], not exact; see `certain_selection` for `error`.
        """
        predicted = self(features)
        log_saving, redundancy = as_double(predicted.log_saving), as_double(predicted.redundancy)
        state = GreedyState(log_saving, redundancy, self.distances.to(redundancy))
        return certain_selection(state, error, count, threshold)


class GreedyState:
    """What is left to save while patches are taken one after another."""

    def __init__(self, log_saving: Tensor, redundancy: Tensor, distances: Tensor) -> None:
        """Begin with no patch taken; for the arguments see `greedy_selection`."""
        distances = distances.to(redundancy.dtype)
        self.first_saving = self.saving = (ERROR_EXPONENT * log_saving).exp()
        # [B, i, j]: part of patch j's saving that is gone once patch i is kept, and part that is left (its own: 0)
        self.explained = 1 - torch.exp(-redundancy[:, None] * neighbor_weights(distances))
        self.left = (1 - self.explained).masked_fill(distances == 0, 0.0)
        # -inf for a patch itself, so that no patch is taken twice
        self.log_distances = DISTANCE_EXPONENT * distances.log()
        self.log_nearest = self.log_distances.max().expand_as(self.saving)

    def gains(self) -> Tensor:
        """Return the log of what each patch would save, [B, N]; -inf for those that were taken."""
        # a turn is a dozen small operations, whose number decides how long it takes on a GPU
        gains = (self.saving + (self.explained @ self.saving[..., None])[..., 0]).clamp_(min=1e-30).log_()
        gains += self.log_nearest
        return gains

    def take(self, best: Tensor) -> None:
        """Take a patch of each image, int64 [B, 1]."""
        count = self.saving.shape[1]
        self.saving = self.saving * self.left.gather(1, best[..., None].expand(-1, -1, count))[:, 0]
        self.log_nearest = torch.minimum(self.log_nearest, self.log_distances[best[:, 0]])

    def gain_after(self, image: int, taken: Tensor, patch: int) -> float:
        """Return the gain of a patch of one image if these patches int64 [n] were taken, whatever the state is."""
        saving = self.first_saving[image] * self.left[image, taken].prod(dim=0)
        nearest = self.log_distances[taken, patch].min()
        return float((saving[patch] + self.explained[image, patch] @ saving).clamp(min=1e-30).log() + nearest)


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
    state = GreedyState(log_saving, redundancy, distances)
    taken, values = [], []
    for turn in range(count or log_saving.shape[1]):
        gains = state.gains()
        best = (gains if gumbel_noise is None else gains + gumbel_noise).argmax(dim=1, keepdim=True)
        taken.append(best)
        values.append(gains.gather(1, best))
        if threshold is not None and turn % TURNS_BETWEEN_CHECKS == 0 and (values[-1] < threshold).all():
            break
        state.take(best)
    falling = _strictly_falling(torch.cat(values, dim=1))
    return torch.full_like(state.saving, -torch.inf).scatter_(1, torch.cat(taken, dim=1), falling)


@torch.no_grad()
def certain_selection(
    state: GreedyState, error: float, count: int | None = None, threshold: Tensor | None = None
) -> Selection:
    """Keep patches as by the scores of `greedy_selection`, and say where rounding may have decided.

    Args:
        state: no patch taken; float64, of predicted errors that are not exact.
        error: bound on the error of a patch's gain in any turn.
        count: patches to keep. None: those whose score reaches `threshold`, and the best one.
        threshold: [].
    """
    patches, order, gains = state.saving.shape[1], [], []
    for turn in range(count or patches):
        best = state.gains().topk(min(3, patches), dim=1)
        order.append(best.indices)
        gains.append(best.values)
        if threshold is not None and turn % TURNS_BETWEEN_CHECKS == 0 and (best.values[:, 0] < threshold).all():
            break
        state.take(best.indices[:, :1])
    # on a GPU every look at a turn would stop it
    best_gains = F.pad(torch.stack(gains, dim=1).cpu(), (0, 3 - min(3, patches)), value=-torch.inf)
    turns = _Turns(torch.stack(order, dim=1).cpu(), best_gains)
    scores = _strictly_falling(turns.gains[..., 0])
    is_kept = torch.ones_like(scores, dtype=torch.bool)
    is_certain = torch.ones(len(scores), dtype=torch.bool)
    least = -torch.inf
    if count is None and threshold is not None:
        least = float(threshold)
        is_kept = scores >= least
        is_kept[:, 0] = True
        is_certain = ((scores - least).abs() > 2 * error).all(dim=1)
    is_tie = (turns.gains[..., 0] - turns.gains[..., 1] <= 2 * error) & is_kept
    for image, turn in is_tie.nonzero().tolist():
        last = int(is_kept[image].sum()) - 1
        is_certain[image] &= turn < last and _has_no_effect(state, turns, image, turn, least, 2 * error)
    keep_mask = torch.zeros(len(scores), patches, dtype=torch.bool).scatter_(1, turns.order[..., 0], is_kept)
    device = state.saving.device
    return Selection(keep_mask.to(device), is_certain.to(device))


@dataclass(frozen=True)
class _Turns:
    """The turns of a greedy selection."""

    order: Tensor
    """int64 [B, turns, 3]: the patch that is taken, and the two next best ones."""
    gains: Tensor
    """float64 [B, turns, 3], of these."""


def _has_no_effect(state: GreedyState, turns: _Turns, image: int, turn: int, threshold: float, margin: float) -> bool:
    """Return whether a turn may take the second best patch instead, as both are taken next to each other in any case.

    It may if the next turn takes the other one, whichever comes first. Gains never rise when a patch is taken, so
    what else could be taken then has at most the gain of today's third. And it must be so far above the threshold
    that the least fall of later scores, which begins at these two, cannot bring one of them below it.
    """
    first, second = turns.order[image, turn, :2].tolist()
    gain, _, third = turns.gains[image, turn].tolist()
    following, rival = turns.gains[image, turn + 1, :2].tolist()
    if turns.order[image, turn + 1, 0] != second or following - rival <= margin or gain - third <= margin:
        return False
    if third <= threshold + 2 * LEAST_FALL * state.saving.shape[1]:
        return False
    taken = torch.cat([turns.order[image, :turn, 0], torch.tensor([second])]).to(state.saving.device)
    return state.gain_after(image, taken, first) - third > margin


def _strictly_falling(values: Tensor) -> Tensor:
    """Return values [B, n], each at least `LEAST_FALL` below the one before, whatever rounding does."""
    columns = list(values.cpu().unbind(1))  # on a GPU every column would wait for its own operations
    for index in range(1, len(columns)):
        columns[index] = torch.minimum(columns[index], columns[index - 1] - LEAST_FALL)
    return torch.stack(columns, dim=1).to(values.device)


def neighbor_weights(distances: Tensor) -> Tensor:
    """Return how much a kept patch tells about another: a Gaussian one patch wide of `distances`, 0 for itself."""
    return torch.exp(-0.5 * distances**2) * (distances > 0)


def keep_best(scores: Tensor, counts: Tensor) -> Tensor:
    """Return a mask bool [B, N] of the `counts[b]` patches of each image with the highest scores [B, N].

    Of equal scores the earlier patch is kept, so the mask does not depend on the sorting algorithm.
    """
    return _ranks(scores) < counts[:, None]


def keep_numbers(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Return `keep_best` for each of some numbers, bool [B, len(counts), N], of scores [B, N]."""
    return _ranks(scores)[:, None] < torch.tensor(counts, device=scores.device)[:, None]


def _ranks(scores: Tensor) -> Tensor:
    """Return the place of each patch in the order of scores [B, N], from 0 for the highest."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


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
        """Return the threshold that keeps the share `keep_ratio` (above 0 to 1) of patches, float64 []; 1 keeps all."""
        values = as_double(self.values)
        if keep_ratio >= 1:
            return torch.full_like(values[0], -torch.inf)
        position = keep_ratio * (len(values) - 1)
        below = int(position)
        return torch.lerp(values[below], values[below + 1], position - below)

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
