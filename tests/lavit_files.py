"""A small Video-LaVIT in the layout of the published files."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor

from benchmarks.lavit_parity_cases import SCHEDULER, VAE, RandomWeights
from motion_vq.tokenizer import PUBLISHED_CONFIG
from videotok.lavit.weight_map import PARTS, VIDEO_CONFIG, LavitPart, checkpoint_shapes
from videotok.lm.tiny import tiny_llama, tiny_tokenizer

WIDTHS = (16,) * 5
CONFIGS: dict[str, dict[str, Any]] = {
    "motion": {
        **PUBLISHED_CONFIG,
        "encoder_widths": WIDTHS,
        "decoder_widths": WIDTHS,
        "encoder_depths": (1, 0, 0, 1, 0),
        "decoder_depths": (0, 1, 0, 0, 1),
        "num_heads": 2,
        "codebook_size": 64,
    },
    "keyframes": {
        "image_size": 56,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "hidden": 48,
        "merger_depth": 1,
        "codebook_size": 128,
        "language_width": 24,
    },
    "keyframes/condition": {
        "patches": 16,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "hidden": 48,
        "token_widths": (12, 20),
        "pooled_width": 20,
    },
    "detokenizer": {
        **VIDEO_CONFIG,
        "block_out_channels": (32, 32),
        "attention": (True, False),
        "layers_per_block": 1,
        "attention_width": 16,
        "time_ids_width": 8,
        "motion_layers": 1,
        "motion_width": 16,
        "motion_heads": 2,
        "num_inference_steps": 1,
        "attention_heads": (2, 2),
    },
}


def small_parts(codebooks: Mapping[str, int] | None = None) -> dict[str, LavitPart]:
    """Return the published parts in small sizes; `codebooks`: sizes of their codebooks, by part."""
    sizes = {part: {"codebook_size": size} for part, size in (codebooks or {}).items()}
    return {name: replace(part, config={**CONFIGS[name], **sizes.get(name, {})}) for name, part in PARTS.items()}


def write_checkpoint(folder: Path, *, image_decoder: bool = False) -> Path:
    """Write the files of all parts, and those of the image decoder if wanted; `PARTS` must be small_parts()."""
    for name, part in PARTS.items():
        weights = RandomWeights(checkpoint_shapes(part))
        for file, prefix in part.files.items():
            mine = {key.removeprefix(prefix): value for key, value in weights.items() if _belongs(key, prefix, name)}
            save(folder / file, mine)
    vision = folder / "visual_tokenizer" / "eva_vitg_psz14.bin"
    save(vision, {**torch.load(vision), "head.weight": torch.ones(3, 4)})
    torch.manual_seed(0)
    video = folder / "video_detokenizer"
    AutoencoderKLTemporalDecoder(**VAE).save_pretrained(video / "vae", safe_serialization=False)
    EulerDiscreteScheduler(**SCHEDULER).save_pretrained(video / "scheduler")
    if image_decoder:
        _write_image_decoder(folder / "image_detokenizer")
    return folder


def write_language_model(folder: Path, *, embedded: bool = True) -> dict[str, Tensor]:
    """Write a tiny Llama of the published vocabulary in two shards, with embedded tokenizers among its weights or not.

    Its embeddings are as wide as the features of CONFIGS. Returns its own weights by name.
    """
    llama = tiny_llama(49412, width=CONFIGS["keyframes"]["language_width"], layers=1, heads=2)
    llama.config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    weights = {key: value.clone() for key, value in llama.state_dict().items() if key != "lm_head.weight"}
    tokenizers: dict[str, Tensor] = {}
    for part, place in (("keyframes", "visual_tokenizer"), ("motion", "motion_tokenizer")) if embedded else ():
        random = RandomWeights(checkpoint_shapes(PARTS[part]))
        # other weights than those of the tokenizers that are published by themselves
        tokenizers |= {
            f"model.{place}.{re.sub('^vit[.]', 'encoder.', key)}": 0.9 * value for key, value in random.items()
        }
    first, rest = dict(list(weights.items())[:3]), dict(list(weights.items())[3:])
    shards = {"pytorch_model-00001-of-00002.bin": first | tokenizers, "pytorch_model-00002-of-00002.bin": rest}
    for name, shard in shards.items():
        save(folder / name, shard)
    weight_map = {key: name for name, shard in shards.items() for key in shard}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weights


def save(path: Path, weights: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(weights), path)


def _belongs(key: str, prefix: str, part: str) -> bool:
    return key.startswith("vit.") == (prefix == "vit.") if part == "keyframes" else True


def _write_image_decoder(folder: Path) -> None:
    UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    ).save_pretrained(folder / "unet", safe_serialization=False)
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae", safe_serialization=False)
    EulerAncestralDiscreteScheduler().save_pretrained(folder / "scheduler")
