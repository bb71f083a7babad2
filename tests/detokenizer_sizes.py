"""A tiny video detokenizer, clips for it, and weights in the layout of earlier versions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d import VideoDetokenizer

GRID = (20, 36)
TINY_UNET = {"block_out_channels": (32, 32), "attention": (False, True), "attention_width": 16, "time_ids_width": 8}
TINY_MOTION = {"motion_grid": (2, 2, 2), "motion_layers": 1, "motion_width": 16, "motion_heads": 2}


def tiny_detokenizer(**changes) -> VideoDetokenizer:
    """Return an untrained detokenizer, which gives the prior."""
    torch.manual_seed(0)
    return VideoDetokenizer(**{"bicubic_mix": 0.0, **TINY_UNET, **TINY_MOTION, **changes}).eval()


def trained_detokenizer(**changes) -> VideoDetokenizer:
    """Return a detokenizer whose network changes the prior."""
    model = tiny_detokenizer(**changes)
    with torch.no_grad():
        for layer in (model.unet.conv_in, model.unet.conv_out):
            layer.weight.normal_(std=0.02)
    return model


def random_clip(seed: int = 0, steps: int = 6, height: int = 32, width: int = 48) -> tuple[Tensor, Tensor]:
    """Return a keyframe [1, 3, height, width] and a field [1, steps, 20, 36, 2]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 6, generator=generator) * 2 - 1
    keyframe = F.interpolate(coarse, size=(height, width), mode="bilinear")
    drift = torch.rand(1, steps, 1, 1, 2, generator=generator) * 0.04 - 0.02
    return keyframe, drift.expand(1, steps, *GRID, 2).clone()


def fuse_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the motion encoder's attention and feed-forward layers as earlier versions stored them."""
    fused = {name: value for name, value in state.items() if not name.startswith("motion_encoder.blocks.")}
    for name, value in state.items():
        prefix, _, part = name.rpartition("attention.")
        if name in fused or part.startswith("key_value"):
            continue
        if part == "query.weight":
            fused[f"{prefix}attention.qkv.weight"] = torch.cat([value, state[f"{prefix}attention.key_value.weight"]])
        elif part == "query.bias":
            fused[f"{prefix}attention.q_bias"] = value
            value_bias = state[f"{prefix}attention.key_value.bias"].chunk(2)[1]
            fused[f"{prefix}attention.v_bias"] = value_bias.clone()
        else:
            for new, old in (("attention.out.", "attention.proj."), ("mlp.0.", "mlp.fc1."), ("mlp.2.", "mlp.fc2.")):
                name = name.replace(new, old)
            fused[name] = value
    return fused
