"""The spatio-temporal U-Net where every place looks at its own motion (Video-LaVIT, arXiv 2402.03161)."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from torch import Tensor


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
