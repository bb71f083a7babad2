"""Language models to train or to ask, each with the video tokenizer that it reads with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from videotok.bundle import SHIPPED
from videotok.errors import ModelError
from videotok.lm.model import (
    VIDEO_CONFIG_NAME,
    VideoLanguageModel,
    VideoSettings,
    embedded_feature_width,
    load_causal_lm,
)
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embedding_table, extend
from videotok.models import choose_device
from videotok.pipeline import VideoTokenizer

Inputs = Literal["auto", "ids", "features"]
"""What a language model is given of keyframes; `auto`: what it was trained with."""
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def new_tiny_model(
    tokenizer: VideoTokenizer, settings: VideoSettings, use_features: bool, *, width: int = 128, layers: int = 3
) -> VideoLanguageModel:
    """Return a small Llama with random weights, whose video embeddings start from the codebooks of a video tokenizer.

    Args:
        tokenizer: the video tokenizer.
        settings: how videos are encoded.
        use_features: read features instead of ids.
        width: of the hidden states.
        layers: number of transformer blocks.
    """
    text = tiny_tokenizer()
    return _extend(tiny_llama(len(text), width=width, layers=layers), text, tokenizer, settings, use_features)


def extended_model(
    name: str, tokenizer: VideoTokenizer, settings: VideoSettings, use_features: bool
) -> VideoLanguageModel:
    """Return any causal language model, a folder or a (downloaded) hub id, extended by the ids of video.

    Raises:
        OSError, ValueError: it cannot be loaded, or its tokenizer cannot be extended.
    """
    text = AutoTokenizer.from_pretrained(name)
    return _extend(load_causal_lm(name, torch.float32), text, tokenizer, settings, use_features)


def _extend(
    model: PreTrainedModel,
    text: PreTrainedTokenizerBase,
    tokenizer: VideoTokenizer,
    settings: VideoSettings,
    use_features: bool,
) -> VideoLanguageModel:
    vocabulary = extend(text, model, Codebooks.from_tokenizer(tokenizer, motion_quantizers=settings.motion_quantizers))
    features = _feature_widths(tokenizer, settings) if use_features else None
    return VideoLanguageModel(model, text, vocabulary, settings=settings, features=features)


def _feature_widths(tokenizer: VideoTokenizer, settings: VideoSettings) -> dict[str, int | None]:
    keyframes = tokenizer.keyframes
    if not keyframes.feature_width:
        raise ModelError(f"{type(keyframes).__name__} has no features of kept patches; train on ids")
    widths: dict[str, int | None] = {"visual": keyframes.feature_width}
    if settings.motion_quantizers and not settings.keyframes_only:
        widths["motion"] = tokenizer.motion.feature_width
    return widths


@dataclass(frozen=True)
class LoadedLanguageModel:
    """A language model and the video tokenizer that it reads with."""

    model: VideoLanguageModel
    tokenizer: VideoTokenizer
    note: str | None = None
    """One line for the user, where the model reads less than it was trained with."""

    @property
    def inputs(self) -> str:
        """`features` where the model reads any, else `ids`."""
        return "features" if self.model.feature_kinds else "ids"


def shipped_language_model() -> Path:
    """Return the folder of the language model that ships with videotok."""
    return SHIPPED / "lm"


def load_language_model(
    folder: str | Path | None = None,
    video_model: str | None = None,
    inputs: Inputs = "auto",
    precision: Precision = "auto",
    device: str = "auto",
) -> LoadedLanguageModel:
    """Load a language model with the video tokenizer that it reads with.

    Video-LaVIT's understanding model was trained to read keyframes as features of a visual tokenizer that was trained
    with it, and motion as ids. It reads features where this embedded tokenizer lies in its folder (`videotok convert`
    puts it there) and no other is named; else ids.

    Args:
        folder: of `videotok lm train`, or a converted `language_model` or `language_model_sft`; None: the model that
            ships with videotok.
        video_model: folder or hub id of other video weights; None: the embedded ones, else the shipped ones.
        inputs: what the model is given of keyframes.
        precision: of the language model; `auto` is bfloat16 on a GPU, float32 on a CPU.
        device: where the language model and the video tokenizer run; `auto` is the fastest one there is.

    Raises:
        ModelError: something is missing, there is no such device, or the model cannot read these inputs.
    """
    folder, chosen = shipped_language_model() if folder is None else Path(folder), choose_device(device)
    automatic = torch.bfloat16 if chosen.type == "cuda" else torch.float32
    dtype = automatic if precision == "auto" else getattr(torch, precision)
    model = VideoLanguageModel.from_pretrained(folder, dtype).to(chosen)
    embedded_width = embedded_feature_width(folder)
    name = video_model or (str(folder) if embedded_width else None)
    tokenizer = VideoTokenizer.from_pretrained(name, device=chosen)
    if (folder / VIDEO_CONFIG_NAME).is_file():
        trained_with = "features" if model.feature_kinds else "ids"
        if inputs not in ("auto", trained_with):
            raise ModelError(f"{folder} was trained to read {trained_with}, not {inputs}; use inputs auto")
        return LoadedLanguageModel(model, tokenizer)
    if inputs == "features":
        _check_feature_width(folder, model, tokenizer)
        model.set_features({"visual": None})
        return LoadedLanguageModel(model, tokenizer)
    if inputs == "auto" and not video_model and model.feature_kinds:
        return LoadedLanguageModel(model, tokenizer)
    model.set_features({})
    width = embedding_table(model.model).shape[1]
    reason = "as asked for" if inputs == "ids" else _why_ids(embedded_width, video_model, width)
    return LoadedLanguageModel(model, tokenizer, f"{folder.name} reads keyframes as ids, not as features: {reason}")


def _why_ids(embedded_width: int, video_model: str | None, width: int) -> str:
    if video_model:
        return f"those of {video_model} are not the ones it was trained with (inputs features reads them all the same)"
    if embedded_width:
        return f"those of its embedded tokenizer have {embedded_width} dimensions, its embeddings {width}"
    return "the visual tokenizer it was trained with is not in its folder (videotok convert puts it there)"


def _check_feature_width(folder: Path, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> None:
    width = embedding_table(model.model).shape[1]
    if tokenizer.keyframes.feature_width != width:
        raise ModelError(
            f"keyframes of model {tokenizer.bundle.name} have no features of {width} dimensions, as {folder.name} "
            "reads them; name a published visual tokenizer, or read ids"
        )
