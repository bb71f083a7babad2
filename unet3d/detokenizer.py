"""VideoDetokenizer: keyframes and motion in, the frames of a clip out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.attention import split_fused_attention, zero_module
from motion_vq.model_base import VideotokModel, register_to_config
from unet3d.candidates import (
    CANDIDATES,
    MAPS,
    MotionCandidates,
    average_pool,
    check_picture,
    luma,
    make_candidates,
    merge_frames,
    shift_warps,
    space_to_depth,
    split_frames,
    weighted_sum,
)
from unet3d.diffusion import MotionEncoder, approach_zero, build_unet, noise_level, randn_tensor
from unet3d.refiner import Refiner
from unet3d.resampling import enlarge_bilinear, enlarge_vectors_bilinear
from unet3d.transitions import replace_transitions
from unet3d.warping import warp_from_previous

COMPARED_PIXELS = 2
"""Candidates are compared and mixed in squares of so many pixels along each side."""
COMPARED_SHIFTS = (-4, -2, 0, 2, 4)
"""Shifts between the two warps that are compared, in such squares: the best match says by how much they disagree."""
MIN_DIFFERENCE = 0.01
"""Differences are given as logarithms; below this, pictures in [-1, 1], all are alike."""
SHIFTED_PIXELS = 4
"""Each square of so many pixels along each side has shifts of its own."""
NUM_SHIFTS = 6
"""A common shift by which both warps come together, and one of each warp; x and y."""
MAX_LOG_WEIGHT = 12.0

NEARNESS = MAPS.index("nearness")
HAS_NEXT = MAPS.index("has_next")
DISPLACEMENT = [MAPS.index("back_x"), MAPS.index("back_y")]
STILL = [CANDIDATES.index("keyframe"), CANDIDATES.index("next_keyframe")]


class VideoDetokenizer(VideotokModel):
    """Diffusion model of what warped keyframes get wrong, in pixel space.

        keyframe ──┬─ warped ─► candidates, prior (their mix) and sampling grids
        next one ──┘    ▲                     │ differences, by space-to-depth
        vectors ────────┼─► MotionEncoder ─┐  │
        noise ── Euler ─┼──────────────► 3D U-Net ─► shifts of the sampling grids, weights of the candidates
          ▲             │                  │
          └──────────── x ◄────────────────┘          frame = prior + residual_scale * residual_std * x

    The diffused variable x is (frame - prior) / residual_std, rearranged by space-to-depth, which is exact and needs no
    autoencoder. residual_std is how far the prior has moved away from a keyframe: where nothing moved, nothing is to be
    generated. The network predicts x clean (x0-prediction; input times 1 / sqrt(sigma² + 1), noise level ln(sigma) / 4,
    as in EDM, Karras et al., arXiv 2206.00364) by mixing the candidates again, with the warps read at shifted
    positions. Weights and shifts start at zero: an untrained network gives the prior, at any number of steps. Where
    `refiner_widths` are given, a `Refiner` then adds the detail that mixing blurs and that decoded keyframes lack.
    """

    renamed_options: ClassVar = {
        "crispness": "bicubic_mix",
        "restraint": "residual_scale",
        "forward_restraint": "forward_residual_scale",
        "selectivity": "inverse_temperature",
        "spread_floor": "residual_std_floor",
        "refinement": "refiner_scale",
        "latent_channels": None,
    }
    renamed_parameters: ClassVar = {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}

    @register_to_config
    def __init__(
        self,
        *,
        patch_size: int = 8,
        block_out_channels: tuple[int, ...] = (64, 128),
        attention: tuple[bool, ...] = (False, False),
        attention_heads: tuple[int, ...] | None = None,
        layers_per_block: int = 1,
        attention_width: int = 64,
        time_ids_width: int = 32,
        motion_grid: tuple[int, int, int] = (4, 2, 4),
        motion_layers: int = 2,
        motion_width: int = 64,
        motion_heads: int = 4,
        residual_std_floor: float = 0.003,
        residual_scale: float = 1.0,
        forward_residual_scale: float = 1.0,
        bicubic_mix: float = 1.0,
        inverse_temperature: float = 1.0,
        sigma_min: float = 0.05,
        sigma_max: float = 20.0,
        num_inference_steps: int = 1,
        stride: int = 2,
        fps: float = 12.0,
        refiner_widths: tuple[int, ...] = (),
        refiner_blocks: tuple[int, ...] = (),
        refiner_scale: float = 1.0,
    ) -> None:
        """Build the model.

        Args:
            patch_size: pixels along each side of what space-to-depth makes one position.
            block_out_channels, attention, attention_heads, layers_per_block: of the U-Net, see `build_unet`.
            attention_width: channels of the motion features that the U-Net attends to.
            time_ids_width: of the embedding of each added id.
            motion_grid, motion_layers, motion_width, motion_heads: of the `MotionEncoder`.
            residual_std_floor: least residual_std, pictures in [-1, 1].
            residual_scale: share of the network's correction that is taken where there is a next keyframe.
            forward_residual_scale: the same without a next keyframe.
            bicubic_mix: how keyframes are read, 0 to 1, see `candidates.sample_keyframes`; not used in training.
            inverse_temperature: factor of the candidates' log weights; above 1, candidates are selected rather than
                mixed, which is sharper and costs a little PSNR; not used in training.
            sigma_min, sigma_max: noise levels, of a variable of unit variance.
            num_inference_steps: evaluations of the network where the caller gives no number.
            stride: a clip is denoised as `stride` clips of every `stride`-th frame, since neighbours differ little.
            fps: frames per second in training, one of the added ids.
            refiner_widths, refiner_blocks: of the `Refiner` that adds detail to the mixture; no refiner where empty.
            refiner_scale: share of the refiner's detail that is added.
        """
        super().__init__()
        self.patch_channels = 3 * patch_size**2
        self.num_outputs = [num_weight_channels(patch_size), num_shift_channels(patch_size)]
        num_conditions = num_condition_channels(patch_size)
        self.unet = build_unet(
            in_channels=self.patch_channels + num_conditions,
            out_channels=sum(self.num_outputs),
            block_out_channels=block_out_channels,
            attention=attention,
            layers_per_block=layers_per_block,
            attention_width=attention_width,
            time_ids_width=time_ids_width,
            attention_heads=attention_heads,
        )
        self.motion_encoder = MotionEncoder(motion_grid, motion_layers, motion_width, motion_heads, attention_width)
        # a direct path from the conditions, since the U-Net's group norms lose how large differences are
        self.direct = zero_module(nn.Conv2d(num_conditions, sum(self.num_outputs), 1))
        zero_module(self.unet.conv_out)
        self.refiner = Refiner(refiner_widths, refiner_blocks) if refiner_widths else None
        nn.init.zeros_(self.unet.conv_in.weight[:, : self.patch_channels])

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a model from a config; see `diffusers.ConfigMixin.from_config`.

        Raises:
            ValueError: the config of a detokenizer that works on latents.
        """
        if isinstance(config, dict) and config.get("latent_channels"):
            raise ValueError(
                f"these weights work on latents (`latent_channels` = {config['latent_channels']}); "
                "load them with LatentVideoDetokenizer.from_pretrained"
            )
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @property
    def size_multiple(self) -> int:
        """Sides of pictures inside the network are multiples of this; others are padded."""
        return self.config["patch_size"] * 2 ** (len(self.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def reconstruct(
        self,
        keyframe: Tensor,
        vectors: Tensor,
        *,
        next_keyframe: Tensor | None = None,
        next_vectors: Tensor | None = None,
        previous_frame: Tensor | None = None,
        noise_rate: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        seed: int = 0,
        refine: bool = True,
        num_frames: int | None = None,
    ) -> Tensor:
        """Return the frames of a clip.

        Cuts, dissolves, fades and changes of light between two keyframes are left to `unet3d.transitions`.

        Args:
            keyframe: [B, 3, H, W] in [-1, 1]; any size.
            vectors: [B, T, h, w, 2], the clip's field (`codec.types.MotionField`).
            next_keyframe: the next clip's, like `keyframe`; without it the clip is rebuilt forward only.
            next_vectors: the next clip's field, of which slot 0 is used; comes with `next_keyframe`.
            previous_frame: [B, 3, H, W], the last frame of the clip before, where denoising starts.
            noise_rate: how far back to noise that frame is taken, above 0 to 1: 0.85 is the explicit noise constraint
                of Video-LaVIT (arXiv 2402.03161); 1 starts from pure noise.
            num_inference_steps: evaluations of the network.
            generator: of the noise, or one for each clip; made from `seed` where not given.
            refine: use the refiner, where there is one. Of keyframes that were not decoded from tokens it makes worse
                frames (0.9 dB): it adds detail that they do not lack.
            num_frames: frames to return, the first ones; all T where not given. The others take no time.

        Returns:
            [B, num_frames, 3, H, W] in [-1, 1], float32 (float64 of a float64 model). Frame 0 is the keyframe: refined
            as the frames after it, so that the picture does not turn soft once a clip, or else unchanged.

        Raises:
            ValueError: tensors that do not fit together; less than one step; a `noise_rate` out of range.
        """
        if previous_frame is not None:
            check_picture("previous_frame", previous_frame, keyframe)
        if not 0 < noise_rate <= 1:
            raise ValueError(f"`noise_rate` (={noise_rate}) must be above 0 and at most 1")
        keyframe, vectors = self._to_own(keyframe), self._to_own(vectors)
        candidates = make_candidates(
            keyframe,
            vectors,
            next_keyframe=None if next_keyframe is None else self._to_own(next_keyframe),
            next_vectors=None if next_vectors is None else self._to_own(next_vectors),
            window=slice(num_frames),
            bicubic_mix=self.config["bicubic_mix"],
        )
        generator = generator or torch.Generator().manual_seed(seed)
        start, stride = None, self.config["stride"]
        if previous_frame is not None and noise_rate < 1:
            warped_frames = warp_from_previous(self._to_own(previous_frame), vectors)
            warped = replace(candidates, prior=warped_frames[:, :num_frames])
            start = warped.pad_to_multiple(self.size_multiple).prior
        padded = candidates.pad_to_multiple(self.size_multiple)
        frames = self.denoise(padded, generator, num_inference_steps, start, noise_rate, refine=refine, stride=stride)
        frames = frames[..., : keyframe.shape[-2], : keyframe.shape[-1]]
        if next_keyframe is not None:
            frames = replace_transitions(frames, candidates)
        frames = frames.clamp_(-1, 1)
        if not refine or self.refiner is None:
            frames[:, 0] = keyframe
        return frames

    @torch.no_grad()
    def denoise(
        self,
        candidates: MotionCandidates,
        generator: torch.Generator | list[torch.Generator],
        num_steps: int | None = None,
        start: Tensor | None = None,
        noise_rate: float = 1.0,
        *,
        refine: bool = True,
        stride: int = 1,
    ) -> Tensor:
        """Return the denoised frames [B, T, 3, H, W] of candidates whose sides are multiples of `size_multiple`.

        Args:
            candidates: of clips.
            generator: of the noise, or one for each clip.
            num_steps: evaluations of the network.
            start: frames that denoising starts from, taken back to noise as far as `noise_rate` says; else pure noise.
            noise_rate: see `reconstruct`.
            refine: use the refiner, where there is one.
            stride: the network takes each clip as `stride` clips of every `stride`-th frame; see `split_frames`.
        """
        batch, steps, _, height, width = candidates.prior.shape
        patch, sigma_min = self.config["patch_size"], self.config["sigma_min"]
        sigma_max = noise_level(1.0 if start is None else noise_rate, sigma_min, self.config["sigma_max"])
        # drawn in float32 on the generator's device: one seed is one noise on every machine
        generators = generator if isinstance(generator, list) else [generator]
        count, length = batch * stride // len(generators), -(-steps // stride)
        shape = (count, length, self.patch_channels, height // patch, width // patch)
        parts = [randn_tensor(shape, one, candidates.prior.device, torch.float32) for one in generators]
        noisy = torch.cat(parts).to(candidates.prior) * sigma_max
        if start is not None:
            noisy = noisy + self.to_residual(start, candidates, stride)
        noisy, sigma = approach_zero(
            lambda noisy, sigma: self(noisy, sigma.expand(batch * stride), candidates, refine=refine, stride=stride),
            noisy,
            self.config["num_inference_steps"] if num_steps is None else num_steps,
            sigma_min,
            sigma_max,
        )
        # the last step ends at what the network expects
        frames = self.expected_frames(noisy, sigma.expand(batch * stride), candidates, refine=refine, stride=stride)
        forward_scale, scale = self.config["forward_residual_scale"], self.config["residual_scale"]
        if forward_scale == scale == 1:
            return frames
        scale = forward_scale + (scale - forward_scale) * candidates.maps[:, :1, HAS_NEXT, :1, :1, None]
        return candidates.prior + scale * (frames - candidates.prior)

    def forward(
        self, noisy: Tensor, sigma: Tensor, candidates: MotionCandidates, *, refine: bool = True, stride: int = 1
    ) -> Tensor:
        """Return the expected clean variable x, like `noisy`; arguments as of `mix`."""
        frames = self.expected_frames(noisy, sigma, candidates, refine=refine, stride=stride)
        return self.to_residual(frames, candidates, stride)

    def expected_frames(
        self,
        noisy: Tensor,
        sigma: Tensor,
        candidates: MotionCandidates,
        *,
        refine: bool = True,
        stride: int = 1,
    ) -> Tensor:
        """Return the frames [B, T, 3, H, W] that the network expects; arguments as of `mix`."""
        mixture = self.mix(noisy, sigma, candidates, stride)
        if not refine or self.refiner is None:
            return mixture.frames
        detail = self.refiner(mixture.frames, mixture.warps, candidates)
        return mixture.frames.add(detail, alpha=self.config["refiner_scale"])

    def mix(self, noisy: Tensor, sigma: Tensor, candidates: MotionCandidates, stride: int = 1) -> "Mixture":
        """Return the candidates mixed as the network says, before the refiner.

        Args:
            noisy: [B * stride, T / stride (rounded up), 3 * patch_size², h, w], x + sigma * standard normal noise.
            sigma: [B * stride].
            candidates: of frames [B, T, 3, h * patch_size, w * patch_size].
            stride: see `denoise`.
        """
        patch, steps = self.config["patch_size"], candidates.prior.shape[1]
        maps = average_pool(candidates.maps, patch)
        spread = average_pool(self.residual_std(candidates).log() / 2 + 1, patch)
        conditions = torch.cat((make_conditions(candidates, patch), maps, spread), dim=2).to(self.dtype)
        conditions, motion = split_frames(conditions, stride), split_frames(maps[:, :, DISPLACEMENT], stride)
        level = sigma.view(-1, 1, 1, 1, 1)
        sample = torch.cat(((noisy / (level.square() + 1).sqrt()).to(self.dtype), conditions), dim=2)
        features = self.motion_encoder(motion.to(self.dtype)).flatten(1, 2)
        outputs = self.unet(sample, sigma.log() / 4, features, self._added_ids(motion)).sample.float()
        outputs = outputs + self.direct(conditions.flatten(0, 1)).float().view_as(outputs)
        log_weights, shifts = merge_frames(outputs, stride, steps).split(self.num_outputs, dim=2)
        if self.training:
            return mix_candidates(candidates, log_weights, shifts, patch)
        log_weights = log_weights * self.config["inverse_temperature"]
        return mix_candidates(candidates, log_weights, shifts, patch, self.config["bicubic_mix"])

    def add_refiner(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        """Add an untrained refiner, which changes nothing until it is trained.

        Args:
            widths, blocks: see `Refiner`.

        Raises:
            ValueError: there is a refiner already; not one number of blocks a level.
        """
        if self.refiner is not None:
            raise ValueError(f"these weights have a refiner already, of widths {tuple(self.config['refiner_widths'])}")
        self.refiner = Refiner(widths, blocks).to(device=self.device, dtype=self.dtype)
        self.register_to_config(refiner_widths=tuple(widths), refiner_blocks=tuple(blocks))

    def to_residual(self, frames: Tensor, candidates: MotionCandidates, stride: int = 1) -> Tensor:
        """Turn frames [B, T, 3, H, W] into the diffused variable x, shaped like `noisy` of `mix`."""
        residual = (frames - candidates.prior) / self.residual_std(candidates)
        return split_frames(space_to_depth(residual, self.config["patch_size"]), stride)

    def to_frames(self, clean: Tensor, candidates: MotionCandidates) -> Tensor:
        """Undo `to_residual` of stride 1."""
        residual = depth_to_space(clean, self.config["patch_size"])
        return candidates.prior + residual * self.residual_std(candidates)

    def residual_std(self, candidates: MotionCandidates) -> Tensor:
        """Return the expected size of the prior's error, [B, T, 1, H, W], at least `residual_std_floor`.

        It is the difference of the prior to the nearer of both keyframes held still, averaged around each pixel.
        """
        differences = candidates.pictures[:, :, STILL] - candidates.prior[:, :, None]
        nearest = differences.abs_().mean(3).amin(2)
        return 1.5 * local_mean(nearest, self.config["patch_size"], cells=3) + self.config["residual_std_floor"]

    def upgrade_weights(self, state_dict: dict[str, Any]) -> None:
        """Convert weights whose motion encoder had fused attention."""
        split_fused_attention(state_dict)

    def _added_ids(self, motion: Tensor) -> Tensor:
        """Return Stable Video Diffusion's added ids, [B, 3]: frame rate, amount of motion (0 to 255), noise (0)."""
        amount = (motion.float().square().sum(2).sqrt().mean((1, 2, 3)) * 64).clamp(max=255)
        return torch.stack((torch.full_like(amount, self.config["fps"]), amount, torch.zeros_like(amount)), dim=1)

    def _to_own(self, values: Tensor) -> Tensor:
        # half precision has too few digits for positions in a frame: only the network runs in it
        return values.to(device=self.device, dtype=torch.promote_types(self.dtype, torch.float32))


def num_condition_channels(patch: int) -> int:
    """Return the channels of the U-Net's conditions: those of `make_conditions`, the maps, and the residual_std."""
    pairs = len(list(combinations(CANDIDATES, 2)))
    return (pairs + 2) * (patch // COMPARED_PIXELS) ** 2 + len(COMPARED_SHIFTS) ** 2 + len(MAPS) + 1


def num_weight_channels(patch: int) -> int:
    """Return the channels of the log weights of `mix_candidates`."""
    return len(CANDIDATES) * (patch // COMPARED_PIXELS) ** 2


def num_shift_channels(patch: int) -> int:
    """Return the channels of the shifts of `mix_candidates`."""
    return NUM_SHIFTS * (patch // SHIFTED_PIXELS) ** 2


def make_conditions(candidates: MotionCandidates, patch: int) -> Tensor:
    """Return how the candidates of frames [H, W] differ: [B, T, channels, H / patch, W / patch].

    Differences of candidates say more than the candidates: where all agree, all are right; where the keyframes agree
    with each other and not with their warps, nothing moved. Values have about unit size.
    """
    small = average_pool(candidates.pictures, COMPARED_PIXELS)
    pairs = [(small[:, :, a] - small[:, :, b]).abs_().mean(2) for a, b in combinations(range(len(CANDIDATES)), 2)]
    warps = luma(small[:, :, :2])
    prior, disparity = luma(average_pool(candidates.prior, COMPARED_PIXELS)), 4 * (warps[:, :, 0] - warps[:, :, 1])
    values = torch.stack((*(_log_difference(pair) for pair in pairs), prior, disparity), dim=2)
    shifted = average_pool(_shifted_differences(warps[:, :, 0], warps[:, :, 1]), patch // COMPARED_PIXELS)
    return torch.cat((space_to_depth(values, patch // COMPARED_PIXELS), _log_difference(shifted)), dim=2)


@dataclass(frozen=True)
class Mixture:
    """Frames mixed from candidates."""

    frames: Tensor
    """[B, T, 3, H, W]."""
    warps: Tensor
    """[B, T, 2, 3, H, W]: both keyframes, warped and shifted, as they went into the frames."""


def mix_candidates(
    candidates: MotionCandidates, log_weights: Tensor, shifts: Tensor, patch: int, bicubic_mix: float = 0.0
) -> Mixture:
    """Mix the candidates into frames; the prior where log weights and shifts are 0.

    Args:
        log_weights: [B, T, num_weight_channels, h, w]: logarithms of factors of the prior's weights.
        shifts: [B, T, num_shift_channels, h, w], in pixels: one that both warps share by nearness, one of each warp.
        patch: pixels along each side of a position of these.
        bicubic_mix: see `candidates.sample_keyframes`.
    """
    size = candidates.prior.shape[-2:]
    common, first, second = depth_to_space(shifts, patch // SHIFTED_PIXELS).chunk(3, dim=2)
    near = candidates.maps[:, :, NEARNESS, None, :1, :1]  # one value a frame
    both = torch.stack((first - near * common, second + (1 - near) * common), dim=2).movedim(3, -1)
    pixel = both.new_tensor([1 / side for side in candidates.keyframes.shape[:-3:-1]])
    warps = shift_warps(candidates, enlarge_vectors_bilinear(both * pixel, *size), bicubic_mix)
    pictures = (*warps.unbind(2), *candidates.pictures.unbind(2)[2:])
    log_weights = log_weights.clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT)
    factors = enlarge_bilinear(depth_to_space(log_weights, patch // COMPARED_PIXELS), *size).exp_()
    weights = candidates.weights * factors
    return Mixture(weighted_sum(pictures, weights).div_(weights.sum(2, keepdim=True)), warps)


def depth_to_space(values: Tensor, patch: int) -> Tensor:
    """Undo `space_to_depth`: [B, T, C * patch², h, w] -> [B, T, C, h * patch, w * patch]."""
    return F.pixel_shuffle(values.flatten(0, 1), patch).unflatten(0, values.shape[:2])


def local_mean(values: Tensor, patch: int, cells: int) -> Tensor:
    """Return the means of [B, T, H, W] over squares of `cells` patches around each pixel: [B, T, 1, H, W]."""
    small = F.avg_pool2d(F.avg_pool2d(values, patch), cells, stride=1, padding=cells // 2, count_include_pad=False)
    return enlarge_bilinear(small, *values.shape[-2:])[:, :, None]


def _shifted_differences(first: Tensor, second: Tensor) -> Tensor:
    """Return the absolute differences of [B, T, h, w] to `second` shifted: [B, T, len(COMPARED_SHIFTS)², h, w]."""
    most = max(COMPARED_SHIFTS)
    height, width = first.shape[-2:]
    padded = F.pad(second, (most, most, most, most), mode="replicate")
    shifted = (
        padded[..., most + y : most + y + height, most + x : most + x + width]
        for y, x in product(COMPARED_SHIFTS, COMPARED_SHIFTS)
    )
    return torch.stack([(first - other).abs() for other in shifted], dim=2)


def _log_difference(difference: Tensor) -> Tensor:
    return (difference + MIN_DIFFERENCE).log_().div_(2).add_(1.5)
