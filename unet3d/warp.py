"""Warping: a keyframe, moved along the motion of its clip, is a first guess of every frame.

Convention (`codec.types.MotionField`): the content of a cell at step t stood at (x + dx, y + dy) at step t - 1, in
fractions of the frame. Displacements here keep it: the content of a place in frame t is found at place + displacement in
the picture that is warped (backward warping). Every function is batched over B and differentiable.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FIXED_POINT_STEPS = 8
"""Enough where neighbouring cells differ by less than a cell; where they differ by more, no inverse exists."""


@dataclass(frozen=True)
class TwoWay:
    """What two keyframes say about the frames between them."""

    pictures: Tensor
    """[B, T, 3, H, W]: both warps, blended by nearness in time and by confidence."""
    forward: Tensor
    """[B, T, 3, H, W]: the clip's own keyframe, warped."""
    backward: Tensor
    """[B, T, 3, H, W]: the next clip's keyframe, warped."""
    forward_confidence: Tensor
    """[B, T, 1, H, W] in 0..1: whether the keyframe shows this place at all."""
    backward_confidence: Tensor
    """[B, T, 1, H, W] in 0..1: whether the next keyframe shows it."""


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres of a grid's cells, [h, w, 2] as (x, y) in fractions of the frame."""
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)


def sample(values: Tensor, places: Tensor) -> Tensor:
    """Values [B, C, H, W] read bilinearly at places [B, h, w, 2]: [B, C, h, w]. Beyond the frame stands its border."""
    return F.grid_sample(values, places * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False)


def follow(step: Tensor, onward: Tensor) -> Tensor:
    """Two displacements [B, h, w, 2] one after the other: `step` from here, then `onward` from where that leads."""
    places = cell_centres(step.shape[1], step.shape[2], step) + step
    return step + sample(onward.permute(0, 3, 1, 2), places).permute(0, 2, 3, 1)


def compose(vectors: Tensor) -> Tensor:
    """Steps to displacements back to frame 0.

    Args:
        vectors: [B, T, h, w, 2], a clip's field; slot 0 (the step into the keyframe) is not used.

    Returns:
        [B, T, h, w, 2]: where the content of each cell of frame t stood in frame 0, relative; zero at t = 0.
    """
    displacements = [torch.zeros_like(vectors[:, 0])]
    for step in vectors.unbind(1)[1:]:
        displacements.append(follow(step, displacements[-1]))
    return torch.stack(displacements, dim=1)


def invert(step: Tensor) -> Tensor:
    """The same step [B, h, w, 2] seen from its other end: u(x) = -step(x + u(x)), by fixed-point iteration."""
    centres = cell_centres(step.shape[1], step.shape[2], step)
    channels = step.permute(0, 3, 1, 2)
    inverse = -step
    for _ in range(FIXED_POINT_STEPS):
        inverse = -sample(channels, centres + inverse).permute(0, 2, 3, 1)
    return inverse


def towards(vectors: Tensor, next_vectors: Tensor) -> Tensor:
    """Steps to displacements forward to the next keyframe.

    Args:
        vectors: [B, T, h, w, 2], a clip's field.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field; only slot 0 is used, the step from this clip's
            last frame into the next keyframe.

    Returns:
        [B, T, h, w, 2]: where the content of each cell of frame t will stand in the next keyframe, relative.
    """
    displacement = invert(next_vectors[:, 0])
    displacements = [displacement]
    for step in vectors.unbind(1)[:0:-1]:
        displacement = follow(invert(step), displacement)
        displacements.append(displacement)
    return torch.stack(displacements[::-1], dim=1)


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Values [B, T, h, w, C] of one grid at the cells of another, [B, T, height, width, C]; bilinear, centres aligned."""
    batch, steps, h, w, channels = values.shape
    if (h, w) == (height, width):
        return values
    flat = values.reshape(batch * steps, h, w, channels).permute(0, 3, 1, 2)
    resized = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(batch, steps, height, width, channels)


def warp(picture: Tensor, displacement: Tensor) -> Tensor:
    """A picture [B, C, H, W] seen T times through displacements [B, T, h, w, 2] of any grid: [B, T, C, H, W]."""
    batch, channels, height, width = picture.shape
    steps = displacement.shape[1]
    places = cell_centres(height, width, picture) + resize(displacement, height, width)
    repeated = picture[:, None].expand(batch, steps, channels, height, width)
    warped = sample(repeated.reshape(-1, channels, height, width), places.reshape(-1, height, width, 2))
    return warped.reshape(batch, steps, channels, height, width)


def confidence(displacement: Tensor) -> Tensor:
    """How far a warp can be trusted, from its displacement alone: [B, T, h, w, 2] to [B, T, h, w, 1] in 0..1.

    0 where the content comes from beyond the frame. Elsewhere less, the more the displacement tears or folds: around
    a moving thing it changes much from cell to cell, and there something is hidden in the other picture.
    """
    h, w = displacement.shape[2:4]
    places = cell_centres(h, w, displacement) + displacement
    cell = displacement.new_tensor((1 / w, 1 / h))
    outside = (torch.relu(-places) + torch.relu(places - 1)) / cell
    inside = (1 - outside).clamp(0, 1).amin(-1, keepdim=True)
    # how much the map stretches, in cells of source a cell: 1 where the picture is moved as a whole
    across = torch.gradient(displacement / cell, dim=3)[0]
    down = torch.gradient(displacement / cell, dim=2)[0]
    tear = (across.square().sum(-1, keepdim=True) + down.square().sum(-1, keepdim=True)).sqrt()
    return inside * torch.exp(-tear)


def two_way(keyframe: Tensor, vectors: Tensor, next_keyframe: Tensor, next_vectors: Tensor) -> TwoWay:
    """The frames of a clip as both its own and the next keyframe tell them.

    Args:
        keyframe: [B, 3, H, W], frame 0.
        vectors: [B, T, h, w, 2], the clip's field.
        next_keyframe: [B, 3, H, W], the frame after the clip's last.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field (slot 0 is used).

    Returns:
        pictures in the range of the keyframes, and how far each side can be trusted.
    """
    height, width = keyframe.shape[-2:]
    steps = vectors.shape[1]
    back, onward = compose(vectors), towards(vectors, next_vectors)
    forward, backward = warp(keyframe, back), warp(next_keyframe, onward)
    trust = resize(confidence(back), height, width).movedim(-1, 2)
    trust_next = resize(confidence(onward), height, width).movedim(-1, 2)
    nearness = (torch.arange(steps, device=keyframe.device, dtype=keyframe.dtype) / steps).view(1, steps, 1, 1, 1)
    # where neither side can be trusted, nearness in time decides alone
    weight = (1 - nearness) * (trust + 1e-3)
    weight_next = nearness * (trust_next + 1e-3)
    pictures = (forward * weight + backward * weight_next) / (weight + weight_next)
    return TwoWay(pictures, forward, backward, trust, trust_next)
