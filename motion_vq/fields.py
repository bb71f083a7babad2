"""Units and geometry of motion fields: pixels and fractions, companding, cell centres, displacements step after step.

Convention (`codec.types.MotionField`): the content of a cell at step t stood at (x + dx, y + dy) at step t - 1, in
fractions of the frame.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = (256.0, 144.0)
"""Width and height of the picture whose pixels are the unit of displacement."""


def to_pixels(vectors: Tensor) -> Tensor:
    """Convert vectors [..., 2] from fractions of the frame to pixels of a 256x144 picture."""
    return vectors * vectors.new_tensor(PIXELS)


def to_fractions(vectors: Tensor) -> Tensor:
    """Convert vectors [..., 2] from pixels of a 256x144 picture to fractions of the frame."""
    return vectors / vectors.new_tensor(PIXELS)


def compand(values: Tensor, unit: float) -> Tensor:
    """Return the signed logarithm of values: linear below `unit`, logarithmic above."""
    return values.sign() * torch.log1p(values.abs() / unit)


def expand(values: Tensor, unit: float) -> Tensor:
    """Undo `compand`."""
    return values.sign() * unit * torch.expm1(values.abs())


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Return the centres of a grid's cells, [height, width, 2] as (x, y) in fractions of the frame."""
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)


def sample(values: Tensor, positions: Tensor, mode: str = "bilinear") -> Tensor:
    """Read values [B, C, H, W] at positions [B, h, w, 2], as (x, y) in fractions of the frame: [B, C, h, w].

    Outside the frame stands its border. `mode`: bilinear or bicubic.
    """
    if values.device.type == "mps" and not apple_gpu_reads_borders():
        return sample(values.cpu(), positions.cpu(), mode).to(values.device)
    return F.grid_sample(values, positions * 2 - 1, mode=mode, padding_mode="border", align_corners=False)


@functools.cache
def apple_gpu_reads_borders() -> bool:
    """Return whether this PyTorch reads beyond the border of a picture on Apple's GPUs; before 2.13 it refuses to."""
    values, positions = torch.rand(1, 1, 4, 5, device="mps"), torch.rand(1, 2, 3, 2, device="mps")
    try:
        for mode in ("bilinear", "bicubic"):
            F.grid_sample(values, positions * 4 - 2, mode=mode, padding_mode="border", align_corners=False).cpu()
    except RuntimeError:  # NotImplementedError is one too
        return False
    return True


def follow(step: Tensor, displacement: Tensor) -> Tensor:
    """Return the displacement [B, h, w, 2] along `step`, then along `displacement` from where the step leads."""
    positions = cell_centres(step.shape[1], step.shape[2], step) + step
    return step + sample(displacement.permute(0, 3, 1, 2), positions).permute(0, 2, 3, 1)


def accumulate(steps: list[Tensor]) -> Tensor:
    """Return the displacement after each of N steps [B, h, w, 2] back to where the first leads: [B, N, h, w, 2]."""
    displacements = [steps[0]]
    for step in steps[1:]:
        displacements.append(follow(step, displacements[-1]))
    return torch.stack(displacements, dim=1)
