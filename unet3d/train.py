"""Training of the video detokenizer on crops of clips: two tasks for `videotok.training.trainer`.

DetokenizerTraining             the denoiser at all noise levels, by squared error
DetokenizerPerceptualTraining   what one evaluation from pure noise shows, refiner included: log squared error, LPIPS if
                                given, sharpness and power spectrum
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from motion_vq.losses import psnr
from unet3d.candidates import MotionCandidates, make_candidates
from unet3d.detokenizer import VideoDetokenizer
from unet3d.perceptual_losses import (
    augmented_lpips,
    laplacian_energy,
    pattern_excess,
    sharpness_difference,
    spectrum_difference,
)

CodeMotion = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
"""(vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> the vectors after coding, same shape."""
CodeKeyframes = Callable[[Tensor, tuple[int, int], np.random.Generator], Tensor]
"""(keyframes as squares [N, 3, S, S] in [-1, 1], (H, W), rng) -> the keyframes after coding, [N, 3, H, W]."""
Item = dict[str, np.ndarray]
Figures = dict[str, float]

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
ERROR_OFFSET = 3e-4
"""Added to a frame's squared error before its log: frames better than this (41 dB) count less."""
MIXTURE_WEIGHT = 0.4
"""Weight of the mixture's own log squared error where the network before the refiner is trained, too."""
LPIPS_RANGE = 1.1
"""Pixels are clipped to this before LPIPS, which was trained on pictures in [-1, 1]."""
LPIPS_DECIBELS = 13.0
"""A `score` of validation is PSNR less LPIPS times this: 0.01 of LPIPS is worth 0.13 dB."""


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
    square: Tensor | None = None
    """[1, 3, S, S], the keyframe as a keyframe tokenizer takes it: all of the picture, resized to a square."""
    next_square: Tensor | None = None
    """The next keyframe likewise."""


class DetokenizerTraining:
    """Training task of a `VideoDetokenizer` (see `videotok.training.trainer.Task`): EDM training of the residual.

    Args:
        model: the detokenizer.
        code_motion: gives the vectors that the detokenizer will have, such as those of a motion tokenizer; None:
            fields averaged over random blocks.
        code_keyframes: gives the keyframes that it will have, such as those of a keyframe tokenizer; None: exact ones.
        exact_share: share of the clips, 0 to 1, whose keyframes stay exact all the same.
    """

    def __init__(
        self,
        model: VideoDetokenizer,
        code_motion: CodeMotion | None = None,
        code_keyframes: CodeKeyframes | None = None,
        exact_share: float = 0.3,
    ) -> None:
        self.model = model
        self.code_motion = code_motion or coarsen_motion
        self.code_keyframes = code_keyframes
        self.exact_share = exact_share
        self.bicubic_mix = 0.0

    def prepare(self, items: list[Item], rng: np.random.Generator) -> dict[str, Tensor]:
        """Turn clips of the training cache into crops.

        Returns:
            the parts of `MotionCandidates`; `frames` [N, T, 3, H, W], the truth; `error` [N, T], the mean squared error
            of the whole frames' prior; `exact` [N], 1 where the keyframes were not coded, else 0.
        """
        crops = [crop for item in items for crop in self._make_crops(item, rng)]
        return {name: torch.cat([crop[name] for crop in crops]) for name in crops[0]}

    def initialize(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Do nothing: an untrained network gives the prior."""

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Figures]:
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

    def validate(self, batches: Iterable[dict[str, Tensor]]) -> Figures:
        """Return the PSNR in dB of crops denoised with the default number of steps, of their prior, and the gain."""
        values: dict[str, list[Tensor]] = {}
        for batch in batches:
            candidates, truth = _candidates_of(batch), batch["frames"]
            frames = self._decode(batch, candidates).clamp(-1, 1)
            own, prior = (_crop_psnr(shown, truth) for shown in (frames, candidates.prior))
            found = {"psnr": own, "prior_psnr": prior, "gain": own - prior, **self._compare(frames, truth)}
            for name, rows in found.items():
                values.setdefault(name, []).append(rows)
        rows = {name: torch.cat(parts) for name, parts in values.items()}
        worst = rows["gain"].sort().values[: max(1, len(rows["gain"]) // 10)]
        return {name: float(row.mean()) for name, row in rows.items()} | {"gain_worst_tenth": float(worst.mean())}

    def _decode(self, batch: dict[str, Tensor], candidates: MotionCandidates) -> Tensor:
        """Return crops [N, T, 3, H, W] denoised as in decoding: without the refiner where keyframes are exact."""
        exact = batch["exact"] > 0
        shown = {
            refine: self.model.denoise(candidates, torch.Generator().manual_seed(0), refine=refine)
            for refine in {not bool(is_exact) for is_exact in exact}
        }
        return torch.stack([shown[not bool(is_exact)][index] for index, is_exact in enumerate(exact)])

    def _compare(self, frames: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return more figures of validation, one value [N] a crop, of frames [N, T, 3, H, W]."""
        del frames, truth
        return {}

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
        if forward_only:
            clip = replace(clip, next_keyframe=None, next_square=None)
        vectors, next_vectors = self._code_vectors(clip, rng, forward_only=forward_only)
        exact = self.code_keyframes is None or rng.random() < self.exact_share
        keyframe, next_keyframe = clip.frames[:, 0], clip.next_keyframe
        if self.code_keyframes is not None and not exact:
            squares = [square for square in (clip.square, clip.next_square) if square is not None]
            coded = self.code_keyframes(torch.cat(squares), (keyframe.shape[-2], keyframe.shape[-1]), rng)
            keyframe, next_keyframe = coded[:1], None if forward_only else coded[1:]
        stride = self.model.config["stride"]
        window = slice(int(rng.integers(stride)), None, stride)
        candidates = make_candidates(
            keyframe,
            vectors,
            next_keyframe=next_keyframe,
            next_vectors=next_vectors,
            window=window,
            bicubic_mix=self.bicubic_mix,
        )
        frames = clip.frames[:, window]
        whole = {
            "error": (candidates.prior - frames).square().mean((2, 3, 4)),
            "exact": torch.tensor([float(exact)]),
        }
        return [{**_random_crop(candidates, frames, rng), **whole} for _ in range(CROPS_PER_ITEM)]

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


@dataclass(frozen=True)
class PerceptualOptions:
    """What `DetokenizerPerceptualTraining` trains, and for what besides log squared error."""

    lpips: nn.Module | None = None
    """Perceptual distance, frozen: (frames, truth), both [N, 3, H, W] in [-1, 1] -> [N]. None: not used."""
    lpips_weight: float = 6.0
    """Of LPIPS under random augmentation, see `augmented_lpips`."""
    sharpness_weight: float = 0.6
    """Of the difference in local sharpness, see `sharpness_difference`."""
    spectrum_weight: float = 0.8
    """Of the difference in power by frequency and direction, see `spectrum_difference`."""
    pattern_weight: float = 3.0
    """Of regular patterns, see `pattern_excess`."""
    exact_weight: float = 0.25
    """Factor on all of these where keyframes are exact: there detail is at hand, and none has to be made up."""
    frames_per_crop: int = 3
    """So many frames of each crop, at random, are refined and compared."""
    refiner_only: bool = False
    """Train the refiner and leave all other weights as they are; much cheaper."""


class DetokenizerPerceptualTraining(DetokenizerTraining):
    """Trains what one evaluation of the network from pure noise shows: sharp frames rather than mean ones.

    Candidates are mixed as in decoding (bicubic, with the inverse temperature), so that the refiner, if the model has
    one, learns from the mixtures that it will meet.
    """

    def __init__(
        self,
        model: VideoDetokenizer,
        options: PerceptualOptions,
        code_motion: CodeMotion | None = None,
        code_keyframes: CodeKeyframes | None = None,
        exact_share: float = 0.3,
    ) -> None:
        """Freeze all of `model` but the refiner where `options` say so; see `DetokenizerTraining` for the rest.

        Raises:
            ValueError: the refiner alone is to be trained, and there is none.
        """
        super().__init__(model, code_motion, code_keyframes, exact_share)
        self.options = options
        self.bicubic_mix = model.config["bicubic_mix"]
        if options.refiner_only:
            if model.refiner is None:
                raise ValueError("these weights have no refiner to train; add one, by giving its widths and blocks")
            model.requires_grad_(False)
            model.refiner.requires_grad_(True)

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, Figures]:
        """Return the loss [] of a few frames of each crop, and figures to log."""
        del progress
        options, candidates, truth = self.options, _candidates_of(batch), batch["frames"]
        # only in this mode does `mix` read keyframes and weigh candidates as in decoding; no layer has dropout
        self.model.eval()
        sigma = truth.new_full((len(truth),), self.model.config["sigma_max"])
        noise = torch.randn_like(self.model.to_residual(truth, candidates))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not options.refiner_only):
            mixture = self.model.mix(noise * sigma[0], sigma, candidates)
        total = truth.new_zeros(())
        if not options.refiner_only:
            total = MIXTURE_WEIGHT * _log_error(mixture.frames, truth).mean()
        chosen = torch.rand(truth.shape[:2], device=truth.device).argsort(1)[:, : options.frames_per_crop]
        mixed, truth = _take_frames(mixture.frames, chosen), _take_frames(truth, chosen)
        frames = mixed
        if self.model.refiner is not None:
            # of the candidates the refiner reads the maps alone
            maps = replace(candidates, maps=_take_frames(candidates.maps, chosen))
            detail = self.model.refiner(mixed, _take_frames(mixture.warps, chosen), maps)
            # exact keyframes lack no detail: as in decoding, their mixture stays as it is
            frames = mixed + (1 - batch["exact"]).view(-1, 1, 1, 1, 1) * detail
        error = _log_error(frames, truth)
        gain = -10 / math.log(10) * (error.detach() - _log_error(mixed.detach(), truth)).mean()
        perceptual, found = self._perceptual_loss(frames.flatten(0, 1), truth.flatten(0, 1))
        weight = 1 - (1 - options.exact_weight) * batch["exact"]
        total = total + error.mean() + (weight[:, None] * perceptual.view(chosen.shape)).mean()
        return total, {"gain": float(gain), **{name: float(value.detach().mean()) for name, value in found.items()}}

    def validate(self, batches: Iterable[dict[str, Tensor]]) -> Figures:
        """Return the figures of `DetokenizerTraining`, and also those of frames as seen.

        `sharpness_difference`; `sharpness`: Laplacian energy as a share of the truth's; with an LPIPS network, `lpips`
        and `score`, PSNR less `LPIPS_DECIBELS` times LPIPS.
        """
        figures = super().validate(batches)
        if "lpips" in figures:
            figures["score"] = figures["psnr"] - LPIPS_DECIBELS * figures["lpips"]
        return figures

    def _compare(self, frames: Tensor, truth: Tensor) -> dict[str, Tensor]:
        first, second = frames.flatten(0, 1), truth.flatten(0, 1)
        energy, wanted = (laplacian_energy(part).mean((1, 2)) for part in (first, second))
        found = {
            "sharpness_difference": sharpness_difference(first, second),
            "sharpness": (energy + 1e-4) / (wanted + 1e-4),
        }
        if self.options.lpips is not None:
            found["lpips"] = self.options.lpips.to(first.device)(first.clamp(-LPIPS_RANGE, LPIPS_RANGE), second)
        return {name: values.view(frames.shape[:2]).mean(1) for name, values in found.items()}

    def _perceptual_loss(self, frames: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum [N] of the perceptual differences of pictures [N, 3, H, W], and each of them, [N]."""
        options = self.options
        found = {
            "sharpness_difference": sharpness_difference(frames, truth),
            "spectrum_difference": spectrum_difference(frames, truth),
            "pattern_excess": pattern_excess(frames, truth),
        }
        if options.lpips is not None:
            lpips = options.lpips.to(frames.device)
            found["lpips"] = augmented_lpips(lpips, frames.clamp(-LPIPS_RANGE, LPIPS_RANGE), truth)
        weights = {
            "sharpness_difference": options.sharpness_weight,
            "spectrum_difference": options.spectrum_weight,
            "pattern_excess": options.pattern_weight,
            "lpips": options.lpips_weight,
        }
        return torch.stack([weights[name] * value for name, value in found.items()]).sum(0), found


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
        square=picture(item["keyframe"]) if "keyframe" in item else None,
        next_square=picture(item["next_keyframe"]) if "next_keyframe" in item else None,
    )


def fade_clip(clip: TrainingClip, rng: np.random.Generator) -> TrainingClip:
    """Change contrast and brightness linearly from the first frame to the next keyframe."""
    steps = clip.frames.shape[1]
    time = torch.arange(steps + 1).view(1, -1, 1, 1, 1) / steps
    contrast, brightness = (float(rng.normal(0, std)) for std in (0.15, 0.15))
    gain, offset = 1 + contrast * time, brightness * time
    frames = (clip.frames * gain[:, :steps] + offset[:, :steps]).clamp(-1, 1)

    def fade_next(picture: Tensor | None) -> Tensor | None:
        return None if picture is None else (picture * gain[:, steps] + offset[:, steps]).clamp(-1, 1)

    return replace(
        clip, frames=frames, next_keyframe=fade_next(clip.next_keyframe), next_square=fade_next(clip.next_square)
    )


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


def _take_frames(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the frames `chosen` int64 [N, n] of values [N, T, ...]: [N, n, ...]."""
    return values[torch.arange(len(values), device=values.device)[:, None], chosen]


def _log_error(frames: Tensor, truth: Tensor) -> Tensor:
    """Return the log of each frame's squared error, [N, T] of [N, T, 3, H, W]: a dB is worth as much in every frame."""
    return ((frames - truth).square().mean((2, 3, 4)) + ERROR_OFFSET).log()


def _crop_psnr(frames: Tensor, truth: Tensor) -> Tensor:
    """Return the PSNR [N] in dB of crops [N, T, 3, H, W] in [-1, 1]."""
    return psnr((frames - truth).square().mean((1, 2, 3, 4)), peak=2)
