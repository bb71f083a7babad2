"""Where the training of a language model on video begins.

Eyes of a language model: the video tokenizer it reads with, and whether it is given ids or features
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from videotok.errors import ModelError
from videotok.keyframes import KeyframeTokenizer
from videotok.lavit.modeling_keyframes import LavitKeyframes
from videotok.lm.model import FACTS, VideoLanguageModel, VideoSettings, load_causal, own_width
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embeddings, extend
from videotok.pipeline import VideoTokenizer

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
    codebooks = Codebooks.of(tokenizer, levels=settings.motion_quantizers)
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
    if settings.motion_quantizers and not settings.keyframes_only:
        sizes["motion"] = tokenizer.motion.config["code_dim"]
    return sizes


Inputs = Literal["auto", "ids", "features"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sighted:
    """A language model and what it reads videos with."""

    model: VideoLanguageModel
    tokenizer: VideoTokenizer
    note: str | None = None
    """One line for the user, where the model is given less than it was embedded_tokenizers with."""

    @property
    def inputs(self) -> str:
        """`features` or `ids`: of what it is given, the finer."""
        return "features" if self.model.feature_kinds else "ids"


def load_for_video(
    folder: str | Path, video_model: str | None = None, inputs: Inputs = "auto", precision: Precision = "auto"
) -> Sighted:
    """A language model of a folder, on the GPU where there is one, with the video tokenizer it reads with.

    The published understanding model was embedded_tokenizers to read keyframes as features of a visual tokenizer that was trained
    with it, and motion as ids. It gets features where that tokenizer lies in its folder (`videotok convert` puts it
    there) and none is named; else ids.

    Args:
        folder: of `videotok lm train`, or a converted `language_model` or `language_model_sft`.
        video_model: folder or hub id of other video weights; None: the model's own, else those that ship.
        inputs: `auto`: as the model was embedded_tokenizers.
        precision: of the language model; auto is bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ModelError: something is not there, or the model cannot read what `inputs` asks for.
    """
    folder, on_gpu = Path(folder), torch.cuda.is_available()
    dtype = getattr(torch, precision) if precision != "auto" else torch.bfloat16 if on_gpu else torch.float32
    model = VideoLanguageModel.from_pretrained(folder, dtype).to("cuda" if on_gpu else "cpu")
    own = own_width(folder)
    tokenizer = VideoTokenizer.from_pretrained(video_model or (folder if own else None))
    if (folder / FACTS).is_file():
        was = "features" if model.feature_kinds else "ids"
        if inputs not in ("auto", was):
            raise ModelError(f"{folder} was embedded_tokenizers to read {was}, not {inputs}; leave --inputs out")
        return Sighted(model, tokenizer)
    reason = None
    if inputs == "features":
        _check(folder, model, tokenizer)
        model.read({"visual": None})
    elif inputs == "ids" or video_model or not model.feature_kinds:
        model.read({})
        reason = "as asked for" if inputs == "ids" else _reason(own, video_model, embeddings(model.model).shape[1])
    return Sighted(model, tokenizer, reason and f"{folder.name} reads keyframes as ids, not as features: {reason}")


def _reason(own: int, video_model: str | None, width: int) -> str:
    if video_model:
        return f"those of {video_model} are not the ones it was embedded_tokenizers with (--inputs features gives them all the same)"
    if own:
        return f"those of its visual tokenizer have {own} numbers, its embeddings {width}"
    return "the visual tokenizer it was embedded_tokenizers with is not in its folder (videotok convert puts it there)"


def _check(folder: Path, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> None:
    width = embeddings(model.model).shape[1]
    keyframes = tokenizer.keyframe_encoder
    if not isinstance(keyframes, LavitKeyframes) or keyframes.config["language_width"] != width:
        raise ModelError(
            f"keyframes of model {tokenizer.bundle.name} have no features of {width} numbers, as {folder.name} reads "
            "them; name a published visual tokenizer (--video-model), or give --inputs ids"
        )
