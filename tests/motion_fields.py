"""Motion fields of known kinds (a camera that pans and zooms, something that moves by itself), and a tiny tokenizer."""

import torch
from torch import Tensor

PIXELS = torch.tensor((256.0, 144.0))

TINY = {
    "num_steps": 8,
    "grid": (8, 12),
    "patch": (4, 4, 4),
    "encoder_widths": (16,),
    "encoder_depths": (1,),
    "decoder_widths": (16,),
    "decoder_depths": (1,),
    "num_heads": 2,
    "code_dim": 8,
    "codebook_size": 32,
    "num_quantizers": 3,
    "num_stages": 5,
    "default_num_quantizers": 2,
    "global_motion_terms": (3, 1, 1),
    "global_motion_codebook_size": 64,
}


def pan(num_clips: int, num_steps: int, grid: tuple[int, int], pixels: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return vectors [B, T, h, w, 2] that are the same pixels (of 256x144) everywhere, and valid."""
    vectors = (torch.tensor(pixels) / PIXELS).expand(num_clips, num_steps, *grid, 2).contiguous()
    return vectors, torch.ones(num_clips, num_steps, *grid, dtype=torch.bool)


def moving_fields(num_clips: int, num_steps: int, grid: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return vectors and valid of a pan and zoom with a block that moves otherwise and a few cells without a vector."""
    generator = torch.Generator().manual_seed(seed)
    height, width = grid

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    centres = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, width), torch.linspace(-1, 1, height), indexing="xy"), dim=-1
    )
    vectors = normal(num_clips, 1, 1, 1, 2) * 2 + normal(num_clips, 1, 1, 1, 1) * centres
    vectors = vectors.expand(-1, num_steps, -1, -1, -1).clone()
    vectors[:, :, height // 4 : height // 2, width // 4 : width // 2] += normal(num_clips, 1, 1, 1, 2) * 3
    vectors += normal(num_clips, num_steps, height, width, 2) * 0.05
    valid = torch.rand(num_clips, num_steps, height, width, generator=generator) > 0.1
    return vectors / PIXELS, valid
