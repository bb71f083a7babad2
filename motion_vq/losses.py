"""Where a motion field leads: errors of displacement, which is what a warped picture shows.

A frame is warped from its keyframe along the sum of all steps between, so that errors of single steps add up: a small
one that lasts costs more than a large one that does not. And a picture's error stops growing once content is misplaced
by more than its own detail: a large error of displacement must not weigh by its square.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_vq.global_motion import to_pixels

ERROR_FLOOR = 0.1
"""Added to a frame's robust error before its logarithm: about what codec noise and resampling cost anyway."""


def follow(steps: list[Tensor]) -> Tensor:
    """N steps [B, h, w, 2] in fractions of the frame, first to last -> displacements [B, N, h, w, 2] to the start."""
    _, height, width, _ = steps[0].shape
    y = (torch.arange(height, dtype=steps[0].dtype, device=steps[0].device) + 0.5) / height
    x = (torch.arange(width, dtype=steps[0].dtype, device=steps[0].device) + 0.5) / width
    centres = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)
    found = [steps[0]]
    for step in steps[1:]:
        places = (centres + step) * 2 - 1
        onward = F.grid_sample(found[-1].permute(0, 3, 1, 2), places, padding_mode="border", align_corners=False)
        found.append(step + onward.permute(0, 2, 3, 1))
    return torch.stack(found, 1)


def both_ways(vectors: Tensor) -> Tensor:
    """Displacements [B, 2 (T - 1), h, w, 2] of a field [B, T, h, w, 2]: of frames 1.. to the keyframe, then of the
    frames from the last but one to the first towards the last frame, each step taken back where it stands."""
    steps = list(vectors.unbind(1))[1:]
    return torch.cat([follow(steps), follow([-step for step in reversed(steps)])], 1)


def path_loss(decoded: Tensor, vectors: Tensor, valid: Tensor) -> Tensor:
    """Robust error of displacement, per clip [B]: the mean over frames, both ways, of log(1 + error / ERROR_FLOOR).

    The error of a frame is the mean over cells of log(1 + e^2), e in pixels of a 256x144 picture. The logarithm of a
    frame's error makes it follow PSNR: a factor on a nearly still clip is worth what it is worth on a moving one. A
    clip's error is thus about proportional to the dB that its warp loses.
    """
    errors = to_pixels(both_ways(decoded) - both_ways(vectors)).square().sum(-1)
    steps = valid[:, 1:].to(errors.dtype)
    # a cell without a vector holds a guess: worth keeping, not worth much
    trust = 0.2 + 0.8 * torch.cat([steps, steps.flip(1)], 1)
    frames = (trust * torch.log1p(errors)).sum((2, 3)) / trust.sum((2, 3))
    return torch.log1p(frames / ERROR_FLOOR).mean(1)


def step_loss(decoded: Tensor, vectors: Tensor, valid: Tensor) -> Tensor:
    """Robust error of the single steps, slot 0 included, per clip [B]; same units as `path_loss`."""
    errors = to_pixels(decoded - vectors).square().sum(-1)
    trust = 0.2 + 0.8 * valid.to(errors.dtype)
    frames = (trust * torch.log1p(errors)).sum((2, 3)) / trust.sum((2, 3))
    return torch.log1p(frames / ERROR_FLOOR).mean(1)
