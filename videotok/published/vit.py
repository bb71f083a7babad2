"""EVA's vision transformer (arXiv 2211.07636) up to its last block, and the blocks of LaVIT's tokenizer."""

import torch
from torch import Tensor, nn

from videotok.keyframes.patches import patchify
from videotok.keyframes.vit import Attention, Block, FeedForward, VisionTransformer

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's, of pixels in [0, 1]."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class EvaTransformer(VisionTransformer):
    """images [B, 3, S, S] in [-1, 1] -> features [B, N, D], one a patch; a class token goes along and is left out."""

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__(image_size, patch_size, width, depth, heads, hidden)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2 + 1, width))
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def forward(self, images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
        x = self.patches(patchify(((images + 1) / 2 - mean) / std, self.patch_size))
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


class LeakyAttention(Attention):
    """Attention whose mask leaks: with the exponentials e and the mask m (0 or 1), weights over N places are

        (e m + leak / N) / (sum(e m) + leak)

    e is taken relative to the largest score, masked ones included (DynamicViT, Rao et al., arXiv 2106.02034, eq. 11).
    """

    leak = 1e-6

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], memory [B, N, D], mask bool broadcastable to [B, heads, N, N], True where looking is allowed."""
        if mask is None:
            return super().forward(x, memory)
        source = x if memory is None else memory
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        closeness = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        allowed = (closeness - closeness.amax(-1, keepdim=True)).float().exp() * mask
        weights = (allowed + self.leak / source.shape[1]) / (allowed.sum(-1, keepdim=True) + self.leak)
        return self.out((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


class LeakyMergerBlock(nn.Module):
    """Causal self-attention of kept patches, cross-attention of all to dropped ones, MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.causal, self.cross = LeakyAttention(width, heads), LeakyAttention(width, heads)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor, dropped: Tensor) -> Tensor:
        """x and memory [B, N, D]; seen bool [B, 1, N, N], dropped bool [B, 1, 1, N]."""
        x = x + self.causal(self.causal_norm(x), mask=seen)
        x = x + self.cross(self.cross_norm(x), memory, mask=dropped)
        return x + self.mlp(self.mlp_norm(x))


class LeakyMerger(nn.Module):
    """features [B, N, D] and which to keep -> merged [B, N, D], of which the kept ones count.

    LaVIT's own: all patches go through, dropped ones see themselves beside the kept ones before them.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.memory_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(LeakyMergerBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, keep_mask: Tensor) -> Tensor:
        count = keep_mask.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=keep_mask.device)
        seen = (keep_mask[:, None, None] | itself) & torch.ones_like(itself).tril()
        memory, x = self.memory_norm(features), features
        for block in self.blocks:
            x = block(x, memory, seen, ~keep_mask[:, None, None])
        return self.norm(x)


class CrossBlock(Block):
    """Self-attention, attention to a memory, MLP, each added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, n, D], memory [B, m, D], mask bool [B, 1, 1, m], True where memory is there."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.cross(self.cross_norm(x), memory, mask)
        return x + self.mlp(self.mlp_norm(x))
