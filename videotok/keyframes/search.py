"""Words chosen by what they decode to, not by where the encoder points alone (analysis by synthesis).

The encoder never sees the picture that its words give. Search does: it decodes them, asks which way each word would
have to move for the picture to come nearer (the gradient of the squared error), moves the vectors a little that way
and reads the nearest words again. The best words met are kept, so a search never makes a picture worse.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from videotok.keyframes.tokenizer import KeyframeTokenizer

STRIDE = 0.016
"""Length of the first step of a picture's mean word, on the sphere; a vector lies some 0.1 from its word."""


def better_words(
    model: "KeyframeTokenizer", images: Tensor, keep_mask: Tensor, vectors: Tensor, present: Tensor, steps: int
) -> Tensor:
    """Words for `images` [B, 3, S, S] after `steps` steps from `vectors` [B, n, code_dim]: ids int64 [B, n].

    Nothing is drawn at random. A step costs about three decodings.
    """
    images = images.to(vectors)
    ids = model.codebook.nearest(vectors)
    best, least = ids, torch.full((len(images),), torch.inf, device=images.device, dtype=vectors.dtype)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            words = model.codebook(ids).requires_grad_(step < steps)
            restored = model.detokenizer(words, present, keep_mask)
            errors = (restored - images).square().mean(dim=(1, 2, 3))
        nearer = errors.detach() < least
        best = torch.where(nearer[:, None], ids, best)
        least = torch.where(nearer, errors.detach(), least)
        if step < steps:
            (downhill,) = torch.autograd.grad(errors, words, torch.ones_like(errors))
            lengths = (downhill.norm(dim=-1) * present).sum(dim=1) / present.sum(dim=1)
            stride = STRIDE * (1 - 0.5 * step / steps)
            vectors = F.normalize(vectors - stride * downhill / lengths[:, None, None].clamp(min=1e-30), dim=-1)
            ids = model.codebook.nearest(vectors)
    return best
