"""Continuous features of a video: one vector for every visual id and every motion id of the first quantizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec import Clip
from videotok.image_utils import to_square_tensor
from videotok.tokens import VideoTokens
from videotok.video_reading import source_clips

if TYPE_CHECKING:
    from motion_vq import MotionTokenizer
    from videotok.pipeline import VideoTokenizer

FEATURE_KINDS = ("visual", "motion")


@torch.no_grad()
def clip_features(
    tokenizer: "VideoTokenizer", clips: Sequence[Clip], keep_mask: np.ndarray, kinds: Sequence[str] = FEATURE_KINDS
) -> list[dict[str, Tensor]]:
    """Return the encoders' features before quantization, a dict of kind -> float32 [n, dim] for each clip.

    `visual` are the features of kept patches, as the keyframe tokenizer's `patch_features` gives them, [n, width].
    `motion` are the latents of the motion that the global motion does not explain, [135, dim].

    Args:
        tokenizer: of the video.
        clips: as the codec reads them.
        keep_mask: bool [clips, patches]: patches that have a visual id.
        kinds: of `FEATURE_KINDS`.

    Raises:
        ModelError: the keyframe tokenizer has no such features.
    """
    found: list[dict[str, Tensor]] = [{} for _ in clips]
    with tokenizer.encoding():
        if "visual" in kinds:
            keyframes = tokenizer.keyframes
            images = torch.cat([to_square_tensor(clip.keyframe, keyframes.image_size) for clip in clips])
            vectors = keyframes.patch_features(images.to(keyframes.device), torch.from_numpy(keep_mask))
            for row, features in zip(found, vectors, strict=True):
                row["visual"] = features.float().cpu()
        if "motion" in kinds:
            for row, latents in zip(found, _motion_latents(tokenizer.motion, clips), strict=True):
                row["motion"] = latents.float().cpu()
    return found


def _motion_latents(motion: "MotionTokenizer", clips: Sequence[Clip]) -> Tensor:
    """Return the latents of the clips' motion without the global motion, [clips, 135, dim]."""
    vectors = torch.from_numpy(np.stack([clip.motion.vectors for clip in clips])).to(motion.device, motion.dtype)
    valid = torch.from_numpy(np.stack([clip.motion.valid for clip in clips])).to(motion.device)
    global_motion = motion.global_motion.decode(motion.global_motion.encode(vectors, valid), motion.dtype)
    return motion.latents(vectors, global_motion, valid)


def video_features(
    tokenizer: "VideoTokenizer", path: str | Path, tokens: VideoTokens, kinds: Sequence[str] = FEATURE_KINDS
) -> list[dict[str, Tensor]]:
    """Return the features of every clip of a video whose tokens are known; the file is read a second time.

    Raises:
        TokensError: it is another video than the tokens are of.
        MediaError: the file cannot be read.
        ModelError: the keyframe tokenizer has no such features.
    """
    found: list[dict[str, Tensor]] = []
    for number, clip in enumerate(source_clips(tokens, Path(path))):
        found += clip_features(tokenizer, [clip], tokens.keep_mask[number : number + 1], kinds)
    return found
