"""The reference's side of the comparison: its modules, filled with our random weights, given our inputs.

REFERENCE is the folder VideoLaVIT of a checkout of github.com/jy0205/LaVIT; nothing of it is in this repository. It was
written for torch 1.13, diffusers 0.25.1 and timm 0.4.12. It runs here with the versions at hand: what it only imports
(timm, torchvision, its own helpers) is replaced by stand-ins.
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

from benchmarks import parity_cases as cases


class Reference:
    """The reference's modules, imported from its folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "models" / "modeling_motion_tokenizer.py").is_file():
            raise SystemExit(f"{folder} is not the folder VideoLaVIT of the reference: it has no models/")
        # numbers that are drawn only to be overwritten take longer than the whole comparison
        self.folder = folder
        _stand_in("timm.models.layers", drop_path=None, to_2tuple=lambda n: (n, n), trunc_normal_=_left_alone)
        _stand_in("torchvision.transforms.functional", InterpolationMode=None)
        _stand_in("torchvision", transforms=sys.modules["torchvision.transforms"])
        _stand_in("utils", _resize_with_antialiasing=None, get_rank=None, KeywordsStoppingCriteria=object)
        # its __init__ imports all of it, language model and drawing code included
        _stand_in("models").__path__ = [str(folder / "models")]

    def __call__(self, module: str) -> Any:
        return importlib.import_module(f"models.{module}")

    def language(self) -> tuple[Any, Any, Any]:
        """Its language model, its runner and its prompts; the reading of files, for which it needs more, left out."""
        _stand_in("models.transform", LaVITImageProcessor=None, LaVITEvalVideoProcessor=None)
        if "conversation" not in sys.modules:
            spec = importlib.util.spec_from_file_location("conversation", self.folder / "conversation.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules["conversation"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["conversation"])
        return self("modeling_video_lavit_hf"), self("video_lavit_for_understanding"), sys.modules["conversation"]


def _stand_in(name: str, **members: Any) -> types.ModuleType:
    """A module of that name with those members, and its parents."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        whole = ".".join(parts[:end])
        sys.modules.setdefault(whole, types.ModuleType(whole))
        if end > 1:
            setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], sys.modules[whole])
    sys.modules[name].__dict__.update(members)
    return sys.modules[name]


def _left_alone(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    """In the place of an initialiser."""
    return tensor


@contextmanager
def not_initialised() -> Iterator[None]:
    """Models that are made meanwhile have whatever was in memory for weights; `_fill` gives them all of theirs."""
    names = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]
    before = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, _left_alone)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


def their_motion(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    module = reference("modeling_motion_tokenizer")
    height, width = config.get("grid", (20, 36))
    depths = [depth for depth in config["encoder_depths"] if depth]
    size = {"img_size": (width, height), "num_frames": config.get("num_steps", 24), "depth": sum(depths)}
    sides = {**module.get_motion_trans_model_params(), **size}
    model = module.MotionTransformerTokenizer(sides, {**sides, "in_channel": 32}, 2)
    model.encoder.stage = model.decoder.stage = depths
    _fill(model, cases.weights("motion", config))
    quantized, ids = model.encode(cases.motion_input(config))
    return {"ids": ids.flatten(), "field": model.decode(quantized)}


def their_tokenizer(reference: Reference, config: Mapping[str, Any]) -> tuple[Any, Tensor, Any]:
    """Its visual tokenizer with our weights, the pictures as it is given them, and the module it comes from."""
    eyes, module = reference("modeling_visual_encoder"), reference("modeling_visual_tokenzier")
    shape = {
        "image_size": config.get("image_size", 224),
        "layers": config.get("depth", 40),
        "width": 1408,
        "head_width": 88,
        "mlp_ratio": 4.3637,
        "drop_path_rate": 0,
    }
    module.build_eva_clip = lambda **_: eyes._build_vision_tower(1024, {**shape, "patch_size": 14, "fusedLN": True})
    drawn = cases.weights("keyframes", config)
    model = module.DynamicVisualTokenizer(layers=config.get("merger_depth", 12))
    model.vit_proj = nn.Linear(1408, config.get("language_width", 4096))
    _fill(model, _Renamed(drawn, {name: re.sub(r"^vit\.", "encoder.", name) for name in drawn}))
    mean, std = (torch.tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return model, ((cases.pictures(config) + 1) / 2 - mean) / std, module


def their_keyframes(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    model, images, _ = their_tokenizer(reference, config)
    features = model.encoder(images, return_all_features=True)[:, 1:]
    mask = cases.keep_decision(features.shape[1])
    logits = model.token_predictor(features, torch.ones(*mask.shape, 1))
    merged = model.causal_encoder(features, mask.float())
    # its own way through, the decision given
    decided_images(reference, mask)
    ids = torch.cat(model.tokenize_image(images)) - 32002
    return {
        "features": features,
        "log_odds": logits[..., 0] - logits[..., 1],
        "merged": merged[mask],
        "codes": model.encode_task_layer(merged[mask]),
        "language": torch.cat(model.encode_features(images)),
        "ids": ids,
    }


def decided_images(reference: Reference, mask: Tensor) -> None:
    """Its draw of what to keep, replaced by a decision, bool [B, N]."""
    functional = types.SimpleNamespace(**{name: getattr(F, name) for name in dir(F) if not name.startswith("__")})
    functional.gumbel_softmax = lambda *_, **__: torch.stack([mask, ~mask], -1).float()
    reference("modeling_visual_tokenzier").F = functional


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def their_condition(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    side = round(config.get("patches", 256) ** 0.5)
    model = reference("modeling_decoder").HighresVQDecoder(img_size=14 * side, depth=config.get("depth", 12))
    _fill(model, cases.weights("keyframes/condition", config))
    codes = cases.codes(config)
    tokens, pooled = model(torch.cat(codes), torch.tensor([len(row) for row in codes]))
    return {"tokens": tokens, "pooled": pooled}


def their_video(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    module = reference("video_detokenizer")
    drawn = cases.weights("detokenizer", config)
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
    _fill(unet, _Renamed.under(drawn, "unet."))
    _fill(encoder, _Renamed.under(drawn, "motion_encoder."))
    whole = module.VideoDetokenizer.__new__(module.VideoDetokenizer)
    nn.Module.__init__(whole)
    whole.unet, whole.motion_encoder, whole.vae = unet, encoder, cases.vae()
    whole.scheduler, whole.vae_scale_factor = EulerDiscreteScheduler(**cases.SCHEDULER), 8
    whole.image_processor = None
    module.tensor2vid = lambda frames, *_, **__: frames  # not to 8 bits
    inputs = cases.video_inputs()
    motion = cases.scaled_motion(inputs["vectors"], *inputs["given"].shape[-2:])
    features = whole.encode_motion(motion)
    evaluated = unet(
        inputs["given"], torch.tensor(0.7), features, torch.tensor([[6.0, 127.0, 0.02]]), return_dict=False
    )[0]
    height, width = inputs["keyframe"].shape[-2:]
    torch.manual_seed(5)
    frames = whole.reconstruct_from_token(
        inputs["keyframe"],
        cases.scaled_motion(inputs["vectors"], height // 8, width // 8),
        width=width,
        height=height,
        num_frames=motion.shape[2],
        num_inference_steps=cases.STEPS,
        max_guidance_scale=3.0,
    )
    return {"motion_features": features, "unet": evaluated, "frames": frames.transpose(1, 2).clamp(-1, 1)}


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """One tensor after another, so that there is never a second copy of all."""
    state = model.state_dict()
    known = set(weights)
    if unknown := known - set(state):
        raise SystemExit(f"the reference has no {sorted(unknown)[0]}")
    for name in known:
        state[name].copy_(weights[name])
    for name, left in model.named_parameters():  # a head that nothing asks for: anything but what was in memory
        if name not in known:
            left.zero_()
    model.eval()


class _Renamed(Mapping[str, Tensor]):
    """Weights by the names that the reference has for them; still drawn one by one."""

    def __init__(self, drawn: cases.Drawn, names: Mapping[str, str]) -> None:
        """`names`: ours -> theirs."""
        self.drawn, self.names = drawn, {new: old for old, new in names.items()}

    @classmethod
    def under(cls, drawn: cases.Drawn, prefix: str) -> "_Renamed":
        """Those whose names begin with a prefix, without it."""
        return cls(drawn, {name: name.removeprefix(prefix) for name in drawn if name.startswith(prefix)})

    def __getitem__(self, name: str) -> Tensor:
        return self.drawn[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
