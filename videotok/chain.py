"""KeyframeChain: the keyframes of a video to words, one after another, saying only what is new."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videotok.budget import WINDOW, Budget
from videotok.carry import moved_on, redrawn
from videotok.keyframes import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.selector import keep_best

MARGIN = 0.1
"""A patch is carried where the moved picture's squared error is at most so much above that of the patch's own words."""
REFUSED_ABOVE = 1.02
"""A keyframe is independent where carrying would raise its squared error by more than this factor: 0.09 dB."""
LEAST_CARRIED = 0.125
"""A keyframe of which a smaller part could be carried is independent: little is saved, and one can begin there."""
REFRESH = 16
"""Every so many clips one is independent, so that whoever begins in the middle has at most so many to go back."""


@dataclass(frozen=True)
class ChainedKeyframe:
    """The words of one keyframe."""

    ids: np.ndarray
    """int64 [n], in reading order of the kept patches."""
    keep_mask: np.ndarray
    """bool [N]: where the words stand; n of them."""
    carry_mask: np.ndarray
    """bool [N]: patches that are the clip before's, moved. All False: an independent keyframe."""


@dataclass(frozen=True)
class _Waiting:
    square: Tensor
    vectors: Tensor | None
    damaged: bool


class KeyframeChain:
    """One video's keyframes, in order, to words.

        keyframe ──► words of its own ──► decoded ──┬─► where the guess is as near to the truth, nothing is said
        keyframe before, as decoded ──► moved on ───┘   (carry_mask); words elsewhere

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
            visual_tokens: tokens a keyframe on average instead; see `Budget`.
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
        self.budget = Budget(visual_tokens) if visual_tokens is not None and tokenizer.drops_patches else None
        # words of the published tokenizer stand for the whole picture: there is no place to carry on
        self.delta = delta and tokenizer.drops_patches and getattr(tokenizer, "words_have_places", True)
        self._waiting: list[_Waiting] = []
        self._since_refresh = 0
        self._before: tuple[Tensor, Tensor] | None = None

    def push(
        self, squares: Tensor, vectors: Tensor | None = None, damaged: Sequence[bool] = ()
    ) -> list[ChainedKeyframe]:
        """The next keyframes, and back come those that are done; with a budget they may be of earlier calls.

        Args:
            squares: [B, 3, S, S] in [-1, 1], see `videotok.pictures.squashed`.
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
        done: list[ChainedKeyframe] = []
        if self.budget is None:
            done += self._flush(len(self._waiting))
        while self.budget is not None and len(self._waiting) >= WINDOW:
            done += self._flush(WINDOW)
        return done

    def finish(self) -> list[ChainedKeyframe]:
        """The keyframes that were still waiting for their window to fill."""
        return self._flush(len(self._waiting))

    def _flush(self, count: int) -> list[ChainedKeyframe]:
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

    def _within(self, budget: Budget, keyframe: _Waiting, scores: Tensor, share: int) -> ChainedKeyframe:
        allowed = torch.tensor([budget.allow(share, self.tokenizer.num_patches)], device=scores.device)
        own = self.tokenizer.encode(keyframe.square, keep_mask=keep_best(scores, allowed))
        told = self._chained(keyframe, own)
        budget.spend(share, len(told.ids))
        return told

    def _chained(self, keyframe: _Waiting, own: KeyframeTokens) -> ChainedKeyframe:
        """A keyframe whose own words are known, with what is carried left out of them."""
        ids, mask = own.ids[0], own.keep_mask[0]
        nothing = torch.zeros_like(mask)
        if not self.delta or keyframe.vectors is None:
            return _told(ids, mask, nothing)
        plain = self.tokenizer.decode([ids], mask[None])
        leaning = None
        if self._before is not None and not keyframe.damaged and self._since_refresh < REFRESH:
            leaning = self._leaning(keyframe, ids, mask, plain, moved_on(*self._before, keyframe.vectors))
        told, drawn = leaning or (_told(ids, mask, nothing), plain)
        self._since_refresh = 1 + (self._since_refresh if leaning else 0)
        self._before = None if keyframe.damaged else (drawn, keyframe.vectors)
        return told

    def _leaning(
        self, keyframe: _Waiting, ids: Tensor, mask: Tensor, plain: Tensor, guess: Tensor
    ) -> tuple[ChainedKeyframe, Tensor] | None:
        """The keyframe with all that the guess explains carried, and its picture; None where that is no gain."""
        truth = keyframe.square.to(guess)
        carried = (self._errors(guess, truth) <= (1 + MARGIN) * self._errors(plain, truth)).to(mask.device)
        if carried.double().mean() < LEAST_CARRIED:
            return None
        kept = mask & ~carried
        said = ids[kept[mask]]
        drawn = redrawn(self.tokenizer, said, kept, carried, guess)
        if F.mse_loss(drawn, truth) > REFUSED_ABOVE * F.mse_loss(plain, truth):
            return None
        return _told(said, kept, carried), drawn

    def _errors(self, picture: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error of each patch, [N]."""
        squared = (picture - truth).square().mean(dim=1, keepdim=True)
        return F.adaptive_avg_pool2d(squared, self.tokenizer.grid).flatten()


def _told(ids: Tensor, keep_mask: Tensor, carry_mask: Tensor) -> ChainedKeyframe:
    return ChainedKeyframe(ids.cpu().numpy(), keep_mask.cpu().numpy(), carry_mask.cpu().numpy())
