"""Clips as the tokenizers see them, kept in the cache beside the clips."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.motion_questions.clips import Asked, backwards, mirrored
from codec import Clip, ClipSpec, MotionField, replacing
from motion_vq.camera import compand, to_pixels
from motion_vq.layers import fold
from videotok.lm.features import clip_features
from videotok.pictures import squashed
from videotok.source import ModelIdentity, SourceFacts
from videotok.tokens import TOKENIZERS, VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

VISUAL_TOKENS = 24
"""Words a keyframe: few, for the motion's sake; every row of the table has the same."""
SOURCE = SourceFacts("clip.mp4", 0, "h264", 256, 144, 0, 2.5, None)
RAW_PATCH = (8, 4, 4)
"""Steps, rows and columns of the raw field that one vector holds: as much as a motion id stands for."""


@dataclass(frozen=True)
class Coded:
    """A video in every form that the table compares."""

    tokens: VideoTokens
    latents: list[Tensor]
    """float [135, dim] a clip: motion before it is quantized."""
    field: list[Tensor]
    """float [135, 384] a clip: the raw field, its vectors companded, and where it is valid."""
    answers: dict[str, str]


def coded(
    videos: Iterator[Asked],
    tokenizer: "VideoTokenizer",
    cache: Path,
    name: str,
    *,
    variants: Sequence[int] = (0,),
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[Coded]:
    """Every video in some variants; what was coded with the same weights is read again.

    A variant is a sum of 1 (left and right changed), 2 (up and down changed) and 4 (time turned round); 0 is the video.
    """
    weights = "".join(tokenizer.bundle.identity(part).sha256 for part in TOKENIZERS)
    folder = cache / f"coded-{zlib.crc32(weights.encode()):08x}-{VISUAL_TOKENS}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, video in enumerate(videos):
        for variant in variants:
            seen = mirrored(video, bool(variant & 1), bool(variant & 2))
            seen = backwards(seen) if variant & 4 else seen
            path = folder / f"{name}-{number:05d}-{variant}.safetensors"
            if not path.exists():
                _write(path, tokenizer, seen)
            yield _load(path, tokenizer, seen)
        done(number + 1)


@torch.no_grad()
def _write(path: Path, tokenizer: "VideoTokenizer", video: Asked) -> None:
    clips = [
        Clip(
            np.ascontiguousarray(keyframe),
            MotionField(np.ascontiguousarray(vectors), np.ascontiguousarray(valid)),
            0,
            24,
        )
        for keyframe, vectors, valid in zip(video.keyframes, video.vectors, video.valid, strict=True)
    ]
    encoder = tokenizer.keyframe_encoder
    pictures = torch.cat([squashed(clip.keyframe, encoder.image_size) for clip in clips])
    scores = encoder.scores(pictures)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.scatter_(1, scores.topk(VISUAL_TOKENS, dim=1).indices, True)
    visual = encoder.encode(pictures, keep_mask=mask)
    vectors, valid = torch.from_numpy(video.vectors.copy()), torch.from_numpy(video.valid.copy())
    motion = tokenizer.motion_encoder.encode(vectors, valid)
    latents = clip_features(tokenizer, clips, mask.numpy(), ["motion"])
    with replacing(path) as temporary:
        arrays = {
            "visual_ids": torch.stack(list(visual.ids)).int(),
            "keep_mask": mask.to(torch.uint8),
            "motion_ids": motion.ids.int(),
            "camera_ids": motion.camera_ids.int(),
            "latents": torch.stack([row["motion"] for row in latents]).half(),
        }
        save_file({name: value.contiguous() for name, value in arrays.items()}, temporary)


def _load(path: Path, tokenizer: "VideoTokenizer", video: Asked) -> Coded:
    arrays = load_file(path)
    count = len(arrays["visual_ids"])
    tokens = VideoTokens(
        spec=ClipSpec(),
        source=SOURCE,
        motion_source="native",
        models={part: ModelIdentity("shipped", tokenizer.bundle.identity(part).sha256) for part in TOKENIZERS},
        codebooks=tokenizer.codebooks,
        visual_ids=arrays["visual_ids"].flatten().numpy(),
        visual_offsets=np.arange(count + 1) * VISUAL_TOKENS,
        keep_mask=arrays["keep_mask"].numpy().astype(bool),
        motion_ids=arrays["motion_ids"].numpy(),
        camera_ids=arrays["camera_ids"].numpy(),
        num_frames=np.array([24, *[6] * (count - 1)], np.int32),
        pts_seconds=np.arange(count) * 2.0,
        damaged=np.zeros(count, bool),
    )
    vectors, valid = torch.from_numpy(video.vectors.copy()), torch.from_numpy(video.valid.copy())
    channels = torch.cat([compand(to_pixels(vectors), 0.5), valid[..., None].float()], -1)
    field = fold(channels, RAW_PATCH).flatten(1, 3)
    return Coded(tokens, list(arrays["latents"].float()), list(field), video.answers)


def balanced(found: Sequence[Coded]) -> dict[str, dict[str, int]]:
    """How often each answer is right, by question."""
    counts: dict[str, dict[str, int]] = {}
    for video in found:
        for question, answer in video.answers.items():
            by_answer = counts.setdefault(question, {})
            by_answer[answer] = by_answer.get(answer, 0) + 1
    return counts
