"""The camera's share of a motion field: keyframes as they would look if nothing moved but the camera."""

import torch
from torch import Tensor

from unet3d.places import cell_centres

FIT_STEPS = 8
FIRST_SCALE, LAST_SCALE = 8 / 256, 0.25 / 256
"""Of what counts as moving by itself, in fractions of the frame; it shrinks from step to step."""
STANDS_STILL = 0.05 / 256
"""A camera that moves no corner of the frame by more than this in a step stands still."""


def camera_steps(vectors: Tensor) -> Tensor:
    """Every step's camera motion, an affine map that most of the cells agree on.

    Iteratively reweighted least squares with Geman-McClure weights whose scale shrinks (Black & Rangarajan, IJCV 1996,
    section 3): what moves by itself does not pull it.

    Args:
        vectors: [B, T, h, w, 2], a field (`codec.types.MotionField`).

    Returns:
        [B, T, 3, 3]: from a point (x, y, 1) of a frame, in fractions, to where its content stood one step before.
    """
    h, w = vectors.shape[2:4]
    centres = cell_centres(h, w, vectors).flatten(0, 1)
    plane = torch.cat((centres - 0.5, torch.ones_like(centres[:, :1])), dim=1)
    motion = vectors.flatten(2, 3)
    tiny = 1e-6 * torch.eye(3, dtype=motion.dtype, device=motion.device)
    weights, fit = torch.ones_like(motion[..., 0]), motion.new_zeros(*motion.shape[:2], 3, 2)
    for step in range(FIT_STEPS):
        weighted = weights[..., None] * plane
        normal = torch.einsum("btnk,nl->btkl", weighted, plane) / len(plane)
        right = torch.einsum("btnk,btnc->btkc", weighted, motion) / len(plane)
        fit = torch.linalg.solve(normal + tiny, right)
        scale = FIRST_SCALE * (LAST_SCALE / FIRST_SCALE) ** (step / (FIT_STEPS - 1))
        errors = (motion - plane @ fit).square().sum(-1) / scale**2
        weights = (1 + errors).square().reciprocal()
    corners = torch.cartesian_prod(*2 * [plane.new_tensor((-0.5, 0.5))])
    reach = (torch.cat((corners, torch.ones_like(corners[:, :1])), dim=1) @ fit).abs().amax((2, 3))
    fit = fit * (reach > STANDS_STILL)[..., None, None]
    slopes, shift = fit[:, :, :2], fit[:, :, 2]
    maps = torch.eye(3, dtype=fit.dtype, device=fit.device).repeat(*fit.shape[:2], 1, 1)
    maps[:, :, :2, :2] += slopes.mT
    maps[:, :, :2, 2] = shift - slopes.sum(2) / 2
    return maps


def camera_places(maps: Tensor, height: int, width: int) -> Tensor:
    """Where pixels are read through maps [B, T, 3, 3] of points: [B, T, H, W, 2]."""
    centres = cell_centres(height, width, maps)
    return centres @ maps[:, :, None, :2, :2].mT + maps[:, :, None, None, :2, 2]


def back(maps: Tensor) -> Tensor:
    """Maps of steps [B, T, 3, 3] to those from every frame back to frame 0; slot 0 is not used."""
    whole = [torch.eye(3, dtype=maps.dtype, device=maps.device).expand_as(maps[:, 0])]
    for step in maps.unbind(1)[1:]:
        whole.append(whole[-1] @ step)
    return torch.stack(whole, dim=1)


def onward(maps: Tensor, last: Tensor) -> Tensor:
    """Maps of steps [B, T, 3, 3], and of the one into the next keyframe [B, 3, 3], to those from every frame to it."""
    whole = [torch.linalg.inv(last)]
    for step in maps.unbind(1)[:0:-1]:
        whole.append(whole[-1] @ torch.linalg.inv(step))
    return torch.stack(whole[::-1], dim=1)
