"""Predict a keyframe from the one before, and decode one of which only the patches that were not predicted have tokens.

Both the encoder (`videotok.keyframe_prediction`) and the decoder predict; only the decoder decodes so.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warping import compose, upsample_vectors, warp
from videotok.keyframes.protocol import KeyframeTokenizerProtocol

BLEND_FRACTION = 3
"""Skipped and decoded patches are blended over a third of a patch."""


def predict_keyframe(keyframe: Tensor, vectors: Tensor, next_vectors: Tensor) -> Tensor:
    """Predict the next keyframe by warping this one along the motion of its clip.

    Args:
        keyframe: [1, 3, S, S] in [-1, 1]. It may be a frame resized to a square: vectors are fractions of the frame.
        vectors: [1, T, h, w, 2], the motion of its clip.
        next_vectors: [1, T, h, w, 2], the motion of the next clip; only step 0 is used, which leads to its keyframe.

    Returns:
        [1, 3, S, S].
    """
    steps = upsample_vectors(torch.cat([vectors, next_vectors[:, :1]], dim=1).to(keyframe.dtype), *keyframe.shape[-2:])
    return warp(keyframe, compose(steps)[:, -1:])[:, 0]


def decode_predicted_keyframe(
    tokenizer: KeyframeTokenizerProtocol,
    ids: Tensor,
    keep_mask: Tensor,
    skip_mask: Tensor,
    prediction: Tensor,
    decode: Callable[[list[Tensor], Tensor], Tensor] | None = None,
) -> Tensor:
    """Decode a keyframe from its tokens and the prediction of its skipped patches.

    A detokenizer fills patches that have no token from those around them. So that it knows the skipped patches, the
    prediction is tokenized too, and its tokens stand in for those of skipped patches that the tokenizer would keep. The
    pixels of skipped patches are then replaced by the prediction, blended across the border.

    Args:
        tokenizer: one that can drop patches.
        ids: int64 [n], the tokens at `keep_mask`.
        keep_mask: bool [N].
        skip_mask: bool [N], nowhere True together with `keep_mask`.
        prediction: [1, 3, S, S] in [-1, 1], see `predict_keyframe`.
        decode: used instead of `tokenizer.decode`, where given.

    Returns:
        [1, 3, S, S] in [-1, 1], in the dtype of the prediction.
    """
    predicted = tokenizer.encode(prediction)
    predicted_mask = predicted.keep_mask[0].to(keep_mask.device)
    present = keep_mask | (skip_mask & predicted_mask)
    if not present.any():
        return prediction
    all_ids = ids.new_zeros(len(keep_mask))
    all_ids[predicted_mask] = predicted.ids[0].to(ids)
    all_ids[keep_mask] = ids
    decoded = (decode or tokenizer.decode)([all_ids[present]], present[None]).to(prediction)
    weight = feathered_mask(skip_mask, tokenizer.grid, tokenizer.image_size).to(prediction)
    return decoded + weight * (prediction - decoded)


def feathered_mask(mask: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Return a patch mask as pixel weights that ramp across its edges.

    Args:
        mask: bool [N] on a grid of (rows, columns).
        grid: (rows, columns).
        size: side of the image in pixels.

    Returns:
        [1, 1, size, size] from 0 to 1.
    """
    pixels = F.interpolate(mask.view(1, 1, *grid).float(), size=(size, size), mode="nearest")
    radius = size // max(grid) // BLEND_FRACTION // 2
    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)
