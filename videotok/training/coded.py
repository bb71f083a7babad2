"""Motion as the detokenizer will meet it: through the motion tokenizer and back."""

import numpy as np
import torch

from motion_vq import MotionTokenizer


class CodedMotion:
    """Callable (vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> decoded vectors, same shape.

    The number of levels is drawn anew at each call, so that the detokenizer learns coarse and fine motion alike.
    """

    def __init__(self, tokenizer: MotionTokenizer) -> None:
        self.tokenizer = tokenizer.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, vectors: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        tokens = self.tokenizer.encode(vectors, valid, self.tokenizer.num_levels)
        levels = int(rng.integers(1, tokens.num_levels + 1))
        return self.tokenizer.decode(tokens.first_levels(levels))
