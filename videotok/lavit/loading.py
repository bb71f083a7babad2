"""Models of several parts, put together from folders of a bundle or of a download"""

import json
import pickle
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors import SafetensorError

from unet3d import LatentDetokenizer, VideoDetokenizer
from videotok.errors import ModelError
from videotok.lavit.checkpoint import absent
from videotok.lavit.image_decoder import ImageDecoder, WordCondition
from videotok.lavit.modeling_keyframes import LavitKeyframes
from videotok.lavit.weight_map import PARTS

TOKEN_DECODER = next(iter(PARTS["keyframes/condition"].files))


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
    """The keyframe tokenizer, able to draw where everything for it is there; else it knows what is missing."""
    folders = (unet, vae, scheduler)
    lacking = [f"{folder.parent.name}/{name}" for folder in folders for name in absent(folder.parent, folder.name)]
    if condition is None:
        lacking.insert(0, TOKEN_DECODER)
    if condition is None or lacking:
        model.lacking = tuple(lacking)
        return model
    name = json.loads((_there(scheduler) / "scheduler_config.json").read_text(encoding="utf-8"))["_class_name"]
    model.painter = ImageDecoder(
        condition,
        _model(UNet2DConditionModel, unet, dtype),
        _model(AutoencoderKL, vae, dtype),
        getattr(diffusers, name).from_pretrained(scheduler),
    )
    return model


def load_lavit(folder: Path, dtype: torch.dtype) -> LavitKeyframes:
    """The folder `keyframes` of a converted bundle; see `videotok.bundle`."""
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
    try:
        model = kind.from_pretrained(_there(folder), torch_dtype=dtype, use_safetensors=is_safe)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot read {folder}: {reason}; is the download complete?") from error
    return model.eval().requires_grad_(False)


def _there(folder: Path) -> Path:
    if missing := absent(folder.parent, folder.name):
        raise ModelError(f"{folder.parent} lacks {', '.join(missing)}; download it too")
    return folder
