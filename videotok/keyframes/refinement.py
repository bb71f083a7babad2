"""Code refinement: choose codes by the image they decode to (analysis by synthesis).

The encoder never sees the image that its codes give. Refinement decodes them, takes the gradient of the squared error
with respect to each code, moves the encoder's vectors a little downhill, and quantizes again. The best codes met are
kept, so refinement never makes an image worse.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from motion_vq.vector_quantizer import VectorQuantizer
from videotok.keyframes.detokenizer import KeyframeDetokenizer

STEP_SIZE = 0.016
"""Length of the first step of an image's mean vector, on the unit sphere; a vector lies some 0.1 from its code."""


def refine_codes(
    codebook: VectorQuantizer,
    detokenizer: KeyframeDetokenizer,
    images: Tensor,
    keep_mask: Tensor,
    vectors: Tensor,
    present: Tensor,
    steps: int,
) -> Tensor:
    """Return ids int64 [B, n] of codes that decode to images nearer to `images`.

    Nothing is random. A step costs about three decodings.

    Args:
        codebook, detokenizer: of the tokenizer.
        images: [B, 3, S, S] in [-1, 1].
        keep_mask: bool [B, N].
        vectors: the encoder's unit vectors, [B, n, code_dim], packed.
        present: bool [B, n]: which of them are patches and not padding.
        steps: at least 1.
    """
    images = images.to(vectors)
    ids = codebook.nearest(vectors)
    best, least = ids, torch.full((len(images),), torch.inf, device=images.device, dtype=vectors.dtype)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            codes = codebook.lookup(ids).to(vectors).requires_grad_(step < steps)
            decoded = detokenizer(codes, keep_mask)
            errors = (decoded - images).square().mean(dim=(1, 2, 3))
        nearer = errors.detach() < least
        best = torch.where(nearer[:, None], ids, best)
        least = torch.where(nearer, errors.detach(), least)
        if step < steps:
            (gradient,) = torch.autograd.grad(errors, codes, torch.ones_like(errors))
            lengths = (gradient.norm(dim=-1) * present).sum(dim=1) / present.sum(dim=1)
            step_size = STEP_SIZE * (1 - 0.5 * step / steps)
            vectors = F.normalize(vectors - step_size * gradient / lengths[:, None, None].clamp(min=1e-30), dim=-1)
            ids = codebook.nearest(vectors)
    return best
