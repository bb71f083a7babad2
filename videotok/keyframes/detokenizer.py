"""Codes at their patches to an image: a transformer fills in dropped patches, and a convolutional head adds detail."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motion_vq.attention import TransformerBlock, zero_module
from videotok.keyframes.vit import unpack, unpatchify

GROUPS = 8
"""Groups of the upsampler's group norms."""


class KeyframeDetokenizer(nn.Module):
    """Turns codes [B, n, code_dim] into images [B, 3, S, S].

        codes ──► Linear ──► at their patches; at dropped ones their neighbours' mean + a learned mask token
              ──► + positions ──► transformer blocks: kept patches fill the others (as in MAE, arXiv 2111.06377)
              ──┬─► Linear ──► pixels of each patch ──┬─► + ──► image
                └──────────────► refiner ◄────────────┘  ▲
                                    └────────────────────┘

    The refiner is a `SeamHead`, or a `ConvUpsampler` where `upsampler_widths` are given.
    """

    inverse_distances: Tensor

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        code_dim: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        feature_width: int,
        seam_cells: int,
        seam_width: int,
        upsampler_widths: Sequence[int] | None,
        upsampler_blocks: Sequence[int],
    ) -> None:
        """Build the detokenizer; see `KeyframeTokenizer` for the sizes. `feature_width` is that of the encoder."""
        super().__init__()
        self.patch_size = patch_size
        self.code_embedding = nn.Linear(code_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        side = image_size // patch_size
        self.register_buffer("inverse_distances", inverse_distances(side), persistent=False)
        self.positions = nn.Parameter(0.02 * torch.randn(side**2, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(depth))
        self.feature_head = nn.Linear(width, feature_width)
        self.pixel_head = nn.Linear(width, 3 * patch_size**2)
        self.refiner: SeamHead | ConvUpsampler
        if upsampler_widths is None:
            self.refiner = SeamHead(width, patch_size, seam_cells, seam_width)
        else:
            self.refiner = ConvUpsampler(width, upsampler_widths, upsampler_blocks)

    def forward(self, codes: Tensor, keep_mask: Tensor, *, fast: bool = False) -> Tensor:
        """Return images [B, 3, S, S], unclamped, of codes packed as `merger.pack` does; `fast`: see `to_pixels`."""
        return self.to_pixels(self.fill(codes, keep_mask), fast=fast)

    def fill(self, codes: Tensor, keep_mask: Tensor) -> Tensor:
        """Return features of all patches, [B, N, width].

        Args:
            codes: [B, n, code_dim], packed.
            keep_mask: bool [B, N], the patches they stand at.
        """
        return self._fill(unpack(self.code_embedding(codes), keep_mask), keep_mask)

    def fill_in_place(self, codes: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the same as `fill` for codes [B, N, code_dim] that are at their patches already."""
        return self._fill(torch.where(keep_mask[..., None], self.code_embedding(codes), 0), keep_mask)

    def _fill(self, placed: Tensor, keep_mask: Tensor) -> Tensor:
        weights = self.inverse_distances.to(placed.dtype) * keep_mask[:, None]
        guess = (weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)) @ placed
        x = torch.where(keep_mask[..., None], placed, guess + self.mask_token) + self.positions
        for block in self.blocks:
            x = block(x)
        return x

    def to_pixels(self, features: Tensor, *, fast: bool = False) -> Tensor:
        """Return images [B, 3, S, S], unclamped, from features [B, N, width].

        Args:
            features: what `fill` returns.
            fast: the refiner computes in bfloat16; what it is added to, most of the image, does not.
        """
        coarse = unpatchify(self.pixel_head(features), self.patch_size)
        if not fast:
            return coarse + self.refiner(features, coarse)
        with torch.autocast(features.device.type, torch.bfloat16):
            return coarse + self.refiner(features, coarse).to(coarse)


class SeamHead(nn.Module):
    """Two convolutions on a grid of `cells` x `cells` cells a patch, that remove the seams between patches.

    The cells are fine enough to join patches and coarse enough to be cheap.
    """

    def __init__(self, width: int, patch_size: int, cells: int, cell_width: int) -> None:
        """Build a head for features of `width` values, with cells of `cell_width`; `cells` must divide `patch_size`."""
        super().__init__()
        self.cells_per_side = cells
        self.upscale = patch_size // cells
        self.cells = nn.Linear(width, cell_width * cells**2)
        self.hidden = nn.Conv2d(cell_width, cell_width, 3, padding=1)
        self.out = zero_module(nn.Conv2d(cell_width, 3 * self.upscale**2, 3, padding=1))

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Return what to add to the coarse images, [B, 3, S, S], from features [B, N, width]."""
        del coarse
        cells = unpatchify(self.cells(features), self.cells_per_side)
        return F.pixel_shuffle(self.out(F.gelu(self.hidden(F.gelu(cells)))), self.upscale)


class ConvUpsampler(nn.Module):
    """Doubles the grid of patches stage by stage, with residual blocks, and sees the coarse image at half its size.

        features [B, width, s, s] ──► stages, each twice as large ──► S / 2 ──┬─► residual block ──► x2 ──► [B, 3, S, S]
        coarse image [B, 3, S, S] ──► 2 x 2 pixels as 12 channels ────────────┘

    The last doubling is a pixel shuffle, so `2 ** (len(widths) + 1)` must be the size of a patch.
    """

    def __init__(self, width: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        """Build a stage of `widths[i]` channels with `blocks[i]` residual blocks for each entry."""
        super().__init__()
        self.stages = nn.ModuleList(
            UpsamplerStage(before, after, count, kernel_size=3 if number else 1)
            for number, (before, after, count) in enumerate(zip([width, *widths[:-1]], widths, blocks, strict=True))
        )
        self.coarse_in = nn.Conv2d(12, widths[-1], 3, padding=1)
        self.mix = ResidualBlock(widths[-1])
        self.norm = nn.GroupNorm(GROUPS, widths[-1])
        self.out = zero_module(nn.Conv2d(widths[-1], 12, 3, padding=1))

    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Return what to add to the coarse images, [B, 3, S, S], from features [B, N, width]."""
        side = round(features.shape[1] ** 0.5)
        x = rearrange(features, "b (rows columns) c -> b c rows columns", rows=side)
        for stage in self.stages[:-1]:
            x = stage(x)
        x = self.stages[-1](x, self.coarse_in(F.pixel_unshuffle(coarse, 2)))
        return F.pixel_shuffle(self.out(norm_silu(self.norm, self.mix(x))), 2)


class UpsamplerStage(nn.Module):
    """A convolution and pixel shuffle that double height and width, and residual blocks."""

    def __init__(self, in_width: int, width: int, blocks: int, kernel_size: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_width, 4 * width, kernel_size, padding=kernel_size // 2)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))

    def forward(self, x: Tensor, detail: Tensor | None = None) -> Tensor:
        """Return [B, width, 2h, 2w] of [B, in_width, h, w]; `detail` is added before the residual blocks."""
        doubled = F.pixel_shuffle(self.expand(x), 2)
        # channels-last convolutions take half the time in float32 on a CPU, and 1.7 times as long in float64
        layout = torch.contiguous_format if x.dtype == torch.float64 else torch.channels_last
        doubled = doubled.contiguous(memory_format=layout)
        return self.blocks(doubled if detail is None else doubled + detail)


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-convolution twice, added to the input; adds nothing until it is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = zero_module(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, h, w] of the same."""
        return x + self.conv2(norm_silu(self.norm2, self.conv1(norm_silu(self.norm1, x))))


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return the SiLU of a group norm, in the type of `x`: autocast would go through float32, at twice the memory."""
    with torch.autocast(x.device.type, enabled=False):
        return F.silu(F.group_norm(x, norm.num_groups, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps))


def inverse_distances(side: int) -> Tensor:
    """Return the weight of each patch as a neighbour of another, [side**2, side**2], 0 for itself.

    The weight is the distance to the power -3: Shepard's inverse distance weighting (1968).
    """
    positions = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    distances = torch.cdist(positions, positions)
    return torch.where(distances > 0, distances, torch.inf) ** -3
