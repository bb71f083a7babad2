"""Second stage of the shipped model's recipe: freer wordings, real footage, longer videos, continuation.

    first stage ──► the same model, trained on with other documents ──► what ships

Real footage: its motion as the codec reads it, in random variants, and answers from the camera's motion between the
pictures (`videotok.lm.motion_questions.real_motion`).
"""

import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import atomic_path
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions import footage
from videotok.lm.motion_questions.camera_motion import CameraPath
from videotok.lm.motion_questions.encoded_videos import Encoders
from videotok.lm.motion_questions.real_motion import RealMotion, random_variant, read_real_motion
from videotok.lm.motion_questions.scenes import CAMERA, SPEED, TIME, ZOOM
from videotok.lm.motion_questions.wordings import free_turns, still_camera_turns
from videotok.lm.packing import Document, global_motion_ids, pack
from videotok.lm.recipe.documents import Documents, Step, draw
from videotok.lm.recipe.material import MOVING, OTHER, STILL, Footage, Material, MaterialReader, Scene
from videotok.lm.train import Plan
from videotok.training.dataset import is_validation

REAL_FILES = {MOVING: 40, OTHER: 30, STILL: 20}
"""Videos of each folder whose motion is read."""
REAL_TEST_FILES = {MOVING: 24, OTHER: 16}
"""Videos of other recordings, of which `benchmarks.language_model real` asks."""
REAL_CLIPS, REAL_VARIANTS = 4, 4
"""Clips of each of these videos, from its beginning; variants of each, besides itself."""
SECOND_ROWS = {"questions": 10, "real": 8, "motion": 4, "pictures": 3, "continued": 3, "footage": 1}
"""Documents a step."""
GROUP_ROWS = 6
"""Documents of about the same length that go through the model together."""
MAX_LONG_CLIPS = 10
"""Clips of a longer video of scenes."""
GLOBAL_MOTION_CLIPS = 12
"""`VideoSettings.global_motion_clips` of the model after this stage."""


def second_plan(seed: int = 0) -> Plan:
    """Return the plan of the shipped model's second stage."""
    rows = sum(SECOND_ROWS.values())
    return Plan(631, rows, 1e-3, warmup_steps=30, precision="bf16", average_decay=0.99, save_every=100, seed=seed)


@dataclass(frozen=True)
class RealVideo:
    """Clips of footage that follow each other, as ids, and the camera's true motion."""

    motion: list[Tensor]
    """int64 [n] of each clip: [MOV] … [/MOV]."""
    steps: np.ndarray
    """float32 [clips * T, 3], as `RealMotion.steps`."""

    def answers(self, start: int, stop: int) -> dict[str, str]:
        """Return question -> answer of clips `start` to `stop` - 1, where the camera's motion is clear."""
        length = len(self.steps) // len(self.motion)
        path = CameraPath(self.steps[start * length : stop * length])
        found, change = path.answers(), path.speed_change()
        return found | {SPEED: change} if change and stop == start + 1 else found


def real_files(folder: Path, split: footage.Split, counts: Mapping[str, int]) -> list[Path]:
    """Return videos of folders, in turn, whose recordings are of a split; none of the validation split."""
    groups = []
    for name, count in counts.items():
        files = [file for file in footage.videos(folder / name, split).files if not is_validation(file)]
        random.Random(0).shuffle(files)
        groups.append(files[:count])
    return [file for files in itertools.zip_longest(*groups) for file in files if file is not None]


def read_real_videos(reader: MaterialReader) -> list[RealVideo]:
    """Return the training videos of `REAL_FILES` and their variants as ids; read and encoded once."""
    counts = {name: count for name, count in REAL_FILES.items() if (reader.folder / name).is_dir()}
    files = real_files(reader.folder, "train", counts)
    weights = reader.tokenizer.bundle.identity("motion").sha256
    encoded = reader.cache / f"real-{zlib.crc32(f'{weights} {REAL_CLIPS} {REAL_VARIANTS} 1'.encode()):08x}"
    encoded.mkdir(parents=True, exist_ok=True)
    encoders, found = None, []
    for number, file in enumerate(files, 1):
        reader.on_progress("real footage", number, len(files))
        motion = read_real_motion(file, reader.cache / "real", REAL_CLIPS)
        if motion is None:
            continue
        path = encoded / f"{file.stem}.safetensors"
        if not path.exists():
            encoders = encoders or Encoders.from_tokenizer(reader.tokenizer)
            rng = np.random.default_rng([7, zlib.crc32(file.stem.encode())])
            variants = [motion, *(random_variant(motion, rng) for _ in range(REAL_VARIANTS))]
            with atomic_path(path) as temporary:
                save_file(_encode(variants, encoders, reader.model.settings.motion_quantizers), temporary)
        arrays = load_file(path)
        found += [
            RealVideo([_motion_ids(reader.model, *ids) for ids in zip(*clips, strict=True)], steps.numpy())
            for *clips, steps in zip(arrays["global_motion_ids"], arrays["motion_ids"], arrays["steps"], strict=True)
        ]
    return found


@torch.no_grad()
def _encode(variants: Sequence[RealMotion], encoders: Encoders, quantizers: int) -> dict[str, Tensor]:
    """Return `global_motion_ids` [variants, clips, K], `motion_ids` [variants, clips, quantizers, P] and `steps`."""
    count = len(variants[0].vectors)
    model = encoders.motion
    vectors = torch.from_numpy(np.concatenate([np.ascontiguousarray(each.vectors) for each in variants]))
    valid = torch.from_numpy(np.concatenate([np.ascontiguousarray(each.valid) for each in variants]))
    motion = model.encode(vectors.to(model.device), valid.to(model.device))
    return {
        "global_motion_ids": motion.global_motion_ids.cpu().unflatten(0, (-1, count)).int().contiguous(),
        "motion_ids": motion.ids[:, :quantizers].cpu().unflatten(0, (-1, count)).int().contiguous(),
        "steps": torch.from_numpy(np.stack([each.steps for each in variants])),
    }


def _motion_ids(model: VideoLanguageModel, global_motion: Tensor, motion: Tensor) -> Tensor:
    """Return [MOV] … [/MOV] of ids [K] and [quantizers, P] that count from 0."""
    vocabulary = model.vocabulary
    terms = torch.arange(vocabulary.num_global_motion_ids) * vocabulary.global_motion_size
    quantizers = torch.arange(len(motion))[:, None] * vocabulary.motion_size
    parts = (
        torch.tensor([vocabulary.motion_begin]),
        global_motion.long() + terms + vocabulary.global_motion.start,
        (motion.long() + quantizers + vocabulary.motion.start).flatten(),
        torch.tensor([vocabulary.motion_end]),
    )
    return torch.cat(parts)


@dataclass(frozen=True)
class _Window:
    """Some clips of a real video, and what is answered about them."""

    video: RealVideo
    start: int
    stop: int
    answers: dict[str, str]


class SecondDocuments(Documents):
    """Draws the documents of the second stage.

    Args:
        model: whose vocabulary, tokenizer and prompt are used.
        material: of the first stage.
        videos: real footage.
    """

    def __init__(self, model: VideoLanguageModel, material: Material, videos: Sequence[RealVideo]) -> None:
        super().__init__(model, material)
        self._scenes_by_answer: dict[str, list[Scene]] = {}
        for scene in self._global_scenes:
            answer = scene.answers.get(CAMERA) or scene.answers.get(ZOOM)
            if answer:
                self._scenes_by_answer.setdefault(answer, []).append(scene)
        self._videos = [video for video in videos if len(video.motion) > 1]
        self._footage: list[Footage] = [video for video in material.footage if len(video.clips) > 1]
        self._windows: dict[str, list[_Window]] = {}
        for video in videos:
            count = len(video.motion)
            for start, stop in itertools.combinations(range(count + 1), 2):
                answers = video.answers(start, stop)
                if answers:
                    answer = answers.get(CAMERA) or answers[ZOOM]
                    self._windows.setdefault(answer, []).append(_Window(video, start, stop, answers))
        self._answers = sorted(self._windows)

    @property
    def facts(self) -> dict[str, Any]:
        """How many windows of real footage have each answer, for the record of the run."""
        return {"real windows": {answer: len(windows) for answer, windows in sorted(self._windows.items())}}

    def makers(self) -> dict[str, Callable[[np.random.Generator], Document]]:
        """Return what makes each kind of `SECOND_ROWS`; kinds that the material has nothing for are left out."""
        found: dict[str, Callable[[np.random.Generator], Document]] = {
            "questions": self.of_questions,
            "motion": self.of_scene_motion,
            "pictures": self.of_pictures,
        }
        found |= {"real": self.of_real_footage} if self._answers else {}
        found |= {"continued": self.of_continuation} if self._videos else {}
        return found | ({"footage": self.of_footage} if self._footage else {})

    def of_questions(self, rng: np.random.Generator) -> Document:
        """Return questions about the global motion of a scene, or of several clips whose cameras move alike."""
        if rng.random() < 0.35:
            answer = sorted(self._scenes_by_answer)[int(rng.integers(len(self._scenes_by_answer)))]
            count = int(rng.integers(2, MAX_LONG_CLIPS + 1))
            scenes = [draw(self._scenes_by_answer[answer], rng) for _ in range(count)]
            answers = {name: text for name, text in scenes[0].answers.items() if name not in (SPEED, TIME)}
            return self.conversation(self._long([scene.motion for scene in scenes], rng), free_turns(answers, rng))
        scene = draw(self._global_scenes, rng)
        ids = global_motion_ids(self.vocabulary, scene.motion)
        return self.conversation(ids, free_turns(scene.answers, rng))

    def of_real_footage(self, rng: np.random.Generator) -> Document:
        """Return questions about clips of real footage; every answer is as frequent."""
        window = draw(self._windows[self._answers[int(rng.integers(len(self._answers)))]], rng)
        ids = self._long(window.video.motion[window.start : window.stop], rng)
        return self.conversation(ids, free_turns(window.answers, rng))

    def of_scene_motion(self, rng: np.random.Generator) -> Document:
        """Return questions about all of a scene's motion, one time in four behind a picture."""
        scene = draw(self.material.scenes, rng)
        parts = [draw(self.material.keyframes, rng)] if rng.random() < 0.25 else []
        return self.conversation(torch.cat([*parts, scene.motion]), free_turns(scene.answers, rng))

    def of_continuation(self, rng: np.random.Generator) -> Document:
        """Return the motion of two clips that follow each other, to be generated; one time in four behind pictures."""
        video = draw(self._videos, rng)
        start = int(rng.integers(len(video.motion) - 1))
        pair = video.motion[start : start + 2]
        if rng.random() < 0.25:
            picture = draw(self.material.keyframes, rng)
            pair = [torch.cat([picture, motion]) for motion in pair]
        return self._generation(torch.cat(pair), "", rng, learn_keyframes=False)

    def of_footage(self, rng: np.random.Generator) -> Document:
        """Return two clips of footage that follow each other, to be generated with their keyframes."""
        video = draw(self._footage, rng)
        start = int(rng.integers(len(video.clips) - 1))
        ids = torch.cat(video.clips[start : start + 2])
        if video.is_still and rng.random() < 0.2:
            return self.conversation(ids, still_camera_turns(rng))
        return self._generation(ids, video.instruction, rng, learn_keyframes=rng.random() < 0.8)

    def _long(self, clips: Sequence[Tensor], rng: np.random.Generator) -> Tensor:
        """Return motion of clips as a question reads it: the first and last one whole, or global motion alone."""
        has_whole = rng.random() < 0.4
        whole = {0, len(clips) - 1} if has_whole else set()
        parts = [ids if place in whole else global_motion_ids(self.vocabulary, ids) for place, ids in enumerate(clips)]
        if has_whole and rng.random() < 0.2:
            parts.insert(0, draw(self.material.keyframes, rng))
        return torch.cat(parts)


class SecondBatches:
    """The documents of every step; what is drawn depends on the seed and the step alone."""

    def __init__(self, documents: SecondDocuments, seed: int) -> None:
        self.documents, self.seed = documents, seed

    def from_step(self, step: int, workers: int = 0, process: int = 0, num_processes: int = 1) -> Iterator[Step]:
        """Yield the batches of the steps from `step` on; of each the documents of `process` among `num_processes`."""
        del workers  # drawing is cheap
        for number in itertools.count(step):
            yield self.batch(np.random.default_rng([self.seed, 2, number]), process, num_processes)

    def batch(self, rng: np.random.Generator, process: int = 0, num_processes: int = 1) -> Step:
        """Return the documents of one step."""
        documents, makers = self.documents, self.documents.makers()
        drawn = [makers[name](rng) for name, count in SECOND_ROWS.items() if name in makers for _ in range(count)]
        # documents of one length together: a row is as long as the longest one of its batch
        share = sorted(drawn, key=len)[process::num_processes]
        groups = [share[start : start + GROUP_ROWS] for start in range(0, len(share), GROUP_ROWS)]
        return [pack([[each] for each in group], documents.vocabulary, documents.model.padding_id) for group in groups]
