"""Outputs of the reference in the parity benchmark: its own modules with our random weights and our inputs.

The reference is the folder VideoLaVIT of a checkout of github.com/jy0205/LaVIT; nothing of it is in this repository. It
was written for torch 1.13, diffusers 0.25.1 and timm 0.4.12. It runs with the installed versions: what it imports
without using it here (timm, torchvision, its own helpers) is replaced by stubs.
"""

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn

from benchmarks import lavit_parity_cases as cases
from videotok.lavit.modeling_keyframes import PIXEL_MEAN, PIXEL_STD


class Reference:
    """The reference's modules, imported from its folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "models" / "modeling_motion_tokenizer.py").is_file():
            raise SystemExit(f"{folder} is not the folder VideoLaVIT of the reference: it has no models/")
        self.folder = folder
        _stub_module("timm.models.layers", drop_path=None, to_2tuple=lambda n: (n, n), trunc_normal_=_keep_tensor)
        _stub_module("torchvision.transforms.functional", InterpolationMode=None)
        _stub_module("torchvision", transforms=sys.modules["torchvision.transforms"])
        _stub_module("utils", _resize_with_antialiasing=None, get_rank=None, KeywordsStoppingCriteria=object)
        # its own __init__ imports everything, the language model and the image pipeline included
        _stub_module("models").__path__ = [str(folder / "models")]

    def __call__(self, module: str) -> Any:
        return importlib.import_module(f"models.{module}")

    def language(self) -> tuple[Any, Any, Any]:
        """Return the modules of its language model, its runner and its prompts, without its reading of files."""
        _stub_module("models.transform", LaVITImageProcessor=None, LaVITEvalVideoProcessor=None)
        if "conversation" not in sys.modules:
            spec = importlib.util.spec_from_file_location("conversation", self.folder / "conversation.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules["conversation"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["conversation"])
        return self("modeling_video_lavit_hf"), self("video_lavit_for_understanding"), sys.modules["conversation"]


def _stub_module(name: str, **members: Any) -> types.ModuleType:
    """Put a module of that name with those members, and its parents, into `sys.modules`."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        whole = ".".join(parts[:end])
        sys.modules.setdefault(whole, types.ModuleType(whole))
        if end > 1:
            setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], sys.modules[whole])
    sys.modules[name].__dict__.update(members)
    return sys.modules[name]


def _keep_tensor(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the tensor unchanged: used in place of an initializer."""
    return tensor


@contextmanager
def no_initialization() -> Iterator[None]:
    """Inside, models are constructed without initial values, which would take longer than the whole comparison.

    `_load_weights` sets all of them.
    """
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    before = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, _keep_tensor)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def reference_motion(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return its outputs, as `our_motion` does."""
    module = reference("modeling_motion_tokenizer")
    height, width = config.get("grid", (20, 36))
    depths = [depth for depth in config["encoder_depths"] if depth]
    size = {"img_size": (width, height), "num_frames": config.get("num_steps", 24), "depth": sum(depths)}
    sides = {**module.get_motion_trans_model_params(), **size}
    model = module.MotionTransformerTokenizer(sides, {**sides, "in_channel": 32}, 2)
    model.encoder.stage = model.decoder.stage = depths
    _load_weights(model, cases.random_checkpoint("motion", config))
    quantized, ids = model.encode(cases.motion_input(config))
    return {"ids": ids.flatten(), "field": model.decode(quantized)}


def reference_tokenizer(reference: Reference, config: Mapping[str, Any]) -> tuple[Any, Tensor, Any]:
    """Return its visual tokenizer with our weights, the images as its input, and its module."""
    encoder, module = reference("modeling_visual_encoder"), reference("modeling_visual_tokenzier")
    shape = {
        "image_size": config.get("image_size", 224),
        "layers": config.get("depth", 40),
        "width": 1408,
        "head_width": 88,
        "mlp_ratio": 4.3637,
        "drop_path_rate": 0,
    }
    module.build_eva_clip = lambda **_: encoder._build_vision_tower(1024, {**shape, "patch_size": 14, "fusedLN": True})
    weights = cases.random_checkpoint("keyframes", config)
    model = module.DynamicVisualTokenizer(layers=config.get("merger_depth", 12))
    model.vit_proj = nn.Linear(1408, config.get("language_width", 4096))
    _load_weights(model, _Renamed(weights, {name: re.sub(r"^vit\.", "encoder.", name) for name in weights}))
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return model, ((cases.images(config) + 1) / 2 - mean) / std, module


def reference_keyframes(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return its outputs, as `our_keyframes` does."""
    model, images, _ = reference_tokenizer(reference, config)
    features = model.encoder(images, return_all_features=True)[:, 1:]
    mask = cases.keep_mask(features.shape[1])
    logits = model.token_predictor(features, torch.ones(*mask.shape, 1))
    merged = model.causal_encoder(features, mask.float())
    # its own forward pass, with a given choice of patches
    fix_patch_choice(reference, mask)
    ids = torch.cat(model.tokenize_image(images)) - 32002
    return {
        "features": features,
        "log_odds": logits[..., 0] - logits[..., 1],
        "merged": merged[mask],
        "codes": model.encode_task_layer(merged[mask]),
        "language": torch.cat(model.encode_features(images)),
        "ids": ids,
    }


def fix_patch_choice(reference: Reference, mask: Tensor) -> None:
    """Replace its random choice of kept patches by `mask`, bool [B, N]."""
    functional = types.SimpleNamespace(**{name: getattr(F, name) for name in dir(F) if not name.startswith("__")})
    functional.gumbel_softmax = lambda *_, **__: torch.stack([mask, ~mask], -1).float()
    reference("modeling_visual_tokenzier").F = functional


def reference_condition(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return its outputs, as `our_condition` does."""
    side = round(config.get("patches", 256) ** 0.5)
    model = reference("modeling_decoder").HighresVQDecoder(img_size=14 * side, depth=config.get("depth", 12))
    _load_weights(model, cases.random_checkpoint("keyframes/condition", config))
    codes = cases.codes(config)
    tokens, pooled = model(torch.cat(codes), torch.tensor([len(row) for row in codes]))
    return {"tokens": tokens, "pooled": pooled}


def reference_video(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return its outputs, as `our_video` does."""
    module = reference("video_detokenizer")
    weights = cases.random_checkpoint("detokenizer", config)
    levels = [("CrossAttn" * with_attention, number) for number, with_attention in enumerate(config["attention"])]
    unet = reference("modeling_3d_unet").UNetSpatioTemporalConditionModel(
        block_out_channels=config["block_out_channels"],
        down_block_types=[f"{kind}DownBlockSpatioTemporal" for kind, _ in levels],
        up_block_types=[f"{kind}UpBlockSpatioTemporal" for kind, _ in reversed(levels)],
        layers_per_block=config["layers_per_block"],
        cross_attention_dim=config["attention_width"],
        addition_time_embed_dim=config["time_ids_width"],
        projection_class_embeddings_input_dim=3 * config["time_ids_width"],
        num_attention_heads=config["attention_heads"],
    )
    encoder = reference("modeling_motion_condition").MotionConditionEncoder(
        depth=config["motion_layers"], out_channel=config["attention_width"]
    )
    _load_weights(unet, _Renamed.without_prefix(weights, "unet."))
    _load_weights(encoder, _Renamed.without_prefix(weights, "motion_encoder."))
    whole = module.VideoDetokenizer.__new__(module.VideoDetokenizer)
    nn.Module.__init__(whole)
    whole.unet, whole.motion_encoder, whole.vae = unet, encoder, cases.vae()
    whole.scheduler, whole.vae_scale_factor = EulerDiscreteScheduler(**cases.SCHEDULER), 8
    whole.image_processor = None
    module.tensor2vid = lambda frames, *_, **__: frames  # not to 8 bits
    inputs = cases.video_inputs()
    motion = cases.scaled_motion(inputs["vectors"], *inputs["unet_input"].shape[-2:])
    features = whole.encode_motion(motion)
    evaluated = unet(
        inputs["unet_input"], torch.tensor(0.7), features, torch.tensor([[6.0, 127.0, 0.02]]), return_dict=False
    )[0]
    height, width = inputs["keyframe"].shape[-2:]
    torch.manual_seed(5)
    frames = whole.reconstruct_from_token(
        inputs["keyframe"],
        cases.scaled_motion(inputs["vectors"], height // 8, width // 8),
        width=width,
        height=height,
        num_frames=motion.shape[2],
        num_inference_steps=cases.NUM_INFERENCE_STEPS,
        max_guidance_scale=3.0,
    )
    return {"motion_features": features, "unet": evaluated, "frames": frames.transpose(1, 2).clamp(-1, 1)}


def reference_language(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return its outputs, as `our_language` does."""
    with no_initialization():
        visual, images, _ = reference_tokenizer(reference, config)
    module, runner, prompts = reference.language()
    conversation = prompts.default_conversation.copy()
    conversation.append_message(conversation.roles[0], prompts.DEFAULT_VIDEO_TOKEN + "\n" + cases.QUESTION)
    conversation.append_message(conversation.roles[1], None)
    ids = runner.tokenizer_image_token(
        conversation.get_prompt(),
        cases.text_tokenizer(),
        prompts.VIDEO_TOKEN_INDEX,
        prompts.DEFAULT_VIDEO_TOKEN,
        return_tensors="pt",
    )[None]
    motion = types.SimpleNamespace(get_tokens=lambda _: {"token": cases.motion_ids()})
    model = types.SimpleNamespace(
        visual_tokenizer=visual,
        motion_tokenizer=motion,
        embed_tokens=nn.Embedding.from_pretrained(cases.embeddings()),
    )
    # an instance of its class would first construct a transformer of billions of parameters
    stub = types.SimpleNamespace(
        get_model=lambda: model,
        get_motion_tower=lambda: motion,
        config=types.SimpleNamespace(tokenizer_padding_side="left"),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    owner = module.VideoLaVITLlamaForCausalLM
    for method in ("encode_visual_features", "compute_motion_embeds", "prepare_inputs_labels_for_multimodal"):
        setattr(stub, method, types.MethodType(getattr(owner, method), stub))
    videos = [((images, torch.zeros(2, 2, 24, 20, 36)), "video")]
    fix_patch_choice(reference, cases.keep_mask(visual.encoder.pos_embed.shape[1] - 1))
    prepared = stub.prepare_inputs_labels_for_multimodal(ids, None, torch.ones_like(ids), None, None, videos)
    return {"embeddings": prepared[4][0]}


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set the weights one by one, so that there is never a second copy of all."""
    state = model.state_dict()
    known = set(weights)
    if unknown := known - set(state):
        raise SystemExit(f"the reference has no {sorted(unknown)[0]}")
    for name in known:
        state[name].copy_(weights[name])
    for name, left in model.named_parameters():  # an unused head, which would keep arbitrary memory
        if name not in known:
            left.zero_()
    model.eval()


class _Renamed(Mapping[str, Tensor]):
    """Random weights under the reference's names, each generated when it is read."""

    def __init__(self, weights: cases.RandomWeights, names: Mapping[str, str]) -> None:
        """`names`: checkpoint key -> name in the reference."""
        self.weights, self.names = weights, {new: old for old, new in names.items()}

    @classmethod
    def without_prefix(cls, weights: cases.RandomWeights, prefix: str) -> "_Renamed":
        """Return the weights whose keys begin with a prefix, without it."""
        return cls(weights, {name: name.removeprefix(prefix) for name in weights if name.startswith(prefix)})

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


REFERENCE_OUTPUTS = {
    "motion": reference_motion,
    "keyframes": reference_keyframes,
    "condition": reference_condition,
    "video": reference_video,
    "language": reference_language,
}
"""Model -> function that returns the reference's outputs by name, for a config of `REDUCED` or `FULL`."""
