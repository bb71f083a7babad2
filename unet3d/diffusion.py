"""Placement: where a model computes, which is not always where its weights lie

The way from noise to a clip: Euler steps along the noise levels of Karras et al. 2022.

diffusers' spatio-temporal U-Net, in any size.

The spatio-temporal U-Net where every place looks at its own motion (Video-LaVIT, arXiv 2402.03161).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """The device that a model's inputs belong on.

    accelerate's offloading leaves weights on the `meta` device between calls and moves them in for each: then it is the
    one that they are moved to. diffusers' own offloading says so itself, by `model.device`.
    """
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    told = getattr(model, "device", None)
    if isinstance(told, torch.device):
        return told
    return next(model.parameters()).device


RHO = 7.0
"""How the levels are spaced (Karras et al. 2022)."""


def noise_like(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the generator's device: one seed is one noise on every machine."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)


def level_at(rate: float, sigma_min: float, sigma_max: float) -> float:
    """The noise level at `rate` of the way from none to all: 1 is sigma_max (Karras et al. 2022, eq. 5)."""
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)
    return (low + rate * (high - low)) ** RHO


def euler(
    denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, num_steps: int, sigma_min: float, sigma_max: float
) -> Tensor:
    """Solves the probability flow of EDM (Karras et al. 2022, eq. 1) from sigma_max down to 0.

    Args:
        denoise: (noisy [B, …], sigma []) -> the clean variable, of unit variance, as expected there.
        noisy: the variable at sigma_max: standard normal noise times that, or something with such noise added.
        num_steps: evaluations of `denoise`; one is the conditional mean itself.

    Raises:
        ValueError: less than one step.
    """
    if num_steps < 1:
        raise ValueError(f"`num_inference_steps` (={num_steps}) must be at least 1")
    scheduler = EDMEulerScheduler(sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=1.0, rho=RHO)
    scheduler.set_timesteps(num_steps, device=noisy.device)
    scheduler.is_scale_input_called = True  # `denoise` scales its input itself
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        expected = denoise(noisy, sigma.to(noisy))
        noisy = scheduler.step(expected, timestep, noisy, return_dict=False, pred_original_sample=expected)[0]
    return noisy


UNetT = TypeVar("UNetT", bound=UNetSpatioTemporalConditionModel)


def build_unet(
    in_channels: int,
    out_channels: int,
    block_out_channels: Sequence[int],
    attention: Sequence[bool],
    layers_per_block: int,
    attention_width: int,
    time_ids_width: int,
    attention_heads: Sequence[int] | None = None,
    kind: type[UNetT] = UNetSpatioTemporalConditionModel,
) -> UNetT:
    """Stable Video Diffusion's spatio-temporal U-Net of any size.

    Args:
        block_out_channels: channels from the finest level to the coarsest; multiples of 32 (its group norms).
        attention: levels that have space-time transformers; the bottom has one in any case.
        attention_width: of the features that are attended to.
        time_ids_width: of the embedding of each added id (frame rate, motion, noise of the condition).
        attention_heads: of each level; one for every 64 channels where not given.
        kind: the class.

    Raises:
        ValueError: channels that are not multiples of 32, or not one `attention` a level.
    """
    if any(channels % 32 for channels in block_out_channels):
        raise ValueError(f"`block_out_channels` (={tuple(block_out_channels)}) must be multiples of 32")
    if len(attention) != len(block_out_channels):
        raise ValueError(f"`attention` (={tuple(attention)}) must name each level of {tuple(block_out_channels)}")
    down = ("CrossAttnDownBlockSpatioTemporal" if here else "DownBlockSpatioTemporal" for here in attention)
    up = ("CrossAttnUpBlockSpatioTemporal" if here else "UpBlockSpatioTemporal" for here in reversed(attention))
    heads = attention_heads or [channels // min(64, block_out_channels[0]) for channels in block_out_channels]
    return kind(
        sample_size=None,
        in_channels=in_channels,
        out_channels=out_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        cross_attention_dim=attention_width,
        num_attention_heads=tuple(heads),
        addition_time_embed_dim=time_ids_width,
        projection_class_embeddings_input_dim=3 * time_ids_width,
    )


class MotionUNet(UNetSpatioTemporalConditionModel):
    """diffusers' U-Net, its weights and its configuration; other things are attended to.

    Stable Video Diffusion tells every frame the same features. Here each frame attends to the motion of its own step,
    all places of it, and each place attends over time to the motion that it has in every step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._transformers: list[MotionTransformer] = []
        for module in self.modules():
            if isinstance(module, TransformerSpatioTemporalModel):
                # its parts are as they should be; only what they are given differs
                module.__class__ = MotionTransformer
                self._transformers.append(module)  # type: ignore[arg-type]

    def velocity(self, given: Tensor, timestep: Tensor, features: Tensor, grid: tuple[int, int], ids: Tensor) -> Tensor:
        """One evaluation.

        Args:
            given: [B, T, C, h, w], all channels in.
            timestep: [] or [B].
            features: [B, T, y * x, D] of the motion.
            grid: (y, x) of them.
            ids: [B, 3] added ids.

        Returns:
            [B, T, out_channels, h, w].
        """
        for transformer in self._transformers:
            transformer.motion = features.unflatten(2, grid)
        # the features do not go through diffusers, which would repeat them for every frame
        nothing = features.new_zeros(len(given), 1, features.shape[-1])
        try:
            return self(given, timestep, nothing, ids, return_dict=False)[0]
        finally:
            for transformer in self._transformers:
                transformer.motion = None


class MotionTransformer(TransformerSpatioTemporalModel):
    """Spatial and temporal attention of one level, to the motion that `MotionUNet` lays ready."""

    motion: Tensor | None = None
    """[B, T, y, x, D]"""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """[B * T, C, h, w] -> the same."""
        if self.motion is None or image_only_indicator is None:
            raise ValueError("this U-Net needs motion: call velocity()")
        height, width = hidden_states.shape[-2:]
        steps = image_only_indicator.shape[-1]
        of_frame = self.motion.flatten(2, 3).flatten(0, 1)
        of_place = over_time(self.motion, height, width)
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        when = self.time_proj(torch.arange(steps, device=x.device)).to(x.dtype)
        when = self.time_pos_embed(when).repeat(len(x) // steps, 1)[:, None]
        for spatial, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            x = spatial(x, encoder_hidden_states=of_frame)
            mixed = temporal(x + when, num_frames=steps, encoder_hidden_states=of_place)
            x = self.time_mixer(x_spatial=x, x_temporal=mixed, image_only_indicator=image_only_indicator)
        return (self.proj_out(x).transpose(1, 2).unflatten(2, (height, width)).contiguous() + hidden_states,)


def over_time(motion: Tensor, height: int, width: int) -> Tensor:
    """What stands nearest to each of height * width places, in every step: [B, T, y, x, D] to [B * places, T, D]."""
    near = F.interpolate(motion.movedim(-1, 2).flatten(0, 1).float(), (height, width), mode="nearest")
    return near.to(motion.dtype).unflatten(0, motion.shape[:2]).flatten(3).permute(0, 3, 1, 2).flatten(0, 1)
