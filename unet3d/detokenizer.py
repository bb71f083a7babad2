"""Cells: pictures as a small grid of deep channels, and back; exact, so no autoencoder is needed.

Features: what the network is told of the candidates. Differences say more than pictures: where all agree, all is
well; where the keyframes agree with each other and not with their warps, nothing moved.

Mixture: frames as candidates mixed by weights, the warps among them read a little elsewhere than motion says.

VideoDetokenizer: keyframes and motion in, the frames of a clip out.
"""

from dataclasses import replace
from itertools import combinations, product

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor

from motion_vq.model_base import VideotokModel
from unet3d.candidates import CANDIDATES, MAPS, Evidence, check_picture, gather, together, warped
from unet3d.diffusion import MotionUNet, build_unet, euler, level_at, noise_like
from unet3d.motion_encoder import MotionEncoder
from unet3d.warping import from_before


def space_to_depth(frames: Tensor, patch: int) -> Tensor:
    """[B, T, C, H, W] to [B, T, C * patch², H / patch, W / patch]; undone by `depth_to_space`."""
    return F.pixel_unshuffle(frames.flatten(0, 1), patch).unflatten(0, frames.shape[:2])


def depth_to_space(cells: Tensor, patch: int) -> Tensor:
    """[B, T, C * patch², h, w] to [B, T, C, h * patch, w * patch]."""
    return F.pixel_shuffle(cells.flatten(0, 1), patch).unflatten(0, cells.shape[:2])


def pooled(maps: Tensor, patch: int) -> Tensor:
    """Means over cells: [B, T, C, H, W] to [B, T, C, H / patch, W / patch]."""
    return F.avg_pool2d(maps.flatten(0, 1), patch).unflatten(0, maps.shape[:2])


def spread_out(cells: Tensor, patch: int, side: int) -> Tensor:
    """Cells of side² values each, [B, T, C * side², h, w], bilinearly to pixels: [B, T, C, h * patch, w * patch]."""
    values = depth_to_space(cells, side)
    fine = F.interpolate(values.flatten(0, 1), scale_factor=patch / side, mode="bilinear", align_corners=False)
    return fine.unflatten(0, cells.shape[:2])


def luma(pictures: Tensor) -> Tensor:
    """Brightness (Rec. 601) of [..., 3, H, W]: [..., H, W]."""
    red, green, blue = pictures.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def around(values: Tensor, patch: int, cells: int) -> Tensor:
    """Means of [B, T, H, W] over squares of so many cells around each pixel: [B, T, 1, H, W]."""
    small = F.avg_pool2d(F.avg_pool2d(values, patch), cells, stride=1, padding=cells // 2, count_include_pad=False)
    return F.interpolate(small, values.shape[-2:], mode="bilinear", align_corners=False)[:, :, None]


GRAIN = 2
"""Pixels along each side of what is compared."""
REACH = (-4, -2, 0, 2, 4)
"""Shifts between the two warps that are tried, in grains: the smallest difference says by how much they disagree."""
FAINTEST = 0.01
"""Differences are told as logarithms; below this, pictures in [-1, 1], all are alike."""


def num_features(patch: int) -> int:
    """Channels of `features`."""
    pairs = len(list(combinations(CANDIDATES, 2)))
    return (pairs + 2) * (patch // GRAIN) ** 2 + len(REACH) ** 2 + len(MAPS)


def features(evidence: Evidence, patch: int) -> Tensor:
    """Evidence of frames [H, W] as cells [B, T, num_features, H / patch, W / patch]; about unit size."""
    small = pooled(evidence.candidates.flatten(2, 3), GRAIN).unflatten(2, (len(CANDIDATES), 3))
    pairs = [(small[:, :, a] - small[:, :, b]).abs().mean(2) for a, b in combinations(range(len(CANDIDATES)), 2)]
    bright = luma(small[:, :, :2])
    shown, apart = luma(pooled(evidence.prior, GRAIN)), 4 * (bright[:, :, 0] - bright[:, :, 1])
    grains = torch.stack((*(_loudness(pair) for pair in pairs), shown, apart), dim=2)
    return torch.cat(
        (
            space_to_depth(grains, patch // GRAIN),
            _loudness(pooled(_shifted(bright[:, :, 0], bright[:, :, 1]), patch // GRAIN)),
            pooled(evidence.maps, patch),
        ),
        dim=2,
    )


def _shifted(first: Tensor, second: Tensor) -> Tensor:
    """Absolute differences of [B, T, h, w], the second shifted: [B, T, len(REACH)², h, w]."""
    far = max(REACH)
    height, width = first.shape[-2:]
    wide = F.pad(second, (far, far, far, far), mode="replicate")
    moved = (wide[..., far + y : far + y + height, far + x : far + x + width] for y, x in product(REACH, REACH))
    return torch.stack([(first - other).abs() for other in moved], dim=2)


def _loudness(difference: Tensor) -> Tensor:
    return (difference + FAINTEST).log() / 2 + 1.5


BEND = 4
"""Pixels along each side of what has a shift of its own."""
SHIFTS = 6
"""One by which both warps come together, and one of each warp's own; x and y."""
STRONGEST = 12.0
"""Weights are logarithms; what is beyond this is no stronger."""
NEAR = MAPS.index("nearness")


def num_told(patch: int) -> tuple[int, int]:
    """Channels of weights and of shifts a cell."""
    return len(CANDIDATES) * (patch // GRAIN) ** 2, SHIFTS * (patch // BEND) ** 2


def mixed(evidence: Evidence, weights: Tensor, shifts: Tensor, patch: int, bicubic_mix: float = 0.0) -> Tensor:
    """Frames [B, T, 3, H, W]; the prior where weights and shifts are 0.

    Args:
        weights: [B, T, num_told[0], h, w], logarithms of what the prior's shares are multiplied by.
        shifts: [B, T, num_told[1], h, w], in pixels: one that is divided between both warps by nearness, one of each.
        patch: pixels along each side of a cell.
        bicubic_mix: see `evidence.seen`.
    """
    shared, first, second = spread_out(shifts, patch, patch // BEND).chunk(3, dim=2)
    near = evidence.maps[:, :, NEAR, None]
    both = torch.stack((first - near * shared, second + (1 - near) * shared), dim=2).movedim(3, -1)
    pixel = both.new_tensor([1 / side for side in evidence.keyframes.shape[:-3:-1]])
    candidates = torch.cat((warped(evidence, both * pixel, bicubic_mix), evidence.candidates[:, :, 2:]), dim=2)
    shares = evidence.shares * spread_out(weights.clamp(-STRONGEST, STRONGEST), patch, patch // GRAIN).exp()
    return (candidates * (shares / shares.sum(2, keepdim=True))[:, :, :, None]).sum(2)


STILL = [CANDIDATES.index("keyframe"), CANDIDATES.index("next_keyframe")]
HAS_NEXT = MAPS.index("has_next")
BACK = [MAPS.index("back_x"), MAPS.index("back_y")]


class VideoDetokenizer(VideotokModel):
    """Diffusion on what the warped keyframes get wrong.

        keyframe ──┬─ warped ─► evidence: prior + candidates (both keyframes, each in three ways) + where read
        next one ──┘    ▲                     │ differences, in cells of patch_size² pixels
        vectors ────────┼─► MotionEncoder ─┐  │
        noise ── Euler ─┼──────────────► 3D U-Net ─► shifts (warps read elsewhere), weights (to mix by)
          ▲             │                  │
          └──────────── x ◄────────────────┘          frame = prior + residual_scale * spread * x

    The diffused variable x is (frame - prior) / spread in cells (space to depth: exact, no autoencoder). The spread is
    how far the prior has moved away from a keyframe: where nothing moved, nothing is to be invented. The network
    predicts x clean (x0-prediction; input times 1 / sqrt(sigma² + 1), noise level ln(sigma) / 4, as in EDM, Karras et
    al. 2022): the candidates mixed anew, the warps among them read at better places. Nothing is added freely: what so
    small a network added of its own cost 0.2 dB and flickered. Weights and shifts start at nothing: an untrained
    network gives the prior (as crisp as `bicubic_mix` says), at any number of steps.

    Args:
        patch_size: pixels along each side of a cell.
        block_out_channels, attention, layers_per_block: of the U-Net, finest level first; see `build_unet`.
        latent_channels: 0, or the channels of an autoencoder's latents that are denoised in Video-LaVIT's layout: noisy
            latents, the keyframe's, and motion in; v-prediction; no evidence. See `latents.LatentDetokenizer`.
        attention_heads: of each level; one for every 64 channels where not given.
        motion_grid, motion_layers, motion_width, motion_heads, attention_width: of the MotionEncoder (the last: of its
            features).
        residual_std_floor: of the spread, pictures in [-1, 1].
        residual_scale, forward_residual_scale: share of the network's correction that is taken with and without a next keyframe.
        sigma_min, sigma_max: noise levels, of a variable of unit variance.
        num_inference_steps: evaluations of the network where the caller names no other number.
        bicubic_mix: of how keyframes are read, 0..1; see `evidence.seen`; not used in training.
        inverse_temperature: what logarithms of weights are multiplied by; above 1, candidates are rather chosen than mixed,
            which is sharper and costs a little PSNR; not used in training.
        stride: frames of a clip that are denoised together lie so far apart; neighbours differ little.
        fps: frames per second that it was trained on, one of the added ids.
    """

    renamed_options = {
        "crispness": "bicubic_mix",
        "restraint": "residual_scale",
        "forward_restraint": "forward_residual_scale",
        "selectivity": "inverse_temperature",
        "spread_floor": "residual_std_floor",
    }

    @register_to_config
    def __init__(
        self,
        patch_size: int = 8,
        latent_channels: int = 0,
        block_out_channels: tuple[int, ...] = (64, 128),
        attention: tuple[bool, ...] = (False, False),
        layers_per_block: int = 1,
        attention_width: int = 64,
        time_ids_width: int = 32,
        motion_grid: tuple[int, int, int] = (4, 2, 4),
        motion_layers: int = 2,
        motion_width: int = 64,
        motion_heads: int = 4,
        residual_std_floor: float = 0.003,
        residual_scale: float = 1.0,
        sigma_min: float = 0.05,
        sigma_max: float = 20.0,
        num_inference_steps: int = 1,
        fps: float = 12.0,
        attention_heads: tuple[int, ...] | None = None,
        stride: int = 2,
        bicubic_mix: float = 1.0,
        forward_residual_scale: float = 1.0,
        inverse_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.cell_channels = 3 * patch_size**2
        self.told, seen = num_told(patch_size), num_features(patch_size) + 1
        self.unet = build_unet(
            in_channels=2 * latent_channels + 2 if latent_channels else self.cell_channels + seen,
            out_channels=latent_channels or sum(self.told),
            block_out_channels=block_out_channels,
            attention=attention,
            layers_per_block=layers_per_block,
            attention_width=attention_width,
            time_ids_width=time_ids_width,
            attention_heads=attention_heads,
            kind=MotionUNet if latent_channels else UNetSpatioTemporalConditionModel,
        )
        self.motion_encoder = MotionEncoder(
            motion_grid, motion_layers, motion_width, motion_heads, attention_width, every_step=latent_channels > 0
        )
        if not latent_channels:
            # what each cell alone says: the U-Net's group norms forget how large differences are
            self.direct = torch.nn.Conv2d(seen, sum(self.told), 1)
            _still(*self.direct.parameters(), *self.unet.conv_out.parameters())
            _still(self.unet.conv_in.weight[:, : self.cell_channels])

    @property
    def multiple(self) -> int:
        """Sides of pictures inside are multiples of this; others are padded."""
        return self.config["patch_size"] * 2 ** (len(self.config["block_out_channels"]) - 1)

    def forward(self, noisy: Tensor, sigma: Tensor, evidence: Evidence) -> Tensor:
        """The clean variable, as expected from a noisy one.

        Args:
            noisy: [B, T, 3 * patch_size², h, w], clean + sigma * standard normal noise.
            sigma: [B].
            evidence: of frames [h * patch_size, w * patch_size].
        """
        patch = self.config["patch_size"]
        spread = self.spread(evidence)
        seen = torch.cat((features(evidence, patch), pooled(spread.log() / 2 + 1, patch)), dim=2)
        level = sigma.view(-1, 1, 1, 1, 1)
        cells = torch.cat((noisy / (level.square() + 1).sqrt(), seen), dim=2)
        motion = pooled(evidence.maps[:, :, BACK], patch)
        told = self.unet(cells, sigma.log() / 4, self.motion_encoder(motion), self._added_ids(motion)).sample.float()
        told = told + self.direct(seen.flatten(0, 1)).float().view_as(told)
        weights, shifts = told.split(self.told, dim=2)
        if self.training:
            found = mixed(evidence, weights, shifts, patch)
        else:
            found = mixed(
                evidence, weights * self.config["inverse_temperature"], shifts, patch, self.config["bicubic_mix"]
            )
        return space_to_depth((found - evidence.prior) / spread, patch)

    def _added_ids(self, motion: Tensor) -> Tensor:
        """[B, 3], Stable Video Diffusion's: frame rate, how much moves (0..255), noise in the condition (none)."""
        amount = (motion.float().square().sum(2).sqrt().mean((1, 2, 3)) * 64).clamp(max=255)
        return torch.stack((torch.full_like(amount, self.config["fps"]), amount, torch.zeros_like(amount)), dim=1)

    def clean(self, frames: Tensor, evidence: Evidence) -> Tensor:
        """Frames [B, T, 3, H, W] as the diffused variable."""
        return space_to_depth((frames - evidence.prior) / self.spread(evidence), self.config["patch_size"])

    def frames(self, clean: Tensor, evidence: Evidence) -> Tensor:
        """The diffused variable as frames [B, T, 3, H, W]; undoes `clean`."""
        return evidence.prior + depth_to_space(clean, self.config["patch_size"]) * self.spread(evidence)

    def spread(self, evidence: Evidence) -> Tensor:
        """How far the prior has come from the nearer of both keyframes held still, around each pixel.

        [B, T, 1, H, W], at least `residual_std_floor`; about the size of the prior's error.
        """
        still = evidence.candidates[:, :, STILL] - evidence.prior[:, :, None]
        apart = still.abs().mean(3).amin(2)
        return 1.5 * around(apart, self.config["patch_size"], cells=3) + self.config["residual_std_floor"]

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
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The frames of a clip.

        Args:
            keyframe: [B, 3, H, W] in [-1, 1]; any size.
            vectors: [B, T, h, w, 2], the clip's field (`codec.types.MotionField`).
            next_keyframe: the next clip's, like `keyframe`; without it the clip is rebuilt forward only.
            next_vectors: the next clip's field, of which slot 0 is used; comes with `next_keyframe`.
            previous_frame: [B, 3, H, W], the last frame of the clip before: where the way from noise begins.
            noise_rate: how far back to noise it is taken, above 0 to 1: 0.85 is Video-LaVIT's explicit noise
                constraint; 1, all the way, forgets it.
            num_inference_steps: evaluations of the network.
            generator: of the noise; made from `seed` where not given.

        Returns:
            [B, T, 3, H, W] in [-1, 1], in the model's dtype; frame 0 is the keyframe itself.

        Raises:
            ValueError: tensors that do not fit together; less than one step; a `noise_rate` out of range.
        """
        if self.config["latent_channels"]:
            raise ValueError(f"`latent_channels` (={self.config['latent_channels']}): use LatentDetokenizer")
        if previous_frame is not None:
            check_picture("previous_frame", previous_frame, keyframe)
        if not 0 < noise_rate <= 1:
            raise ValueError(f"`noise_rate` (={noise_rate}) must be above 0 and at most 1")
        keyframe, vectors = self._own(keyframe), self._own(vectors)
        whole = gather(
            keyframe,
            vectors,
            next_keyframe=None if next_keyframe is None else self._own(next_keyframe),
            next_vectors=None if next_vectors is None else self._own(next_vectors),
            bicubic_mix=self.config["bicubic_mix"],
        )
        generator = generator or torch.Generator().manual_seed(seed)
        start, stride = None, self.config["stride"]
        if previous_frame is not None and noise_rate < 1:
            carried = replace(whole, prior=from_before(self._own(previous_frame), vectors))
            start = carried.padded(self.multiple).apart(stride).prior
        parts = whole.padded(self.multiple).apart(stride)
        found = self.denoised(parts, generator, num_inference_steps, start, noise_rate)
        frames = together(found, stride, vectors.shape[1])
        frames = frames[..., : keyframe.shape[-2], : keyframe.shape[-1]].clamp(-1, 1)
        frames[:, 0] = keyframe
        return frames

    @torch.no_grad()
    def denoised(
        self,
        evidence: Evidence,
        generator: torch.Generator,
        num_steps: int | None = None,
        start: Tensor | None = None,
        noise_rate: float = 1.0,
    ) -> Tensor:
        """Frames [B, T, 3, H, W], from evidence whose sides are multiples of `multiple`, through the network together.

        `start`: frames that, taken back to noise as far as `noise_rate` says, are begun from; else from noise alone.
        """
        batch, steps, _, height, width = evidence.prior.shape
        patch, low = self.config["patch_size"], self.config["sigma_min"]
        highest = level_at(1.0 if start is None else noise_rate, low, self.config["sigma_max"])
        shape = (batch, steps, self.cell_channels, height // patch, width // patch)
        noise = noise_like(evidence.prior, shape, generator)
        clean = euler(
            lambda noisy, sigma: self(noisy, sigma.expand(batch), evidence),
            noise * highest if start is None else self.clean(start, evidence) + noise * highest,
            self.config["num_inference_steps"] if num_steps is None else num_steps,
            low,
            highest,
        )
        alone, between = self.config["forward_residual_scale"], self.config["residual_scale"]
        share = alone + (between - alone) * evidence.maps[:, :1, HAS_NEXT, :1, :1, None]
        return evidence.prior + share * (self.frames(clean, evidence) - evidence.prior)

    def _own(self, values: Tensor) -> Tensor:
        return values.to(device=self.device, dtype=self.dtype)


def _still(*parameters: Tensor) -> None:
    for parameter in parameters:
        torch.nn.init.zeros_(parameter)
