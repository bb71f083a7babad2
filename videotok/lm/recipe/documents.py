"""Documents of the recipe's first stage: questions about scenes, videos after their description, clips of footage.

What moves how can be read from 24 ids of global motion. Behind a hundred ids of a keyframe that takes a model long to
find (docs/LOG.md), so most documents have no keyframe, and many of them nothing but global motion: they are short, too.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videotok.lm.chat import Turn
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.scenes import SPEED, TIME
from videotok.lm.motion_questions.wordings import describe, question_turns, still_camera_turns
from videotok.lm.packing import (
    Document,
    PackedBatch,
    VideoInput,
    conversation_document,
    generation_document,
    global_motion_ids,
    pack,
)
from videotok.lm.recipe.material import Material, Scene

ROWS = {"global motion": 24, "motion": 6, "keyframes": 4}
"""Documents a step: with global motion alone (some 90 ids), with motion alone (some 220), with keyframes (some 300)."""
LATER_ROWS = {"global motion": 8, "pictures": 12, "motion": 4, "keyframes": 4}
"""From `LATER_STEP` on: then answers are mostly learned, and what a text says has to be found before a picture, too."""
LATER_STEP = 1200
LONG_SHARE, LONG_ROWS = 0.25, 2
"""Share of steps whose documents with keyframes have two clips, and how many these are."""
STILL_SHARE = 0.1
"""Share of documents with motion alone that ask about a camera that stands still."""
TEXT_DROPOUT = 0.15
"""Share of videos that are learned without the text that describes them: for classifier-free guidance."""


class Documents:
    """Draws documents of each kind from the material.

    Args:
        model: whose vocabulary, tokenizer and prompt are used.
        material: to draw from.
    """

    def __init__(self, model: VideoLanguageModel, material: Material) -> None:
        self.model, self.material = model, material
        self.vocabulary = model.vocabulary
        self._global_scenes = [scene for scene in material.scenes if scene.is_global]
        self._described_scenes = [scene for scene in self._global_scenes if TIME not in scene.answers]
        self._still_footage = [video for video in material.footage if video.is_still]

    @property
    def facts(self) -> dict[str, Any]:
        """What the record of a run says about the documents besides the numbers of the material."""
        return {}

    def of_global_motion(self, rng: np.random.Generator) -> Document:
        """Return a document with the global motion of a clip alone: questions about it, or it after a description."""
        scene = draw(self._global_scenes, rng)
        motion = global_motion_ids(self.vocabulary, scene.motion)
        return self._scene(motion, scene, rng, generated=rng.random() < 0.4)

    def of_pictures(self, rng: np.random.Generator) -> Document:
        """Return a description of a camera's motion, a picture, and the global motion that follows, to be generated."""
        scene = draw(self._described_scenes, rng)
        motion = global_motion_ids(self.vocabulary, scene.motion)
        ids = torch.cat([draw(self.material.keyframes, rng), motion])
        return self._scene(ids, scene, rng, generated=True)

    def of_motion(self, rng: np.random.Generator) -> Document:
        """Return a document with the motion of a clip and no keyframe."""
        if self._still_footage and rng.random() < STILL_SHARE:
            clip = draw(draw(self._still_footage, rng).clips, rng)
            motion = clip[clip.tolist().index(self.vocabulary.motion_begin) :]
            return self.conversation(motion, still_camera_turns(rng))
        scene = draw(self.material.scenes, rng)
        return self._scene(scene.motion, scene, rng, generated=rng.random() < 0.25)

    def of_keyframes(self, rng: np.random.Generator, num_clips: int = 1) -> Document:
        """Return a document of one or two clips with keyframes: a scene, or footage.

        Nothing but the motion of a scene is asked for or described, so any photograph can stand for its keyframe.
        """
        kind = rng.choice(3, p=(0.4, 0.25, 0.35)) if self.material.footage else rng.choice(2)
        if kind == 2:
            return self._footage(rng, num_clips)
        scene, keyframes = draw(self.material.scenes, rng), self.material.keyframes
        parts = [draw(keyframes, rng), scene.motion]
        if num_clips > 1:
            # of a change of speed a longer video has no single one; a video of the same answers stands for the second
            # clip that is asked about, and the same motion for the one that is generated
            scene = replace(scene, answers={name: answer for name, answer in scene.answers.items() if name != SPEED})
            parts += [draw(keyframes, rng), (scene if kind else self._alike(scene, rng)).motion]
        if kind == 0:
            return self._scene(torch.cat(parts), scene, rng, generated=False)
        text = describe(scene.answers, rng)
        return self._generation(torch.cat(parts), text, rng, learn_keyframes=rng.random() < 0.25)

    def _alike(self, scene: Scene, rng: np.random.Generator) -> Scene:
        others = (draw(self.material.scenes, rng) for _ in range(200))
        return next((other for other in others if scene.answers.items() <= other.answers.items()), scene)

    def _footage(self, rng: np.random.Generator, num_clips: int) -> Document:
        """Return one or two clips of footage: in a third of those of still cameras, asked about the camera."""
        video = draw(self.material.footage, rng)
        start = int(rng.integers(max(len(video.clips) - num_clips, 0) + 1))
        ids = torch.cat(video.clips[start : start + num_clips])
        if video.is_still and rng.random() < 1 / 3:
            return self.conversation(ids, still_camera_turns(rng))
        return self._generation(ids, video.instruction, rng, learn_keyframes=rng.random() < 0.5)

    def _scene(self, ids: Tensor, scene: Scene, rng: np.random.Generator, *, generated: bool) -> Document:
        if generated:
            return self._generation(ids, describe(scene.answers, rng), rng, learn_keyframes=False)
        return self.conversation(ids, question_turns(scene.answers, rng))

    def conversation(self, ids: Tensor, turns: Sequence[Turn]) -> Document:
        """Return a conversation about a video, with the answers as targets."""
        return conversation_document(self.model.tokenizer, self.model.prompt, turns, VideoInput(ids))

    def _generation(self, ids: Tensor, text: str, rng: np.random.Generator, *, learn_keyframes: bool) -> Document:
        """Return a text and its video. Mostly only its motion is learned: keyframes are most of the work."""
        document = generation_document(
            self.model.tokenizer, "" if rng.random() < TEXT_DROPOUT else text, VideoInput(ids)
        )
        if learn_keyframes:
            return document
        spans = (self.vocabulary.visual, self.vocabulary.drop)
        is_keyframe = document.ids == self.vocabulary.image_end
        for span in spans:
            is_keyframe |= (document.ids >= span.start) & (document.ids < span.stop)
        return replace(document, is_target=document.is_target & ~is_keyframe)


Step = list[PackedBatch]
"""Documents of each kind of `ROWS`, packed apart since their lengths differ; one document a row."""


class RecipeBatches:
    """The documents of every step; what is drawn depends on the seed and the step alone."""

    def __init__(self, documents: Documents, seed: int) -> None:
        self.documents, self.seed = documents, seed

    def from_step(self, step: int, workers: int = 0, process: int = 0, num_processes: int = 1) -> Iterator[Step]:
        """Yield the batches of the steps from `step` on; of each the documents of `process` among `num_processes`."""
        del workers  # drawing is cheap
        for number in itertools.count(step):
            rows = LATER_ROWS if number >= LATER_STEP else ROWS
            yield self.batch(np.random.default_rng([self.seed, number]), rows, process, num_processes)

    def batch(
        self, rng: np.random.Generator, rows: Mapping[str, int] = ROWS, process: int = 0, num_processes: int = 1
    ) -> Step:
        """Return the documents of one step: so many of each kind."""
        documents, num_clips = self.documents, 1 + int(rng.random() < LONG_SHARE)
        kinds = [
            [documents.of_global_motion(rng) for _ in range(rows["global motion"])],
            [documents.of_pictures(rng) for _ in range(rows.get("pictures", 0))],
            [documents.of_motion(rng) for _ in range(rows["motion"])],
            [documents.of_keyframes(rng, num_clips) for _ in range(LONG_ROWS if num_clips > 1 else rows["keyframes"])],
        ]
        return [
            pack([[document] for document in share], documents.vocabulary, documents.model.padding_id)
            for kind in kinds
            if (share := kind[process::num_processes])
        ]


def draw(items: Sequence[Any], rng: np.random.Generator) -> Any:
    """Return one of the items by chance."""
    return items[int(rng.integers(len(items)))]
