"""Features: what the network is told of the candidates. Differences say more than pictures: where all agree, all is
well; where the keyframes agree with each other and not with their warps, nothing moved."""

from itertools import combinations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.cells import luma, pooled, space_to_depth
from unet3d.evidence import CANDIDATES, MAPS, Evidence

GRAIN = 2
"""Pixels along each side of what is compared."""
REACH = (-4, -2, 0, 2, 4)
"""Shifts between the two warps that are tried, in grains: the smallest difference says by how much they disagree."""
FAINTEST = 0.01
"""Differences are told as logarithms; below this, pictures in [-1, 1], all are alike."""


def num_features(patch: int) -> int:
    """Channels of `features`."""
    pairs = len(list(combinations(CANDIDATES, 2)))
    return (pairs + 2) * (patch // GRAIN) ** 2 + len(REACH) ** 2 + len(MAPS)


def features(evidence: Evidence, patch: int) -> Tensor:
    """Evidence of frames [H, W] as cells [B, T, num_features, H / patch, W / patch]; about unit size."""
    small = pooled(evidence.candidates.flatten(2, 3), GRAIN).unflatten(2, (len(CANDIDATES), 3))
    pairs = [(small[:, :, a] - small[:, :, b]).abs().mean(2) for a, b in combinations(range(len(CANDIDATES)), 2)]
    bright = luma(small[:, :, :2])
    shown, apart = luma(pooled(evidence.prior, GRAIN)), 4 * (bright[:, :, 0] - bright[:, :, 1])
    grains = torch.stack((*(_loudness(pair) for pair in pairs), shown, apart), dim=2)
    return torch.cat(
        (
            space_to_depth(grains, patch // GRAIN),
            _loudness(pooled(_shifted(bright[:, :, 0], bright[:, :, 1]), patch // GRAIN)),
            pooled(evidence.maps, patch),
        ),
        dim=2,
    )


def _shifted(first: Tensor, second: Tensor) -> Tensor:
    """Absolute differences of [B, T, h, w], the second shifted: [B, T, len(REACH)², h, w]."""
    far = max(REACH)
    height, width = first.shape[-2:]
    wide = F.pad(second, (far, far, far, far), mode="replicate")
    moved = (wide[..., far + y : far + y + height, far + x : far + x + width] for y, x in product(REACH, REACH))
    return torch.stack([(first - other).abs() for other in moved], dim=2)


def _loudness(difference: Tensor) -> Tensor:
    return (difference + FAINTEST).log() / 2 + 1.5
