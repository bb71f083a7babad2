"""The weight map: which tensors of the published checkpoint each parameter of our models is made of.

`PARTS` names the four models of the checkpoint that are configurations of our own classes, with their files. Attention
layers that are published as one `qkv` layer are split into `query` and `key_value`; some constants are left out of the
checkpoint and are filled in.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from motion_vq import MotionTokenizer
from motion_vq.tokenizer import PUBLISHED_CONFIG
from unet3d import LatentDenoiser
from videotok.errors import ModelError
from videotok.lavit.image_decoder import ImageConditionEncoder
from videotok.lavit.modeling_keyframes import LavitKeyframeTokenizer

Shape = tuple[int, ...]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class TensorSource:
    """Rows of a checkpoint tensor, or a constant that the checkpoint leaves out."""

    key: str | None
    """Name in the checkpoint; None: a constant."""
    shape: Shape
    """Of the whole checkpoint tensor, or of the constant."""
    rows: tuple[int, int] | None = None
    """First row and the one after the last; None: all."""
    fill: float = 0.0
    """Value of the constant."""


SourceRule = Callable[[str, Shape], list[TensorSource]]
"""(name and shape of our parameter) -> its sources, to be joined along the first dimension and reshaped."""


@dataclass(frozen=True)
class LavitPart:
    """One of our models, and the files of the checkpoint that it is made of."""

    model: type[ModelMixin]
    config: Config
    """Options of the published size, as the model's constructor takes them."""
    rule: Callable[[Config], SourceRule]
    """Config -> the sources of each parameter."""
    files: Mapping[str, str]
    """File -> prefix of its keys in the names that `rule` uses."""
    unused: tuple[str, ...] = ()
    """Known keys that are not needed, with their prefix. One that ends in a dot stands for all keys that begin so."""


# ---- the published names of our parameters: (pattern of our name) -> checkpoint key, first match wins

_MLP = {
    r"(.*)\.mlp\.0\.(.*)": r"\1.mlp.fc1.\2",
    r"(.*)\.mlp\.2\.(.*)": r"\1.mlp.fc2.\2",
}
_SPACE_TIME_BLOCK = {**_MLP, r"(.*_attention)\.out\.(.*)": r"\1.proj.\2"}
_VISION_TRANSFORMER = {
    r"class_token": "cls_token",
    r"positions": "pos_embed",
    r"patches\.(.*)": r"patch_embed.proj.\1",
    r"(blocks\.\d+)\.attention_norm\.(.*)": r"\1.norm1.\2",
    r"(blocks\.\d+)\.mlp_norm\.(.*)": r"\1.norm2.\2",
    r"(blocks\.\d+)\.attention\.out\.(.*)": r"\1.attn.proj.\2",
    r"(blocks\.\d+)\.attention\.(.*)": r"\1.attn.\2",
    **_MLP,
}
_KEYFRAME_TOKENIZER = {
    r"selector\.local\.(.*)": r"token_predictor.in_conv.\1",
    r"selector\.head\.(.*)": r"token_predictor.out_conv.\1",
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
    r"codes": "quantize.embedding.weight",
}
_IMAGE_CONDITION = {
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
    **_MLP,
}


def motion_rule(config: Config) -> SourceRule:
    """Return the sources of MotionTokenizer in motion_tokenizer.bin."""
    first_block = {side: _first_blocks(config[f"{side}_depths"]) for side in ("encoder", "decoder")}
    constants = {
        "quantize.first_error": 0.0,
        "quantize.difficulty": 0.0,
        "quantize.stages.0.initialized": 1.0,
        "quantize.stages.0.usage": 1.0,
        "decoder.pos_embed": 0.0,
    }
    codebook_shape = (config["codebook_size"], config["code_dim"])

    def sources(name: str, shape: Shape) -> list[TensorSource]:
        if name in constants:
            return [TensorSource(None, shape, fill=constants[name])]
        if name.startswith("quantize."):
            return [TensorSource("quantize.embedding.weight", codebook_shape)]
        # published blocks are numbered throughout, ours by stage
        block = re.fullmatch(r"(encoder|decoder)\.stages\.(\d+)\.(\d+)\.(.+)", name)
        if block:
            side, stage, number, rest = block.groups()
            name = f"{side}.blocks.{first_block[side][int(stage)] + int(number)}.{rest}"
        return _attention_sources(_rename(name, _SPACE_TIME_BLOCK), shape, fused=True, key_bias=False)

    return sources


def _first_blocks(depths: list[int]) -> list[int]:
    """Return the number of the first block of each stage, counted over all stages."""
    return [sum(depths[:stage]) for stage in range(len(depths))]


def keyframe_rule(config: Config) -> SourceRule:
    """Return the sources of LavitKeyframeTokenizer: eva_vitg_psz14.bin (here `vit.*`) and tokenizer_encoder.bin."""
    patch = config["patch_size"]

    def sources(name: str, shape: Shape) -> list[TensorSource]:
        inner_name = name.removeprefix("vit.")
        if inner_name == name:
            key = _rename(name, _KEYFRAME_TOKENIZER)
            return _attention_sources(key, shape, fused="_causal_attn" in key)
        key = "vit." + _rename(inner_name, _VISION_TRANSFORMER)
        if inner_name == "class_token":
            return [TensorSource(key, (1, 1, *shape))]
        if inner_name == "positions":
            return [TensorSource(key, (1, *shape))]
        if inner_name == "patches.weight":
            return [TensorSource(key, (shape[0], 3, patch, patch))]
        return _attention_sources(key, shape, fused=True, key_bias=False)

    return sources


def image_condition_rule(config: Config) -> SourceRule:
    """Return the sources of ImageConditionEncoder in highres_tokenizer_decoder.bin."""
    del config

    def sources(name: str, shape: Shape) -> list[TensorSource]:
        key = _rename(name, _IMAGE_CONDITION)
        if name in ("positions", "queries"):
            return [TensorSource(key, (1, *shape))]
        if name.startswith("pool."):
            return _attention_sources(key, shape, fused=False, layers=("q_proj", "k_proj", "v_proj"))
        return _attention_sources(key, shape, fused="self_attn" in key)

    return sources


def video_rule(config: Config) -> SourceRule:
    """Return the sources of the video detokenizer in video_3d_unet.bin; the names of the U-Net are the same."""
    del config

    def sources(name: str, shape: Shape) -> list[TensorSource]:
        if not name.startswith("motion_encoder."):
            return [TensorSource(name, shape)]
        return _attention_sources(_rename(name, _SPACE_TIME_BLOCK), shape, fused=True, key_bias=False)

    return sources


def _rename(name: str, table: Mapping[str, str]) -> str:
    """Return `name` rewritten by the first pattern of `table` that matches all of it, or unchanged."""
    for pattern, replacement in table.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _attention_sources(
    key: str,
    shape: Shape,
    *,
    fused: bool,
    key_bias: bool = True,
    layers: tuple[str, str, str] = ("query", "key", "value"),
) -> list[TensorSource]:
    """Return the sources of `query` and `key_value` of `motion_vq.attention.Attention`; any other key is itself.

    Args:
        key: checkpoint key, but with `query` or `key_value` as the layer.
        shape: of our parameter.
        fused: the checkpoint has one layer `qkv`.
        key_bias: `qkv` has a bias; else there are `q_bias` and `v_bias`, and none for keys.
        layers: names of the three layers where they are not fused.
    """
    layer, _, kind = key.rpartition(".")
    attention, _, ours = layer.rpartition(".")
    if ours not in ("query", "key_value"):
        return [TensorSource(key, shape)]
    width = shape[0] if ours == "query" else shape[0] // 2
    if kind == "bias" and fused and not key_bias:
        if ours == "query":
            return [TensorSource(f"{attention}.q_bias", shape)]
        return [TensorSource(None, (width,)), TensorSource(f"{attention}.v_bias", (width,))]
    if fused:
        rows = (0, width) if ours == "query" else (width, 3 * width)
        return [TensorSource(f"{attention}.qkv.{kind}", (3 * width, *shape[1:]), rows)]
    chosen = layers[:1] if ours == "query" else layers[1:]
    return [TensorSource(f"{attention}.{name}.{kind}", (width, *shape[1:])) for name in chosen]


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
"""Of the published video U-Net and its motion encoder. `fps` is the id that the U-Net is given, whatever the clip's."""

PARTS: dict[str, LavitPart] = {
    "motion": LavitPart(MotionTokenizer, PUBLISHED_CONFIG, motion_rule, {"motion_tokenizer.bin": ""}),
    "keyframes": LavitPart(
        LavitKeyframeTokenizer,
        {},
        keyframe_rule,
        {"visual_tokenizer/eva_vitg_psz14.bin": "vit.", "visual_tokenizer/tokenizer_encoder.bin": ""},
        # the class token's norm and the projection to CLIP's space; a second copy of the transformer
        unused=("vit.norm.", "vit.head.", "encoder."),
    ),
    "keyframes/condition": LavitPart(
        ImageConditionEncoder, {}, image_condition_rule, {"visual_tokenizer/highres_tokenizer_decoder.bin": ""}
    ),
    "detokenizer": LavitPart(
        LatentDenoiser,
        VIDEO_CONFIG,
        video_rule,
        {"video_3d_unet.bin": ""},
        # second copies of the motion tokenizer and the autoencoder
        unused=("motion_tokenizer.", "vae."),
    ),
}
"""Subfolder of a bundle -> the part."""


def part_config(name: str, keys: Iterable[str]) -> Config:
    """Return the config of a part whose checkpoint has these keys.

    The published code accepts a tokenizer_encoder.bin without the projection into a language model's embeddings, which
    only the understanding model uses.
    """
    config = PARTS[name].config
    return {**config, "language_width": 0} if name == "keyframes" and "vit_proj.weight" not in keys else config


def meta_model(part: LavitPart, config: Config | None = None) -> ModelMixin:
    """Return the model on the meta device: shapes without values. `config` None: the published size."""
    with torch.device("meta"):
        return part.model(**(part.config if config is None else config))


def parameter_sources(part: LavitPart, model: ModelMixin) -> dict[str, list[TensorSource]]:
    """Return the sources of every tensor of the model, by our name."""
    rule = part.rule(model.config)  # type: ignore[arg-type]
    return {name: rule(name, tuple(value.shape)) for name, value in model.state_dict().items()}


def checkpoint_shapes(part: LavitPart, config: Config | None = None) -> dict[str, Shape]:
    """Return the shape of every checkpoint tensor that the part is made of, by key."""
    rows = parameter_sources(part, meta_model(part, config)).values()
    return {source.key: source.shape for sources in rows for source in sources if source.key is not None}


def check_keys(
    part: LavitPart, model: ModelMixin, found: Mapping[str, Shape], where: str, *, allow_extra: bool
) -> None:
    """Compare the keys and shapes of a checkpoint with those that the part needs.

    Args:
        part: the part.
        model: the model to be made; it may be on the meta device.
        found: key -> shape.
        where: names of the files, for the message.
        allow_extra: accept unknown keys.

    Raises:
        ModelError: a key is missing, has another shape, or is unknown.
    """
    rows = parameter_sources(part, model).values()
    expected = {source.key: source.shape for sources in rows for source in sources if source.key}
    errors = [f"{key} is missing" for key in expected if key not in found]
    errors += [
        f"{key} is {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != shape
    ]
    if not allow_extra:
        errors += [f"{key} is not known" for key in found if key not in expected and not _is_unused(key, part.unused)]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ModelError(f"{where}: {errors[0]}{more}; is this another version of the weights, or a broken download?")


def _is_unused(key: str, unused: tuple[str, ...]) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in unused)


def converted_tensors(
    part: LavitPart, model: ModelMixin, checkpoint: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield our name and value of every tensor of the model, one by one, made of a checkpoint's tensors."""
    state = model.state_dict()
    for name, sources in parameter_sources(part, model).items():
        yield name, _assemble(sources, tuple(state[name].shape), state[name].dtype, checkpoint)


def _assemble(
    sources: list[TensorSource], shape: Shape, dtype: torch.dtype, checkpoint: Mapping[str, Tensor]
) -> Tensor:
    """Join sources into one contiguous tensor; floating tensors keep the checkpoint's dtype."""
    tensors, checkpoint_dtype = [], None
    for source in sources:
        if source.key is None:
            tensors.append(torch.full(source.shape, source.fill))
        else:
            value = checkpoint[source.key]
            checkpoint_dtype = checkpoint_dtype or value.dtype
            tensors.append(value if source.rows is None else value[slice(*source.rows)])
    joined_dtype = checkpoint_dtype or torch.float32
    joined = torch.cat([tensor.to(joined_dtype) for tensor in tensors]) if len(tensors) > 1 else tensors[0]
    # files are mapped into memory: a view would be written with the whole file behind it
    return joined.reshape(shape).to(joined_dtype if dtype.is_floating_point else dtype).clone()


def build_model(
    part: LavitPart, checkpoint: Mapping[str, Tensor], config: Config | None = None, dtype: torch.dtype | None = None
) -> Any:
    """Return the model with a checkpoint's weights, in eval mode without gradients.

    Args:
        part: the part.
        checkpoint: key -> tensor.
        config: of the model; None: the published size.
        dtype: floating weights are cast to it; None: as in the checkpoint.
    """
    model = meta_model(part, config)
    state = {
        name: value.to(dtype) if dtype is not None and value.is_floating_point() else value
        for name, value in converted_tensors(part, model, checkpoint)
    }
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
