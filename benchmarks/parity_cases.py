"""What is compared with the reference: sizes, random weights that a seed gives back, inputs, and our side of it.

No weights are stored. Every published tensor is drawn from a generator whose seed is the CRC-32 of its key: normal, of
standard deviation 1 / sqrt(inputs), twice that in the merger's attention (norms: 1 + 0.1 times normal; biases and
positions: 0.1).
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from torch import Tensor

from motion_vq import MotionTokens
from motion_vq.tokenizer import PUBLISHED_CONFIG
from unet3d import LatentDetokenizer
from unet3d.latent_detokenizer import PUBLISHED_SCALE
from videotok.lavit.weight_map import PARTS, VIDEO_CONFIG, build, published_shapes

MOTION = {
    **PUBLISHED_CONFIG,
    "num_steps": 16,
    "grid": (8, 12),
    "encoder_depths": (1, 1, 1, 1, 0),
    "decoder_depths": (0, 1, 1, 1, 1),
}
KEYFRAMES = {"image_size": 56, "depth": 1, "merger_depth": 2}
CONDITION = {"patches": 16, "depth": 1}
VIDEO = {
    **VIDEO_CONFIG,
    "block_out_channels": (64, 128),
    "attention": (True, False),
    "layers_per_block": 1,
    "attention_width": 64,
    "time_ids_width": 32,
    "motion_layers": 2,
    "attention_heads": (2, 4),
}
"""Reduced: full width but for the U-Net, one or two blocks where the published models have 12 to 40."""
REDUCED: dict[str, dict[str, Any]] = {"motion": MOTION, "keyframes": KEYFRAMES, "condition": CONDITION, "video": VIDEO}
FULL: dict[str, dict[str, Any]] = {
    "motion": PUBLISHED_CONFIG,
    "condition": {},
    "keyframes": {},
    "video": {**VIDEO_CONFIG},
}
"""As published; the smallest first. Pictures of 224 x 224, but the U-Net's latents stay small (`video_inputs`)."""

VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "use_karras_sigmas": True,
}
"""Stable Video Diffusion's."""
STEPS = 5
"""With 2, rounding at sigma 700 alone makes differences of 1.3e-4."""


class Drawn(Mapping[str, Tensor]):
    """Random weights by name, made when they are asked for."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        values = drawn(name, shape)
        if len(shape) > 1:
            inputs = values[0].numel()
            sharp = 2.0 if "token_c" in name else 1.0  # the merger's masks leak: let much hang on it
            return values * (0.1 if "pos" in name or "query_embed" in name else sharp * inputs**-0.5)
        return values * 0.1 + (1 if "norm" in name and name.endswith("weight") else 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that belong to a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def weights(part: str, config: Mapping[str, Any]) -> Drawn:
    """The published tensors of a part in a bundle, of that size."""
    return Drawn(published_shapes(PARTS[part], config or None))


def motion_input(config: Mapping[str, Any]) -> Tensor:
    """What the published tokenizer is given: [1, 2, T, h, w], no motion into the keyframe."""
    values = drawn("motion", (1, 2, config.get("num_steps", 24), *config.get("grid", (20, 36))))
    values[:, :, 0] = 0
    return values


def our_motion(config: Mapping[str, Any]) -> dict[str, Tensor]:
    model = build(PARTS["motion"], weights("motion", config), config)
    pixels = torch.tensor(config["unit_pixels"]) / torch.tensor((256.0, 144.0))
    vectors = motion_input(config).permute(0, 2, 3, 4, 1) * pixels
    tokens = model.encode(vectors, torch.ones(vectors.shape[:4], dtype=torch.bool))
    field = model.decode(MotionTokens(tokens.ids, tokens.global_motion_ids)) / pixels
    return {"ids": tokens.ids.flatten(), "field": field.permute(0, 4, 1, 2, 3)}


def pictures(config: Mapping[str, Any]) -> Tensor:
    """[2, 3, S, S] in [-1, 1]."""
    size = config.get("image_size", 224)
    return F.interpolate(drawn("pictures", (2, 3, 9, 9)).tanh(), (size, size), mode="bicubic").clamp(-1, 1)


def keep_decision(patches: int) -> Tensor:
    """bool [2, patches]: about a third, about half."""
    return drawn("keep", (2, patches)) > torch.tensor([[0.4], [0.0]])


def our_keyframes(config: Mapping[str, Any]) -> dict[str, Tensor]:
    model = build(PARTS["keyframes"], weights("keyframes", config), config)
    images = pictures(config)
    features = model.features(images)
    mask = keep_decision(model.num_patches)
    merged = model.merger(features, mask)
    return {
        "features": features,
        "log_odds": model._log_odds(features),
        "merged": merged[mask],
        "codes": model.to_code(merged[mask]),
        "language": model.to_language(merged)[mask],
        "ids": torch.cat(model.encode(images, keep_mask=mask).ids),
    }


def codes(config: Mapping[str, Any]) -> list[Tensor]:
    """Two pictures' codes, of different number."""
    patches = config.get("patches", 256)
    return [F.normalize(drawn(f"codes {count}", (count, 32)), dim=-1) for count in (patches // 3, patches)]


def our_condition(config: Mapping[str, Any]) -> dict[str, Tensor]:
    model = build(PARTS["keyframes/condition"], weights("keyframes/condition", config), config)
    tokens, pooled = model(codes(config))
    return {"tokens": tokens, "pooled": pooled}


def video_inputs() -> dict[str, Tensor]:
    """Keyframe, vectors of our convention, and what a single evaluation of the U-Net is given."""
    picture = F.interpolate(drawn("keyframe", (1, 3, 5, 8)).tanh(), (64, 128), mode="bicubic").clamp(-1, 1)
    vectors = 0.1 * drawn("vectors", (1, 4, 20, 36, 2))
    return {"keyframe": picture, "vectors": vectors, "given": drawn("given", (1, 4, 10, 8, 24))}


def scaled_motion(vectors: Tensor, height: int, width: int) -> Tensor:
    """Our vectors as the published U-Net is given them: [B, 2, T, height, width]."""
    scaled = (vectors * torch.tensor(PUBLISHED_SCALE)).permute(0, 1, 4, 2, 3)
    resized = F.interpolate(scaled.flatten(0, 1), (height, width), mode="bicubic")
    return resized.unflatten(0, scaled.shape[:2]).transpose(1, 2)


def our_video(config: Mapping[str, Any]) -> dict[str, Tensor]:
    model = build(PARTS["detokenizer"], weights("detokenizer", config), config)
    inputs = video_inputs()
    motion = scaled_motion(inputs["vectors"], *inputs["given"].shape[-2:]).transpose(1, 2)
    features = model.motion_encoder.of_steps(motion)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    evaluated = model.unet.velocity(inputs["given"], torch.tensor(0.7), features, (16, 16), ids)
    whole = LatentDetokenizer(model, vae(), EulerDiscreteScheduler(**SCHEDULER))
    frames = whole.reconstruct(inputs["keyframe"], inputs["vectors"], num_inference_steps=STEPS, seed=5)
    return {"motion_features": features, "unet": evaluated, "frames": frames}


def vae() -> AutoencoderKLTemporalDecoder:
    """A tiny temporal autoencoder with drawn weights."""
    model = AutoencoderKLTemporalDecoder(**VAE)
    model.load_state_dict(dict(Drawn({name: tuple(value.shape) for name, value in model.state_dict().items()})))
    return model.eval().requires_grad_(False)


def thinned(values: Tensor) -> Tensor:
    """At most 2,000 of the values, evenly chosen: enough to see a difference, little to store."""
    flat = values.flatten()
    return flat[:: -(-len(flat) // 2000)].clone()
