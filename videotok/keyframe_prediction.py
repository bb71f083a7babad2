"""Predictive coding of keyframes: only the patches that the clip before does not predict get tokens; and rate control.

    keyframe ──► own tokens ──► decoded ─────────┬─► per patch: where the prediction is as near to the source as the
    decoded keyframe before ──► warped along ────┘   decoded patch, the patch is skipped; else its token is kept
                                the motion

Encoder and decoder compute the same prediction from the same data: the decoded keyframe before and the decoded motion.
So errors do not accumulate unseen, and no patch is skipped that is much worse than its own token would be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warping import compose, upsample_vectors, warp
from videotok.keyframes.protocol import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.selector import keep_best

RATE_WINDOW = 16
"""Keyframes that share their tokens: 32 seconds of video at 12 frames per second."""
BLEND_FRACTION = 3
"""Skipped and decoded patches are blended over a third of a patch."""
ERROR_MARGIN = 0.1
"""A patch is skipped where the prediction's squared error exceeds that of its own token by at most this share."""
MAX_ERROR_RATIO = 1.02
"""A keyframe is independent where skipping would raise its squared error by more than this factor: 0.09 dB."""
MIN_SKIPPED_SHARE = 0.125
"""A keyframe of which fewer patches could be skipped is independent: decoding can then begin there."""
MAX_CHAIN_LENGTH = 16
"""At least one keyframe in so many is independent: the most that decoding has to go back."""


class RateController:
    """Allocates a number of tokens per keyframe on average, and never more in all.

    The patches of `RATE_WINDOW` keyframes compete by their scores: a keyframe with much detail gets more tokens than a
    plain one. Tokens that a keyframe leaves (most of it was skipped) go to later ones, so at every keyframe the tokens
    spent are within those allocated. A window is bounded, so memory does not grow with the video.
    """

    def __init__(self, tokens_per_keyframe: int) -> None:
        self.tokens_per_keyframe = tokens_per_keyframe
        self.unspent = 0
        """Tokens that were allocated and not spent."""

    def allocate(self, scores: Tensor) -> list[int]:
        """Return the tokens of each keyframe of a window: scores [n, N] -> n numbers from 1 to N.

        Together they are n times `tokens_per_keyframe`. Of equal scores the earlier patch wins.
        """
        count, patches = scores.shape
        total = min(self.tokens_per_keyframe, patches) * count
        ranked = scores.clone()
        # a keyframe without any token could not be decoded
        ranked[torch.arange(count), scores.argmax(dim=1)] = torch.inf
        best = ranked.flatten().argsort(descending=True, stable=True)[:total]
        return torch.bincount(best // patches, minlength=count).tolist()

    def limit(self, allocated: int, patches: int) -> int:
        """Return the most tokens that a keyframe may take: its own and the unspent ones, up to all its `patches`."""
        return min(allocated + self.unspent, patches)

    def spend(self, allocated: int, used: int) -> None:
        """Record that a keyframe took `used` tokens."""
        self.unspent += allocated - used


@dataclass(frozen=True)
class EncodedKeyframe:
    """The tokens of one keyframe."""

    ids: np.ndarray
    """int64 [n], in raster order of the kept patches."""
    keep_mask: np.ndarray
    """bool [N]: the n patches that have tokens."""
    skip_mask: np.ndarray
    """bool [N]: patches that are predicted from the clip before. All False: the keyframe is independent."""


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
    tokenizer: KeyframeTokenizerProtocol, ids: Tensor, keep_mask: Tensor, skip_mask: Tensor, prediction: Tensor
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
    decoded = tokenizer.decode([all_ids[present]], present[None]).to(prediction)
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


@dataclass(frozen=True)
class _Keyframe:
    """A keyframe that waits for its window of rate control to fill."""

    image: Tensor
    vectors: Tensor | None
    damaged: bool


class PredictiveKeyframeEncoder:
    """Encodes the keyframes of one video, in order.

    Independent keyframes are: the first one, those of damaged clips and the ones after them, at least every
    `MAX_CHAIN_LENGTH`-th, and those of which little can be skipped, as after a cut.

    It works in the tokenizer's precision. In float64 the ids are the same on any number of threads, and however many
    keyframes are pushed at once.
    """

    def __init__(
        self,
        tokenizer: KeyframeTokenizerProtocol,
        *,
        keep_ratio: float | None = None,
        tokens_per_keyframe: int | None = None,
        predict: bool = True,
        refinement_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Begin a video.

        Args:
            tokenizer: the keyframe tokenizer, in the precision in which ids are decided.
            keep_ratio, refinement_steps, generator: see `KeyframeTokenizerProtocol.encode`.
            tokens_per_keyframe: tokens on average instead of `keep_ratio`; see `RateController`.
            predict: skip what the clip before predicts, where the tokenizer can drop patches and its codes have
                positions. False: every keyframe is independent.

        Raises:
            ValueError: `keep_ratio` and `tokens_per_keyframe` together, or a number of tokens that the tokenizer
                cannot give.
        """
        if tokens_per_keyframe is not None:
            _check_tokens_per_keyframe(tokenizer, tokens_per_keyframe, keep_ratio)
        self.tokenizer = tokenizer
        self.predicts = predict and tokenizer.drops_patches and tokenizer.codes_have_positions
        self._keep_ratio = keep_ratio
        self._options = {"refinement_steps": refinement_steps, "generator": generator}
        self._rate = None
        if tokens_per_keyframe is not None and tokenizer.drops_patches:
            self._rate = RateController(tokens_per_keyframe)
        self._waiting: list[_Keyframe] = []
        self._chain_length = 0
        self._previous: tuple[Tensor, Tensor] | None = None

    def push(
        self, images: Tensor, vectors: Tensor | None = None, damaged: Sequence[bool] = ()
    ) -> list[EncodedKeyframe]:
        """Take in the next keyframes and return those that are done; with rate control they may be of earlier calls.

        Args:
            images: [B, 3, S, S] in [-1, 1], see `videotok.image_utils.square_tensor`.
            vectors: [B, T, h, w, 2], the decoded motion of their clips; needed where `predicts` is True.
            damaged: whether frames of each clip are missing; all False where empty.

        Raises:
            ValueError: no vectors although they are needed, or `keep_ratio` out of range.
        """
        if self.predicts and vectors is None:
            raise ValueError("`vectors` are needed to predict keyframes; give them, or `predict=False`")
        for index, image in enumerate(images):
            steps = None if vectors is None else vectors[index : index + 1]
            self._waiting.append(_Keyframe(image[None], steps, bool(damaged[index]) if len(damaged) else False))
        done: list[EncodedKeyframe] = []
        if self._rate is None:
            done += self._encode_waiting(len(self._waiting))
        while self._rate is not None and len(self._waiting) >= RATE_WINDOW:
            done += self._encode_waiting(RATE_WINDOW)
        return done

    def finish(self) -> list[EncodedKeyframe]:
        """Return the keyframes that were still waiting for their window to fill."""
        return self._encode_waiting(len(self._waiting))

    def _encode_waiting(self, count: int) -> list[EncodedKeyframe]:
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        if not group:
            return []
        if self._rate is not None:
            scores = torch.cat([self.tokenizer.scores(keyframe.image) for keyframe in group])
            return [
                self._encode_at_rate(self._rate, keyframe, scores[index : index + 1], allocated)
                for index, (keyframe, allocated) in enumerate(zip(group, self._rate.allocate(scores), strict=True))
            ]
        if self.predicts:
            return [self._skip_predicted(keyframe, self._encode(keyframe.image)) for keyframe in group]
        tokens = self._encode(torch.cat([keyframe.image for keyframe in group]))
        nothing = torch.zeros_like(tokens.keep_mask[0])
        return [_encoded(ids, mask, nothing) for ids, mask in zip(tokens.ids, tokens.keep_mask, strict=True)]

    def _encode(self, images: Tensor) -> KeyframeTokens:
        return self.tokenizer.encode(images, keep_ratio=self._keep_ratio, **self._options)

    def _encode_at_rate(
        self, rate: RateController, keyframe: _Keyframe, scores: Tensor, allocated: int
    ) -> EncodedKeyframe:
        limit = torch.tensor([rate.limit(allocated, self.tokenizer.num_patches)], device=scores.device)
        own = self.tokenizer.encode(keyframe.image, keep_mask=keep_best(scores, limit), **self._options)
        encoded = self._skip_predicted(keyframe, own)
        rate.spend(allocated, len(encoded.ids))
        return encoded

    def _skip_predicted(self, keyframe: _Keyframe, own: KeyframeTokens) -> EncodedKeyframe:
        """Return a keyframe whose own tokens are known, without those of patches that are predicted."""
        ids, mask = own.ids[0], own.keep_mask[0]
        independent = _encoded(ids, mask, torch.zeros_like(mask))
        if not self.predicts or keyframe.vectors is None:
            return independent
        decoded = self.tokenizer.decode([ids], mask[None])
        predicted = None
        if self._previous is not None and not keyframe.damaged and self._chain_length < MAX_CHAIN_LENGTH:
            prediction = predict_keyframe(*self._previous, keyframe.vectors)
            predicted = self._predicted(keyframe, own, decoded, prediction)
        encoded, shown = predicted or (independent, decoded)
        self._chain_length = 1 + (self._chain_length if predicted else 0)
        self._previous = None if keyframe.damaged else (shown, keyframe.vectors)
        return encoded

    def _predicted(
        self, keyframe: _Keyframe, own: KeyframeTokens, decoded: Tensor, prediction: Tensor
    ) -> tuple[EncodedKeyframe, Tensor] | None:
        """Return the keyframe with all predicted patches skipped, and its decoded image; None where that is no gain."""
        ids, mask = own.ids[0], own.keep_mask[0]
        source = keyframe.image.to(prediction)
        limit = (1 + ERROR_MARGIN) * self._patch_errors(decoded, source)
        skipped = (self._patch_errors(prediction, source) <= limit).to(mask.device)
        if skipped.double().mean() < MIN_SKIPPED_SHARE:
            return None
        kept = mask & ~skipped
        kept_ids = ids[kept[mask]]
        shown = decode_predicted_keyframe(self.tokenizer, kept_ids, kept, skipped, prediction)
        if F.mse_loss(shown, source) > MAX_ERROR_RATIO * F.mse_loss(decoded, source):
            return None
        return _encoded(kept_ids, kept, skipped), shown

    def _patch_errors(self, image: Tensor, source: Tensor) -> Tensor:
        """Return the mean squared error of each patch, [N]."""
        squared = (image - source).square().mean(dim=1, keepdim=True)
        return F.adaptive_avg_pool2d(squared, self.tokenizer.grid).flatten()


def _check_tokens_per_keyframe(tokenizer: KeyframeTokenizerProtocol, tokens: int, keep_ratio: float | None) -> None:
    if keep_ratio is not None:
        raise ValueError("`keep_ratio` and `tokens_per_keyframe` both set the rate; give only one of them")
    patches = tokenizer.num_patches
    if not 1 <= tokens <= patches:
        raise ValueError(f"`tokens_per_keyframe` (={tokens}) must lie in 1..{patches}, the patches of a keyframe")
    if not tokenizer.drops_patches and tokens < patches:
        raise ValueError(
            f"`tokens_per_keyframe` (={tokens}): this keyframe tokenizer has a token for each of its {patches} patches "
            "and cannot drop any"
        )


def _encoded(ids: Tensor, keep_mask: Tensor, skip_mask: Tensor) -> EncodedKeyframe:
    return EncodedKeyframe(ids.cpu().numpy(), keep_mask.cpu().numpy(), skip_mask.cpu().numpy())
