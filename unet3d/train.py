"""DetokenizerTraining: trains a VideoDetokenizer on crops of clips."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from motion_vq.losses import psnr
from unet3d.candidates import MotionCandidates, make_candidates
from unet3d.detokenizer import VideoDetokenizer

CodeMotion = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""(vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> the vectors after coding, same shape."""
CodeKeyframe = Callable[[Tensor], Tensor]
"""Keyframe [B, 3, H, W] in [-1, 1] -> the keyframe after coding, same shape."""
Item = dict[str, np.ndarray]

CROP_SIZE = (80, 128)
"""Height and width of a crop in pixels; it has every `stride`-th frame of its clip."""
CROPS_PER_ITEM = 2
FORWARD_ONLY_SHARE = 0.25
"""Share of clips that are rebuilt without their next keyframe though there is one."""
PURE_NOISE_SHARE = 0.9
"""Share of crops at the highest noise level: sampling starts there, and has few other steps by default."""
ERROR_FLOOR = 1e-4
"""Mean squared error of a frame's prior, pictures in [-1, 1], below which it no longer gains weight: 46 dB."""
FADED_SHARE = 0.2
"""Share of clips whose brightness changes on the way, as in fades and where a camera adapts its exposure."""
HARM_WEIGHT = 0.5
"""Additional weight of an error that the prior does not have: the network should make nothing worse."""


@dataclass(frozen=True)
class TrainingClip:
    """A clip of the training cache as tensors with a batch dimension of 1."""

    frames: Tensor
    """[1, T, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """[1, T, h, w, 2]."""
    valid: Tensor
    """Bool [1, T, h, w]."""
    next_keyframe: Tensor | None = None
    """[1, 3, H, W], the next clip's, where there is one."""
    next_step: Tensor | None = None
    """[1, h, w, 2], the step into it."""


class DetokenizerTraining:
    """Training task of a `VideoDetokenizer` (see `videotok.training.trainer.Task`): EDM training of the residual.

    Args:
        model: the detokenizer.
        code_motion: gives the vectors that the detokenizer will have, such as those of a motion tokenizer.
        code_keyframe: gives the keyframes that it will have, such as those of a keyframe tokenizer; None: exact ones.
    """

    def __init__(
        self, model: VideoDetokenizer, code_motion: CodeMotion | None = None, code_keyframe: CodeKeyframe | None = None
    ) -> None:
        self.model = model
        self.code_motion = code_motion or coarsen_motion
        self.code_keyframe = code_keyframe

    def prepare(self, items: list[Item], rng: np.random.Generator) -> dict[str, Tensor]:
        """Turn clips of the training cache into crops.

        Returns:
            the parts of `MotionCandidates`; `frames` [N, T, 3, H, W], the truth; `error` [N, T], the mean squared error
            of the whole frames' prior.
        """
        crops = [crop for item in items for crop in self._make_crops(item, rng)]
        return {name: torch.cat([crop[name] for crop in crops]) for name in crops[0]}

    def initialize(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Do nothing: an untrained network gives the prior."""

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, float]]:
        """Return the squared error of denoised frames relative to that of whole frames' prior, and figures to log.

        It is relative so that a dB is worth as much in every frame.
        """
        del progress
        candidates = _candidates_of(batch)
        clean = self.model.to_residual(batch["frames"], candidates)
        sigma = self._draw_noise_levels(len(clean), clean)
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * torch.randn_like(clean)
        frames = self.model.to_frames(self.model(noisy, sigma, candidates).float(), candidates)
        error = (frames - batch["frames"]).square().mean((2, 3, 4))
        prior_error = (candidates.prior - batch["frames"]).square().mean((2, 3, 4))
        change = (error - prior_error) / (batch["error"] + ERROR_FLOOR)
        from_noise = (sigma == self.model.config["sigma_max"])[:, None].expand_as(change)
        gain = -10 / math.log(10) * change.detach()[from_noise].mean() if from_noise.any() else change.new_zeros(())
        return (1 + change + HARM_WEIGHT * change.relu()).mean(), {"gain": float(gain)}

    def validate(self, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """Return the PSNR in dB of crops denoised with the default number of steps, of their prior, and the gain."""
        denoised, priors = [], []
        for batch in batches:
            candidates = _candidates_of(batch)
            frames = self.model.denoise(candidates, torch.Generator().manual_seed(0)).clamp(-1, 1)
            denoised.append(psnr((frames - batch["frames"]).square().mean((1, 2, 3, 4)), peak=2))
            priors.append(psnr((candidates.prior - batch["frames"]).square().mean((1, 2, 3, 4)), peak=2))
        own, prior = torch.cat(denoised), torch.cat(priors)
        worst = (own - prior).sort().values[: max(1, len(own) // 10)].mean()
        return {
            "psnr": float(own.mean()),
            "prior_psnr": float(prior.mean()),
            "gain": float((own - prior).mean()),
            "gain_worst_tenth": float(worst),
        }

    def _draw_noise_levels(self, count: int, like: Tensor) -> Tensor:
        """Draw [count] levels: sigma_max, or log-normal below it (Karras et al. 2022, table 1, for unit variance)."""
        low, high = self.model.config["sigma_min"], self.model.config["sigma_max"]
        levels = torch.randn(count, device=like.device).mul(1.2).exp().clamp(low, high)
        pure_noise = torch.rand(count, device=like.device) < PURE_NOISE_SHARE
        return torch.where(pure_noise, torch.full_like(levels, high), levels)

    def _make_crops(self, item: Item, rng: np.random.Generator) -> list[dict[str, Tensor]]:
        clip = read_clip(item, flip=bool(rng.random() < 0.5))
        if rng.random() < FADED_SHARE:
            clip = fade_clip(clip, rng)
        forward_only = clip.next_keyframe is None or rng.random() < FORWARD_ONLY_SHARE
        keyframe, next_keyframe = clip.frames[:, 0], None if forward_only else clip.next_keyframe
        vectors, next_vectors = self._code_vectors(clip, rng, forward_only=forward_only)
        if self.code_keyframe is not None:
            keyframe = self.code_keyframe(keyframe)
            next_keyframe = None if next_keyframe is None else self.code_keyframe(next_keyframe)
        stride = self.model.config["stride"]
        window = slice(int(rng.integers(stride)), None, stride)
        candidates = make_candidates(
            keyframe, vectors, next_keyframe=next_keyframe, next_vectors=next_vectors, window=window
        )
        frames = clip.frames[:, window]
        error = (candidates.prior - frames).square().mean((2, 3, 4))
        return [{**_random_crop(candidates, frames, rng), "error": error} for _ in range(CROPS_PER_ITEM)]

    def _code_vectors(
        self, clip: TrainingClip, rng: np.random.Generator, *, forward_only: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the coded field and, unless forward only, the coded step into the next keyframe.

        The cache does not have the next clip's field, only its first step: it takes the place of this clip's first step
        when coded.
        """
        if forward_only or clip.next_step is None:
            return self.code_motion(clip.vectors, clip.valid, rng), None
        own_step = clip.vectors[:, :1].clone()
        steps = torch.cat((clip.next_step[:, None], clip.vectors[:, 1:]), dim=1)
        coded = self.code_motion(steps, clip.valid, rng)
        return torch.cat((own_step, coded[:, 1:]), dim=1), coded[:, :1]


def coarsen_motion(vectors: Tensor, valid: Tensor, rng: np.random.Generator) -> Tensor:
    """Average fields over blocks of a random number of steps and cells, as a stand-in for a motion tokenizer."""
    del valid
    steps, height, width = vectors.shape[1:4]
    cells = int(rng.integers(1, 7))
    size = (max(1, steps // int(rng.integers(1, 7))), max(1, height // cells), max(1, width // cells))
    small = torch.nn.functional.adaptive_avg_pool3d(vectors.permute(0, 4, 1, 2, 3), size)
    fine = torch.nn.functional.interpolate(small, (steps, height, width), mode="trilinear", align_corners=False)
    return fine.permute(0, 2, 3, 4, 1)


def read_clip(item: Item, flip: bool) -> TrainingClip:
    """Turn an item of the training cache into tensors; mirrored from left to right where `flip`."""

    def picture(values: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(values)).movedim(-1, -3)[None].float() / 127.5 - 1
        return pixels.flip(-1) if flip else pixels

    def motion(values: np.ndarray) -> Tensor:
        vectors = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
        return vectors.flip(-2) * vectors.new_tensor((-1, 1)) if flip else vectors

    valid = torch.from_numpy(np.ascontiguousarray(item["valid"]))[None]
    has_next = "next_keyframe_frame" in item
    return TrainingClip(
        frames=picture(item["frames"]),
        vectors=motion(item["vectors"]),
        valid=valid.flip(-1) if flip else valid,
        next_keyframe=picture(item["next_keyframe_frame"]) if has_next else None,
        next_step=motion(item["next_vectors0"]) if has_next else None,
    )


def fade_clip(clip: TrainingClip, rng: np.random.Generator) -> TrainingClip:
    """Change contrast and brightness linearly from the first frame to the next keyframe."""
    steps = clip.frames.shape[1]
    time = torch.arange(steps + 1).view(1, -1, 1, 1, 1) / steps
    contrast, brightness = (float(rng.normal(0, std)) for std in (0.15, 0.15))
    gain, offset = 1 + contrast * time, brightness * time
    frames = (clip.frames * gain[:, :steps] + offset[:, :steps]).clamp(-1, 1)
    next_keyframe = clip.next_keyframe
    if next_keyframe is not None:
        next_keyframe = (next_keyframe * gain[:, steps] + offset[:, steps]).clamp(-1, 1)
    return TrainingClip(frames, clip.vectors, clip.valid, next_keyframe, clip.next_step)


def _random_crop(candidates: MotionCandidates, frames: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the same random crop of candidates and frames."""
    height, width = frames.shape[-2:]
    top = int(rng.integers(height - CROP_SIZE[0] + 1))
    left = int(rng.integers(width - CROP_SIZE[1] + 1))
    rows, columns = slice(top, top + CROP_SIZE[0]), slice(left, left + CROP_SIZE[1])
    crop = candidates.crop(rows, columns)
    parts = {part.name: getattr(crop, part.name) for part in fields(crop)}
    return {name: values.clone() for name, values in {**parts, "frames": frames[..., rows, columns]}.items()}


def _candidates_of(batch: dict[str, Tensor]) -> MotionCandidates:
    return MotionCandidates(**{part.name: batch[part.name] for part in fields(MotionCandidates)})
