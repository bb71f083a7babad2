"""Rate control: how many motion quantizers and visual tokens each clip gets, so that a video has a given rate.

    clip ──┬─► motion error for each number of quantizers: exact keyframes, warped along the decoded motion
           └─► keyframe error for each number of patches with a token: as the keyframe tokenizer expects it
                 │
                 ▼  their sum is what the decoder will show (within 0.3 dB of the video detokenizer's own frames)
    choices of a window of clips with the least  sum of frames * log(error) + λ * tokens,  by dynamic programming;
    λ by bisection, so that the window takes its tokens; the first clip is encoded so, and the window moves on

The logarithm makes a dB of one clip worth as much as a dB of another: with the error itself, the hardest clip of a
window would take nearly all tokens. All is computed in float64 from one clip after another, so that neither the batch
nor the number of threads can change a choice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec import Clip
from motion_vq.model_base import as_double
from unet3d.warping import warp_bidirectional, warp_forward
from videotok.image_utils import to_tensor
from videotok.keyframe_decoding import predict_keyframe
from videotok.keyframe_prediction import MAX_ERROR_RATIO, MIN_SKIPPED_SHARE, SKIP_FACTOR
from videotok.keyframes.selector import keep_numbers

ERROR_STRIDE = 4
"""Every so many frames of a clip are compared."""
KEYFRAME_WEIGHT = 0.7
"""Share of the keyframes' error that is left in frames mixed from two keyframes, whose errors partly cancel out."""
NUM_LEVELS = 16
"""Numbers of patches that a keyframe is considered with, evenly up to all of them."""
WINDOW = 16
"""Clips that share their tokens: 32 seconds of video at 12 frames a second."""
MIN_ERROR = 1e-5
"""Error of frames in [-1, 1] that nobody sees (56 dB): nothing is spent on less."""
FIRST_PREDICTED_SHARE, SHARE_STEP = 0.5, 0.5
"""Predicted keyframes take fewer tokens than expected, since errors of decoded patches scatter and the better of two is
shown. The share begins with the first number, and after each keyframe moves by the second towards what that took."""
BISECTIONS = 40
MAX_CHANGES, MIN_GAIN = 64, 1e-6
"""Changes at most that spend the rest of a budget, and the least gain of one in frames times the logarithm of the
error."""
MIN_PRICE, MAX_PRICE = 1e-8, 1e4
"""Limits of λ, in frames times the logarithm of the error for each token."""


QuantizersAndLevel = tuple[int, int]
"""Number of motion quantizers, and index of the keyframe's level in `ClipCosts.keyframe_patches`."""


@dataclass(frozen=True)
class ClipCosts:
    """What each choice for a clip costs in tokens, and which error it leaves."""

    num_frames: int
    has_next: bool
    """Whether it is rebuilt between its own keyframe and the next one's."""
    motion_tokens: np.ndarray
    """int64 [quantizers + 1]."""
    motion_errors: np.ndarray
    """float64 [quantizers + 1]: mean squared error of frames in [-1, 1], from exact keyframes."""
    keyframe_patches: np.ndarray
    """int64 [levels]: the patches that may have a token, the best ones by score; rising."""
    keyframe_tokens: np.ndarray
    """int64 [levels]: tokens that are expected of them, less those of patches that the last clip predicts."""
    keyframe_errors: np.ndarray
    """float64 [levels]: mean squared error of the decoded keyframe in [-1, 1]."""

    def with_predicted_share(self, share: float) -> "ClipCosts":
        """Return the costs if a predicted keyframe takes this share of the tokens that are expected of it."""
        scaled = np.ceil(self.keyframe_tokens * share).astype(np.int64)
        is_predicted = self.keyframe_tokens < self.keyframe_patches
        return replace(self, keyframe_tokens=np.where(is_predicted, scaled, self.keyframe_tokens))


@dataclass(frozen=True)
class Choice:
    """What was chosen for a clip."""

    quantizers: int
    patches: int
    tokens: int
    """Of motion and keyframe, as expected."""


def plan(clips: Sequence[ClipCosts], budget: float) -> list[Choice]:
    """Choose quantizers and patches for clips that follow each other, within a number of tokens together.

    Where even the least takes more tokens than the budget, the least is chosen.
    """
    logs = [_log_errors(clip, after) for clip, after in zip(clips, [*clips[1:], None], strict=True)]
    low, high = math.log(MIN_PRICE), math.log(MAX_PRICE)
    best = _least_cost(clips, logs, math.exp(low))
    if _tokens(clips, best) > budget:
        best = _least_cost(clips, logs, math.exp(high))
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            found = _least_cost(clips, logs, math.exp(middle))
            if _tokens(clips, found) <= budget:
                best, high = found, middle
            else:
                low = middle
        best = _with_rest_spent(clips, logs, best, budget)
    return [
        Choice(quantizers, int(clip.keyframe_patches[level]), _tokens([clip], [(quantizers, level)]))
        for clip, (quantizers, level) in zip(clips, best, strict=True)
    ]


def _log_errors(clip: ClipCosts, after: ClipCosts | None) -> np.ndarray:
    """Return frames * log(error) for each number of quantizers, level and level of the next keyframe: [Q, L, L']."""
    own = clip.keyframe_errors[None, :, None]
    if not clip.has_next:
        keyframes = own
    elif after is None:  # beyond the window: like its own keyframe
        keyframes = KEYFRAME_WEIGHT * own
    else:
        keyframes = KEYFRAME_WEIGHT * (own + after.keyframe_errors[None, None]) / 2
    errors = clip.motion_errors[:, None, None] + keyframes
    count = 1 if after is None else len(after.keyframe_errors)
    return clip.num_frames * np.log(np.maximum(errors, MIN_ERROR)).repeat(count // errors.shape[2], axis=2)


def _tokens(clips: Sequence[ClipCosts], choices: Sequence[QuantizersAndLevel]) -> int:
    """Return the tokens of some clips together."""
    return sum(
        int(clip.motion_tokens[quantizers] + clip.keyframe_tokens[level])
        for clip, (quantizers, level) in zip(clips, choices, strict=True)
    )


def _least_cost(clips: Sequence[ClipCosts], logs: Sequence[np.ndarray], price: float) -> list[QuantizersAndLevel]:
    """Return the choices with the least sum of `logs` and `price` * tokens, by dynamic programming from the end."""
    following = np.zeros(1)
    decisions: list[np.ndarray] = []
    for clip, log_errors in zip(reversed(clips), reversed(logs), strict=True):
        tokens = clip.motion_tokens[:, None] + clip.keyframe_tokens
        costs = (log_errors + price * tokens[..., None] + following).swapaxes(0, 1).reshape(tokens.shape[1], -1)
        decisions.append(costs.argmin(axis=1))
        following = costs.min(axis=1)
    level, choices = int(following.argmin()), []
    for decision, log_errors in zip(reversed(decisions), logs, strict=True):
        quantizers, after = divmod(int(decision[level]), log_errors.shape[2])
        choices.append((quantizers, level))
        level = after
    return choices


def _with_rest_spent(
    clips: Sequence[ClipCosts],
    logs: Sequence[np.ndarray],
    choices: list[QuantizersAndLevel],
    budget: float,
) -> list[QuantizersAndLevel]:
    """Return choices that spend what is left of a budget: the clip that gains most by a change is changed, and so on.

    With one λ for all clips some of the budget is left, for one more quantizer takes 135 tokens at once.
    """
    choices = list(choices)
    for _ in range(MAX_CHANGES):
        rest = budget - _tokens(clips, choices)
        best_gain, best = MIN_GAIN, None
        for number, clip in enumerate(clips):
            costs = logs[number][:, :, choices[number + 1][1] if number + 1 < len(clips) else 0]
            if number:
                before = choices[number - 1]
                costs = costs + logs[number - 1][before[0], before[1]][None]
            extra = clip.motion_tokens[:, None] + clip.keyframe_tokens - _tokens([clip], [choices[number]])
            gains = np.where(extra <= rest, costs[choices[number]] - costs, 0.0)
            if gains.max() > best_gain:
                best_gain = gains.max()
                best = number, divmod(int(gains.argmax()), gains.shape[1])
        if best is None:
            break
        choices[best[0]] = best[1]
    return choices


def motion_errors(
    clip: Clip, vectors: Sequence[Tensor], next_clip: Clip | None, next_vectors: Sequence[Tensor] | None
) -> np.ndarray:
    """Return the error of frames warped from exact keyframes along the motion of each number of quantizers.

    Args:
        clip: with its frames, at about `videotok.video_reading.ERROR_AREA` pixels.
        vectors: float64 [1, T, h, w, 2] for each number of quantizers, from 0.
        next_clip: the clip whose keyframe the frames lead to, with its frames; None: the clip is rebuilt forward only.
        next_vectors: of the next clip.

    Returns:
        float64 [len(vectors)], for frames in [-1, 1]; zeros for a clip of one frame.
    """
    if clip.num_frames == 1:
        return np.zeros(len(vectors))
    assert clip.frames is not None
    compared = slice(min(ERROR_STRIDE // 2, clip.num_frames - 1), clip.num_frames, ERROR_STRIDE)
    source = torch.cat([to_tensor(frame) for frame in clip.frames[compared]]).double()
    steps = torch.cat(list(vectors))
    if next_clip is None or next_vectors is None:
        warped = warp_forward(_first_frames(clip, len(steps)), steps, compared)
    else:
        next_keyframes, next_steps = _first_frames(next_clip, len(steps)), torch.cat(list(next_vectors))
        warped = warp_bidirectional(_first_frames(clip, len(steps)), steps, next_keyframes, next_steps, compared)
    return (warped.blended - source).square().flatten(1).mean(dim=1).numpy()


def _first_frames(clip: Clip, count: int) -> Tensor:
    """Return the first frame of a clip `count` times, float64 [count, 3, H, W] in [-1, 1]."""
    assert clip.frames is not None
    return to_tensor(clip.frames[0]).double().expand(count, -1, -1, -1)


@dataclass(frozen=True)
class KeyframeErrors:
    """What a keyframe tokenizer expects of one keyframe."""

    scores: Tensor
    """float64 [1, N]: the order in which patches get tokens."""
    patches: np.ndarray
    """int64 [levels]: numbers of patches with a token."""
    errors: Tensor
    """float64 [levels, N]: mean squared error of each patch."""
    features: Tensor | None = None
    """[1, ...], see `ExpectedErrors`."""


def levels_of(num_patches: int) -> np.ndarray:
    """Return the numbers of patches that a keyframe is considered with, int64, rising to `num_patches`."""
    return np.unique(np.linspace(0, num_patches, NUM_LEVELS + 1).round().astype(np.int64)[1:].clip(1))


def prediction_errors(
    image: Tensor, vectors: Tensor, last_image: Tensor, last_vectors: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Return the mean squared error of each patch if it is predicted from an exact keyframe before, float64 [N].

    Args:
        image, last_image: [1, 3, S, S] in [-1, 1].
        vectors, last_vectors: float64 [1, T, h, w, 2].
        grid: (rows, columns) of patches.
    """
    predicted = predict_keyframe(as_double(last_image), last_vectors, vectors)
    squared = (predicted - as_double(image)).square().mean(dim=1, keepdim=True)
    return F.adaptive_avg_pool2d(squared, grid).flatten()


def keyframe_costs(own: KeyframeErrors, last: KeyframeErrors | None, moved: Tensor | None) -> tuple[np.ndarray, ...]:
    """Return the tokens and the error that are expected of a keyframe at each level, [levels] each.

    Patches are skipped by the rule of `PredictiveKeyframeEncoder`, on expected errors: the keyframe before is taken to
    have as many patches with a token, and its error at the same patch adds to what the motion leaves.

    Args:
        own, last: of this keyframe and of the one before; None: it is independent.
        moved: `prediction_errors` of this keyframe; None: it is independent.
    """
    tokens, errors = [], []
    masks = keep_numbers(own.scores, own.patches.tolist())[0]
    for number, (kept, expected) in enumerate(zip(masks, own.errors, strict=True)):
        error = expected.mean()
        if last is not None and moved is not None:
            predicted = moved + last.errors[number]
            skipped = predicted <= SKIP_FACTOR * expected
            mixed = torch.where(skipped, predicted, expected).mean()
            if int(skipped.sum()) >= MIN_SKIPPED_SHARE * len(skipped) and mixed <= MAX_ERROR_RATIO * error:
                kept, error = kept & ~skipped, mixed
        tokens.append(int(kept.sum()))
        errors.append(float(error))
    return np.array(tokens, np.int64), np.array(errors)
