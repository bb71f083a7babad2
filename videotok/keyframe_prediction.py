"""A video's budget of visual tokens, spent where they matter.

What a keyframe need not say again: its picture, moved on from the clip before.

Encoder and decoder do the same here, from the same numbers: the decoded keyframe before, and the decoded motion.

PredictiveKeyframeEncoder: the keyframes of a video to words, one after another, saying only what is new.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warping import compose, refine, warp
from videotok.keyframes import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.selector import keep_best

WINDOW = 16
"""Keyframes that share a budget: 32 seconds of video at 12 frames a second."""


class RateController:
    """So many tokens a keyframe on average, never more in all.

    Keyframes are taken `WINDOW` at a time, counted from the first (memory must not grow with the length of the video).
    The patches of a window compete by their scores, whichever keyframe they are in: a hard keyframe gets more tokens
    than an easy one. What a keyframe leaves (its picture was mostly carried on from the one before) goes to those after
    it, so at every keyframe all tokens spent so far are within what has been shared out.
    """

    def __init__(self, tokens_per_keyframe: int) -> None:
        self.tokens_per_keyframe = tokens_per_keyframe
        self.left = 0
        """Tokens that were shared out and not spent."""

    def shares(self, scores: Tensor) -> list[int]:
        """Tokens of each keyframe of a window: scores [n, N] -> n numbers from 1 to N, together n times the budget.

        Equal scores go to the earlier patch.
        """
        count, patches = scores.shape
        total = min(self.tokens_per_keyframe, patches) * count
        ranked = scores.clone()
        # a keyframe without any token could not be decoded
        ranked[torch.arange(count), scores.argmax(dim=1)] = torch.inf
        best = ranked.flatten().argsort(descending=True, stable=True)[:total]
        return torch.bincount(best // patches, minlength=count).tolist()

    def allow(self, share: int, patches: int) -> int:
        """Tokens that a keyframe may take: its share and what was left, up to all of its `patches`."""
        return min(share + self.left, patches)

    def spend(self, share: int, used: int) -> None:
        """Books what a keyframe took of its share and of what was left."""
        self.left += share - used


SEAM = 3
"""A seam between carried and decoded patches is a third of a patch wide."""


def predict_keyframe(keyframe: Tensor, vectors: Tensor, next_vectors: Tensor) -> Tensor:
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


def decode_predicted_keyframe(
    tokenizer: KeyframeTokenizerProtocol, ids: Tensor, keep_mask: Tensor, skip_mask: Tensor, guess: Tensor
) -> Tensor:
    """A keyframe from its words and from what is carried.

    Decoders fill what has no word from the words around it, so the carried patches that would deserve words are given
    theirs: those of the guess. The picture of carried patches is the guess itself.

    Args:
        tokenizer: one whose `drops_patches` is True.
        ids: int64 [n], the words at `keep_mask`.
        keep_mask, skip_mask: bool [N], never both True; some patch is carried.
        guess: [1, 3, S, S] in [-1, 1], see `predict_keyframe`.

    Returns:
        [1, 3, S, S] in [-1, 1], in the type of the guess.
    """
    heard = tokenizer.encode(guess)
    chosen = heard.keep_mask[0].to(keep_mask.device)
    spoken = keep_mask | (skip_mask & chosen)
    if not spoken.any():
        return guess
    words = ids.new_zeros(len(keep_mask))
    words[chosen] = heard.ids[0].to(ids)
    words[keep_mask] = ids
    drawn = tokenizer.decode([words[spoken]], spoken[None]).to(guess)
    weight = feathered_mask(skip_mask, tokenizer.grid, tokenizer.image_size).to(guess)
    return drawn + weight * (guess - drawn)


def feathered_mask(mask: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """bool [N] on a grid of (rows, columns) -> weights [1, 1, size, size] in 0..1 that ramp across the mask's edges."""
    whole = F.interpolate(mask.view(1, 1, *grid).float(), size=(size, size), mode="nearest")
    reach = size // max(grid) // SEAM // 2
    edged = F.pad(whole, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(edged, 2 * reach + 1, stride=1)


MARGIN = 0.1
"""A patch is carried where the moved picture's squared error is at most so much above that of the patch's own words."""
REFUSED_ABOVE = 1.02
"""A keyframe is independent where carrying would raise its squared error by more than this factor: 0.09 dB."""
LEAST_CARRIED = 0.125
"""A keyframe of which a smaller part could be carried is independent: little is saved, and one can begin there."""
REFRESH = 16
"""Every so many clips one is independent, so that whoever begins in the middle has at most so many to go back."""


@dataclass(frozen=True)
class EncodedKeyframe:
    """The words of one keyframe."""

    ids: np.ndarray
    """int64 [n], in reading order of the kept patches."""
    keep_mask: np.ndarray
    """bool [N]: where the words stand; n of them."""
    skip_mask: np.ndarray
    """bool [N]: patches that are the clip before's, moved. All False: an independent keyframe."""


@dataclass(frozen=True)
class _Waiting:
    square: Tensor
    vectors: Tensor | None
    damaged: bool


class PredictiveKeyframeEncoder:
    """One video's keyframes, in order, to words.

        keyframe ──► words of its own ──► decoded ──┬─► where the guess is as near to the truth, nothing is said
        keyframe before, as decoded ──► moved on ───┘   (skip_mask); words elsewhere

    The guess is what the decoder will have, so errors do not add up; and it is measured against the true picture, by
    what this tokenizer's own words would leave: no patch is carried that is much worse than its words would be. That
    decides on still and on moving footage alike. Independent are: the first keyframe, those of damaged clips and the
    ones after them, every `REFRESH`-th, and all of which little could be carried, as after a cut.

    Runs in the tokenizer's precision; with float64 weights the words are the same on any number of threads, and
    however many keyframes are pushed at once.
    """

    def __init__(
        self,
        tokenizer: KeyframeTokenizerProtocol,
        *,
        keep: float | None = None,
        visual_tokens: int | None = None,
        delta: bool = True,
    ) -> None:
        """Begins a video.

        Args:
            tokenizer: encodes keyframes; float64.
            keep: see `KeyframeTokenizerProtocol.encode`.
            visual_tokens: tokens a keyframe on average instead; see `RateController`.
            delta: carry what the clip before explains; without effect where the tokenizer cannot drop patches.

        Raises:
            ValueError: `keep` and `visual_tokens` together, or more or fewer tokens than the tokenizer can give.
        """
        if visual_tokens is not None:
            if keep is not None:
                raise ValueError("give only one of `keep` and `visual_tokens`")
            if not 1 <= visual_tokens <= tokenizer.num_patches:
                raise ValueError(f"`visual_tokens` (={visual_tokens}) must lie in 1..{tokenizer.num_patches}")
            if not tokenizer.drops_patches and visual_tokens < tokenizer.num_patches:
                raise ValueError(
                    f"`visual_tokens` (={visual_tokens}): this keyframe tokenizer has a word for each of its "
                    f"{tokenizer.num_patches} patches and can leave none out"
                )
        self.tokenizer = tokenizer
        self.keep = keep
        self.budget = RateController(visual_tokens) if visual_tokens is not None and tokenizer.drops_patches else None
        # words of the published tokenizer stand for the whole picture: there is no place to carry on
        self.delta = delta and tokenizer.drops_patches and getattr(tokenizer, "words_have_places", True)
        self._waiting: list[_Waiting] = []
        self._since_refresh = 0
        self._before: tuple[Tensor, Tensor] | None = None

    def push(
        self, squares: Tensor, vectors: Tensor | None = None, damaged: Sequence[bool] = ()
    ) -> list[EncodedKeyframe]:
        """The next keyframes, and back come those that are done; with a budget they may be of earlier calls.

        Args:
            squares: [B, 3, S, S] in [-1, 1], see `videotok.image_utils.squashed`.
            vectors: [B, T, h, w, 2], the motion of their clips as it will be decoded; needed with `delta`.
            damaged: of each clip; none is where this is empty.

        Raises:
            ValueError: no vectors although they are needed, or `keep` out of range.
        """
        if self.delta and vectors is None:
            raise ValueError("`vectors` are needed to carry pictures from clip to clip; give them, or `delta=False`")
        for index, square in enumerate(squares):
            step = None if vectors is None else vectors[index : index + 1]
            self._waiting.append(_Waiting(square[None], step, bool(damaged[index]) if len(damaged) else False))
        done: list[EncodedKeyframe] = []
        if self.budget is None:
            done += self._flush(len(self._waiting))
        while self.budget is not None and len(self._waiting) >= WINDOW:
            done += self._flush(WINDOW)
        return done

    def finish(self) -> list[EncodedKeyframe]:
        """The keyframes that were still waiting for their window to fill."""
        return self._flush(len(self._waiting))

    def _flush(self, count: int) -> list[EncodedKeyframe]:
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        if not group:
            return []
        if self.budget is not None:
            scores = torch.cat([self.tokenizer.scores(keyframe.square) for keyframe in group])
            return [
                self._within(self.budget, keyframe, scores[index : index + 1], share)
                for index, (keyframe, share) in enumerate(zip(group, self.budget.shares(scores), strict=True))
            ]
        if self.delta:
            return [self._chained(keyframe, self.tokenizer.encode(keyframe.square, self.keep)) for keyframe in group]
        tokens = self.tokenizer.encode(torch.cat([keyframe.square for keyframe in group]), self.keep)
        nothing = torch.zeros_like(tokens.keep_mask[0])
        return [_told(ids, mask, nothing) for ids, mask in zip(tokens.ids, tokens.keep_mask, strict=True)]

    def _within(self, budget: RateController, keyframe: _Waiting, scores: Tensor, share: int) -> EncodedKeyframe:
        allowed = torch.tensor([budget.allow(share, self.tokenizer.num_patches)], device=scores.device)
        own = self.tokenizer.encode(keyframe.square, keep_mask=keep_best(scores, allowed))
        told = self._chained(keyframe, own)
        budget.spend(share, len(told.ids))
        return told

    def _chained(self, keyframe: _Waiting, own: KeyframeTokens) -> EncodedKeyframe:
        """A keyframe whose own words are known, with what is carried left out of them."""
        ids, mask = own.ids[0], own.keep_mask[0]
        nothing = torch.zeros_like(mask)
        if not self.delta or keyframe.vectors is None:
            return _told(ids, mask, nothing)
        plain = self.tokenizer.decode([ids], mask[None])
        leaning = None
        if self._before is not None and not keyframe.damaged and self._since_refresh < REFRESH:
            leaning = self._leaning(keyframe, ids, mask, plain, predict_keyframe(*self._before, keyframe.vectors))
        told, drawn = leaning or (_told(ids, mask, nothing), plain)
        self._since_refresh = 1 + (self._since_refresh if leaning else 0)
        self._before = None if keyframe.damaged else (drawn, keyframe.vectors)
        return told

    def _leaning(
        self, keyframe: _Waiting, ids: Tensor, mask: Tensor, plain: Tensor, guess: Tensor
    ) -> tuple[EncodedKeyframe, Tensor] | None:
        """The keyframe with all that the guess explains carried, and its picture; None where that is no gain."""
        truth = keyframe.square.to(guess)
        carried = (self._errors(guess, truth) <= (1 + MARGIN) * self._errors(plain, truth)).to(mask.device)
        if carried.double().mean() < LEAST_CARRIED:
            return None
        kept = mask & ~carried
        said = ids[kept[mask]]
        drawn = decode_predicted_keyframe(self.tokenizer, said, kept, carried, guess)
        if F.mse_loss(drawn, truth) > REFUSED_ABOVE * F.mse_loss(plain, truth):
            return None
        return _told(said, kept, carried), drawn

    def _errors(self, picture: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error of each patch, [N]."""
        squared = (picture - truth).square().mean(dim=1, keepdim=True)
        return F.adaptive_avg_pool2d(squared, self.tokenizer.grid).flatten()


def _told(ids: Tensor, keep_mask: Tensor, skip_mask: Tensor) -> EncodedKeyframe:
    return EncodedKeyframe(ids.cpu().numpy(), keep_mask.cpu().numpy(), skip_mask.cpu().numpy())
