"""Material of the recipe: scenes of known motion, keyframes of photographs, and footage, each encoded once.

photographs ──► keyframe ids ────────────────────────────┐
scenes of known motion (photographs, footage) ──► motion ids, answers ─┼─► questions, and videos that texts describe
footage, with instructions where there are any ──► clips ─┘
"""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import MediaError, atomic_path
from videotok.lm.data import TokenCache
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.encoded_videos import Encoders, encode_videos, picture_tokens
from videotok.lm.motion_questions.footage import photographs
from videotok.lm.motion_questions.labeled_videos import SourceFolders, labeled_videos
from videotok.lm.motion_questions.scenes import COUNT, OBJECT
from videotok.tokens import VideoTokens
from videotok.training.dataset import is_validation

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

PHOTOS, STILL, MOVING, OTHER = "photos2", "droid", "camera", "misc"
"""Subfolders of the footage: photographs, videos of cameras that stand still, of cameras that move, and others."""
FOOTAGE_CLIPS = {STILL: 2, MOVING: 3, OTHER: 3}
"""Clips of each video of footage, from its beginning."""
INSTRUCTIONS = "labels.jsonl"
"""In the folder of a video: one object a line, {"file": name, "instruction": text}."""
VARIANTS = tuple(range(16))
"""Of every scene: mirrored, with time reversed, at another speed (`labeled_videos.augment`)."""


@dataclass(frozen=True)
class Scene:
    """A clip of known motion as ids."""

    motion: Tensor
    """int64 [n]: [MOV] … [/MOV]."""
    answers: dict[str, str]
    """Question -> answer."""

    @property
    def is_global(self) -> bool:
        """Whether global motion alone answers its questions."""
        return OBJECT not in self.answers and COUNT not in self.answers

    def global_motion(self, count: int) -> Tensor:
        """Return [MOV], the `count` global-motion ids, [/MOV]."""
        return torch.cat([self.motion[: count + 1], self.motion[-1:]])


@dataclass(frozen=True)
class Footage:
    """A video as ids, and what is done in it."""

    clips: list[Tensor]
    """int64 [n] of each clip: [IMG] … [/IMG] [MOV] … [/MOV]."""
    instruction: str = ""
    is_still: bool = False
    """Whether the camera is known to stand still."""


@dataclass(frozen=True)
class Material:
    """All that documents are made of."""

    scenes: list[Scene]
    keyframes: list[Tensor]
    """int64 [n] of each photograph: [IMG] … [/IMG]."""
    footage: list[Footage]


def instructions(folder: Path) -> dict[str, str]:
    """Return file name -> instruction, in lower case without a full stop, of all videos of a folder that have one."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob(INSTRUCTIONS)):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["file"]] = row["instruction"].strip().rstrip(".").lower()
    return found


@dataclass(frozen=True)
class MaterialReader:
    """Reads the material of a folder of footage as the ids of a model. What is encoded once is kept in `cache`."""

    folder: Path
    cache: Path
    model: VideoLanguageModel
    """Whose vocabulary and settings are used."""
    tokenizer: "VideoTokenizer"
    on_progress: Callable[[str, int, int], None] = lambda what, number, count: None
    """Called with the name of a kind of material, a number, and how many there are."""

    def scenes(self, count: int) -> list[Scene]:
        """Return `count` scenes of the training split in all variants; rendered and encoded once, then from `cache`."""
        sources = SourceFolders(self.folder / PHOTOS, self.folder / STILL, self.folder / MOVING)
        videos = encode_videos(
            labeled_videos(sources, self.cache, "train", count),
            self.tokenizer,
            self.cache,
            "train",
            variants=VARIANTS,
            tokens_per_keyframe=0,
            with_raw_field=False,
            on_progress=lambda number: self.on_progress("scenes", number, count),
        )
        scenes = []
        for video in videos:
            tokens = video.tokens.first_quantizers(self.model.settings.motion_quantizers)
            ids = torch.from_numpy(self.model.vocabulary.ids(tokens, [0]))
            scenes.append(Scene(ids[ids.tolist().index(self.model.vocabulary.motion_begin) :], dict(video.answers)))
        return scenes

    def keyframes(self, count: int) -> list[Tensor]:
        """Return the keyframes of about `count` photographs of the training split as ids; from `cache` if there."""
        files = photographs(self.folder / PHOTOS, "train").files
        files = files[:: max(len(files) // count, 1)][:count]
        path = self.cache / f"photographs-{len(files)}.safetensors"
        if not path.exists():
            encoders, rows = Encoders.from_tokenizer(self.tokenizer), []
            number = self.model.settings.tokens_per_keyframe or 0
            for done, file in enumerate(files, 1):
                image = cv2.imread(str(file), cv2.IMREAD_COLOR)
                if image is None:
                    raise MediaError(f"{file} is not a picture that OpenCV reads; take it out of the folder")
                rows.append(encoders.keyframe_ids([np.ascontiguousarray(_widescreen(image)[..., ::-1])], number))
                self.on_progress("photographs", done, len(files))
            tensors = {"ids": torch.cat([ids for ids, _ in rows]), "masks": torch.cat([masks for _, masks in rows])}
            with atomic_path(path) as temporary:
                save_file(tensors, temporary)
        arrays = load_file(path)
        tokens = picture_tokens(arrays["ids"], arrays["masks"], self.tokenizer)
        return [
            torch.from_numpy(self.model.vocabulary.ids(tokens, [clip], keyframes_only=True))
            for clip in range(tokens.num_clips)
        ]

    def footage(self, count: int, *, held_back: bool = False) -> list[Footage]:
        """Return `count` videos of the training split (or of what it holds back) as ids; encoded once."""
        files = [file for file in footage_files(self.folder) if is_validation(file) == held_back][:count]
        texts, found = instructions(self.folder), []
        caches = {
            name: TokenCache(self.cache / "videos", self.tokenizer, self.model.settings, max_clips=clips)
            for name, clips in FOOTAGE_CLIPS.items()
        }
        for number, file in enumerate(files, 1):
            kind = file.relative_to(self.folder).parts[0]
            try:
                tokens = caches[kind].get(file).tokens
            except MediaError:  # a file that cannot be read has nothing to teach
                continue
            found.append(Footage(clip_ids(self.model, tokens), texts.get(file.name, ""), is_still=kind == STILL))
            self.on_progress("footage", number, len(files))
        return [video for video in found if video.clips]


def _widescreen(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image [H, W, 3] in the shape of video, 16:9."""
    height, width = image.shape[:2]
    if width * 9 > height * 16:
        start = (width - height * 16 // 9) // 2
        return image[:, start : start + height * 16 // 9]
    start = (height - width * 9 // 16) // 2
    return image[start : start + width * 9 // 16]


def footage_files(folder: Path) -> list[Path]:
    """Return the .mp4 files of a folder, those of its subfolders in turn: any beginning of the list has all kinds."""
    groups = []
    for name in FOOTAGE_CLIPS:
        files = sorted((folder / name).rglob("*.mp4"))
        random.Random(0).shuffle(files)
        groups.append(files)
    return [file for files in itertools.zip_longest(*groups) for file in files if file is not None]


def clip_ids(model: VideoLanguageModel, tokens: VideoTokens) -> list[Tensor]:
    """Return the ids of each complete clip of a video."""
    tokens = tokens.first_quantizers(model.settings.motion_quantizers)
    complete = [clip for clip in range(tokens.num_clips) if tokens.num_frames[clip] == tokens.spec.frames]
    return [torch.from_numpy(model.vocabulary.ids(tokens, [clip])) for clip in complete]
