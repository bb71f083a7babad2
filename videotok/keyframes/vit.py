"""A picture as a row of square patches, in raster order, and back.

Patches of a picture to features: a plain vision transformer (Dosovitskiy et al., arXiv 2010.11929), pre-norm.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn


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


LayerT = TypeVar("LayerT", nn.Linear, nn.Conv2d)


class Attention(nn.Module):
    """Multi-head attention of `x` to itself, or to `memory` where one is given; adds nothing until it is trained."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = silent(nn.Linear(width, width))

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, n, D], memory [B, m, D], mask bool broadcastable to [B, heads, n, m], True where looking is allowed."""
        source = x if memory is None else memory
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # written out: bfloat16 products and a softmax are twice as fast on a CPU as the fused kernel at these lengths
        closeness = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            closeness = closeness.masked_fill(~mask, -torch.inf)
        mixed = closeness.softmax(dim=-1).to(value.dtype) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Linear-GELU-Linear; adds nothing until it is trained."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), silent(nn.Linear(hidden, width)))


class Block(nn.Module):
    """One transformer block: self-attention, then an MLP, each added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, D]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class VisionTransformer(nn.Module):
    """images [B, 3, S, S] in [-1, 1] -> features [B, N, D], one a patch, in raster order.

    No class token: every feature belongs to a place in the picture. No norm at the end: the straight path from pixels
    to words stays linear, so that training can begin as a linear code (start.py).
    """

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patches = nn.Linear(3 * patch_size**2, width)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(patchify(images, self.patch_size)) + self.positions
        for block in self.blocks:
            x = block(x)
        return x


def silent(layer: LayerT) -> LayerT:
    """The layer with weights and bias zero: a branch that begins as nothing leaves the path beside it as it is."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
