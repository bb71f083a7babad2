"""The encoder of keyframes: a vision transformer on patches, and the merger that condenses kept patches."""

import torch
from einops import rearrange
from torch import Tensor, nn

from motion_vq.attention import Attention, FeedForward, TransformerBlock


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


class MergerBlock(nn.Module):
    """Causal self-attention of kept patches, cross-attention to dropped ones, MLP (LaVIT, arXiv 2309.04669)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.causal_norm = nn.LayerNorm(width)
        self.causal = Attention(width, heads, zero_init=True, fused_kernel=False)
        self.cross_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, zero_init=True, fused_kernel=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, zero_init=True)

    def forward(self, kept: Tensor, memory: Tensor, visible: Tensor, dropped: Tensor) -> Tensor:
        """Return updated patches [B, n, width].

        Args:
            kept: [B, n, width].
            memory: [B, m, width]: all patches.
            visible: bool, broadcastable to [B, heads, n, n]: which patches each one may attend to.
            dropped: bool [B, 1, 1, m]: which patches of the memory were dropped.
        """
        kept = kept + self.causal(self.causal_norm(kept), mask=visible)
        kept = kept + self.cross(self.cross_norm(kept), self.memory_norm(memory), mask=dropped)
        return kept + self.mlp(self.mlp_norm(kept))


class Merger(nn.Module):
    """Merges the features of dropped patches into those of kept ones."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        """Build `depth` blocks with features of `width` values and MLPs of `hidden`."""
        super().__init__()
        self.null_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(MergerBlock(width, heads, hidden) for _ in range(depth))

    def forward(self, features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Merge, and pack the kept patches.

        Args:
            features: [B, N, width].
            keep_mask: bool [B, N].

        Returns:
            Merged features [B, n, width] and which of them are patches, bool [B, n]. n is the largest number kept in
            the batch; shorter images are padded at the end, where causal attention keeps the padding invisible.
        """
        kept, present = pack(features, keep_mask)
        visible = torch.ones(kept.shape[1], kept.shape[1], dtype=torch.bool, device=kept.device).tril()
        return self._through_blocks(kept, features, visible, keep_mask), present

    def merge_in_place(self, features: Tensor, keep_mask: Tensor) -> Tensor:
        """Merge without packing: [B, N, width], of which only the kept patches count.

        Gives the same values as `forward`. Shapes do not depend on the mask, which makes training on a GPU faster.
        """
        count = features.shape[1]
        # a dropped patch attends to itself: attention to nothing is not a number
        itself = torch.eye(count, dtype=torch.bool, device=features.device)
        visible = (torch.ones_like(itself).tril() & keep_mask[:, None]) | itself
        return self._through_blocks(features, features, visible[:, None], keep_mask)

    def _through_blocks(self, kept: Tensor, features: Tensor, visible: Tensor, keep_mask: Tensor) -> Tensor:
        # an image that drops no patch still needs something to attend to
        null = self.null_token.to(features.dtype).expand(len(features), 1, -1)
        memory = torch.cat([null, features], dim=1)
        dropped = torch.cat([keep_mask.new_ones(len(features), 1), ~keep_mask], dim=1)[:, None, None]
        for block in self.blocks:
            kept = block(kept, memory, visible, dropped)
        return kept


def pack(features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move kept patches to the front, in raster order.

    Args:
        features: [B, N, width].
        keep_mask: bool [B, N].

    Returns:
        [B, n, width] and which entries are kept patches, bool [B, n]; n is the largest number kept in the batch.
    """
    counts = keep_mask.sum(dim=1)
    longest = int(counts.max())
    order = (~keep_mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    present = torch.arange(longest, device=keep_mask.device) < counts[:, None]
    return features.gather(1, order[..., None].expand(-1, -1, features.shape[-1])), present


def unpack(kept: Tensor, keep_mask: Tensor) -> Tensor:
    """Undo `pack`: [B, n, width] to [B, N, width], zero at dropped patches."""
    if kept.shape[1] == 0:
        return kept.new_zeros(*keep_mask.shape, kept.shape[-1])
    # by gathering and not by boolean masks, whose sizes a GPU would have to tell the CPU first
    places = (keep_mask.cumsum(dim=1) - 1).clamp(min=0)
    gathered = kept.gather(1, places[..., None].expand(-1, -1, kept.shape[-1]))
    return torch.where(keep_mask[..., None], gathered, 0)
