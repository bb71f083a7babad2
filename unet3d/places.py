"""Places: where pictures are read, as (x, y) in fractions of the frame, on grids of any size."""

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


def places_of(displacement: Tensor, picture: Tensor) -> Tensor:
    """Where every pixel of a picture [..., H, W] is read through displacements [B, T, h, w, 2]: [B, T, H, W, 2]."""
    height, width = picture.shape[-2:]
    return cell_centres(height, width, picture) + resize(displacement, height, width)


def follow(step: Tensor, onward: Tensor) -> Tensor:
    """Two displacements [B, h, w, 2] one after the other: `step` from here, then `onward` from where that leads."""
    places = cell_centres(step.shape[1], step.shape[2], step) + step
    return step + sample(onward.permute(0, 3, 1, 2), places).permute(0, 2, 3, 1)
