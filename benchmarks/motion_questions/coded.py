"""Clips as the tokenizers see them, kept in the cache beside the clips."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.motion_questions import clips
from benchmarks.motion_questions.clips import Asked, backwards, mirrored
from codec import ClipSpec, atomic_path
from motion_vq.attention import fold
from motion_vq.global_motion import compand, to_pixels
from videotok.image_utils import squashed
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

VISUAL_TOKENS = 24
"""Words a keyframe: few, for the motion's sake; every row of the table has the same."""
SOURCE = SourceFacts("clip.mp4", 0, "h264", 256, 144, 0, 2.5, None)
RAW_PATCH = (8, 4, 4)
"""Steps, rows and columns of the raw field that one vector holds: as much as a motion id stands for."""
VERSION = 3
"""Raised when clips are coded in another way: older codes are made anew."""


@dataclass(frozen=True)
class Coded:
    """A video in every form that the table compares."""

    tokens: VideoTokens
    """Its motion is that of the first clip; that of later ones is shown in no form, and stands here as zeros."""
    latents: Tensor
    """float16 [135, dim]: the first clip's motion before it is quantized."""
    field: Tensor | None
    """float16 [135, 384]: its raw field, the vectors companded, and where it is valid; None where nobody asked."""
    answers: dict[str, str]


def coded(
    videos: Iterator[Asked],
    tokenizer: "VideoTokenizer",
    cache: Path,
    name: str,
    *,
    variants: Sequence[int] = (0,),
    raw: bool = True,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[Coded]:
    """Every video in some variants; what was coded with the same weights is read again.

    A variant is a sum of 1 (left and right changed), 2 (up and down changed) and 4 (time turned round); 0 is the video.
    `raw`: with the raw field, which is most of the memory. Encoders run in float32 here, not in float64 as they do for
    files: no id has to be the same on every machine.
    """
    # a hash reads the whole file: once, and not for every video
    models = {part: ModelIdentity("shipped", tokenizer.bundle.identity(part).sha256) for part in TOKENIZERS}
    weights = "".join(model.sha256 for model in models.values())
    facts = f"{weights} {list(variants)} {VISUAL_TOKENS} {clips.VERSION} {VERSION}"
    folder = cache / f"coded-{zlib.crc32(facts.encode()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    encoders = None
    for number, video in enumerate(videos):
        path = folder / f"{name}-{number:05d}.safetensors"
        if not path.exists():
            encoders = encoders or Encoders.of(tokenizer)
            with atomic_path(path) as temporary:
                save_file(encoders.arrays(video, variants), temporary)
        arrays = load_file(path)
        for place, variant in enumerate(variants):
            row = {key: value[place] for key, value in arrays.items()}
            yield _joined(row, models, tokenizer.codebooks, turned(video, variant), raw)
        done(number + 1)


def turned(video: Asked, variant: int) -> Asked:
    """One of a video's variants."""
    seen = mirrored(video, bool(variant & 1), bool(variant & 2))
    return backwards(seen) if variant & 4 else seen


@dataclass(frozen=True)
class Encoders:
    """The tokenizer's encoders in float32."""

    keyframes: Any
    motion: Any

    @classmethod
    def of(cls, tokenizer: "VideoTokenizer") -> Self:
        # any maker's keyframe tokenizer is a torch module
        keyframes = cast(nn.Module, deepcopy(tokenizer.keyframe_encoder))
        return cls(keyframes.float(), deepcopy(tokenizer.motion_encoder).float())

    @torch.no_grad()
    def arrays(self, video: Asked, variants: Sequence[int]) -> dict[str, Tensor]:
        """Ids and latents of some variants, each [variants, ...]."""
        # turning time round changes the order of keyframes and not their words
        mirrors = sorted({variant & 3 for variant in variants})
        pictures = [picture for mirror in mirrors for picture in turned(video, mirror).keyframes]
        squares = torch.cat([squashed(np.ascontiguousarray(p), self.keyframes.image_size) for p in pictures])
        visual = self.keyframes.encode(squares, num_tokens=VISUAL_TOKENS)
        words = torch.stack(list(visual.ids)).int().unflatten(0, (len(mirrors), -1))
        masks = visual.keep_mask.to(torch.uint8).unflatten(0, (len(mirrors), -1))

        def in_order(rows: Tensor, variant: int) -> Tensor:
            found = rows[mirrors.index(variant & 3)]
            return found.flip(0) if variant & 4 else found

        seen = [turned(video, variant) for variant in variants]
        vectors = torch.from_numpy(np.stack([each.vectors[0] for each in seen]))
        valid = torch.from_numpy(np.stack([each.valid[0] for each in seen]))
        motion = self.motion.encode(vectors, valid)
        camera = self.motion.camera.decode(motion.global_motion_ids, self.motion.dtype)
        found = {
            "visual_ids": torch.stack([in_order(words, variant) for variant in variants]),
            "keep_mask": torch.stack([in_order(masks, variant) for variant in variants]),
            "motion_ids": motion.ids.int(),
            "global_motion_ids": motion.global_motion_ids.int(),
            "latents": self.motion.latents(vectors, camera, valid).half(),
        }
        return {name: value.contiguous() for name, value in found.items()}


def _joined(
    arrays: dict[str, Tensor], models: dict[str, ModelIdentity], codebooks: Mapping[str, int], video: Asked, raw: bool
) -> Coded:
    count = len(arrays["visual_ids"])
    motion_ids, global_motion_ids = (
        np.concatenate([ids[None], np.zeros((count - 1, *ids.shape), ids.dtype)])
        for ids in (arrays["motion_ids"].numpy(), arrays["global_motion_ids"].numpy())
    )
    tokens = VideoTokens(
        spec=ClipSpec(),
        source=SOURCE,
        motion_source="native",
        models=models,
        codebooks=codebooks,
        visual_ids=arrays["visual_ids"].flatten().numpy(),
        visual_offsets=np.arange(count + 1) * VISUAL_TOKENS,
        keep_mask=arrays["keep_mask"].numpy().astype(bool),
        motion_ids=motion_ids,
        global_motion_ids=global_motion_ids,
        num_frames=np.array([24, *[6] * (count - 1)], np.int32),
        pts_seconds=np.arange(count) * 2.0,
        damaged=np.zeros(count, bool),
    )
    return Coded(tokens, arrays["latents"], _field(video) if raw else None, video.answers)


def _field(video: Asked) -> Tensor:
    vectors, valid = torch.from_numpy(video.vectors[:1].copy()), torch.from_numpy(video.valid[:1].copy())
    channels = torch.cat([compand(to_pixels(vectors), 0.5), valid[..., None].float()], -1)
    return fold(channels, RAW_PATCH).flatten(1, 3)[0].half()


def balanced(found: Sequence[Coded]) -> dict[str, dict[str, int]]:
    """How often each answer is right, by question."""
    counts: dict[str, dict[str, int]] = {}
    for video in found:
        for question, answer in video.answers.items():
            by_answer = counts.setdefault(question, {})
            by_answer[answer] = by_answer.get(answer, 0) + 1
    return counts
