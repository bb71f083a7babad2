"""Cases of the parity benchmark: model sizes, random weights, inputs, and the outputs of our models.

No weights are stored. Every checkpoint tensor comes from a generator whose seed is the CRC-32 of its key: normal with
standard deviation 1 / sqrt(inputs), twice that in the merger's attention, whose masks must matter; norms: 1 + 0.1 times
normal; biases and positions: 0.1 times normal.
"""

import zlib
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from codec import ClipSpec
from motion_vq import MotionTokens
from motion_vq.tokenizer import PUBLISHED_CONFIG
from unet3d import LatentVideoDetokenizer
from unet3d.latent_detokenizer import PUBLISHED_SCALE
from videotok.lavit.weight_map import PARTS, VIDEO_CONFIG, build_model, checkpoint_shapes
from videotok.lm.chat import Prompt, Turn
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import VideoInput, conversation_document, pack
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.tokens import ModelIdentity, SourceFacts, VideoTokens
from videotok.vocabulary import Vocabulary

MOTION = {
    **PUBLISHED_CONFIG,
    "num_steps": 16,
    "grid": (8, 12),
    "encoder_depths": (1, 1, 1, 1, 0),
    "decoder_depths": (0, 1, 1, 1, 1),
}
KEYFRAMES = {"image_size": 56, "depth": 1, "merger_depth": 2}
CONDITION = {"patches": 16, "depth": 1}
VIDEO = {
    **VIDEO_CONFIG,
    "block_out_channels": (64, 128),
    "attention": (True, False),
    "layers_per_block": 1,
    "attention_width": 64,
    "time_ids_width": 32,
    "motion_layers": 2,
    "attention_heads": (2, 4),
}
EMBEDDING_WIDTH = 64
"""Of the language model; 4096 in the published one."""
LANGUAGE = {**KEYFRAMES, "language_width": EMBEDDING_WIDTH}
REDUCED: dict[str, dict[str, Any]] = {
    "motion": MOTION,
    "keyframes": KEYFRAMES,
    "condition": CONDITION,
    "video": VIDEO,
    "language": LANGUAGE,
}
"""Full width but for the U-Net, one or two blocks where the published models have 12 to 40."""
FULL: dict[str, dict[str, Any]] = {
    "motion": PUBLISHED_CONFIG,
    "condition": {},
    "keyframes": {},
    "video": {**VIDEO_CONFIG},
}
"""As published, the smallest first. Images are 224 x 224, but the U-Net's latents stay small (`video_inputs`)."""

VAE: dict[str, Any] = {
    "block_out_channels": (32, 32, 32, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 1,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "use_karras_sigmas": True,
}
"""Of Stable Video Diffusion."""
NUM_INFERENCE_STEPS = 5
"""With 2, rounding at sigma 700 alone makes differences of 1.3e-4."""
QUESTION = "what is the man doing?"


class RandomWeights(Mapping[str, Tensor]):
    """Random weights by name, each generated when it is read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        values = random_tensor(name, shape)
        if len(shape) > 1:
            inputs = values[0].numel()
            scale = 2.0 if "token_c" in name else 1.0  # attention of the merger
            return values * (0.1 if "pos" in name or "query_embed" in name else scale * inputs**-0.5)
        return values * 0.1 + (1 if "norm" in name and name.endswith("weight") else 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers that depend on the name alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def random_checkpoint(part: str, config: Mapping[str, Any]) -> RandomWeights:
    """Return the checkpoint tensors of a part in that size; an empty config is the published size."""
    return RandomWeights(checkpoint_shapes(PARTS[part], config or None))


def motion_input(config: Mapping[str, Any]) -> Tensor:
    """Return the input of the published tokenizer, [1, 2, T, h, w], without motion into the keyframe."""
    values = random_tensor("motion", (1, 2, config.get("num_steps", 24), *config.get("grid", (20, 36))))
    values[:, :, 0] = 0
    return values


def our_motion(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the ids and the decoded field of the motion tokenizer."""
    model = build_model(PARTS["motion"], random_checkpoint("motion", config), config)
    pixels = torch.tensor(config["unit_pixels"]) / torch.tensor((256.0, 144.0))
    vectors = motion_input(config).permute(0, 2, 3, 4, 1) * pixels
    tokens = model.encode(vectors, torch.ones(vectors.shape[:4], dtype=torch.bool))
    field = model.decode(MotionTokens(tokens.ids, tokens.global_motion_ids)) / pixels
    return {"ids": tokens.ids.flatten(), "field": field.permute(0, 4, 1, 2, 3)}


def images(config: Mapping[str, Any]) -> Tensor:
    """Return two images [2, 3, S, S] in [-1, 1]."""
    size = config.get("image_size", 224)
    return F.interpolate(random_tensor("pictures", (2, 3, 9, 9)).tanh(), (size, size), mode="bicubic").clamp(-1, 1)


def keep_mask(patches: int) -> Tensor:
    """Return which patches are kept, bool [2, patches]: about a third, about half."""
    return random_tensor("keep", (2, patches)) > torch.tensor([[0.4], [0.0]])


def our_keyframes(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the outputs of every stage of the keyframe tokenizer."""
    model = build_model(PARTS["keyframes"], random_checkpoint("keyframes", config), config)
    features = model.features(images(config))
    mask = keep_mask(model.num_patches)
    merged = model.merger(features, mask)
    return {
        "features": features,
        "log_odds": model.keep_log_odds(features),
        "merged": merged[mask],
        "codes": model.to_code(merged[mask]),
        "language": model.to_language(merged)[mask],
        "ids": torch.cat(model.encode(images(config), keep_mask=mask).ids),
    }


def codes(config: Mapping[str, Any]) -> list[Tensor]:
    """Return the codes of two images, of different number."""
    patches = config.get("patches", 256)
    return [F.normalize(random_tensor(f"codes {count}", (count, 32)), dim=-1) for count in (patches // 3, patches)]


def our_condition(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the outputs of the image condition encoder."""
    model = build_model(PARTS["keyframes/condition"], random_checkpoint("keyframes/condition", config), config)
    tokens, pooled = model(codes(config))
    return {"tokens": tokens, "pooled": pooled}


def video_inputs() -> dict[str, Tensor]:
    """Return a keyframe, vectors in our convention, and the input of a single evaluation of the U-Net."""
    keyframe = F.interpolate(random_tensor("keyframe", (1, 3, 5, 8)).tanh(), (64, 128), mode="bicubic").clamp(-1, 1)
    vectors = 0.1 * random_tensor("vectors", (1, 4, 20, 36, 2))
    return {"keyframe": keyframe, "vectors": vectors, "unet_input": random_tensor("given", (1, 4, 10, 8, 24))}


def scaled_motion(vectors: Tensor, height: int, width: int) -> Tensor:
    """Return our vectors as input of the published U-Net, [B, 2, T, height, width]."""
    scaled = (vectors * torch.tensor(PUBLISHED_SCALE)).permute(0, 1, 4, 2, 3)
    resized = F.interpolate(scaled.flatten(0, 1), (height, width), mode="bicubic")
    return resized.unflatten(0, scaled.shape[:2]).transpose(1, 2)


def our_video(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the motion features, one evaluation of the U-Net, and the sampled frames of the video detokenizer."""
    model = build_model(PARTS["detokenizer"], random_checkpoint("detokenizer", config), config)
    inputs = video_inputs()
    motion = scaled_motion(inputs["vectors"], *inputs["unet_input"].shape[-2:]).transpose(1, 2)
    features = model.motion_encoder(motion)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    evaluated = model.unet.velocity(inputs["unet_input"], torch.tensor(0.7), features, (16, 16), ids)
    whole = LatentVideoDetokenizer(model, vae(), EulerDiscreteScheduler(**SCHEDULER))
    frames = whole.reconstruct(inputs["keyframe"], inputs["vectors"], num_inference_steps=NUM_INFERENCE_STEPS, seed=5)
    return {"motion_features": features, "unet": evaluated, "frames": frames}


def vae() -> AutoencoderKLTemporalDecoder:
    """Return a tiny temporal autoencoder with random weights."""
    model = AutoencoderKLTemporalDecoder(**VAE)
    model.load_state_dict(dict(RandomWeights({name: tuple(value.shape) for name, value in model.state_dict().items()})))
    return model.eval().requires_grad_(False)


def our_language(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the embeddings of a question about two keyframes: features of keyframes, ids of motion and text."""
    keyframes = build_model(PARTS["keyframes"], random_checkpoint("keyframes", config), config)
    mask = keep_mask(keyframes.num_patches)
    found = keyframes.encode(images(config), keep_mask=mask)
    llama = tiny_llama(Vocabulary.published().size, width=EMBEDDING_WIDTH, layers=1, heads=2)
    llama.get_input_embeddings().weight.copy_(embeddings())  # type: ignore[operator, union-attr]
    model = VideoLanguageModel(
        llama, text_tokenizer(), Vocabulary.published(), Prompt.video_lavit(), features={"visual": None}
    )
    features = [{"visual": row} for row in keyframes.patch_features(images(config), mask)]
    video = VideoInput.from_tokens(model.vocabulary, _tokens(found.ids, mask), features=features)
    document = conversation_document(model.tokenizer, model.prompt, [Turn("user", QUESTION)], video)
    batch = pack([[document]], model.vocabulary, model.padding_id)
    return {"embeddings": model.embed(batch.ids, batch.features)[0]}


def text_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes that puts a begin mark before every text, as Llama's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return tokenizer


def embeddings() -> Tensor:
    """Return the embeddings of the published vocabulary, float [49412, EMBEDDING_WIDTH]."""
    return random_tensor("embeddings", (Vocabulary.published().size, EMBEDDING_WIDTH))


def motion_ids() -> Tensor:
    """Return motion ids of two clips, int64 [2, 135] in [0, 1024)."""
    return (random_tensor("motion ids", (2, 135)).abs() * 1000).long() % 1024


def _tokens(ids: list[Tensor], mask: Tensor) -> VideoTokens:
    unknown = ModelIdentity("random", "0" * 64)
    return VideoTokens(
        spec=ClipSpec(fps=Fraction(6)),
        source=SourceFacts("none", 0, "none", 56, 56, 0, 8.0, Fraction(6)),
        motion_source="mpeg4",
        models={"keyframes": unknown, "motion": unknown},
        codebooks={"visual": 16384, "motion": 1024, "global_motion": 1024},
        visual_ids=torch.cat(ids).numpy().astype(np.int32),
        visual_offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        keep_mask=mask.numpy(),
        motion_ids=motion_ids()[:, None].numpy().astype(np.int32),
        global_motion_ids=np.zeros((2, 0), np.int32),
        num_frames=np.full(2, 24, np.int32),
        pts_seconds=np.arange(2) * 4.0,
        damaged=np.zeros(2, bool),
        start_seconds=0.0,
    )


def subsample(values: Tensor) -> Tensor:
    """Return at most 2,000 of the values, evenly chosen: enough to see a difference, little to store."""
    flat = values.flatten()
    return flat[:: -(-len(flat) // 2000)].clone()


OUR_OUTPUTS = {
    "motion": our_motion,
    "keyframes": our_keyframes,
    "condition": our_condition,
    "video": our_video,
    "language": our_language,
}
"""Model -> function that returns its outputs by name for a config of `REDUCED` or `FULL`."""
