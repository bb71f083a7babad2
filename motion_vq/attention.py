"""Transformer layers that every model here shares: attention, feed-forward, transformer block, space-time block."""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
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
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
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
