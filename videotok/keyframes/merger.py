"""Kept patches take in what the dropped ones knew."""

import torch
from torch import Tensor, nn

from videotok.keyframes.vit import Attention, FeedForward


class MergerBlock(nn.Module):
    """Causal self-attention over kept patches, cross-attention to dropped ones, MLP (LaVIT, arXiv 2309.04669)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm = nn.LayerNorm(width)
        self.causal = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, kept: Tensor, memory: Tensor, dropped: Tensor) -> Tensor:
        """kept [B, n, D], memory [B, m, D], dropped bool [B, 1, 1, m] -> [B, n, D]."""
        past = torch.ones(kept.shape[1], kept.shape[1], dtype=torch.bool, device=kept.device).tril()
        kept = kept + self.causal(self.causal_norm(kept), mask=past)
        kept = kept + self.cross(self.cross_norm(kept), self.memory_norm(memory), mask=dropped)
        return kept + self.mlp(self.mlp_norm(kept))


class Merger(nn.Module):
    """features [B, N, D] and which to keep -> kept tokens [B, n, D], which of these are there, bool [B, n].

    n is the largest number kept in the batch; shorter pictures are padded at the end, where the causal order keeps the
    padding out of every token's sight.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(MergerBlock(width, heads, hidden) for _ in range(depth))

    def forward(self, features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        kept, present = pack(features, keep_mask)
        # a picture that drops no patch still needs something to look at: attention over nothing is not a number
        memory = torch.cat([self.nothing.to(features.dtype).expand(len(features), 1, -1), features], dim=1)
        dropped = torch.cat([keep_mask.new_ones(len(features), 1), ~keep_mask], dim=1)[:, None, None]
        for block in self.blocks:
            kept = block(kept, memory, dropped)
        return kept, present


def pack(features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Moves kept patches to the front in raster order: [B, N, D], bool [B, N] -> [B, n, D], present bool [B, n]."""
    counts = keep_mask.sum(dim=1)
    longest = int(counts.max())
    order = (~keep_mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    present = torch.arange(longest, device=keep_mask.device) < counts[:, None]
    return features.gather(1, order[..., None].expand(-1, -1, features.shape[-1])), present


def unpack(kept: Tensor, present: Tensor, keep_mask: Tensor) -> Tensor:
    """The way back: tokens [B, n, D] at their patches, zero at the others -> [B, N, D]."""
    placed = kept.new_zeros(*keep_mask.shape, kept.shape[-1])
    placed[keep_mask] = kept[present]
    return placed
