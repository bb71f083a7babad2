"""Visual words at their places, to a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videotok.keyframes.selector import unpack
from videotok.keyframes.vit import Block, silent, unpatchify


class KeyframeDetokenizer(nn.Module):
    """words [B, n, code_dim] -> pictures [B, 3, S, S].

        words ──► Linear ──► at their patches; at the dropped ones their neighbours' mean + a learned token
              ──► + positions ──► transformer blocks: kept patches fill the others (as in MAE, arXiv 2111.06377)
              ──┬─► Linear ──► pixels of each patch ──────────────────┐
                └─► Linear ──► cells ──► two 3x3 convolutions ──► + ──► picture; the convolutions remove the seams

    The convolutions see each patch as `cells` x `cells` cells: fine enough to join patches, coarse enough to be cheap.
    """

    nearness: Tensor

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        code_dim: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        cells: int,
        cell_width: int,
        feature_width: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.cells_per_side = cells
        self.words = nn.Linear(code_dim, width)
        self.empty = nn.Parameter(torch.zeros(width))
        side = image_size // patch_size
        self.register_buffer("nearness", nearness(side), persistent=False)
        self.positions = nn.Parameter(0.02 * torch.randn(side**2, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.recall = nn.Linear(width, feature_width)
        self.pixels = nn.Linear(width, 3 * patch_size**2)
        self.cells = nn.Linear(width, cell_width * cells**2)
        self.join = nn.Conv2d(cell_width, cell_width, 3, padding=1)
        self.finish = silent(nn.Conv2d(cell_width, 3 * (patch_size // cells) ** 2, 3, padding=1))

    def fill(self, words: Tensor, present: Tensor, keep_mask: Tensor) -> Tensor:
        """words [B, n, code_dim], present bool [B, n], keep_mask bool [B, N] -> features [B, N, width]."""
        placed = unpack(self.words(words), present, keep_mask)
        weights = self.nearness.to(placed.dtype) * keep_mask[:, None]
        guess = (weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)) @ placed
        x = torch.where(keep_mask[..., None], placed, guess + self.empty) + self.positions
        for block in self.blocks:
            x = block(x)
        return x

    def draw(self, features: Tensor) -> Tensor:
        """features [B, N, width] -> pictures [B, 3, S, S], unclamped."""
        cells = unpatchify(self.cells(features), self.cells_per_side)
        seams = self.finish(F.gelu(self.join(F.gelu(cells))))
        seams = F.pixel_shuffle(seams, self.patch_size // self.cells_per_side)
        return unpatchify(self.pixels(features), self.patch_size) + seams

    def forward(self, words: Tensor, present: Tensor, keep_mask: Tensor) -> Tensor:
        return self.draw(self.fill(words, present, keep_mask))


def nearness(side: int) -> Tensor:
    """Weight of each patch in another's neighbourhood, [side**2, side**2]: Shepard's inverse distance (1968), cubed."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    distances = torch.cdist(places, places)
    return torch.where(distances > 0, distances, torch.inf) ** -3
