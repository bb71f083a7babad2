"""The motion tokenizer's networks: stages of space-time blocks with changes of resolution between them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motion_vq.attention import SpaceTimeBlock

Stride = tuple[int, int, int]
"""Steps, rows and columns."""


class Encoder(nn.Module):
    """Features [B, T, h, w, in_channels] -> [B, T', h', w', widths[-1]].

    A linear layer and position embeddings, then stages of space-time blocks, each but the last followed by a
    `Downsample`, then LayerNorm. Stage i has `depths[i]` blocks of `widths[i]` channels; `strides[i]` follows it, so
    that there is one stride fewer than there are stages.

    Args:
        size: (T, h, w) of the input.
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
        return self.norm(_run_stages(x, self.stages, self.down_sample_layers))


class Decoder(nn.Module):
    """Features [B, T, h, w, in_channels] -> [B, T', h', w', widths[-1]]: as `Encoder`, with `Upsample` for strides."""

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
        # the published decoder has no position embeddings, which is what zeros are
        self.pos_embed = nn.Parameter(torch.zeros(1, *size, widths[0]))
        self.stages = _stages(widths, depths, strides, heads)
        self.up_sample_layers = nn.ModuleList(
            Upsample(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)
        )
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x) + self.pos_embed
        return self.norm(_run_stages(x, self.stages, self.up_sample_layers))


class Downsample(nn.Module):
    """Strided Conv3d with kernel 3, for [B, T, h, w, C].

    Padding with zeros as in the published model: on both sides, but only behind along an axis that is strided.
    """

    def __init__(self, in_width: int, out_width: int, stride: Stride) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_width, out_width, 3, stride)
        self.padding = [side for step in reversed(stride) for side in (int(step == 1), 1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.movedim(-1, 1), self.padding)).movedim(1, -1)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling, then Conv3d with kernel 3, for [B, T, h, w, C]."""

    def __init__(self, in_width: int, out_width: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv3d(in_width, out_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1)
        for dim, factor in enumerate(self.stride):
            x = x.repeat_interleave(factor, dim + 2)
        return self.conv(x).movedim(1, -1)


def fold(x: Tensor, patch: Stride) -> Tensor:
    """Turn patches of cells into channels: [B, T, h, w, C] -> [B, T / pt, h / ph, w / pw, pt * ph * pw * C]."""
    pt, ph, pw = patch
    return rearrange(x, "b (t pt) (h ph) (w pw) c -> b t h w (pt ph pw c)", pt=pt, ph=ph, pw=pw)


def unfold(x: Tensor, patch: Stride) -> Tensor:
    """Undo `fold`: [B, T, h, w, pt * ph * pw * C] -> [B, T * pt, h * ph, w * pw, C]."""
    pt, ph, pw = patch
    return rearrange(x, "b t h w (pt ph pw c) -> b (t pt) (h ph) (w pw) c", pt=pt, ph=ph, pw=pw)


def _stages(widths: Sequence[int], depths: Sequence[int], strides: Sequence[Stride], heads: int) -> nn.ModuleList:
    if not len(widths) == len(depths) == len(strides) + 1:
        raise ValueError(
            "widths and depths must have one number per stage and strides one fewer, "
            f"got {len(widths)} widths, {len(depths)} depths, {len(strides)} strides"
        )
    return nn.ModuleList(
        nn.Sequential(*(SpaceTimeBlock(width, heads) for _ in range(depth)))
        for width, depth in zip(widths, depths, strict=True)
    )


def _run_stages(x: Tensor, stages: nn.ModuleList, resampling: nn.ModuleList) -> Tensor:
    for stage, resample in zip(stages, resampling, strict=False):
        x = resample(stage(x))
    return stages[-1](x)
