"""diffusers' spatio-temporal U-Net, in any size."""

from collections.abc import Sequence
from typing import TypeVar

from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel

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
