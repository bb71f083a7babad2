"""Features of pictures and motion, as wide as a language model's embeddings."""

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """features [m, dim] -> [m, width]: standardised, Linear, GELU, Linear."""

    mean: Tensor
    spread: Tensor
    size: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("size", torch.ones(()))
        self.first = nn.Linear(dim, width)
        self.second = nn.Linear(width, width)

    @torch.no_grad()
    def start(self, features: Tensor, embeddings: Tensor) -> None:
        """From data: features [m, dim] become standard, and what comes out as large as embeddings [n, width]."""
        self.mean.copy_(features.mean(0))
        self.spread.copy_(features.std(0).clamp(min=1e-4))
        self.size.copy_(embeddings.float().std() / self(features).std().clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        standard = (features - self.mean) / self.spread
        return self.second(nn.functional.gelu(self.first(standard))) * self.size
