"""Places: where pictures are read, as (x, y) in fractions of the frame, on grids of any size.

Warping: a keyframe, moved along the motion of its clip, is a first guess of every frame.

Convention (`codec.types.MotionField`): the content of a cell at step t stood at (x + dx, y + dy) at step t - 1, in
fractions of the frame. Displacements here keep it: the content of a place in frame t is found at place + displacement
in the picture that is warped (backward warping). Every function is batched over B and differentiable.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres of a grid's cells, [h, w, 2] as (x, y) in fractions of the frame."""
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)


def sample(values: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Values [B, C, H, W] read at places [B, h, w, 2]: [B, C, h, w]. Beyond the frame stands its border.

    `mode`: bilinear or bicubic.
    """
    return F.grid_sample(values, places * 2 - 1, mode=mode, padding_mode="border", align_corners=False)


def inside(places: Tensor, cell: Tensor) -> Tensor:
    """Whether places [..., 2] lie in the frame: [..., 1], 1 to its border, 0 from a cell [2] beyond."""
    outside = (torch.relu(-places) + torch.relu(places - 1)) / cell
    return (1 - outside).clamp(0, 1).amin(-1, keepdim=True)


def read(picture: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """A picture [B, C, H, W] read at places [B, T, h, w, 2]: [B, T, C, h, w]; see `sample`."""
    repeated = picture[:, None].expand(-1, places.shape[1], -1, -1, -1)
    return sample(repeated.flatten(0, 1), places.flatten(0, 1), mode).unflatten(0, places.shape[:2])


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Values [B, T, h, w, C] on another grid, [B, T, height, width, C]; bicubic, centres of the grids aligned."""
    batch, steps, h, w, channels = values.shape
    if (h, w) == (height, width):
        return values
    flat = values.reshape(batch * steps, h, w, channels).permute(0, 3, 1, 2)
    # made contiguous: bicubic interpolation takes half the time then
    resized = F.interpolate(flat.contiguous(), size=(height, width), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(batch, steps, height, width, channels)


def resized(fields: Tensor, height: int, width: int) -> Tensor:
    """[B, T, C, h, w] to [B, T, C, height, width], bicubic, centres aligned."""
    flat = F.interpolate(fields.flatten(0, 1), (height, width), mode="bicubic", align_corners=False)
    return flat.unflatten(0, fields.shape[:2])


def places_of(displacement: Tensor, picture: Tensor) -> Tensor:
    """Where every pixel of a picture [..., H, W] is read through displacements [B, T, h, w, 2]: [B, T, H, W, 2]."""
    height, width = picture.shape[-2:]
    return cell_centres(height, width, picture) + resize(displacement, height, width)


def follow(step: Tensor, onward: Tensor) -> Tensor:
    """Two displacements [B, h, w, 2] one after the other: `step` from here, then `onward` from where that leads."""
    places = cell_centres(step.shape[1], step.shape[2], step) + step
    return step + sample(onward.permute(0, 3, 1, 2), places).permute(0, 2, 3, 1)


FIXED_POINT_STEPS = 8
"""Enough where neighbouring cells differ by less than a cell; where they differ by more, no inverse exists."""
EVERY_FRAME = slice(None)


@dataclass(frozen=True)
class Guess:
    """What the keyframes say about a clip's frames. In a one-way guess `backward` is `forward`, trusted not at all."""

    pictures: Tensor
    """[B, T, 3, H, W]: the guess; two-way: both warps, blended by nearness in time and by confidence."""
    forward: Tensor
    """[B, T, 3, H, W]: the clip's own keyframe, warped."""
    backward: Tensor
    """[B, T, 3, H, W]: the next clip's keyframe, warped."""
    forward_confidence: Tensor
    """[B, T, 1, H, W] in 0..1: whether the keyframe shows this place at all."""
    backward_confidence: Tensor
    """[B, T, 1, H, W] in 0..1: whether the next keyframe shows it."""
    forward_places: Tensor
    """[B, T, H, W, 2]: where `forward` was read, as (x, y) in fractions of the frame."""
    backward_places: Tensor
    """[B, T, H, W, 2]: where `backward` was read."""


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
    return _towards(_inverses(torch.cat((vectors[:, 1:], next_vectors[:, :1]), dim=1)))


def _inverses(steps: Tensor) -> Tensor:
    """`invert` of each of the steps [B, n, h, w, 2]."""
    return invert(steps.flatten(0, 1)).view_as(steps)


def _towards(inverses: Tensor) -> Tensor:
    """`towards` from the steps' inverses [B, T, h, w, 2], the step into the next keyframe last."""
    displacements = [inverses[:, -1]]
    for step in inverses.unbind(1)[-2::-1]:
        displacements.append(follow(step, displacements[-1]))
    return torch.stack(displacements[::-1], dim=1)


def warp(picture: Tensor, displacement: Tensor) -> Tensor:
    """A picture [B, C, H, W] seen T times through displacements [B, T, h, w, 2] of any grid: [B, T, C, H, W]."""
    return read(picture, places_of(displacement, picture))


def chase(start: Tensor, steps: list[Tensor]) -> Tensor:
    """Where content goes that has already gone `start`: steps [B, h, w, 2] to routes [B, 1 + steps, h, w, 2]."""
    routes = [start]
    for step in steps:
        routes.append(follow(routes[-1], step))
    return torch.stack(routes, dim=1)


def coverage(route: Tensor) -> Tensor:
    """How much of each cell is reached when all content moves by `route` [N, h, w, 2]: [N, h, w, 1] in 0..1."""
    count, h, w, _ = route.shape
    places = (cell_centres(h, w, route) + route) * route.new_tensor((w, h)) - 0.5
    corner = places.floor()
    reached = route.new_zeros(count, h * w)
    for shift in route.new_tensor(((0, 0), (1, 0), (0, 1), (1, 1))):
        x, y = (corner + shift).unbind(-1)
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        share = (1 - (places - corner - shift).abs()).prod(-1) * inside
        index = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).long()
        reached.scatter_add_(1, index.flatten(1), share.flatten(1))
    return reached.clamp(0, 1).view(count, h, w, 1)


def confidence(displacement: Tensor, route: Tensor) -> Tensor:
    """How far a warp along a displacement can be trusted.

    0 where the content comes from beyond the frame, or where nothing of the warped picture ever arrives (it was hidden
    there). Elsewhere less, the more the displacement tears: around a moving thing it changes much from cell to cell.

    Args:
        displacement: [B, T, h, w, 2], from each frame back to the picture that is warped.
        route: [B, T, h, w, 2], the same motion from that picture's side: where its content goes.

    Returns:
        [B, T, h, w, 1] in 0..1.
    """
    h, w = displacement.shape[2:4]
    places = cell_centres(h, w, displacement) + displacement
    cell = displacement.new_tensor((1 / w, 1 / h))
    # change of displacement from cell to cell, in cells: 0 where the picture is moved as a whole
    across = torch.gradient(displacement / cell, dim=3)[0]
    down = torch.gradient(displacement / cell, dim=2)[0]
    tear = (across.square().sum(-1, keepdim=True) + down.square().sum(-1, keepdim=True)).sqrt()
    reached = coverage(route.flatten(0, 1)).view_as(tear)
    return inside(places, cell) * reached * torch.exp(-tear)


def one_way(keyframe: Tensor, vectors: Tensor, window: slice = EVERY_FRAME) -> Guess:
    """The frames of a clip as its keyframe alone tells them.

    Args:
        keyframe: [B, 3, H, W], frame 0.
        vectors: [B, T, h, w, 2], the clip's field, on any grid.
        window: frames that are wanted.

    Returns:
        pictures in the range of the keyframe; frame 0 is the keyframe.
    """
    vectors = refine(vectors, *keyframe.shape[-2:])
    return _one_way(keyframe, vectors, _inverses(vectors[:, 1:]), window)


def _one_way(keyframe: Tensor, vectors: Tensor, inverses: Tensor, window: slice) -> Guess:
    """`one_way` from a refined field and the inverses of its steps after the first, [B, T - 1, h, w, 2]."""
    displacement = compose(vectors)
    # what the keyframe shows of frame t is where its own content has gone by then
    route = chase(displacement[:, 0], list(inverses.unbind(1)))
    displacement, route = displacement[:, window], route[:, window]
    places = places_of(displacement, keyframe)
    pictures = read(keyframe, places)
    trust = to_picture(confidence(displacement, route), keyframe)
    return Guess(pictures, pictures, pictures, trust, torch.zeros_like(trust), places, places)


def bidirectional(
    keyframe: Tensor, vectors: Tensor, next_keyframe: Tensor, next_vectors: Tensor, window: slice = EVERY_FRAME
) -> Guess:
    """The frames of a clip as both its own and the next keyframe tell them.

    Args:
        keyframe: [B, 3, H, W], frame 0.
        vectors: [B, T, h, w, 2], the clip's field, on any grid.
        next_keyframe: [B, 3, H, W], the frame after the clip's last.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field (slot 0 is used).
        window: frames that are wanted.

    Returns:
        pictures in the range of the keyframes, and how far each side can be trusted.
    """
    vectors = refine(torch.cat((vectors, next_vectors[:, :1]), dim=1), *keyframe.shape[-2:])
    inverses = _inverses(vectors[:, 1:])
    vectors, last = vectors[:, :-1], vectors[:, -1]
    one = _one_way(keyframe, vectors, inverses[:, :-1], window)
    route = chase(last, list(vectors.unbind(1)[:0:-1])).flip(1)[:, window]
    displacement = _towards(inverses)[:, window]
    places = places_of(displacement, keyframe)
    backward = read(next_keyframe, places)
    trust = to_picture(confidence(displacement, route), keyframe)
    near = nearness(vectors.shape[1], keyframe)[window].view(1, -1, 1, 1, 1)
    # where neither side can be trusted, nearness in time decides alone; 1.5 was measured to be best
    weight = (1 - near) ** 1.5 * (one.forward_confidence + 1e-3)
    next_weight = near**1.5 * (trust + 1e-3)
    pictures = (one.forward * weight + backward * next_weight) / (weight + next_weight)
    return Guess(pictures, one.forward, backward, one.forward_confidence, trust, one.forward_places, places)


def from_before(previous_frame: Tensor, vectors: Tensor) -> Tensor:
    """The last frame of the clip before [B, 3, H, W] along a clip's field [B, T, h, w, 2]: [B, T, 3, H, W]."""
    fine = refine(vectors, *previous_frame.shape[-2:])
    steps = [follow(displacement, fine[:, 0]) for displacement in compose(fine).unbind(1)]
    return warp(previous_frame, torch.stack(steps, dim=1))


def nearness(steps: int, like: Tensor) -> Tensor:
    """Time of a clip's frames on the way to the next keyframe: [steps], 0 at the keyframe, 1 at the next."""
    return torch.arange(steps, device=like.device, dtype=like.dtype) / steps


def refine(vectors: Tensor, height: int, width: int) -> Tensor:
    """Vectors on a grid of half the picture's size, where following them step after step loses less (0.4 dB)."""
    return resize(vectors, (height + 1) // 2, (width + 1) // 2)


def to_picture(values: Tensor, picture: Tensor) -> Tensor:
    """Confidences [B, T, h, w, 1] at the size of a picture [..., H, W]: [B, T, 1, H, W]."""
    return resize(values, *picture.shape[-2:]).clamp(0, 1).movedim(-1, 2)
