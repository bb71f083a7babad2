"""Mixture: frames as candidates mixed by weights, the warps among them read a little elsewhere than motion says."""

import torch
from torch import Tensor

from unet3d.cells import spread_out
from unet3d.evidence import CANDIDATES, MAPS, Evidence, warped
from unet3d.features import GRAIN

BEND = 4
"""Pixels along each side of what has a shift of its own."""
SHIFTS = 6
"""One by which both warps come together, and one of each warp's own; x and y."""
STRONGEST = 12.0
"""Weights are logarithms; what is beyond this is no stronger."""
NEAR = MAPS.index("nearness")


def num_told(patch: int) -> tuple[int, int]:
    """Channels of weights and of shifts a cell."""
    return len(CANDIDATES) * (patch // GRAIN) ** 2, SHIFTS * (patch // BEND) ** 2


def mixed(evidence: Evidence, weights: Tensor, shifts: Tensor, patch: int, crispness: float = 0.0) -> Tensor:
    """Frames [B, T, 3, H, W]; the prior where weights and shifts are 0.

    Args:
        weights: [B, T, num_told[0], h, w], logarithms of what the prior's shares are multiplied by.
        shifts: [B, T, num_told[1], h, w], in pixels: one that is divided between both warps by nearness, one of each.
        patch: pixels along each side of a cell.
        crispness: see `evidence.seen`.
    """
    shared, first, second = spread_out(shifts, patch, patch // BEND).chunk(3, dim=2)
    near = evidence.maps[:, :, NEAR, None]
    both = torch.stack((first - near * shared, second + (1 - near) * shared), dim=2).movedim(3, -1)
    pixel = both.new_tensor([1 / side for side in evidence.keyframes.shape[:-3:-1]])
    candidates = torch.cat((warped(evidence, both * pixel, crispness), evidence.candidates[:, :, 2:]), dim=2)
    shares = evidence.shares * spread_out(weights.clamp(-STRONGEST, STRONGEST), patch, patch // GRAIN).exp()
    return (candidates * (shares / shares.sum(2, keepdim=True))[:, :, :, None]).sum(2)
