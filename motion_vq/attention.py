"""Transformer layers that every model here shares: attention, feed-forward, space-time blocks, and stages of these."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


_ONEDNN_BATCH = 16
"""torch gives a 1x1 convolution to oneDNN from this batch on, with one thread."""


class Linear(nn.Linear):
    """A linear layer that takes half the time in float32 on AMD's CPUs with AVX-512, where gradients are not recorded.

    There MKL, which torch multiplies matrices with, uses AVX2 alone (100 instead of 200 GFLOP/s on a Zen 5 core);
    oneDNN, which torch convolves with, does not. So the layer is a 1x1 convolution of rows spread over a batch. Its
    sums are rounded in another order: errors were 1.5 times as large.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features] of [..., in_features]."""
        if torch.is_grad_enabled() or x.dtype != torch.float32 or not _convolution_is_faster(x.device.type):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        count = len(rows)
        if count < _ONEDNN_BATCH:
            return super().forward(x)
        if count % _ONEDNN_BATCH:
            rows = F.pad(rows, (0, 0, 0, -count % _ONEDNN_BATCH))
        pixels = rows.view(_ONEDNN_BATCH, -1, 1, self.in_features).movedim(-1, 1)
        result = F.conv2d(pixels, self.weight[:, :, None, None], self.bias).movedim(1, -1)
        return result.reshape(-1, self.out_features)[:count].view(*x.shape[:-1], self.out_features)


@functools.cache
def _convolution_is_faster(device_type: str) -> bool:
    return (
        device_type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and not _is_intel()
    )


def _is_intel() -> bool:
    """Return whether MKL uses all of this CPU; True where it is not known."""
    try:
        return "AuthenticAMD" not in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True


class Attention(nn.Module):
    """Multi-head attention: of `x` to itself, or to `memory` where one is given.

    Args:
        width: channels of input and output.
        heads: attention heads; must divide `width`.
        zero_init: the output layer starts at zero, so that a residual branch adds nothing until it is trained.
        fused_kernel: use torch's `scaled_dot_product_attention`. False writes the products out, which takes half the
            time on a CPU in bfloat16 for a few hundred keys. The two round differently.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, *, zero_init: bool = False, fused_kernel: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"`heads` (={heads}) must divide `width` (={width})")
        self.heads = heads
        self.fused_kernel = fused_kernel
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)
        if zero_init:
            zero_module(self.out)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the attended features [..., N, C].

        Args:
            x: [..., N, C].
            memory: [..., M, C], what is attended to; `x` itself where not given.
            mask: bool, broadcastable to [..., heads, N, M]; True where attention is allowed.
        """
        query, key, value = self.project(x, memory)
        if self.fused_kernel:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        return self.merge_heads(mixed)

    def project(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return query [..., heads, N, C / heads], key and value [..., heads, M, C / heads]."""
        source = x if memory is None else memory
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        return query, key, value

    def merge_heads(self, mixed: Tensor) -> Tensor:
        """Return the output [..., N, C] of mixed values [..., heads, N, C / heads]."""
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear: [..., C] -> [..., C].

    `zero_init`: the last layer starts at zero, so that a residual branch adds nothing until it is trained.
    """

    def __init__(self, width: int, hidden: int, *, zero_init: bool = False) -> None:
        super().__init__(Linear(width, hidden), nn.GELU(), Linear(hidden, width))
        if zero_init:
            zero_module(self[2])


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then feed-forward, each added to its input. [B, N, C] -> [B, N, C].

    Both branches start at zero: an untrained block returns its input.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, zero_init=True, fused_kernel=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, zero_init=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class SpaceTimeBlock(nn.Module):
    """Pre-norm block for [B, T, h, w, C]: attention within each step, over time at each cell, then feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.spatial_attention = Attention(width, heads)
        self.temporal_attention = Attention(width, heads)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:4]
        x = x + self.spatial_attention(self.norm0(x).flatten(2, 3)).unflatten(2, grid)
        x = x + self.temporal_attention(self.norm1(x).movedim(1, 3)).movedim(3, 1)
        return x + self.mlp(self.norm2(x))


def tanh_head(in_width: int, out_width: int) -> nn.Sequential:
    """Return the projection Linear, Tanh, Linear that LaVIT has before and after its codebooks."""
    return nn.Sequential(nn.Linear(in_width, in_width), nn.Tanh(), nn.Linear(in_width, out_width))


def zero_module(module: ModuleT) -> ModuleT:
    """Set all parameters of a module to zero, and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def split_fused_attention(state_dict: dict[str, Any]) -> None:
    """Turn attention weights stored as one `qkv` layer into those of `Attention`, in place.

    The fused layer has the biases `q_bias` and `v_bias` and none for keys, which the softmax would ignore: it becomes
    zero. `proj` becomes `out`.
    """
    for name in [name for name in state_dict if name.endswith(".qkv.weight")]:
        prefix = name.removesuffix("qkv.weight")
        fused, query_bias = state_dict.pop(name), state_dict.pop(prefix + "q_bias")
        value_bias = state_dict.pop(prefix + "v_bias")
        width = len(query_bias)
        state_dict[prefix + "query.weight"], state_dict[prefix + "query.bias"] = fused[:width], query_bias
        state_dict[prefix + "key_value.weight"] = fused[width:]
        state_dict[prefix + "key_value.bias"] = torch.cat([torch.zeros_like(value_bias), value_bias])
        for part in ("weight", "bias"):
            state_dict[f"{prefix}out.{part}"] = state_dict.pop(f"{prefix}proj.{part}")


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
