"""Clips to ids: in a fixed layout, or at a rate. Both take clips as they come and return them as they are done."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from codec import Clip, ClipSpec
from motion_vq import MotionTokens
from motion_vq.model_base import as_double, no_tf32
from videotok.config import EncodeConfig
from videotok.image_utils import to_square_tensor
from videotok.keyframe_prediction import BegunKeyframes, DecodedKeyframes, EncodedKeyframe, PredictiveKeyframeEncoder
from videotok.rate_control import (
    FIRST_PREDICTED_SHARE,
    SHARE_STEP,
    WINDOW,
    Choice,
    ClipCosts,
    KeyframeErrors,
    keyframe_costs,
    levels_of,
    motion_errors,
    plan,
    prediction_errors,
)

if TYPE_CHECKING:
    from videotok.models import TokenizerModels

SLACK = 0.02
"""Share of a video's tokens that may be missing at its end."""


@dataclass(frozen=True)
class EncodedClip:
    """The ids of one clip."""

    keyframe: EncodedKeyframe
    motion_ids: np.ndarray
    """int64 [quantizers, ids per quantizer]."""
    global_motion_ids: np.ndarray
    """int64 [K]."""


class ClipEncoder(Protocol):
    """Encodes the clips of one video, in order; to be used inside of `TokenizerModels.encoding`."""

    def push(self, clips: Sequence[Clip]) -> list[EncodedClip]:
        """Take in the next clips and return those that are done; they may be of earlier calls."""
        ...

    def finish(self) -> list[EncodedClip]:
        """Return the clips that were still waiting."""
        ...


def make_clip_encoder(models: "TokenizerModels", config: EncodeConfig, spec: ClipSpec) -> ClipEncoder:
    """Return the encoder that a config asks for."""
    if config.tokens_per_second is not None:
        return RateControlledEncoder(models, config, spec, config.tokens_per_second)
    return FixedLayoutEncoder(models, config)


def _keyframe_encoder(models: "TokenizerModels", config: EncodeConfig) -> PredictiveKeyframeEncoder:
    is_sampled = config.patch_selection == "sample"
    return PredictiveKeyframeEncoder(
        models.keyframes,
        keep_ratio=config.keep_ratio,
        tokens_per_keyframe=config.tokens_per_keyframe,
        predict=config.predict_keyframes,
        refinement_steps=config.refinement_steps,
        generator=torch.Generator().manual_seed(config.seed) if is_sampled else None,
    )


class FixedLayoutEncoder:
    """Gives every clip the same number of motion quantizers, and keyframes the tokens that the config says."""

    def __init__(self, models: "TokenizerModels", config: EncodeConfig) -> None:
        """Begin a video."""
        self._models = models
        quantizers = config.motion_quantizers
        self._quantizers = models.default_motion_quantizers if quantizers is None else quantizers
        self._keyframes = _keyframe_encoder(models, config)
        self._motion: list[tuple[np.ndarray, np.ndarray]] = []
        """Motion ids and global-motion ids of the clips whose keyframes are not done."""
        self._begun: BegunKeyframes | None = None
        """Keyframes of the last call, which are decoded while those of the next one are encoded."""
        self._decoded: DecodedKeyframes | None = None
        """Keyframes of the call before that."""

    def push(self, clips: Sequence[Clip]) -> list[EncodedClip]:
        """See `ClipEncoder`. On several cores, a thread decodes the keyframes of the call before beside these clips.

        Two threads with half of torch's threads each wait less for each other than all of them at every operation.
        Encoding a keyframe and decoding it take as long.
        """
        keyframes, before, total = self._keyframes, self._begun, torch.get_num_threads()
        if not keyframes.overlaps:
            return self._joined(keyframes.push(*self._inputs(clips)))
        try:
            # settings of float32 hold for all threads, and each thread restores what it has found
            with no_tf32(), ThreadPoolExecutor(1, "decode", torch.set_num_threads, (max(1, total // 2),)) as pool:
                decoded = pool.submit(keyframes.decode, before) if before and total > 1 else None
                torch.set_num_threads(total - total // 2)
                self._begun = keyframes.begin(*self._inputs(clips))
                done = self._completed()
                if before:
                    self._decoded = decoded.result() if decoded else keyframes.decode(before)
        finally:
            torch.set_num_threads(total)
        return self._joined(done)

    def finish(self) -> list[EncodedClip]:
        """See `ClipEncoder`."""
        begun, self._begun, done = self._begun, None, self._completed()
        if begun is not None:
            self._decoded = self._keyframes.decode(begun, is_last=True)
            done += self._completed()
        return self._joined(done + self._keyframes.finish())

    def _completed(self) -> list[EncodedKeyframe]:
        decoded, self._decoded = self._decoded, None
        return self._keyframes.complete(decoded) if decoded else []

    def _inputs(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor | None, list[bool]]:
        """Encode the motion of clips; return the arguments of `PredictiveKeyframeEncoder.push`."""
        models = self._models
        motion = models.encode_motion([clip.motion for clip in clips], self._quantizers)
        self._motion += zip(motion.ids.cpu().numpy(), motion.global_motion_ids.cpu().numpy(), strict=True)
        images = torch.cat([to_square_tensor(clip.keyframe, models.keyframes.image_size) for clip in clips])
        # decoded in the precision of encoding: which patches are skipped must not depend on rounding either
        vectors = models.motion.decode(motion) if self._keyframes.predicts else None
        return images.to(models.keyframes.device), vectors, [clip.damaged for clip in clips]

    def _joined(self, keyframes: list[EncodedKeyframe]) -> list[EncodedClip]:
        done, self._motion = self._motion[: len(keyframes)], self._motion[len(keyframes) :]
        return [EncodedClip(keyframe, *motion) for keyframe, motion in zip(keyframes, done, strict=True)]


@dataclass(frozen=True)
class _WaitingClip:
    """A clip whose quantizers and patches are not chosen yet."""

    clip: Clip
    """With its frames, and without its keyframe, which may be large."""
    motion: MotionTokens
    """Of one clip, with all quantizers."""
    vectors: list[Tensor]
    """float32 [1, T, h, w, 2] for each number of quantizers, from 0."""
    image: Tensor
    """[1, 3, S, S] in [-1, 1]."""
    errors: KeyframeErrors
    keyframe_tokens: np.ndarray
    """int64 [levels]; see `ClipCosts`."""
    keyframe_errors: np.ndarray
    """float64 [levels]; see `ClipCosts`."""


class RateControlledEncoder:
    """Chooses motion quantizers and patches of each clip so that the video has a number of tokens a second.

    A clip is chosen together with the `WINDOW` - 1 clips after it (see `videotok.rate_control`) and what the clips
    before it have left over or overdrawn. The last clip takes what is left. Memory does not grow with the video.
    """

    def __init__(
        self, models: "TokenizerModels", config: EncodeConfig, spec: ClipSpec, tokens_per_second: float
    ) -> None:
        """Begin a video; its clips must come with frames of about `videotok.video_reading.ERROR_AREA` pixels."""
        self._models, self._spec = models, spec
        self._tokens_per_frame = tokens_per_second / float(spec.fps)
        most = models.motion.num_quantizers
        self._most = most if config.motion_quantizers is None else config.motion_quantizers
        self._keyframes = _keyframe_encoder(models, config)
        self._waiting: list[_WaitingClip] = []
        self._costs: list[ClipCosts] = []
        """Of the waiting clips, but for the last one: its costs depend on the clip after it."""
        self._budget = 0.0
        """Tokens for all clips so far."""
        self._saved = 0.0
        """Tokens that the clips so far have left; negative where they took more."""
        self._share = FIRST_PREDICTED_SHARE
        """Of the tokens that are expected of predicted keyframes, those that they take."""

    def push(self, clips: Sequence[Clip]) -> list[EncodedClip]:
        """See `ClipEncoder`."""
        motion = self._models.encode_motion([clip.motion for clip in clips], self._most)
        images, keyframe_errors = self._expect_errors(clips)
        vectors = self._decode_all(motion)
        done: list[EncodedClip] = []
        for number, clip in enumerate(clips):
            rows = slice(number, number + 1)
            own = MotionTokens(motion.ids[rows], motion.global_motion_ids[rows])
            own_vectors = [some[rows] for some in vectors]
            arriving = self._analysed(clip, own, own_vectors, images[rows], keyframe_errors[number])
            if self._waiting:
                self._costs.append(self._costs_of(self._waiting[-1], arriving))
            self._waiting.append(arriving)
            if len(self._costs) == WINDOW:
                done.append(self._encode_first())
        return done

    def finish(self) -> list[EncodedClip]:
        """See `ClipEncoder`."""
        if self._waiting:
            self._costs.append(self._costs_of(self._waiting[-1], None))
        return [self._encode_first() for _ in range(len(self._waiting))]

    def _expect_errors(self, clips: Sequence[Clip]) -> tuple[Tensor, list[KeyframeErrors]]:
        """Return the keyframes of clips, [B, 3, S, S] in [-1, 1], and what is expected of each."""
        keyframes = self._models.keyframes
        images = torch.cat([to_square_tensor(clip.keyframe, keyframes.image_size) for clip in clips])
        images, levels = images.to(keyframes.device), levels_of(keyframes.num_patches)
        expected = keyframes.expected_errors(images, levels.tolist())
        scores, errors = expected.scores.double().cpu(), expected.errors.double().cpu()
        rows = [slice(number, number + 1) for number in range(len(clips))]
        features = [None if expected.features is None else expected.features[row] for row in rows]
        return images, [KeyframeErrors(scores[row], levels, errors[row][0], features[n]) for n, row in enumerate(rows)]

    def _decode_all(self, motion: MotionTokens) -> list[Tensor]:
        """Return the vectors of clips for each number of quantizers from 0, [B, T, h, w, 2]."""
        model = self._models.motion
        return [model.decode(motion.first_quantizers(number)) for number in range(self._most + 1)]

    def _analysed(
        self, clip: Clip, motion: MotionTokens, vectors: list[Tensor], image: Tensor, errors: KeyframeErrors
    ) -> _WaitingClip:
        before, keyframes = self._waiting[-1] if self._waiting else None, self._models.keyframes
        moved = last = None
        if before is not None and self._keyframes.predicts and not (clip.damaged or before.clip.damaged):
            last, steps = before.errors, min(1, self._most)
            moved = prediction_errors(
                image, as_double(vectors[steps]), before.image, as_double(before.vectors[steps]), keyframes.grid
            ).cpu()
        tokens, mean_errors = keyframe_costs(errors, last, moved)
        return _WaitingClip(_without_keyframe(clip), motion, vectors, image, errors, tokens, mean_errors)

    def _costs_of(self, waiting: _WaitingClip, after: _WaitingClip | None) -> ClipCosts:
        clip = waiting.clip
        if clip.num_frames < self._spec.frames:  # a cut or the end follows: the next keyframe shows another scene
            after = None
        vectors = [as_double(steps.cpu()) for steps in waiting.vectors]
        next_vectors = None if after is None else [as_double(steps.cpu()) for steps in after.vectors]
        per_quantizer = self._models.motion.tokens_per_quantizer
        return ClipCosts(
            num_frames=clip.num_frames,
            has_next=after is not None,
            motion_tokens=waiting.motion.global_motion_ids.shape[1] + per_quantizer * np.arange(self._most + 1),
            motion_errors=motion_errors(clip, vectors, None if after is None else after.clip, next_vectors),
            keyframe_patches=waiting.errors.patches,
            keyframe_tokens=waiting.keyframe_tokens,
            keyframe_errors=waiting.keyframe_errors,
        )

    def _encode_first(self) -> EncodedClip:
        """Choose for the clips in the window, and encode the first one."""
        waiting, costs = self._waiting.pop(0), self._costs
        budget = self._saved + sum(map(self._budget_of, costs))
        choice = plan([one.with_predicted_share(self._share) for one in costs], budget)[0]
        is_last = len(costs) == 1
        own_budget = self._budget_of(costs[0])
        self._budget += own_budget
        motion = waiting.motion.first_quantizers(choice.quantizers)
        encoded = self._encode_keyframe(waiting, choice, budget - motion.tokens_per_clip if is_last else None)
        expected = int(costs[0].keyframe_tokens[costs[0].keyframe_patches == choice.patches][0])
        if 0 < expected < choice.patches:
            self._share += SHARE_STEP * (len(encoded.ids) / expected - self._share)
        costs.pop(0)
        self._saved += own_budget - motion.tokens_per_clip - len(encoded.ids)
        return EncodedClip(encoded, motion.ids[0].cpu().numpy(), motion.global_motion_ids[0].cpu().numpy())

    def _encode_keyframe(self, waiting: _WaitingClip, choice: Choice, aim: float | None) -> EncodedKeyframe:
        return self._keyframes.push_ranked(
            waiting.image,
            waiting.errors.scores,
            choice.patches,
            waiting.vectors[choice.quantizers],
            waiting.clip.damaged,
            features=waiting.errors.features,
            aim=None if aim is None else max(1, int(aim)),
            slack=int(SLACK * self._budget),
        )

    def _budget_of(self, costs: ClipCosts) -> float:
        # a picture has no length to count tokens by: it gets those of a whole clip
        is_picture = costs.num_frames == 1 and len(self._costs) == 1 and self._budget == 0
        return self._tokens_per_frame * (self._spec.frames if is_picture else costs.num_frames)


def _without_keyframe(clip: Clip) -> Clip:
    return replace(clip, keyframe=np.zeros((0, 0, 3), np.uint8))
