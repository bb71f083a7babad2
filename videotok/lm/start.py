"""Where the training of a language model on video begins."""

from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from videotok.errors import ModelError
from videotok.keyframes import KeyframeTokenizer
from videotok.lm.codebooks import Codebooks
from videotok.lm.extension import extend
from videotok.lm.model import VideoLanguageModel, VideoSettings, load_causal
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.published.keyframes import LavitKeyframes

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer


def new_model(
    tokenizer: "VideoTokenizer", settings: VideoSettings, features: bool, *, width: int = 128, layers: int = 3
) -> VideoLanguageModel:
    """`tiny`: a Llama with random weights, embeddings of video from the codebooks."""
    text = tiny_tokenizer()
    return _taught(tiny_llama(len(text), width=width, layers=layers), text, tokenizer, settings, features)


def taught_model(name: str, tokenizer: "VideoTokenizer", settings: VideoSettings, features: bool) -> VideoLanguageModel:
    """Any causal language model, a folder's or (downloaded) a hub id's, with the ids of video added.

    Raises:
        OSError, ValueError: it cannot be loaded, or its tokenizer cannot be extended.
    """
    text = AutoTokenizer.from_pretrained(name)
    return _taught(load_causal(name, torch.float32), text, tokenizer, settings, features)


def _taught(
    model: PreTrainedModel,
    text: PreTrainedTokenizerBase,
    tokenizer: "VideoTokenizer",
    settings: VideoSettings,
    features: bool,
) -> VideoLanguageModel:
    codebooks = Codebooks.of(tokenizer, levels=settings.motion_levels)
    vocabulary = extend(text, model, codebooks)
    return VideoLanguageModel(
        model, text, vocabulary, settings=settings, features=_feature_sizes(tokenizer, settings) if features else None
    )


def _feature_sizes(tokenizer: "VideoTokenizer", settings: VideoSettings) -> dict[str, int | None]:
    keyframes = tokenizer.keyframes
    if isinstance(keyframes, LavitKeyframes) and keyframes.to_language is not None:
        width = keyframes.config["language_width"]
    elif isinstance(keyframes, KeyframeTokenizer):
        width = keyframes.config["width"]
    else:
        raise ModelError(f"{type(keyframes).__name__} has no features of kept patches; train with --inputs ids")
    sizes: dict[str, int | None] = {"visual": width}
    if settings.motion_levels and not settings.keyframes_only:
        sizes["motion"] = tokenizer.motion.config["code_dim"]
    return sizes
