"""Labeled videos as ids, and in the other forms that benchmarks compare: latents and raw fields; kept in a cache."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codec import ClipSpec, atomic_path
from motion_vq.attention import fold
from motion_vq.fields import compand, to_pixels
from videotok.image_utils import to_square_tensor
from videotok.lm.motion_questions import labeled_videos
from videotok.lm.motion_questions.labeled_videos import FURTHER_FRAMES, LabeledVideo, augment
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

TOKENS_PER_KEYFRAME = 24
"""Of the benchmark: few, since motion is what matters there; all forms have the same."""
SOURCE = SourceFacts("clip.mp4", 0, "h264", 256, 144, 0, 2.5, None)
RAW_PATCH = (8, 4, 4)
"""Steps, rows and columns of the raw field in one vector: those of one motion id."""
CACHE_VERSION = 3
"""Raised when videos are encoded in another way; older caches are then made again."""


@dataclass(frozen=True)
class EncodedVideo:
    """A video in every form that the benchmark compares, and its answers."""

    tokens: VideoTokens
    """Motion is that of the first clip only; that of later clips is used in no form, and is zero here."""
    latents: Tensor
    """float16 [135, dim]: the first clip's motion before quantization."""
    raw_field: Tensor | None
    """float16 [135, 384]: its raw field, companded vectors and validity; None where not asked for."""
    answers: dict[str, str]
    """Question -> answer."""
    further_frames: VideoTokens | None = None
    """Frames between the first and the second keyframe, in the order of time, as keyframes of clips without motion;
    None where not asked for."""


def encode_videos(
    videos: Iterator[LabeledVideo],
    tokenizer: "VideoTokenizer",
    cache: Path,
    name: str,
    *,
    variants: Sequence[int] = (0,),
    tokens_per_keyframe: int = TOKENS_PER_KEYFRAME,
    with_raw_field: bool = True,
    with_further_frames: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Iterator[EncodedVideo]:
    """Yield every video in some variants; what was encoded before with the same weights is read from the cache.

    The encoders run in float32 here: the ids need not be the same on every machine.

    Args:
        videos: to encode.
        tokenizer: the video tokenizer.
        cache: folder.
        name: of the split, for the names of files.
        variants: as for `augment`; 0 is the video itself.
        tokens_per_keyframe: visual ids; 0: keyframes are not encoded, which takes most of the time.
        with_raw_field: it is most of the memory.
        with_further_frames: also encode the videos' further frames, in as many visual ids each as a keyframe.
        on_progress: called with the number of videos so far.

    Raises:
        ValueError: further frames are asked for, and a video has none, or a variant (8) does not fit them.
    """
    if with_further_frames and any(variant & 8 for variant in variants):
        raise ValueError(f"variants {list(variants)} with further frames; allowed are 0 to 7 (8 changes motion alone)")
    # a hash reads the whole file, so it is computed once
    models = {part: ModelIdentity("shipped", tokenizer.bundle.identity(part).sha256) for part in TOKENIZERS}
    weights = "".join(model.sha256 for model in models.values())
    key = f"{weights} {list(variants)} {tokens_per_keyframe} {labeled_videos.CACHE_VERSION} {CACHE_VERSION}"
    key += f" frames {FURTHER_FRAMES}" if with_further_frames else ""
    folder = cache / f"coded-{zlib.crc32(key.encode()):08x}"
    folder.mkdir(parents=True, exist_ok=True)
    encoders = None
    for number, video in enumerate(videos):
        if with_further_frames and video.further_frames is None:
            raise ValueError("a video without further frames; make the videos with with_further_frames=True")
        path = folder / f"{name}-{number:05d}.safetensors"
        if not path.exists():
            encoders = encoders or Encoders.from_tokenizer(tokenizer)
            with atomic_path(path) as temporary:
                wanted = video if with_further_frames else replace(video, further_frames=None)
                save_file(encoders.encode(wanted, variants, tokens_per_keyframe), temporary)
        arrays = load_file(path)
        for row, variant in enumerate(variants):
            arrays_of_variant = {key: value[row] for key, value in arrays.items()}
            augmented = augment(video, variant)
            further_frames = None
            if with_further_frames:
                frame_arrays = arrays_of_variant["frame_ids"], arrays_of_variant["frame_keep_mask"]
                further_frames = _pictures(*frame_arrays, models, tokenizer)
            yield EncodedVideo(
                _tokens(arrays_of_variant, models, tokenizer.codebooks),
                arrays_of_variant["latents"],
                _raw_field(augmented) if with_raw_field else None,
                augmented.answers,
                further_frames,
            )
        on_progress(number + 1)


@dataclass(frozen=True)
class Encoders:
    """The tokenizer's keyframe and motion tokenizers in float32."""

    keyframes: Any
    motion: Any

    @classmethod
    def from_tokenizer(cls, tokenizer: "VideoTokenizer") -> Self:
        """Copy the tokenizers, whatever their dtype."""
        keyframes = cast(nn.Module, deepcopy(tokenizer.keyframes))
        return cls(keyframes.float(), deepcopy(tokenizer.motion).float())

    @torch.no_grad()
    def encode(self, video: LabeledVideo, variants: Sequence[int], tokens_per_keyframe: int) -> dict[str, Tensor]:
        """Return ids, masks and latents of some variants, each [variants, ...].

        Ids and masks of further frames are among them if the video has any.
        """
        augmented = [augment(video, variant) for variant in variants]
        device = self.motion.device
        vectors = torch.from_numpy(np.stack([each.vectors[0] for each in augmented])).to(device)
        valid = torch.from_numpy(np.stack([each.valid[0] for each in augmented])).to(device)
        motion = self.motion.encode(vectors, valid)
        global_motion = self.motion.global_motion.decode(motion.global_motion_ids, self.motion.dtype)
        ids, masks = self._picture_ids(video, variants, tokens_per_keyframe)
        found = {
            "visual_ids": ids,
            "keep_mask": masks,
            "motion_ids": motion.ids.int(),
            "global_motion_ids": motion.global_motion_ids.int(),
            "latents": self.motion.latents(vectors, global_motion, valid).half(),
        }
        if video.further_frames is not None:
            frames = replace(video, keyframes=video.further_frames)
            found["frame_ids"], found["frame_keep_mask"] = self._picture_ids(frames, variants, tokens_per_keyframe)
        return {name: value.cpu().contiguous() for name, value in found.items()}

    def _picture_ids(self, video: LabeledVideo, variants: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and masks of a video's keyframes in some variants, [variants, keyframes, ...]."""
        # reversing time changes the order of keyframes, not their ids
        mirrors = sorted({variant & 3 for variant in variants})
        images = [image for number in mirrors for image in augment(video, number).keyframes]
        ids, masks = (rows.unflatten(0, (len(mirrors), -1)) for rows in self.keyframe_ids(images, count))

        def of_variant(rows: Tensor, variant: int) -> Tensor:
            mirrored = rows[mirrors.index(variant & 3)]
            return mirrored.flip(0) if variant & 4 else mirrored

        return (
            torch.stack([of_variant(ids, variant) for variant in variants]),
            torch.stack([of_variant(masks, variant) for variant in variants]),
        )

    @torch.no_grad()
    def keyframe_ids(self, images: Sequence[np.ndarray], count: int) -> tuple[Tensor, Tensor]:
        """Return `count` ids of each image, int32 [n, count], and the patches they stand for, uint8 [n, patches]."""
        if not count:
            return torch.zeros(len(images), 0, dtype=torch.int32), torch.zeros(
                len(images), self.keyframes.num_patches, dtype=torch.uint8
            )
        squares = torch.cat([to_square_tensor(np.ascontiguousarray(i), self.keyframes.image_size) for i in images])
        visual = self.keyframes.encode(squares.to(self.keyframes.device), num_tokens=count)
        return torch.stack(list(visual.ids)).int().cpu(), visual.keep_mask.to(torch.uint8).cpu()


def picture_tokens(ids: Tensor, masks: Tensor, tokenizer: "VideoTokenizer") -> VideoTokens:
    """Return keyframes, ids int [n, count] and masks uint8 [n, patches], as a video whose clips have no motion."""
    models = {part: ModelIdentity("shipped", tokenizer.bundle.identity(part).sha256) for part in TOKENIZERS}
    return _pictures(ids, masks, models, tokenizer)


def _pictures(ids: Tensor, masks: Tensor, models: dict[str, ModelIdentity], tokenizer: "VideoTokenizer") -> VideoTokens:
    motion = {
        "motion_ids": torch.zeros(0, tokenizer.motion.tokens_per_quantizer, dtype=torch.int32),
        "global_motion_ids": torch.zeros(tokenizer.motion.num_global_motion_ids, dtype=torch.int32),
    }
    return _tokens({"visual_ids": ids, "keep_mask": masks, **motion}, models, tokenizer.codebooks)


def _tokens(arrays: dict[str, Tensor], models: dict[str, ModelIdentity], codebooks: Mapping[str, int]) -> VideoTokens:
    count = len(arrays["visual_ids"])
    motion_ids, global_motion_ids = (
        np.concatenate([ids[None], np.zeros((count - 1, *ids.shape), ids.dtype)])
        for ids in (arrays["motion_ids"].numpy(), arrays["global_motion_ids"].numpy())
    )
    return VideoTokens(
        spec=ClipSpec(),
        source=SOURCE,
        motion_source="native",
        models=models,
        codebooks=codebooks,
        visual_ids=arrays["visual_ids"].flatten().numpy(),
        visual_offsets=np.arange(count + 1) * arrays["visual_ids"].shape[-1],
        keep_mask=arrays["keep_mask"].numpy().astype(bool),
        motion_ids=motion_ids,
        global_motion_ids=global_motion_ids,
        num_frames=np.array([24, *[6] * (count - 1)], np.int32),
        pts_seconds=np.arange(count) * 2.0,
        damaged=np.zeros(count, bool),
    )


def _raw_field(video: LabeledVideo) -> Tensor:
    vectors, valid = torch.from_numpy(video.vectors[:1].copy()), torch.from_numpy(video.valid[:1].copy())
    channels = torch.cat([compand(to_pixels(vectors), 0.5), valid[..., None].float()], -1)
    return fold(channels, RAW_PATCH).flatten(1, 3)[0].half()


def count_answers(videos: Sequence[EncodedVideo]) -> dict[str, dict[str, int]]:
    """Return how often each answer is right, by question."""
    counts: dict[str, Counter[str]] = {}
    for video in videos:
        for question, answer in video.answers.items():
            counts.setdefault(question, Counter())[answer] += 1
    return {question: dict(found) for question, found in counts.items()}
