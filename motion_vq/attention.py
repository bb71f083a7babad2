"""Space-time attention and changes of resolution, for tensors [B, T, h, w, C]."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]


class Attention(nn.Module):
    """Self-attention over the second-last dimension of [..., N, C]. Keys have no bias: softmax ignores their shift."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"`heads` (={heads}) must divide `width` (={width})")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        projected = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = projected.movedim(-3, 0).transpose(-2, -3)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


class SpaceTimeBlock(nn.Module):
    """Attention within each step, attention of each cell over time, MLP; each on the normalised input, added to it."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.spatial_attention = Attention(width, heads)
        self.temporal_attention = Attention(width, heads)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        height_width = x.shape[2:4]
        x = x + self.spatial_attention(self.norm0(x).flatten(2, 3)).unflatten(2, height_width)
        x = x + self.temporal_attention(self.norm1(x).movedim(1, 3)).movedim(3, 1)
        return x + self.mlp(self.norm2(x))


class Downsample(nn.Module):
    """Strided Conv3d, kernel 3; zeros on both sides, only behind along an axis that is strided, as published."""

    def __init__(self, in_width: int, out_width: int, stride: Stride) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_width, out_width, 3, stride)
        self.padding = [side for step in reversed(stride) for side in (int(step == 1), 1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.movedim(-1, 1), self.padding)).movedim(1, -1)


class Upsample(nn.Module):
    """Nearest neighbour, then Conv3d, kernel 3."""

    def __init__(self, in_width: int, out_width: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv3d(in_width, out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1)
        for dim, factor in enumerate(self.stride):
            x = x.repeat_interleave(factor, dim + 2)
        return self.conv(x).movedim(1, -1)


class Encoder(nn.Module):
    """Linear in, positions, then stages of blocks, each but the last followed by a `Downsample`; LayerNorm out.

    Stage i has `depths[i]` blocks at `widths[i]`, then stride `strides[i]`; there is one stage more than strides.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[Stride],
        heads: int,
    ) -> None:
        super().__init__()
        steps, height, width = size
        self.in_proj = nn.Linear(in_channels, widths[0])
        self.pos_embed = nn.Parameter(torch.randn(1, height * width, widths[0]) * 0.02)
        self.temp_pos = nn.Parameter(torch.randn(1, steps, widths[0]) * 0.02)
        self.stages = _stages(widths, depths, strides, heads)
        self.down_sample_layers = nn.ModuleList(
            Downsample(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x) + self.pos_embed.unflatten(1, x.shape[2:4])[:, None] + self.temp_pos[:, :, None, None]
        return self.norm(_through(x, self.stages, self.down_sample_layers))


class Decoder(nn.Module):
    """Linear in, positions, then stages of blocks, each but the last followed by an `Upsample`; LayerNorm out."""

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[Stride],
        heads: int,
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(in_channels, widths[0])
        # the published decoder has none: zeros are that
        self.pos_embed = nn.Parameter(torch.zeros(1, *size, widths[0]))
        self.stages = _stages(widths, depths, strides, heads)
        self.up_sample_layers = nn.ModuleList(
            Upsample(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x) + self.pos_embed
        return self.norm(_through(x, self.stages, self.up_sample_layers))


def tanh_head(in_width: int, out_width: int) -> nn.Sequential:
    """Linear-Tanh-Linear."""
    return nn.Sequential(nn.Linear(in_width, in_width), nn.Tanh(), nn.Linear(in_width, out_width))


def silence(linear: nn.Linear) -> None:
    """Makes a layer give zeros, so that what it is added to starts uncorrected."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def _stages(widths: Sequence[int], depths: Sequence[int], strides: Sequence[Stride], heads: int) -> nn.ModuleList:
    if not len(widths) == len(depths) == len(strides) + 1:
        raise ValueError(
            "widths and depths must be one number a stage and strides one fewer, "
            f"got {len(widths)} widths, {len(depths)} depths, {len(strides)} strides"
        )
    return nn.ModuleList(
        nn.Sequential(*(SpaceTimeBlock(width, heads) for _ in range(depth)))
        for width, depth in zip(widths, depths, strict=True)
    )


def _through(x: Tensor, stages: nn.ModuleList, changes: nn.ModuleList) -> Tensor:
    for stage, change in zip(stages, changes, strict=False):
        x = change(stage(x))
    return stages[-1](x)


def fold(x: Tensor, patch: Stride) -> Tensor:
    """[B, T, h, w, C] -> [B, T/t, h/h', w/w', t h' w' C]: patches of cells become the channels of one."""
    t, h, w = patch
    x = x.unflatten(3, (-1, w)).unflatten(2, (-1, h)).unflatten(1, (-1, t))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)


def unfold(x: Tensor, patch: Stride) -> Tensor:
    """The inverse of `fold`."""
    x = x.unflatten(4, (*patch, -1)).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)
