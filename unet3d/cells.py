"""Cells: pictures as a small grid of deep channels, and back; exact, so no autoencoder is needed."""

import torch.nn.functional as F
from torch import Tensor


def space_to_depth(frames: Tensor, patch: int) -> Tensor:
    """[B, T, C, H, W] to [B, T, C * patch², H / patch, W / patch]; undone by `depth_to_space`."""
    return F.pixel_unshuffle(frames.flatten(0, 1), patch).unflatten(0, frames.shape[:2])


def depth_to_space(cells: Tensor, patch: int) -> Tensor:
    """[B, T, C * patch², h, w] to [B, T, C, h * patch, w * patch]."""
    return F.pixel_shuffle(cells.flatten(0, 1), patch).unflatten(0, cells.shape[:2])


def pooled(maps: Tensor, patch: int) -> Tensor:
    """Means over cells: [B, T, C, H, W] to [B, T, C, H / patch, W / patch]."""
    return F.avg_pool2d(maps.flatten(0, 1), patch).unflatten(0, maps.shape[:2])


def spread_out(cells: Tensor, patch: int, side: int) -> Tensor:
    """Cells of side² values each, [B, T, C * side², h, w], bilinearly to pixels: [B, T, C, h * patch, w * patch]."""
    values = depth_to_space(cells, side)
    fine = F.interpolate(values.flatten(0, 1), scale_factor=patch / side, mode="bilinear", align_corners=False)
    return fine.unflatten(0, cells.shape[:2])


def luma(pictures: Tensor) -> Tensor:
    """Brightness (Rec. 601) of [..., 3, H, W]: [..., H, W]."""
    red, green, blue = pictures.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def resized(fields: Tensor, height: int, width: int) -> Tensor:
    """[B, T, C, h, w] to [B, T, C, height, width], bicubic, centres aligned."""
    flat = F.interpolate(fields.flatten(0, 1), (height, width), mode="bicubic", align_corners=False)
    return flat.unflatten(0, fields.shape[:2])


def around(values: Tensor, patch: int, cells: int) -> Tensor:
    """Means of [B, T, H, W] over squares of so many cells around each pixel: [B, T, 1, H, W]."""
    small = F.avg_pool2d(F.avg_pool2d(values, patch), cells, stride=1, padding=cells // 2, count_include_pad=False)
    return F.interpolate(small, values.shape[-2:], mode="bilinear", align_corners=False)[:, :, None]
