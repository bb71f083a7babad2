"""WordCondition: visual words to what an SDXL-shaped U-Net is conditioned on (LaVIT, arXiv 2309.04669)."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from motion_vq.layers import tanh_head
from unet3d.placement import device_of
from videotok.keyframes.vit import Attention
from videotok.published.vit import CrossBlock


class WordCondition(ModelMixin, ConfigMixin):
    """codes [n_i, code_dim] a picture -> features of its patches, and from them

        tokens [B, patches, sum(token_widths)]   768 + 1280 = 2048, where SDXL has two text encoders' features
        pooled [B, pooled_width]                 1280, where it has the second one's summary

    Queries, one a patch, attend to each other and to the codes in their order; where a code stood is not told.
    """

    @register_to_config
    def __init__(
        self,
        patches: int = 256,
        code_dim: int = 32,
        width: int = 1408,
        depth: int = 12,
        heads: int = 16,
        hidden: int = 6144,
        token_widths: tuple[int, ...] = (768, 1280),
        pooled_width: int = 1280,
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(code_dim, width)
        self.positions = nn.Parameter(torch.zeros(patches, width))
        self.queries = nn.Parameter(torch.zeros(patches, width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_features = tanh_head(width, width)
        self.to_tokens = nn.ModuleList(nn.Linear(width, size) for size in token_widths)
        self.pool_positions = nn.Parameter(torch.zeros(patches + 1, width))
        self.pool = Attention(width, heads)
        self.pool.out = nn.Linear(width, pooled_width)

    @torch.no_grad()
    def forward(self, codes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(tokens, pooled), see above.

        Raises:
            ValueError: a picture with no code, or with more than there are patches.
        """
        device = device_of(self)
        counts = torch.tensor([len(row) for row in codes], device=device)
        if not 1 <= int(counts.min()) <= int(counts.max()) <= len(self.positions):
            raise ValueError(f"a picture has 1 to {len(self.positions)} codes, got {counts.tolist()}")
        told = self.in_proj(pad_sequence(list(codes), batch_first=True).to(device, self.dtype))
        told = told + self.positions[: told.shape[1]]
        there = (torch.arange(told.shape[1], device=device) < counts[:, None])[:, None, None]
        x = self.queries.expand(len(codes), -1, -1)
        for block in self.blocks:
            x = block(x, told, there)
        features = self.to_features(self.norm(x))
        tokens = torch.cat([project(features) for project in self.to_tokens], dim=-1)
        whole = torch.cat([features.mean(1, keepdim=True), features], dim=1) + self.pool_positions
        return tokens, self.pool(whole[:, :1], whole)[:, 0]
