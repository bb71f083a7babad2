"""A picture as a row of square patches, in raster order, and back."""

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, C, S, S] -> [B, N, C * patch_size**2]."""
    batch, channels, size, _ = images.shape
    side = size // patch_size
    cells = images.reshape(batch, channels, side, patch_size, side, patch_size)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, channels * patch_size**2)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """[B, N, C * patch_size**2] -> [B, C, S, S]; N must be a square number."""
    batch, count, values = patches.shape
    side, channels = round(count**0.5), values // patch_size**2
    cells = patches.reshape(batch, side, side, channels, patch_size, patch_size)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side * patch_size, side * patch_size)
