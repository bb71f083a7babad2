"""Growth: coded motion ends short of the outlines of what moves; here what moves by itself reaches further."""

import torch.nn.functional as F
from torch import Tensor

FINER = 2
"""Cells of the grid that growth is found on, along each side of a cell of the field."""
REACH = 2
"""Of those, how far what moves reaches over what does not: a cell of the field."""


def grown(places: Tensor, camera: Tensor, grid: tuple[int, int]) -> Tensor:
    """Places read as the strongest motion near them says.

    Of all motion within reach, less the camera's, the largest: a dilation, as of a mask, of the field.

    Args:
        places: [B, T, H, W, 2], where a keyframe is read.
        camera: like `places`, where it would be read if nothing moved but the camera.
        grid: rows and columns of the field.

    Returns:
        [B, T, H, W, 2].
    """
    own = (places - camera).movedim(-1, 2).flatten(0, 1)
    small = F.adaptive_avg_pool2d(own, (FINER * grid[0], FINER * grid[1]))
    amount = small.square().sum(1, keepdim=True)
    _, strongest = F.max_pool2d(amount, 2 * REACH + 1, stride=1, padding=REACH, return_indices=True)
    taken = small.flatten(2).gather(2, strongest.flatten(2).expand(-1, 2, -1)).view_as(small)
    fine = F.interpolate(taken, own.shape[-2:], mode="bilinear", align_corners=False)
    return camera + fine.unflatten(0, places.shape[:2]).movedim(2, -1)
