"""Continuous features of a video, one vector for every id that they stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec import Clip, iter_clips
from videotok.errors import ModelError, TokensError
from videotok.image_utils import squashed
from videotok.keyframes import KeyframeTokenizer
from videotok.lavit.modeling_keyframes import LavitKeyframes
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

KINDS = ("visual", "motion")


@torch.no_grad()
def clip_features(
    tokenizer: "VideoTokenizer", clips: Sequence[Clip], keep_mask: np.ndarray, kinds: Sequence[str] = KINDS
) -> list[dict[str, Tensor]]:
    """What the encoders know before they choose a word.

    Args:
        tokenizer: of the video.
        clips: read by the codec.
        keep_mask: bool [clips, patches]: patches that have a visual id.
        kinds: `visual`: kept patches as the merger leaves them, [n, width], those of the published visual tokenizer
            projected into a language model's embeddings; `motion`: what moves by itself before it is quantized,
            [135, dim], one a place of the first level (the camera has ids of its own).

    Raises:
        ModelError: keyframe tokenizers of other makers have no such features.
    """
    found: list[dict[str, Tensor]] = [{} for _ in clips]
    if "visual" in kinds:
        model = tokenizer.keyframe_encoder
        pictures = torch.cat([squashed(clip.keyframe, model.image_size) for clip in clips])
        for row, vectors in zip(found, _of_patches(model, pictures, torch.from_numpy(keep_mask)), strict=True):
            row["visual"] = vectors.float()
    if "motion" in kinds:
        motion = tokenizer.motion_encoder
        vectors = torch.from_numpy(np.stack([clip.motion.vectors for clip in clips])).to(motion.dtype)
        valid = torch.from_numpy(np.stack([clip.motion.valid for clip in clips]))
        camera = motion.camera.decode(motion.camera.encode(vectors, valid), motion.dtype)
        for row, latents in zip(found, motion.latents(vectors, camera, valid).float(), strict=True):
            row["motion"] = latents
    return found


def _of_patches(model: object, pictures: Tensor, keep_mask: Tensor) -> list[Tensor]:
    """[n_i, dim] a picture."""
    if isinstance(model, LavitKeyframes):
        return model.language_features(pictures, keep_mask)
    if not isinstance(model, KeyframeTokenizer):
        raise ModelError(f"{type(model).__name__} has no features of kept patches; read its ids instead")
    merged, present = model.merger(model.features(pictures), keep_mask)
    return [vectors[there] for vectors, there in zip(merged, present, strict=True)]


def video_features(
    tokenizer: "VideoTokenizer", path: str | Path, tokens: VideoTokens, kinds: Sequence[str] = KINDS
) -> list[dict[str, Tensor]]:
    """Features of every clip of a video whose tokens are known: the file is read a second time.

    Raises:
        TokensError: the file has other clips than the tokens.
        MediaError: it cannot be read.
    """
    found: list[dict[str, Tensor]] = []
    clips = iter_clips(
        path,
        tokens.spec,
        motion_source=tokens.motion_source,
        start_seconds=tokens.start_seconds,
        max_clips=tokens.num_clips,
    )
    for number, clip in enumerate(clips):
        found += clip_features(tokenizer, [clip], tokens.keep_mask[number : number + 1], kinds)
    if len(found) != tokens.num_clips:
        raise TokensError(f"{path} has {len(found)} clips, its tokens have {tokens.num_clips}; encode it again")
    return found
