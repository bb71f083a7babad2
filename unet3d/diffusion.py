"""What both video detokenizers share: the 3D U-Net, its motion condition, and the Euler sampler.

The U-Net is diffusers' spatio-temporal one (Stable Video Diffusion, arXiv 2311.15127) in any size; `MotionUNet` is the
form of Video-LaVIT (arXiv 2402.03161), in which every position attends to its own motion.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.attention import SpaceTimeBlock
from motion_vq.diffusers_import import light_diffusers
from unet3d.warping import resize_fields

with light_diffusers("diffusers.models.unets.unet_spatio_temporal_condition"):
    from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
    from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
    from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
    from diffusers.utils.torch_utils import randn_tensor as randn_tensor

RHO = 7.0
"""Spacing of the noise levels (Karras et al., arXiv 2206.00364)."""

UNetT = TypeVar("UNetT", bound=UNetSpatioTemporalConditionModel)


class MotionEncoder(nn.Module):
    """Encodes motion [B, T, 2, h, w] of any size into features [B, t, y * x, out_width].

    Args:
        grid: (t, y, x) of the features.
        layers, width, heads: of the space-time blocks.
        out_width: channels of the features.
        every_step: keep all T steps, whatever `grid` says, and resize bicubically, as Video-LaVIT does. Its shape is
            grid (24, 16, 16), 12 layers, width 512, 8 heads, out_width 1024.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        layers: int,
        width: int,
        heads: int,
        out_width: int,
        *,
        every_step: bool = False,
    ) -> None:
        super().__init__()
        self.grid: tuple[int, int, int] = (grid[0], grid[1], grid[2])
        self.every_step = every_step
        self.in_proj = nn.Linear(2, width)
        self.pos_embed = nn.Parameter(torch.randn(1, grid[1] * grid[2], width) * 0.02)
        self.blocks = nn.ModuleList(SpaceTimeBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, out_width)

    def forward(self, motion: Tensor) -> Tensor:
        if self.every_step:
            small = resize_fields(motion.movedim(2, -1), *self.grid[1:])
        else:
            small = F.adaptive_avg_pool3d(motion.transpose(1, 2), self.grid).movedim(1, -1)
        features = self.in_proj(small) + self.pos_embed.unflatten(1, self.grid[1:])
        for block in self.blocks:
            features = block(features)
        return self.out_proj(self.norm(features)).flatten(2, 3)


def build_unet(
    *,
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
    """Build Stable Video Diffusion's spatio-temporal U-Net in any size.

    Args:
        block_out_channels: channels from the finest resolution to the coarsest; multiples of 32 (its group norms).
        attention: which resolutions have space-time transformers; the middle block always has one.
        attention_width: of the features that are attended to.
        time_ids_width: of the embedding of each added id (frame rate, motion, noise of the condition).
        attention_heads: for each resolution; one for every 64 channels where not given.
        kind: the class to build.

    Raises:
        ValueError: channels that are not multiples of 32, or another number of `attention` than of resolutions.
    """
    if any(channels % 32 for channels in block_out_channels):
        raise ValueError(f"`block_out_channels` (={tuple(block_out_channels)}) must be multiples of 32")
    if len(attention) != len(block_out_channels):
        raise ValueError(
            f"`attention` (={tuple(attention)}) must have one value per `block_out_channels` "
            f"(={tuple(block_out_channels)})"
        )
    down = ("CrossAttnDownBlockSpatioTemporal" if here else "DownBlockSpatioTemporal" for here in attention)
    up = ("CrossAttnUpBlockSpatioTemporal" if here else "UpBlockSpatioTemporal" for here in reversed(attention))
    heads = attention_heads or [channels // min(64, block_out_channels[0]) for channels in block_out_channels]
    unet = kind(
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
    for module in unet.modules():
        if type(module) is nn.Conv3d and module.kernel_size[1:] == (1, 1):
            module.__class__ = TemporalConv
    return unet


class TemporalConv(nn.Conv3d):
    """A convolution over time alone, kernel (k, 1, 1), the same weights and results as `nn.Conv3d`.

    Computed in two dimensions, time and positions: on a CPU torch's convolution in three is several times slower.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return [B, C, T, h, w] for [B, C, T, h, w]."""
        padding = cast("tuple[int, int, int]", self.padding)[:2]
        x = F.conv2d(input.flatten(3), self.weight.squeeze(-1), self.bias, padding=padding)
        return x.unflatten(3, input.shape[3:])


class MotionUNet(UNetSpatioTemporalConditionModel):
    """diffusers' spatio-temporal U-Net, the same weights and configuration, conditioned on motion features.

    In Stable Video Diffusion all frames attend to the same features. Here each frame attends to the motion features of
    its own step, at all positions, and each position attends over time to the features nearest to it in every step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._motion_transformers: list[MotionTransformer] = []
        for name, module in list(self.named_modules()):
            if isinstance(module, TransformerSpatioTemporalModel):
                transformer = MotionTransformer(module)
                self.set_submodule(name, transformer)
                self._motion_transformers.append(transformer)

    def velocity(
        self, sample: Tensor, timestep: Tensor, features: Tensor, grid: tuple[int, int], ids: Tensor
    ) -> Tensor:
        """Return the prediction [B, T, out_channels, h, w] of one evaluation.

        Args:
            sample: [B, T, C, h, w], all input channels.
            timestep: [] or [B].
            features: [B, T, y * x, D], of the motion.
            grid: their (y, x).
            ids: [B, 3], the added ids.
        """
        for transformer in self._motion_transformers:
            transformer.motion = features.unflatten(2, grid)
        # the features do not go through diffusers, which would repeat them for every frame
        unused = features.new_zeros(len(sample), 1, features.shape[-1])
        try:
            return self(sample, timestep, unused, ids, return_dict=False)[0]
        finally:
            for transformer in self._motion_transformers:
                transformer.motion = None


class MotionTransformer(nn.Module):
    """The layers of a transformer of diffusers, under the same names, attending to motion features.

    Args:
        transformer: spatial and temporal attention at one resolution.
    """

    def __init__(self, transformer: TransformerSpatioTemporalModel) -> None:
        super().__init__()
        self.motion: Tensor | None = None
        """[B, T, y, x, D], set by `MotionUNet` for each evaluation."""
        self.norm, self.proj_in, self.proj_out = transformer.norm, transformer.proj_in, transformer.proj_out
        self.transformer_blocks = transformer.transformer_blocks
        self.temporal_transformer_blocks = transformer.temporal_transformer_blocks
        self.time_proj, self.time_pos_embed = transformer.time_proj, transformer.time_pos_embed
        self.time_mixer = transformer.time_mixer

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        image_only_indicator: Tensor | None = None,
        return_dict: bool = True,
    ) -> tuple[Tensor]:
        """Return [B * T, C, h, w] for [B * T, C, h, w]; the arguments are those of diffusers."""
        if self.motion is None or image_only_indicator is None:
            raise ValueError("this U-Net needs motion: call velocity()")
        height, width = hidden_states.shape[-2:]
        steps = image_only_indicator.shape[-1]
        of_frame = self.motion.flatten(2, 3).flatten(0, 1)
        of_position = features_over_time(self.motion, height, width)
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        time_embedding = self.time_proj(torch.arange(steps, device=x.device)).to(x.dtype)
        time_embedding = self.time_pos_embed(time_embedding).repeat(len(x) // steps, 1)[:, None]
        for spatial, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            x = spatial(x, encoder_hidden_states=of_frame)
            mixed = temporal(x + time_embedding, num_frames=steps, encoder_hidden_states=of_position)
            x = self.time_mixer(x_spatial=x, x_temporal=mixed, image_only_indicator=image_only_indicator)
        return (self.proj_out(x).transpose(1, 2).unflatten(2, (height, width)).contiguous() + hidden_states,)


def features_over_time(motion: Tensor, height: int, width: int) -> Tensor:
    """Return the nearest features to each position in every step: [B, T, y, x, D] -> [B * height * width, T, D]."""
    near = F.interpolate(motion.movedim(-1, 2).flatten(0, 1).float(), (height, width), mode="nearest")
    return near.to(motion.dtype).unflatten(0, motion.shape[:2]).flatten(3).permute(0, 3, 1, 2).flatten(0, 1)


def noise_level(rate: float, sigma_min: float, sigma_max: float) -> float:
    """Return the noise level at `rate` of the way from sigma_min (0) to sigma_max (1) (Karras et al. 2022, eq. 5)."""
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)
    return (low + rate * (high - low)) ** RHO


def approach_zero(
    denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, num_steps: int, sigma_min: float, sigma_max: float
) -> tuple[Tensor, Tensor]:
    """Solve the probability flow of EDM (Karras et al. 2022, eq. 1) by Euler steps, all but the last.

    The last step, to noise level 0, ends at the expected clean variable itself.

    Args:
        denoise: (noisy [B, ...], sigma []) -> the expected clean variable, of unit variance.
        noisy: the variable at sigma_max: standard normal noise times that, with or without a clean variable added.
        num_steps: of all steps, the last one included.

    Returns:
        the noisy variable that the last step starts from, and its noise level [].

    Raises:
        ValueError: less than one step.
    """
    if num_steps < 1:
        raise ValueError(f"`num_inference_steps` (={num_steps}) must be at least 1")
    scheduler = EDMEulerScheduler(sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=1.0, rho=RHO)
    scheduler.set_timesteps(num_steps, device=noisy.device)
    scheduler.is_scale_input_called = True  # `denoise` scales its input itself
    sigmas = scheduler.sigmas.to(noisy)
    for timestep, sigma in zip(scheduler.timesteps[:-1], sigmas, strict=False):
        expected = denoise(noisy, sigma)
        noisy = scheduler.step(expected, timestep, noisy, return_dict=False, pred_original_sample=expected)[0]
    return noisy, sigmas[num_steps - 1]


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model's inputs belong on, which is not always where its weights lie.

    The offloading of accelerate leaves weights on the `meta` device between calls and moves them for each call: then it
    is the device that they are moved to. The offloading of diffusers sets `model.device`.
    """
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    device = getattr(model, "device", None)
    if isinstance(device, torch.device):
        return device
    return next(model.parameters()).device
