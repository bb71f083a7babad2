"""Predictive coding of keyframes: only the patches that the clip before does not predict get tokens; and rate control.

    keyframe ──► own tokens ──► decoded ─────────┬─► per patch: where the prediction is as near to the source as the
    reference: the keyframe ──► warped along ────┘   decoded patch, the patch is skipped; else its token is kept
    before, as decoded          the motion

The encoder's reference is composed of the keyframes' own decoded tokens: skipped patches are warped from the reference
before, the others are decoded. So errors do not accumulate unseen, and no patch is skipped that is much worse than its
own token would be. The decoder does the same, but decodes what is left of the tokens beside the tokens of the
prediction (`videotok.keyframe_decoding`); the difference, 0.015 dB on average, lies in the patches that have tokens,
and is gone with the next token. The encoder leaves it out because its reference is then a continuous function of the
tokens: the rounding of float32 has a bound, and only where a decision lies within it is it made again in float64.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motion_vq.model_base import as_double, no_tf32
from videotok.keyframe_decoding import feathered_mask, predict_keyframe
from videotok.keyframes.protocol import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.selector import keep_best

RATE_WINDOW = 16
"""Keyframes that share their tokens: 32 seconds of video at 12 frames per second."""
SKIP_FACTOR = 1.1
"""A patch is skipped where the prediction's squared error is at most so many times that of its own token."""
MAX_ERROR_RATIO = 1.02
"""A keyframe is independent where skipping would raise its squared error by more than this factor: 0.09 dB."""
MIN_SKIPPED_SHARE = 0.125
"""A keyframe of which fewer patches could be skipped is independent: decoding can then begin there."""
MAX_CHAIN_LENGTH = 16
"""At least one keyframe in so many is independent: the most that decoding has to go back."""
MAX_ATTEMPTS = 4
"""How often a keyframe is encoded at most until it has the number of tokens that is aimed at."""
STRICTER_SKIP_FACTORS = (0.9, 0.7, 0.4)
"""Instead of `SKIP_FACTOR`, where even all patches take fewer tokens than are aimed at: patches get tokens then whose
own error is only a little smaller than that of the prediction."""


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


@dataclass(frozen=True)
class _Keyframe:
    """A keyframe that waits for its window of rate control to fill."""

    image: Tensor
    vectors: Tensor | None
    damaged: bool


@dataclass
class _ChainLink:
    """A keyframe that the next ones may be predicted from, with its own tokens."""

    ids: Tensor
    keep_mask: Tensor
    vectors: Tensor
    decoded: Tensor
    """float64 [1, 3, S, S], decoded from all its own tokens."""
    error: float
    """Bound on the rounding error of `decoded`."""
    skip_mask: Tensor | None = None
    """bool [N]: the patches that are predicted; None: it is independent."""
    reference: Tensor | None = None
    """float64 [1, 3, S, S]: what the next keyframe is predicted from."""


@dataclass(frozen=True)
class _Attempt:
    """A keyframe encoded with some number of patches, and the chain with it at its end."""

    encoded: EncodedKeyframe
    chain: list[_ChainLink]

    @property
    def num_tokens(self) -> int:
        return len(self.encoded.ids)

    def nearer(self, other: "_Attempt", aim: int) -> "_Attempt":
        """Return the one with more tokens if both have at most `aim`, else the one with fewer."""
        first, second = sorted((self, other), key=lambda attempt: attempt.num_tokens)
        return second if second.num_tokens <= aim else first


@dataclass(frozen=True)
class _OwnTokens(KeyframeTokens):
    """Tokens of keyframes by themselves, of which none is skipped yet."""

    pictures: Tensor | None
    """float64 [B, 3, S, S]: decoded from them; None where nothing is predicted."""
    error: float
    """Bound on the rounding error of `pictures`."""
    exact: set[int] = field(default_factory=set)
    """The pictures that were decoded again, in float64."""


@dataclass(frozen=True)
class BegunKeyframes:
    """Keyframes with their own tokens, of which none is skipped yet."""

    keyframes: list[_Keyframe]
    tokens: KeyframeTokens
    error: float
    """Bound on the rounding error of pictures that are decoded from the tokens."""


@dataclass(frozen=True)
class DecodedKeyframes:
    """Keyframes with their own tokens and what these show; none is skipped yet."""

    keyframes: list[_Keyframe]
    tokens: _OwnTokens


class PredictiveKeyframeEncoder:
    """Encodes the keyframes of one video, in order.

    Independent keyframes are: the first one, those of damaged clips and the ones after them, at least every
    `MAX_CHAIN_LENGTH`-th, and those of which little can be skipped, as after a cut.

    The ids are the same on any device and number of threads, and however many keyframes are pushed at once: pictures
    are decoded in the tokenizer's precision, and again in float64 where a comparison of errors lies within the
    tokenizer's `decode_error`.
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
        """Keyframes whose window of rate control is not full."""
        self._chain: list[_ChainLink] = []
        """The keyframes since the last independent one; empty where the next one must be independent."""
        self._num_decoded = 0
        self._decoding = Lock()
        """Held while pictures are decoded: in float64, the weights are cast in place."""

    def push(
        self, images: Tensor, vectors: Tensor | None = None, damaged: Sequence[bool] = ()
    ) -> list[EncodedKeyframe]:
        """Take in the next keyframes and return those that are done; with rate control they may be of earlier calls.

        Args:
            images: [B, 3, S, S] in [-1, 1], see `videotok.image_utils.to_square_tensor`.
            vectors: [B, T, h, w, 2], the decoded motion of their clips; needed where `predicts` is True.
            damaged: whether frames of each clip are missing; all False where empty.

        Raises:
            ValueError: no vectors although they are needed, or `keep_ratio` out of range.
        """
        if self._rate is None:
            return self.complete(self.decode(self.begin(images, vectors, damaged)))
        self._waiting += self._keyframes(images, vectors, damaged)
        done: list[EncodedKeyframe] = []
        while len(self._waiting) >= RATE_WINDOW:
            done += self._encode_waiting(self._rate, RATE_WINDOW)
        return done

    def begin(self, images: Tensor, vectors: Tensor | None = None, damaged: Sequence[bool] = ()) -> "BegunKeyframes":
        """Do the first part of `push`: find the keyframes' own tokens. Not for keyframes that share their tokens.

        Other threads may `decode` and `complete` those before meanwhile, where `overlaps` is True.
        """
        keyframes = self._keyframes(images, vectors, damaged)
        tokens = self.tokenizer.encode(images, keep_ratio=self._keep_ratio, **self._options)
        return BegunKeyframes(keyframes, tokens, self._rounding_error())

    def decode(self, begun: "BegunKeyframes", *, is_last: bool = False) -> "DecodedKeyframes":
        """Do the second part of `push`: decode keyframes from their own tokens.

        Args:
            begun: the next ones.
            is_last: none follow, and no other thread is at work: each keyframe is decoded by a thread of its own. A
                keyframe alone in a video is not decoded: nothing is predicted from it.
        """
        tokens, is_alone = begun.tokens, is_last and not self._num_decoded and len(begun.keyframes) == 1
        with self._decoding:
            pictures = None if is_alone else self._pictures(tokens, is_last=is_last)
        self._num_decoded += len(begun.keyframes)
        return DecodedKeyframes(begun.keyframes, _OwnTokens(tokens.ids, tokens.keep_mask, pictures, begun.error))

    def complete(self, decoded: "DecodedKeyframes") -> list[EncodedKeyframe]:
        """Do the last part of `push`, in the order of the keyframes: leave out what is predicted."""
        return self._skip_predicted(decoded.keyframes, decoded.tokens)

    @property
    def overlaps(self) -> bool:
        """Whether one thread may `begin` and `complete` keyframes while another one decodes those in between."""
        refines = self._options["refinement_steps"]
        return self.predicts and self._rate is None and not refines and self.tokenizer.decodes_beside_encoding

    def _keyframes(self, images: Tensor, vectors: Tensor | None, damaged: Sequence[bool]) -> list["_Keyframe"]:
        if self.predicts and vectors is None:
            raise ValueError("`vectors` are needed to predict keyframes; give them, or `predict=False`")
        steps = [None] * len(images) if vectors is None else list(vectors.split(1))
        flags = [bool(flag) for flag in damaged] or [False] * len(images)
        return [_Keyframe(*facts) for facts in zip(images.split(1), steps, flags, strict=True)]

    def _rounding_error(self) -> float:
        """Return the bound on the rounding error of pictures that the tokenizer decodes."""
        return self.tokenizer.decode_error if self.tokenizer.dtype == torch.float32 else 0.0

    def push_ranked(
        self,
        image: Tensor,
        scores: Tensor,
        num_patches: int,
        vectors: Tensor | None = None,
        damaged: bool = False,
        *,
        features: Tensor | None = None,
        aim: int | None = None,
        slack: int = 0,
    ) -> EncodedKeyframe:
        """Encode the next keyframe with tokens for its best patches by score, less those that are predicted.

        Args:
            image: [1, 3, S, S] in [-1, 1].
            scores: [1, N], see `KeyframeTokenizerProtocol.scores`.
            num_patches: 1 to N.
            vectors: [1, T, h, w, 2], the decoded motion of its clip; needed where `predicts` is True.
            damaged: whether frames of its clip are missing.
            features: of the image, see `ExpectedErrors`; None: they are computed.
            aim: tokens that should be left once patches are predicted; `num_patches` is changed until they are, as far
                as there are patches, never to more than these.
            slack: tokens that may be missing.
        """
        keyframe, chain, error = _Keyframe(image, vectors, damaged), list(self._chain), self._rounding_error()

        @functools.cache
        def own_tokens(count: int) -> _OwnTokens:
            mask = keep_best(scores, torch.tensor([count], device=scores.device)).to(image.device)
            if features is None:
                return self._decoded(self.tokenizer.encode(image, keep_mask=mask, **self._options), error)
            steps = self._options["refinement_steps"]
            return self._decoded(self.tokenizer.encode_features(features, image, mask, steps), error)

        def attempt(count: int, skip_factor: float = SKIP_FACTOR) -> _Attempt:
            self._chain = list(chain)
            (encoded,) = self._skip_predicted([keyframe], own_tokens(count), skip_factor)
            return _Attempt(encoded, self._chain)

        best = attempt(num_patches)
        if aim is not None:
            best = self._nearest_attempt(attempt, best, num_patches, aim, slack)
        self._chain = best.chain
        return best.encoded

    def _nearest_attempt(
        self, attempt: Callable[..., "_Attempt"], best: "_Attempt", num_patches: int, aim: int, slack: int
    ) -> "_Attempt":
        """Return the attempt with the most tokens up to `aim`; the one with the fewest where all have more."""
        limit, target = self.tokenizer.num_patches, aim - slack // 4
        fewer, more = (0, 0), None  # (patches, tokens) of the nearest attempts on both sides of the aim
        used = best.num_tokens
        for _ in range(MAX_ATTEMPTS):
            if aim - slack <= used <= aim:
                return best
            fewer, more = ((num_patches, used), more) if used < aim else (fewer, (num_patches, used))
            if fewer[0] == limit or (more is not None and more[0] - fewer[0] < 2):
                break
            num_patches = _patches_for(target, fewer, more, limit)
            found = attempt(num_patches)
            used, best = found.num_tokens, best.nearer(found, aim)
        # with a stricter rule of skipping more of them have tokens, until all have
        for skip_factor in STRICTER_SKIP_FACTORS if fewer[0] == limit else ():
            if best.num_tokens >= min(aim - slack, limit) or used > aim:
                break
            found = attempt(limit, skip_factor)
            used, best = found.num_tokens, best.nearer(found, aim)
        return best

    def finish(self) -> list[EncodedKeyframe]:
        """Return the keyframes that were still waiting for their window to fill."""
        return self._encode_waiting(self._rate, len(self._waiting)) if self._rate and self._waiting else []

    def _encode_waiting(self, rate: RateController, count: int) -> list[EncodedKeyframe]:
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        scores = torch.cat([self.tokenizer.scores(keyframe.image) for keyframe in group])
        return [
            self._encode_at_rate(rate, keyframe, scores[index : index + 1], allocated)
            for index, (keyframe, allocated) in enumerate(zip(group, rate.allocate(scores), strict=True))
        ]

    def _encode_at_rate(
        self, rate: RateController, keyframe: _Keyframe, scores: Tensor, allocated: int
    ) -> EncodedKeyframe:
        limit = torch.tensor([rate.limit(allocated, self.tokenizer.num_patches)], device=scores.device)
        own = self.tokenizer.encode(keyframe.image, keep_mask=keep_best(scores, limit), **self._options)
        (encoded,) = self._skip_predicted([keyframe], self._decoded(own, self._rounding_error()))
        rate.spend(allocated, len(encoded.ids))
        return encoded

    def _decoded(self, tokens: KeyframeTokens, error: float) -> _OwnTokens:
        return _OwnTokens(tokens.ids, tokens.keep_mask, self._pictures(tokens), error)

    def _pictures(self, tokens: KeyframeTokens, *, is_last: bool = False) -> Tensor | None:
        """Return what the tokens of keyframes show, float64 [B, 3, S, S]; None where nothing is predicted."""
        if not self.predicts:
            return None
        count, total = len(tokens.ids), torch.get_num_threads()
        if not (is_last and self.overlaps and total > 1):
            return self._shown(tokens)
        rows = [slice(number, number + 1) for number in range(count)]
        parts = [KeyframeTokens(tokens.ids[row], tokens.keep_mask[row]) for row in rows]
        # settings of float32 hold for all threads, and each thread restores what it has found
        setting = (max(1, total // count),)
        with no_tf32(), ThreadPoolExecutor(min(count, total), "decode", torch.set_num_threads, setting) as pool:
            return torch.cat(list(pool.map(self._shown, parts)))

    def _shown(self, tokens: KeyframeTokens) -> Tensor:
        return as_double(self.tokenizer.decode(tokens.ids, tokens.keep_mask))

    def _skip_predicted(
        self, keyframes: list[_Keyframe], own: _OwnTokens, skip_factor: float = SKIP_FACTOR
    ) -> list[EncodedKeyframe]:
        """Return keyframes whose own tokens are known, without those of patches that are predicted."""
        if own.pictures is None:
            return [
                _encoded(ids, mask, torch.zeros_like(mask)) for ids, mask in zip(own.ids, own.keep_mask, strict=True)
            ]
        encoded = []
        for number, keyframe in enumerate(keyframes):
            assert keyframe.vectors is not None  # `push` checks it
            ids, mask = own.ids[number], own.keep_mask[number]
            picture, error = own.pictures[number : number + 1], 0.0 if number in own.exact else own.error
            link = _ChainLink(ids, mask, as_double(keyframe.vectors), picture, error)
            self._append(keyframe, link, skip_factor)
            if link.error < error:  # another attempt with these tokens needs not decode them again
                own.pictures[number] = link.decoded[0]
                own.exact.add(number)
            skipped = torch.zeros_like(mask) if link.skip_mask is None else link.skip_mask
            kept = mask & ~skipped
            encoded.append(_encoded(ids[kept[mask]], kept, skipped))
        return encoded

    def _append(self, keyframe: _Keyframe, link: _ChainLink, skip_factor: float) -> None:
        """Decide which patches of the next keyframe are skipped, and what the one after it is predicted from."""
        if keyframe.damaged:
            self._chain = []
            return
        link.reference = link.decoded
        if self._chain and len(self._chain) < MAX_CHAIN_LENGTH:
            source, prediction = as_double(keyframe.image), self._predicted(self._chain[-1], link)
            try:
                link.skip_mask = self._skipped_patches(link, source, prediction, skip_factor)
            except _UncertainError:
                self._decode_exactly([*self._chain, link])
                prediction = self._predicted(self._chain[-1], link)
                link.skip_mask = self._skipped_patches(link, source, prediction, skip_factor)
            link.reference = self._blended(link, prediction)
        if link.skip_mask is None:
            self._chain = []
        self._chain.append(link)

    def _skipped_patches(
        self, link: _ChainLink, source: Tensor, prediction: Tensor, skip_factor: float
    ) -> Tensor | None:
        """Return which patches are skipped, bool [N]; None where that is no gain.

        Raises:
            _UncertainError: it depends on the rounding of the decoded pictures.
        """
        # a reference is composed of all decoded pictures of the chain, each pixel with weights that add up to 1
        error = max(part.error for part in (*self._chain, link))
        own_errors, predicted_errors = (self._patch_errors(picture, source) for picture in (link.decoded, prediction))
        skipped = _is_at_most(predicted_errors, own_errors, skip_factor, error).to(link.keep_mask.device)
        if int(skipped.sum()) < MIN_SKIPPED_SHARE * len(skipped):
            return None
        blended = self._blended(link, prediction, skipped)
        shown_error, own_error = ((picture - source).square().mean() for picture in (blended, link.decoded))
        return skipped if _is_at_most(shown_error, own_error, MAX_ERROR_RATIO, error) else None

    def _predicted(self, previous: _ChainLink, link: _ChainLink) -> Tensor:
        assert previous.reference is not None
        return predict_keyframe(previous.reference, previous.vectors, link.vectors)

    def _blended(self, link: _ChainLink, prediction: Tensor, skipped: Tensor | None = None) -> Tensor:
        """Return a keyframe with its skipped patches predicted: what the one after it is predicted from."""
        skipped = link.skip_mask if skipped is None else skipped
        if skipped is None:
            return link.decoded
        weight = feathered_mask(skipped, self.tokenizer.grid, self.tokenizer.image_size).to(prediction)
        return link.decoded + weight * (prediction - link.decoded)

    def _decode_exactly(self, links: list[_ChainLink]) -> None:
        """Decode keyframes again in float64, and compose the references of the chain anew."""
        with self._decoding:
            for link in links:
                if link.error > 0:
                    decoded = self.tokenizer.decode_exactly([link.ids], link.keep_mask[None])
                    link.decoded, link.error = decoded.to(link.decoded), 0.0
        self._chain[0].reference = self._chain[0].decoded
        for previous, link in itertools.pairwise(self._chain):
            link.reference = self._blended(link, self._predicted(previous, link))

    def _patch_errors(self, image: Tensor, source: Tensor) -> Tensor:
        """Return the mean squared error of each patch, [N]."""
        squared = (image - source).square().mean(dim=1, keepdim=True)
        return F.adaptive_avg_pool2d(squared, self.tokenizer.grid).flatten()


def _patches_for(tokens: int, fewer: tuple[int, int], more: tuple[int, int] | None, limit: int) -> int:
    """Return how many patches should leave a number of tokens: by a line through (patches, tokens) of two attempts.

    Where no attempt had too many, by the share of patches that kept a token; all patches where even these may not do.
    """
    if more is None:
        patches = round(fewer[0] * tokens / max(fewer[1], 1))
        return limit if fewer[1] == 0 or patches >= limit else max(patches, fewer[0] + 1)
    patches = fewer[0] + (more[0] - fewer[0]) * (tokens - fewer[1]) / (more[1] - fewer[1])
    return min(max(round(patches), fewer[0] + 1), more[0] - 1)


class _UncertainError(Exception):
    """A decision depends on rounding."""


def _is_at_most(errors: Tensor, others: Tensor, factor: float, bound: float) -> Tensor:
    """Return whether mean squared errors are at most `factor` times others, if no pixel is off by more than `bound`.

    A mean squared error e then is off by at most 2 * sqrt(e) * bound + bound**2 (Cauchy-Schwarz).

    Raises:
        _UncertainError: the answer depends on it.
    """
    rooms = [2 * values.sqrt() * bound + bound**2 for values in (errors, others)]
    difference = errors - factor * others
    if bound > 0 and (difference.abs() <= rooms[0] + factor * rooms[1]).any():
        raise _UncertainError
    return difference <= 0


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
