"""DetokenizerTraining: what the loop in videotok/training needs to teach a VideoDetokenizer."""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from unet3d.candidates import Evidence, gather
from unet3d.detokenizer import VideoDetokenizer

CodeMotion = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""(vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> the vectors a decoder will have, same shape."""
Item = dict[str, np.ndarray]

CROP = (80, 128)
"""Height and width of a crop in pixels; it has every `stride`-th frame of its clip."""
CROPS_AN_ITEM = 2
FORWARD_ONLY = 0.25
"""Share of clips that are rebuilt without their next keyframe though there is one."""
ONE_STEP = 0.9
"""Share of crops at the highest noise: there the first step starts, and the default sampler has few others."""
EASY = 1e-4
"""Mean squared error of a frame's prior, pictures in [-1, 1], below which it no longer gains weight: 46 dB."""
FADED = 0.2
"""Share of clips that grow lighter or darker on the way, as in fades and where a camera sets its exposure anew."""
HARM = 0.5
"""How much more of an error counts that the prior did not make: nothing is to get worse."""


def coarsened(vectors: Tensor, valid: Tensor, rng: np.random.Generator) -> Tensor:
    """Stands in for a motion tokenizer: fields averaged over blocks of a few steps and cells, drawn anew each call."""
    del valid
    steps, height, width = vectors.shape[1:4]
    across = int(rng.integers(1, 7))
    size = (max(1, steps // int(rng.integers(1, 7))), max(1, height // across), max(1, width // across))
    channels = vectors.permute(0, 4, 1, 2, 3)
    small = torch.nn.functional.adaptive_avg_pool3d(channels, size)
    dilate_motion = torch.nn.functional.interpolate(
        small, (steps, height, width), mode="trilinear", align_corners=False
    )
    return dilate_motion.permute(0, 2, 3, 4, 1)


class DetokenizerTraining:
    """EDM training of the residual over the warped keyframes, on crops of clips."""

    def __init__(self, model: VideoDetokenizer, code_motion: CodeMotion = coarsened) -> None:
        self.model = model
        self.code_motion = code_motion

    def prepare(self, items: list[Item], rng: np.random.Generator) -> dict[str, Tensor]:
        """Clips of the cache to crops: parts of an Evidence, `frames`, and the whole prior's `error` [N, T]."""
        crops = [crop for item in items for crop in self._crops(item, rng)]
        return {name: torch.cat([crop[name] for crop in crops]) for name in crops[0]}

    def initialise(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Nothing is to be set from data: the network starts as the prior."""

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, float]]:
        """Squared error of the denoised frames, against that of their whole frame's prior: a dB is a dB everywhere."""
        del progress
        evidence = _evidence(batch)
        clean = self.model.clean(batch["frames"], evidence)
        sigma = self._noise_levels(len(clean), clean)
        noisy = clean + sigma.view(-1, 1, 1, 1, 1) * torch.randn_like(clean)
        frames = self.model.frames(self.model(noisy, sigma, evidence).float(), evidence)
        error = (frames - batch["frames"]).square().mean((2, 3, 4))
        start = (evidence.prior - batch["frames"]).square().mean((2, 3, 4))
        ratio = (error - start) / (batch["error"] + EASY)
        first = (sigma == self.model.config["sigma_max"])[:, None].expand_as(ratio)
        gain = -10 / math.log(10) * ratio.detach()[first].mean() if first.any() else ratio.new_zeros(())
        return (1 + ratio + HARM * ratio.relu()).mean(), {"gain": float(gain)}

    def validate(self, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """PSNR of denoised crops after the default number of steps, and of their prior."""
        ours, priors = [], []
        for batch in batches:
            evidence = _evidence(batch)
            generator = torch.Generator().manual_seed(0)
            frames = self.model.denoised(evidence, generator).clamp(-1, 1)
            ours.append(_psnr(frames, batch["frames"]))
            priors.append(_psnr(evidence.prior, batch["frames"]))
        own, prior = torch.cat(ours), torch.cat(priors)
        worst = (own - prior).sort().values[: max(1, len(own) // 10)].mean()
        return {
            "psnr": float(own.mean()),
            "prior_psnr": float(prior.mean()),
            "gain": float((own - prior).mean()),
            "gain_worst_tenth": float(worst),
        }

    def _noise_levels(self, count: int, like: Tensor) -> Tensor:
        """[count]: sigma_max, or log-normal below it (Karras et al. 2022, table 1, centred on unit variance)."""
        low, high = self.model.config["sigma_min"], self.model.config["sigma_max"]
        levels = torch.randn(count, device=like.device).mul(1.2).exp().clamp(low, high)
        return torch.where(torch.rand(count, device=like.device) < ONE_STEP, torch.full_like(levels, high), levels)

    def _crops(self, item: Item, rng: np.random.Generator) -> list[dict[str, Tensor]]:
        frames, vectors, valid, following = _tensors(item, flip=bool(rng.random() < 0.5))
        if rng.random() < FADED:
            frames, following = _faded(frames, following, rng)
        if following is not None and rng.random() < FORWARD_ONLY:
            following = None
        vectors, next_vectors = self._coded(vectors, valid, following, rng)
        next_keyframe = None if following is None else following[0]
        stride = self.model.config["stride"]
        window = slice(int(rng.integers(stride)), None, stride)
        evidence = gather(frames[:, 0], vectors, next_keyframe=next_keyframe, next_vectors=next_vectors, window=window)
        frames = frames[:, window]
        error = (evidence.prior - frames).square().mean((2, 3, 4))
        return [{**_cut(evidence, frames, rng), "error": error} for _ in range(CROPS_AN_ITEM)]

    def _coded(
        self, vectors: Tensor, valid: Tensor, following: tuple[Tensor, Tensor] | None, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The field, and the step into the next keyframe, as they come out of the coder.

        The next clip's field is not at hand, only its first step: it takes the place of this clip's when coded.
        """
        if following is None:
            return self.code_motion(vectors, valid, rng), None
        own = vectors[:, :1].clone()
        coded = self.code_motion(torch.cat((following[1][:, None], vectors[:, 1:]), dim=1), valid, rng)
        return torch.cat((own, coded[:, 1:]), dim=1), coded[:, :1]


def _tensors(item: Item, flip: bool) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """frames [1, T, 3, H, W], vectors [1, T, h, w, 2], valid [1, T, h, w], and the next keyframe and the step to it."""

    def picture(values: np.ndarray) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(values)).movedim(-1, -3)[None].float() / 127.5 - 1
        return found.flip(-1) if flip else found

    def motion(values: np.ndarray) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
        return found.flip(-2) * found.new_tensor((-1, 1)) if flip else found

    valid = torch.from_numpy(np.ascontiguousarray(item["valid"]))[None]
    frames = picture(item["frames"])
    following = None
    if "next_keyframe_frame" in item:
        following = picture(item["next_keyframe_frame"]), motion(item["next_vectors0"])
    return frames, motion(item["vectors"]), valid.flip(-1) if flip else valid, following


def _faded(
    frames: Tensor, following: tuple[Tensor, Tensor] | None, rng: np.random.Generator
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The clip [1, T, 3, H, W] in [-1, 1] and its next keyframe, whose light changes evenly from the first frame on."""
    steps = frames.shape[1]
    way = torch.arange(steps + 1).view(1, -1, 1, 1, 1) / steps
    stronger, lighter = (float(rng.normal(0, spread)) for spread in (0.15, 0.15))
    gain, offset = 1 + stronger * way, lighter * way
    faded = (frames * gain[:, :steps] + offset[:, :steps]).clamp(-1, 1)
    if following is None:
        return faded, None
    return faded, ((following[0] * gain[:, steps] + offset[:, steps]).clamp(-1, 1), following[1])


def _cut(evidence: Evidence, frames: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """The same crop of frames and of what is known of them."""
    height, width = frames.shape[-2:]
    top = int(rng.integers(height - CROP[0] + 1))
    left = int(rng.integers(width - CROP[1] + 1))
    rows, columns = slice(top, top + CROP[0]), slice(left, left + CROP[1])
    cut = evidence.cut(rows, columns)
    parts = {part.name: getattr(cut, part.name) for part in fields(cut)}
    return {name: values.clone() for name, values in {**parts, "frames": frames[..., rows, columns]}.items()}


def _evidence(batch: dict[str, Tensor]) -> Evidence:
    return Evidence(**{part.name: batch[part.name] for part in fields(Evidence)})


def _psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """[N], dB, of frames [N, T, 3, H, W] in [-1, 1]."""
    return 10 * torch.log10(4 / (frames - truth).square().mean((1, 2, 3, 4)).clamp_min(1e-6))
