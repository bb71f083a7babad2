"""What a keyframe need not say again: its picture, moved on from the clip before.

Encoder and decoder do the same here, from the same numbers: the decoded keyframe before, and the decoded motion.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warp import compose, refine, warp
from videotok.keyframes import KeyframeTokenizerProtocol

SEAM = 3
"""A seam between carried and decoded patches is a third of a patch wide."""


def moved_on(keyframe: Tensor, vectors: Tensor, next_vectors: Tensor) -> Tensor:
    """A keyframe as it looks one clip later, along the clip's motion.

    Args:
        keyframe: [1, 3, S, S] in [-1, 1], squashed to a square or not: vectors are fractions of the frame.
        vectors: [1, T, h, w, 2], its clip's field.
        next_vectors: [1, 1 or more, h, w, 2], the next clip's; only slot 0 is used, the step into its keyframe.

    Returns:
        [1, 3, S, S], a guess of the next keyframe.
    """
    steps = refine(torch.cat([vectors, next_vectors[:, :1]], dim=1).to(keyframe.dtype), *keyframe.shape[-2:])
    return warp(keyframe, compose(steps)[:, -1:])[:, 0]


def redrawn(
    tokenizer: KeyframeTokenizerProtocol, ids: Tensor, keep_mask: Tensor, carry_mask: Tensor, guess: Tensor
) -> Tensor:
    """A keyframe from its words and from what is carried.

    Decoders fill what has no word from the words around it, so the carried patches that would deserve words are given
    theirs: those of the guess. The picture of carried patches is the guess itself.

    Args:
        tokenizer: one whose `drops_patches` is True.
        ids: int64 [n], the words at `keep_mask`.
        keep_mask, carry_mask: bool [N], never both True; some patch is carried.
        guess: [1, 3, S, S] in [-1, 1], see `moved_on`.

    Returns:
        [1, 3, S, S] in [-1, 1], in the type of the guess.
    """
    heard = tokenizer.encode(guess)
    chosen = heard.keep_mask[0].to(keep_mask.device)
    spoken = keep_mask | (carry_mask & chosen)
    if not spoken.any():
        return guess
    words = ids.new_zeros(len(keep_mask))
    words[chosen] = heard.ids[0].to(ids)
    words[keep_mask] = ids
    drawn = tokenizer.decode([words[spoken]], spoken[None]).to(guess)
    weight = softened(carry_mask, tokenizer.grid, tokenizer.image_size).to(guess)
    return drawn + weight * (guess - drawn)


def softened(mask: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """bool [N] on a grid of (rows, columns) -> weights [1, 1, size, size] in 0..1 that ramp across the mask's edges."""
    whole = F.interpolate(mask.view(1, 1, *grid).float(), size=(size, size), mode="nearest")
    reach = size // max(grid) // SEAM // 2
    edged = F.pad(whole, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(edged, 2 * reach + 1, stride=1)
