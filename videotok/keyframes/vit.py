"""A vision transformer, and images as rows of square patches."""

import torch
from einops import rearrange
from torch import Tensor, nn

from motion_vq.attention import TransformerBlock


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images [B, C, S, S] into patches [B, N, C * patch_size**2], in raster order."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """Join patches [B, N, C * patch_size**2] into images [B, C, S, S]; N must be a square number."""
    side = round(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=side, p=patch_size, q=patch_size)


class VisionTransformer(nn.Module):
    """A plain vision transformer (Dosovitskiy et al., arXiv 2010.11929): images to features, one for each patch.

    There is no class token: every feature belongs to a patch. There is no norm at the end: the straight path from
    pixels to codes stays linear, so that training can start from a linear code (`videotok.keyframes.initialization`).
    """

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int) -> None:
        """Build `depth` blocks with features of `width` values and MLPs of `hidden`."""
        super().__init__()
        self.patch_size = patch_size
        self.patches = nn.Linear(3 * patch_size**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, N, width] of images [B, 3, S, S] in [-1, 1], in raster order."""
        x = self.patches(patchify(images, self.patch_size)) + self.positions
        for block in self.blocks:
            x = block(x)
        return x
