"""Models of several parts, put together from folders of a bundle or of a download"""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from unet3d import LatentDetokenizer, VideoDetokenizer
from videotok.errors import ModelError
from videotok.published.condition import WordCondition
from videotok.published.keyframes import LavitKeyframes
from videotok.published.painter import DiffusionPainter


def latent_detokenizer(model: VideoDetokenizer, vae: Path, scheduler: Path, dtype: torch.dtype) -> LatentDetokenizer:
    """The video detokenizer, with the autoencoder and the scheduler of two folders.

    Raises:
        ModelError: one of them is not there.
    """
    made_vae = _model(AutoencoderKLTemporalDecoder, vae, dtype)
    steps: Any = EulerDiscreteScheduler.from_pretrained(_there(scheduler))
    return LatentDetokenizer(model, made_vae, steps)


def with_painter(
    model: LavitKeyframes, condition: WordCondition | None, unet: Path, vae: Path, scheduler: Path, dtype: torch.dtype
) -> LavitKeyframes:
    """The keyframe tokenizer, able to draw where everything for it is there."""
    if condition is None or not all((folder / "config.json").is_file() for folder in (unet, vae)):
        return model
    name = json.loads((_there(scheduler) / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    model.painter = DiffusionPainter(
        condition,
        _model(UNet2DConditionModel, unet, dtype),
        _model(AutoencoderKL, vae, dtype),
        getattr(diffusers, name).from_pretrained(scheduler),
    )
    return model


def load_lavit(folder: Path, dtype: torch.dtype) -> LavitKeyframes:
    """The folder `keyframes` of a converted bundle; see `videotok.keyframes.registry`."""
    dtype = single(dtype)
    model = LavitKeyframes.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
    condition = None
    if (folder / "condition" / "config.json").is_file():
        condition = WordCondition.from_pretrained(folder / "condition", torch_dtype=dtype, use_safetensors=True)
        condition.eval().requires_grad_(False)
    return with_painter(
        model.eval().requires_grad_(False), condition, folder / "unet", folder / "vae", folder / "scheduler", dtype
    )


def single(dtype: torch.dtype) -> torch.dtype:
    """float32 where float64 is asked for: the published keyframe tokenizer would take 11 GB."""
    return torch.float32 if dtype == torch.float64 else dtype


def _model(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    # what was published is pickled; it is read as weights only
    is_safe = any(folder.glob("*.safetensors"))
    return kind.from_pretrained(_there(folder), torch_dtype=dtype, use_safetensors=is_safe).eval().requires_grad_(False)


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"{folder} is missing; download it too")
    return folder
