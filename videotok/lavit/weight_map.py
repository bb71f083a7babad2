"""Which published tensors each of our tensors is made of

The parts of the published model that are configurations of our own classes: their files, and how they are built
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from motion_vq import MotionTokenizer
from motion_vq.tokenizer import PUBLISHED_CONFIG
from unet3d import VideoDetokenizer
from videotok.errors import ModelError
from videotok.lavit.image_decoder import WordCondition
from videotok.lavit.modeling_keyframes import LavitKeyframes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Rows of a published tensor, or a constant that the published files leave out."""

    key: str | None
    shape: Shape
    """Of the whole published tensor; of the constant where there is no key."""
    rows: tuple[int, int] | None = None
    fill: float = 0.0


Pieces = Callable[[str, Shape], list[Piece]]
"""(our name, our shape) -> what it is made of, one after another along the first dimension, then reshaped."""


def assembled(pieces: list[Piece], shape: Shape, dtype: torch.dtype, read: Mapping[str, Tensor]) -> Tensor:
    """Our tensor of that shape, contiguous; of the published type where it is a floating one."""
    parts = []
    for piece in pieces:
        if piece.key is None:
            parts.append(torch.full(piece.shape, piece.fill))
        else:
            value = read[piece.key]
            parts.append(value if piece.rows is None else value[slice(*piece.rows)])
    like = next((part.dtype for part, piece in zip(parts, pieces, strict=True) if piece.key), torch.float32)
    whole = torch.cat([part.to(like) for part in parts]) if len(parts) > 1 else parts[0]
    # whole files are mapped into memory: a view would be written with all of its file
    return whole.reshape(shape).to(like if dtype.is_floating_point else dtype).clone()


def renamed(name: str, table: Mapping[str, str]) -> str:
    """`name` after the first pattern of `table` that matches all of it; as it is where none does."""
    for pattern, replacement in table.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def motion_pieces(config: Mapping[str, Any]) -> Pieces:
    """motion_tokenizer.bin -> MotionTokenizer."""
    before = {side: _starts(config[f"{side}_depths"]) for side in ("encoder", "decoder")}
    constants = {
        "quantize.first_error": 0.0,
        "quantize.difficulty": 0.0,
        "quantize.stages.0._codebook.initted": 1.0,
        "quantize.stages.0._codebook.cluster_size": 1.0,
        "decoder.pos_embed": 0.0,
    }
    words = (config["codebook_size"], config["code_dim"])

    def pieces(name: str, shape: Shape) -> list[Piece]:
        if name in constants:
            return [Piece(None, shape, fill=constants[name])]
        if name.startswith("quantize."):
            return [Piece("quantize.embedding.weight", words)]
        block = re.fullmatch(r"(encoder|decoder)\.stages\.(\d+)\.(\d+)\.(.+)", name)
        if block:
            side, stage, number, rest = block.groups()
            name = f"{side}.blocks.{before[side][int(stage)] + int(number)}.{rest}"
        return [
            Piece(
                renamed(name, {r"(.*)\.mlp\.0\.(.*)": r"\1.mlp.fc1.\2", r"(.*)\.mlp\.2\.(.*)": r"\1.mlp.fc2.\2"}), shape
            )
        ]

    return pieces


def _starts(depths: list[int]) -> list[int]:
    return [sum(depths[:stage]) for stage in range(len(depths))]


_BLOCK = {
    r"(.*)\.mlp\.0\.(.*)": r"\1.mlp.fc1.\2",
    r"(.*)\.mlp\.2\.(.*)": r"\1.mlp.fc2.\2",
}
_VIT = {
    r"class_token": "cls_token",
    r"positions": "pos_embed",
    r"patches\.(.*)": r"patch_embed.proj.\1",
    r"(blocks\.\d+)\.attention_norm\.(.*)": r"\1.norm1.\2",
    r"(blocks\.\d+)\.mlp_norm\.(.*)": r"\1.norm2.\2",
    r"(blocks\.\d+)\.attention\.out\.(.*)": r"\1.attn.proj.\2",
    r"(blocks\.\d+)\.attention\.(.*)": r"\1.attn.\2",
    **_BLOCK,
}
_TOKENIZER = {
    r"selector\.local\.(.*)": r"token_predictor.in_conv.\1",
    r"selector\.judge\.(.*)": r"token_predictor.out_conv.\1",
    r"merger\.memory_norm\.(.*)": r"causal_encoder.ln_vision.\1",
    r"merger\.norm\.(.*)": r"causal_encoder.norm.\1",
    r"merger\.(blocks\.\d+)\.causal_norm\.(.*)": r"causal_encoder.\1.norm0.\2",
    r"merger\.(blocks\.\d+)\.cross_norm\.(.*)": r"causal_encoder.\1.norm1.\2",
    r"merger\.(blocks\.\d+)\.mlp_norm\.(.*)": r"causal_encoder.\1.norm2.\2",
    r"merger\.(blocks\.\d+)\.causal\.out\.(.*)": r"causal_encoder.\1.token_causal_attn.proj.\2",
    r"merger\.(blocks\.\d+)\.causal\.(.*)": r"causal_encoder.\1.token_causal_attn.\2",
    r"merger\.(blocks\.\d+)\.cross\.out\.(.*)": r"causal_encoder.\1.token_cross_attn.proj.\2",
    r"merger\.(blocks\.\d+)\.cross\.(.*)": r"causal_encoder.\1.token_cross_attn.\2",
    r"merger\.(blocks\.\d+)\.mlp\.0\.(.*)": r"causal_encoder.\1.mlp.fc1.\2",
    r"merger\.(blocks\.\d+)\.mlp\.2\.(.*)": r"causal_encoder.\1.mlp.fc2.\2",
    r"to_code\.(.*)": r"encode_task_layer.\1",
    r"to_language\.(.*)": r"vit_proj.\1",
    r"words": "quantize.embedding.weight",
}
_CONDITION = {
    r"positions": "pos_embed",
    r"queries": "query_embed",
    r"(blocks\.\d+)\.attention_norm\.(.*)": r"\1.norm0.\2",
    r"(blocks\.\d+)\.cross_norm\.(.*)": r"\1.norm1.\2",
    r"(blocks\.\d+)\.mlp_norm\.(.*)": r"\1.norm2.\2",
    r"(blocks\.\d+)\.attention\.out\.(.*)": r"\1.self_attn.proj.\2",
    r"(blocks\.\d+)\.attention\.(.*)": r"\1.self_attn.\2",
    r"(blocks\.\d+)\.cross\.out\.(.*)": r"\1.cross_attn.proj.\2",
    r"(blocks\.\d+)\.cross\.(.*)": r"\1.cross_attn.\2",
    r"to_features\.(.*)": r"decode_task_layer.\1",
    r"to_tokens\.0\.(.*)": r"unet_proj_1.\1",
    r"to_tokens\.1\.(.*)": r"unet_proj_2.\1",
    r"pool_positions": "unet_attnpool.positional_embedding",
    r"pool\.out\.(.*)": r"unet_attnpool.c_proj.\1",
    r"pool\.(.*)": r"unet_attnpool.\1",
    **_BLOCK,
}


def keyframe_pieces(config: Mapping[str, Any]) -> Pieces:
    """eva_vitg_psz14.bin (keys `vit.*` here) and tokenizer_encoder.bin -> LavitKeyframes."""
    patch = config["patch_size"]

    def pieces(name: str, shape: Shape) -> list[Piece]:
        inside = name.removeprefix("vit.")
        if inside == name:
            key = renamed(name, _TOKENIZER)
            return _attention(key, shape, fused="_causal_attn" in key)
        key = "vit." + renamed(inside, _VIT)
        if inside == "class_token":
            return [Piece(key, (1, 1, *shape))]
        if inside == "positions":
            return [Piece(key, (1, *shape))]
        if inside == "patches.weight":
            return [Piece(key, (shape[0], 3, patch, patch))]
        return _attention(key, shape, fused=True, key_bias=False)

    return pieces


def condition_pieces(config: Mapping[str, Any]) -> Pieces:
    """highres_tokenizer_decoder.bin -> WordCondition."""
    del config

    def pieces(name: str, shape: Shape) -> list[Piece]:
        key = renamed(name, _CONDITION)
        if name in ("positions", "queries"):
            return [Piece(key, (1, *shape))]
        if name.startswith("pool."):
            return _attention(key, shape, fused=False, names=("q_proj", "k_proj", "v_proj"))
        return _attention(key, shape, fused="self_attn" in key)

    return pieces


def video_pieces(config: Mapping[str, Any]) -> Pieces:
    """video_3d_unet.bin -> VideoDetokenizer with latents; the names are the same."""
    del config
    return lambda name, shape: [Piece(name, shape)]


def _attention(
    key: str,
    shape: Shape,
    *,
    fused: bool,
    key_bias: bool = True,
    names: tuple[str, str, str] = ("query", "key", "value"),
) -> list[Piece]:
    """`….query.*` and `….key_value.*` of `videotok.keyframes.vit.Attention`; everything else as it is.

    `fused`: published as one `qkv`. `key_bias`: keys have a bias there, else `q_bias` and `v_bias` stand by themselves.
    """
    place, _, last = key.rpartition(".")
    owner, _, part = place.rpartition(".")
    if part not in ("query", "key_value"):
        return [Piece(key, shape)]
    rows = shape[0] if part == "query" else shape[0] // 2
    if last == "bias" and fused and not key_bias:
        if part == "query":
            return [Piece(f"{owner}.q_bias", shape)]
        return [Piece(None, (rows,)), Piece(f"{owner}.v_bias", (rows,))]
    if fused:
        wanted = (0, rows) if part == "query" else (rows, 3 * rows)
        return [Piece(f"{owner}.qkv.{last}", (3 * rows, *shape[1:]), wanted)]
    chosen = names[:1] if part == "query" else names[1:]
    return [Piece(f"{owner}.{name}.{last}", (rows, *shape[1:])) for name in chosen]


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
