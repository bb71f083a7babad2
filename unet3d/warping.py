"""Backward warping of keyframes along the motion of a clip.

Convention (`codec.types.MotionField`): the content of a cell at step t stood at (x + dx, y + dy) at step t - 1, in
fractions of the frame. Displacements keep it: the content at a position in frame t is found at position + displacement
in the picture that is warped. Positions are (x, y) in fractions of the frame; a sampling grid [..., H, W, 2] holds the
position that each pixel is read at. Every function is batched over B and differentiable.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_vq.fields import cell_centres, follow, sample

FIXED_POINT_STEPS = 8
"""Enough where neighbouring cells differ by less than a cell; where they differ by more, no inverse exists."""
ALL_FRAMES = slice(None)
Resize = Callable[[Tensor, int, int], Tensor]
"""Resizes values [B, T, h, w, C] to a height and width, as `resize_fields` does."""


@dataclass(frozen=True)
class WarpedFrames:
    """The frames of a clip, warped from its keyframe and, where there is one, from the next clip's keyframe.

    Without a next keyframe `backward` is `forward`, with confidence 0.
    """

    forward: Tensor
    """[B, T, 3, H, W]: the clip's own keyframe, warped."""
    backward: Tensor
    """[B, T, 3, H, W]: the next clip's keyframe, warped."""
    forward_confidence: Tensor
    """[B, T, 1, H, W] in 0 to 1: whether the keyframe shows this content at all."""
    backward_confidence: Tensor
    """[B, T, 1, H, W] in 0 to 1: whether the next keyframe shows it."""
    forward_grid: Tensor
    """[B, T, H, W, 2]: sampling grid of `forward`."""
    backward_grid: Tensor
    """[B, T, H, W, 2]: sampling grid of `backward`."""
    near: Tensor | None = None
    """[T, 1, 1, 1], see `nearness`; None without a next keyframe."""

    @property
    def blended(self) -> Tensor:
        """Both warps, blended by nearness in time and by confidence, [B, T, 3, H, W]; computed when it is asked for."""
        if self.near is None:
            return self.forward
        # where neither warp can be trusted, nearness in time decides alone; 1.5 was measured to be best
        weight = (1 - self.near) ** 1.5 * (self.forward_confidence + 1e-3)
        next_weight = self.near**1.5 * (self.backward_confidence + 1e-3)
        return (self.forward * weight + self.backward * next_weight) / (weight + next_weight)


def warp_forward(
    keyframe: Tensor, vectors: Tensor, window: slice = ALL_FRAMES, resize: Resize | None = None
) -> WarpedFrames:
    """Warp the frames of a clip from its keyframe alone.

    Args:
        keyframe: [B, 3, H, W], frame 0.
        vectors: [B, T, h, w, 2], the clip's field, on any grid.
        window: frames to return.
        resize: does `resize_fields` for displacements and confidences; for frames that decide no id.

    Returns:
        frames in the range of the keyframe; frame 0 is the keyframe.
    """
    vectors = upsample_vectors(vectors, *keyframe.shape[-2:])
    return _warp_forward(keyframe, vectors, _invert_steps(vectors[:, 1:]), window, resize or resize_fields)


def warp_bidirectional(
    keyframe: Tensor,
    vectors: Tensor,
    next_keyframe: Tensor,
    next_vectors: Tensor,
    window: slice = ALL_FRAMES,
    resize: Resize | None = None,
) -> WarpedFrames:
    """Warp the frames of a clip from its own and the next clip's keyframe.

    Args:
        keyframe: [B, 3, H, W], frame 0.
        vectors: [B, T, h, w, 2], the clip's field, on any grid.
        next_keyframe: [B, 3, H, W], the frame after the clip's last.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field (slot 0 is used).
        window: frames to return.
        resize: see `warp_forward`.

    Returns:
        frames in the range of the keyframes.
    """
    resize = resize or resize_fields
    vectors = upsample_vectors(torch.cat((vectors, next_vectors[:, :1]), dim=1), *keyframe.shape[-2:])
    inverses = _invert_steps(vectors[:, 1:])
    vectors, last = vectors[:, :-1], vectors[:, -1]
    own = _warp_forward(keyframe, vectors, inverses[:, :-1], window, resize)
    path = _extend_path(last, list(vectors.unbind(1)[:0:-1])).flip(1)[:, window]
    displacement = _displacements_to_next(inverses)[:, window]
    grid = sampling_grid(displacement, keyframe, resize)
    backward = sample_frames(next_keyframe, grid)
    next_confidence = _at_picture_size(warp_confidence(displacement, path), keyframe, resize)
    near = nearness(vectors.shape[1], keyframe)[window].view(-1, 1, 1, 1)
    return WarpedFrames(own.forward, backward, own.forward_confidence, next_confidence, own.forward_grid, grid, near)


def warp_from_previous(previous_frame: Tensor, vectors: Tensor) -> Tensor:
    """Warp the last frame of the clip before, [B, 3, H, W], along a clip's field [B, T, h, w, 2]: [B, T, 3, H, W]."""
    fine = upsample_vectors(vectors, *previous_frame.shape[-2:])
    steps = [follow(displacement, fine[:, 0]) for displacement in compose(fine).unbind(1)]
    return warp(previous_frame, torch.stack(steps, dim=1))


def warp(picture: Tensor, displacement: Tensor) -> Tensor:
    """Warp a picture [B, C, H, W] along T displacements [B, T, h, w, 2] on any grid: [B, T, C, H, W]."""
    return sample_frames(picture, sampling_grid(displacement, picture))


def compose(vectors: Tensor) -> Tensor:
    """Add up the steps of a field to displacements back to frame 0.

    Args:
        vectors: [B, T, h, w, 2], a clip's field; slot 0 (the step into the keyframe) is not used.

    Returns:
        [B, T, h, w, 2]: where the content of each cell of frame t stood in frame 0, relative to it; zero at t = 0.
    """
    displacements = [torch.zeros_like(vectors[:, 0])]
    for step in vectors.unbind(1)[1:]:
        displacements.append(follow(step, displacements[-1]))
    return torch.stack(displacements, dim=1)


def compose_to_next(vectors: Tensor, next_vectors: Tensor) -> Tensor:
    """Add up the steps of a field to displacements forward to the next keyframe.

    Args:
        vectors: [B, T, h, w, 2], a clip's field.
        next_vectors: [B, 1 or more, h, w, 2], the next clip's field; only slot 0 is used, the step from this clip's
            last frame into the next keyframe.

    Returns:
        [B, T, h, w, 2]: where the content of each cell of frame t will stand in the next keyframe, relative to it.
    """
    return _displacements_to_next(_invert_steps(torch.cat((vectors[:, 1:], next_vectors[:, :1]), dim=1)))


def invert(step: Tensor) -> Tensor:
    """Return the inverse of a step [B, h, w, 2], u(x) = -step(x + u(x)), by fixed-point iteration."""
    centres = cell_centres(step.shape[1], step.shape[2], step)
    channels = step.permute(0, 3, 1, 2)
    inverse = -step
    for _ in range(FIXED_POINT_STEPS):
        inverse = -sample(channels, centres + inverse).permute(0, 2, 3, 1)
    return inverse


def upsample_vectors(vectors: Tensor, height: int, width: int) -> Tensor:
    """Resize vectors to half the size of a picture, where adding up steps loses less (0.4 dB)."""
    return resize_fields(vectors, (height + 1) // 2, (width + 1) // 2)


def resize_fields(values: Tensor, height: int, width: int) -> Tensor:
    """Resize values [B, T, h, w, C] bicubically to [B, T, height, width, C], centres of the grids aligned."""
    batch, steps, h, w, channels = values.shape
    if (h, w) == (height, width):
        return values
    flat = values.reshape(batch * steps, h, w, channels).permute(0, 3, 1, 2)
    # made contiguous: bicubic interpolation takes half the time then
    resized = F.interpolate(flat.contiguous(), size=(height, width), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(batch, steps, height, width, channels)


def sampling_grid(displacement: Tensor, picture: Tensor, resize: Resize = resize_fields) -> Tensor:
    """Return the sampling grid [B, T, H, W, 2] of displacements [B, T, h, w, 2] in a picture [..., H, W]."""
    height, width = picture.shape[-2:]
    return cell_centres(height, width, picture) + resize(displacement, height, width)


def sample_frames(picture: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Read a picture [B, C, H, W] through a sampling grid [B, T, h, w, 2]: [B, T, C, h, w]; see `fields.sample`."""
    repeated = picture[:, None].expand(-1, grid.shape[1], -1, -1, -1)
    return sample(repeated.flatten(0, 1), grid.flatten(0, 1), mode).unflatten(0, grid.shape[:2])


def inside_frame(positions: Tensor, margin: Tensor) -> Tensor:
    """Return whether positions [..., 2] lie in the frame, [..., 1]: 1 up to its border, 0 from `margin` [2] beyond."""
    # by coordinates: operations along a last dimension of two values take twice the time
    x, y = positions.unbind(-1)
    outside = torch.maximum((x - x.clamp(0, 1)).abs() / margin[0], (y - y.clamp(0, 1)).abs() / margin[1])
    return (1 - outside).clamp(0, 1)[..., None]


def nearness(steps: int, like: Tensor) -> Tensor:
    """Return the time of a clip's frames, [steps]: 0 at the keyframe, 1 at the next clip's keyframe."""
    return torch.arange(steps, device=like.device, dtype=like.dtype) / steps


def warp_confidence(displacement: Tensor, path: Tensor) -> Tensor:
    """Return how far a warp along a displacement can be trusted, [B, T, h, w, 1] in 0 to 1.

    It is 0 where the content comes from outside the frame, or where no content of the warped picture arrives (it was
    hidden there). Elsewhere it falls with the change of displacement from cell to cell, which is large at the outlines
    of moving things.

    Args:
        displacement: [B, T, h, w, 2], from each frame back to the picture that is warped.
        path: [B, T, h, w, 2], the same motion from that picture's side: where its content goes.
    """
    h, w = displacement.shape[2:4]
    positions = cell_centres(h, w, displacement) + displacement
    cell = displacement.new_tensor((1 / w, 1 / h))
    # change of displacement from cell to cell, in cells: 0 where the picture is moved as a whole
    across = torch.gradient(displacement / cell, dim=3)[0]
    down = torch.gradient(displacement / cell, dim=2)[0]
    change = (across.square().sum(-1, keepdim=True) + down.square().sum(-1, keepdim=True)).sqrt()
    covered = coverage(path.flatten(0, 1)).view_as(change)
    return inside_frame(positions, cell) * covered * torch.exp(-change)


def coverage(path: Tensor) -> Tensor:
    """Return how much of each cell is reached when content moves along `path` [N, h, w, 2]: [N, h, w, 1], 0 to 1."""
    count, h, w, _ = path.shape
    x, y = ((cell_centres(h, w, path) + path) * path.new_tensor((w, h)) - 0.5).unbind(-1)
    left, top = x.floor(), y.floor()
    reached = path.new_zeros(count, h * w)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
        share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
        index = row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long()
        reached.scatter_add_(1, index.flatten(1), share.flatten(1))
    return reached.clamp(0, 1).view(count, h, w, 1)


def _warp_forward(keyframe: Tensor, vectors: Tensor, inverses: Tensor, window: slice, resize: Resize) -> WarpedFrames:
    """Do `warp_forward` with an upsampled field and the inverses [B, T - 1, h, w, 2] of its steps after the first."""
    displacement = compose(vectors)
    # the keyframe shows that part of frame t which its own content has reached by then
    path = _extend_path(displacement[:, 0], list(inverses.unbind(1)))
    displacement, path = displacement[:, window], path[:, window]
    grid = sampling_grid(displacement, keyframe, resize)
    frames = sample_frames(keyframe, grid)
    confidence = _at_picture_size(warp_confidence(displacement, path), keyframe, resize)
    return WarpedFrames(frames, frames, confidence, torch.zeros_like(confidence), grid, grid)


def _invert_steps(steps: Tensor) -> Tensor:
    """Return `invert` of each of the steps [B, n, h, w, 2]."""
    return invert(steps.flatten(0, 1)).view_as(steps)


def _displacements_to_next(inverses: Tensor) -> Tensor:
    """Do `compose_to_next` with the inverses [B, T, h, w, 2] of the steps, the one into the next keyframe last."""
    displacements = [inverses[:, -1]]
    for step in inverses.unbind(1)[-2::-1]:
        displacements.append(follow(step, displacements[-1]))
    return torch.stack(displacements[::-1], dim=1)


def _extend_path(start: Tensor, steps: list[Tensor]) -> Tensor:
    """Return where content goes that has moved by `start` and then takes n steps [B, h, w, 2]: [B, 1 + n, h, w, 2]."""
    paths = [start]
    for step in steps:
        paths.append(follow(paths[-1], step))
    return torch.stack(paths, dim=1)


def _at_picture_size(confidence: Tensor, picture: Tensor, resize: Resize) -> Tensor:
    """Resize confidences [B, T, h, w, 1] to a picture [..., H, W]: [B, T, 1, H, W]."""
    return resize(confidence, *picture.shape[-2:]).clamp(0, 1).movedim(-1, 2)
