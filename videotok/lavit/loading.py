"""Models of several parts, loaded from folders of a bundle or of a published checkpoint."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from safetensors import SafetensorError

from unet3d import LatentDenoiser, LatentVideoDetokenizer
from videotok.errors import ModelError, first_line
from videotok.io_utils import read_json
from videotok.lavit.checkpoint import missing_files
from videotok.lavit.image_decoder import ImageConditionEncoder, ImageDecoder
from videotok.lavit.modeling_keyframes import LavitKeyframeTokenizer
from videotok.lavit.weight_map import PARTS

LoadCondition = Callable[[torch.dtype], ImageConditionEncoder]


def load_lavit_keyframes(folder: Path, dtype: torch.dtype) -> LavitKeyframeTokenizer:
    """Load the folder `keyframes` of a converted bundle, at most in `LavitKeyframeTokenizer.encoding_dtype`.

    Raises:
        OSError, ValueError, RuntimeError: a file is missing or damaged.
    """
    dtype = LavitKeyframeTokenizer.encoding_dtype if dtype == torch.float64 else dtype
    model = LavitKeyframeTokenizer.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)

    def load_condition(dtype: torch.dtype) -> ImageConditionEncoder:
        condition = ImageConditionEncoder.from_pretrained(folder / "condition", torch_dtype=dtype, use_safetensors=True)
        return condition.eval().requires_grad_(False)

    has_condition = (folder / "condition" / "config.json").is_file()
    return attach_image_decoder(
        model.eval().requires_grad_(False),
        load_condition if has_condition else None,
        folder / "unet",
        folder / "vae",
        folder / "scheduler",
    )


def attach_image_decoder(
    model: LavitKeyframeTokenizer, load_condition: LoadCondition | None, unet: Path, vae: Path, scheduler: Path
) -> LavitKeyframeTokenizer:
    """Let a keyframe tokenizer load its image decoder on the first `decode`; return the tokenizer.

    Args:
        model: the tokenizer. Where a file is missing it is told which, and can encode only.
        load_condition: loads the image condition encoder; None: its file is missing.
        unet, vae, scheduler: hf folders.
    """
    missing = [
        f"{folder.parent.name}/{name}"
        for folder in (unet, vae, scheduler)
        for name in missing_files(folder.parent, folder.name)
    ]
    if load_condition is None:
        missing.insert(0, next(iter(PARTS["keyframes/condition"].files)))
    if load_condition is None or missing:
        model.set_image_decoder(None, missing)
        return model

    def load(dtype: torch.dtype) -> ImageDecoder:
        config = read_json(scheduler / "scheduler_config.json")
        return ImageDecoder(
            load_condition(dtype),
            _load_hf_model(UNet2DConditionModel, unet, dtype),
            _load_hf_model(AutoencoderKL, vae, dtype),
            getattr(diffusers, config["_class_name"]).from_pretrained(scheduler),
        )

    model.set_image_decoder(load)
    return model


def load_latent_detokenizer(
    denoiser: LatentDenoiser, vae: Path, scheduler: Path, dtype: torch.dtype
) -> LatentVideoDetokenizer:
    """Return the video detokenizer with the autoencoder and the scheduler of two hf folders.

    Raises:
        ModelError: one of them is missing or damaged.
    """
    autoencoder = _load_hf_model(AutoencoderKLTemporalDecoder, vae, dtype)
    euler: Any = EulerDiscreteScheduler.from_pretrained(_existing(scheduler))
    return LatentVideoDetokenizer(denoiser, autoencoder, euler)


def _load_hf_model(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    # published weights are pickled, and read as weights only
    has_safetensors = any(folder.glob("*.safetensors"))
    try:
        model = model_class.from_pretrained(_existing(folder), torch_dtype=dtype, use_safetensors=has_safetensors)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(f"cannot read {folder}: {first_line(error)}; is the download complete?") from error
    return model.eval().requires_grad_(False)


def _existing(folder: Path) -> Path:
    if missing := missing_files(folder.parent, folder.name):
        raise ModelError(f"{folder.parent} lacks {', '.join(missing)}; download it too")
    return folder
