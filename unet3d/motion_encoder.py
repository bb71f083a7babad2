"""Motion features for cross-attention: a clip's motion on a small grid, through a few space-time blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unet3d.warping import resized


class MotionEncoder(nn.Module):
    """Motion [B, T, 2, h, w] of any size to features [B, t * y * x, out_width] on one grid (t, y, x).

    `every_step`: all T steps are kept, whatever the grid says, and resized bicubically, as Video-LaVIT does. Its shape
    is grid (24, 16, 16), 12 layers, width 512, 8 heads, out_width 1024.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        layers: int,
        width: int,
        heads: int,
        out_width: int,
        *,
        every_step: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"`heads` (={heads}) must divide `width` (={width})")
        self.grid: tuple[int, int, int] = (grid[0], grid[1], grid[2])
        self.every_step = every_step
        self.in_proj = nn.Linear(2, width)
        self.pos_embed = nn.Parameter(torch.randn(1, grid[1] * grid[2], width) * 0.02)
        self.blocks = nn.ModuleList(SpaceTimeBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, out_width)

    def of_steps(self, motion: Tensor) -> Tensor:
        """The same, [B, t, y * x, out_width]."""
        return self(motion).unflatten(1, (-1, self.grid[1] * self.grid[2]))

    def forward(self, motion: Tensor) -> Tensor:
        if self.every_step:
            small = resized(motion, *self.grid[1:])
        else:
            small = F.adaptive_avg_pool3d(motion.transpose(1, 2), self.grid).transpose(1, 2)
        features = self.in_proj(small.movedim(2, -1).flatten(2, 3)) + self.pos_embed
        for block in self.blocks:
            features = block(features)
        return self.out_proj(self.norm(features)).flatten(1, 2)


class SpaceTimeBlock(nn.Module):
    """Attention within each step, attention along each place, MLP; pre-norm. [B, t, n, width] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.spatial_attention = SelfAttention(width, heads)
        self.temporal_attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.spatial_attention(self.norm0(features))
        along = self.temporal_attention(self.norm1(features).transpose(1, 2)).transpose(1, 2)
        features = features + along
        return features + self.mlp(self.norm2(features))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the last but one axis; keys have no bias (it would cancel in the softmax)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        mixed = self.qkv(features) + bias  # called, not read: offloading and casting act on what is called
        query, key, value = mixed.unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(-2, -3).flatten(-2))
