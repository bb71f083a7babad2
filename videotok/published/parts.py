"""The parts of the published model that are configurations of our own classes: their files, and how they are built"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from motion_vq import MotionTokenizer
from motion_vq.published import PUBLISHED_CONFIG
from unet3d import VideoDetokenizer
from videotok.errors import ModelError
from videotok.published.condition import WordCondition
from videotok.published.keyframes import LavitKeyframes
from videotok.published.pieces import (
    Piece,
    Pieces,
    assembled,
    condition_pieces,
    keyframe_pieces,
    motion_pieces,
    video_pieces,
)

Config = Mapping[str, Any]

VIDEO_CONFIG: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention": (True, True, True, False),
    "layers_per_block": 2,
    "attention_width": 1024,
    "time_ids_width": 256,
    "motion_grid": (24, 16, 16),
    "motion_layers": 12,
    "motion_width": 512,
    "motion_heads": 8,
    "num_inference_steps": 25,
    "fps": 6.0,
    "attention_heads": (5, 10, 20, 20),
}
"""The video U-Net and its motion condition encoder. Its frame rate is the id it is given, whatever the clip's."""


@dataclass(frozen=True)
class Part:
    """One of our models, and the published files it is made of."""

    model: type[ModelMixin]
    config: Config
    pieces: Callable[[Config], Pieces]
    files: Mapping[str, str]
    """File -> what stands before its keys in the names that `pieces` uses."""
    unused: tuple[str, ...] = ()
    """Keys that are known and not needed, after their prefix; those that end in a dot: all that begin with it."""


PARTS: dict[str, Part] = {
    "motion": Part(MotionTokenizer, PUBLISHED_CONFIG, motion_pieces, {"motion_tokenizer.bin": ""}),
    "keyframes": Part(
        LavitKeyframes,
        {},
        keyframe_pieces,
        {"visual_tokenizer/eva_vitg_psz14.bin": "vit.", "visual_tokenizer/tokenizer_encoder.bin": ""},
        # the class token's norm and projection to CLIP's space; a second copy of the transformer
        ("vit.norm.", "vit.head.", "encoder."),
    ),
    "keyframes/condition": Part(
        WordCondition, {}, condition_pieces, {"visual_tokenizer/highres_tokenizer_decoder.bin": ""}
    ),
    "detokenizer": Part(
        VideoDetokenizer,
        VIDEO_CONFIG,
        video_pieces,
        {"video_3d_unet.bin": ""},
        # second copies
        ("motion_tokenizer.", "vae."),
    ),
}
"""By the name of the subfolder in a bundle."""


def config_of(name: str, read: Iterable[str]) -> Config:
    """The configuration of a part whose tensors have those names.

    The public code reads tokenizer_encoder.bin whatever it lacks: the projection into a language model's embeddings,
    which only the understanding model uses, may be missing there.
    """
    known = PARTS[name].config
    return {**known, "language_width": 0} if name == "keyframes" and "vit_proj.weight" not in read else known


def skeleton(part: Part, config: Config | None = None) -> ModelMixin:
    """The model without its weights: shapes alone, on the meta device."""
    with torch.device("meta"):
        return part.model(**(part.config if config is None else config))


def recipe(part: Part, model: ModelMixin) -> dict[str, list[Piece]]:
    """Our name -> pieces, for every tensor of the model."""
    pieces = part.pieces(model.config)  # type: ignore[arg-type]
    return {name: pieces(name, tuple(value.shape)) for name, value in model.state_dict().items()}


def published_shapes(part: Part, config: Config | None = None) -> dict[str, tuple[int, ...]]:
    """Published key -> shape, of everything that the part is made of."""
    every = recipe(part, skeleton(part, config)).values()
    return {piece.key: piece.shape for pieces in every for piece in pieces if piece.key is not None}


def check(part: Part, model: ModelMixin, found: Mapping[str, tuple[int, ...]], where: str, *, extra: bool) -> None:
    """Compares the keys and shapes that were found with those that are needed.

    Args:
        part, model: what is to be made; the model may be a skeleton.
        found: key -> shape.
        where: of the files, for the message.
        extra: whether keys that nobody knows are let pass.

    Raises:
        ModelError: a key is missing, has another shape, or is not known.
    """
    expected = {piece.key: piece.shape for pieces in recipe(part, model).values() for piece in pieces if piece.key}
    wrong = [f"{key} is missing" for key in expected if key not in found]
    wrong += [
        f"{key} is {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != shape
    ]
    if not extra:
        unknown = [key for key in found if key not in expected and not _is_unused(key, part.unused)]
        wrong += [f"{key} is not known" for key in unknown]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ModelError(f"{where}: {wrong[0]}{more}; is this another version of the weights, or a broken download?")


def _is_unused(key: str, unused: tuple[str, ...]) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in unused)


def tensors(part: Part, model: ModelMixin, read: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, one after another, of the published ones."""
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    for name, pieces in recipe(part, model).items():
        yield name, assembled(pieces, *shapes[name], read)


def build(
    part: Part, read: Mapping[str, Tensor], config: Config | None = None, dtype: torch.dtype | None = None
) -> Any:
    """The model with the published weights `read`, ready to run; cast to `dtype` where that is given."""
    model = skeleton(part, config)
    state = {
        name: value.to(dtype) if dtype is not None and value.is_floating_point() else value
        for name, value in tensors(part, model, read)
    }
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        # no file has it, and a model with a tensor that was never made cannot be moved to another device
        if isinstance(module, VectorQuantize):
            module.register_buffer("zero", torch.zeros(()), persistent=False)
    return model.eval().requires_grad_(False)
