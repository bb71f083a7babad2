"""The recipe of the shipped language model: its training material, documents and run, from one folder of footage.

    photographs ──► keyframe ids ────────────────────────────┐
    scenes of known motion (photographs, footage) ──► motion ids, answers ─┼─► questions, and videos that texts describe
    footage, with instructions where there are any ──► clips ─┘

What moves how can be read from 24 ids of global motion. Behind a hundred ids of a keyframe that takes a model long to
find (docs/LOG.md), so most documents have no keyframe, and many of them nothing but global motion: they are short, too.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import MediaError, atomic_path
from videotok.io_utils import write_json
from videotok.lm.chat import Turn
from videotok.lm.data import TokenCache
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.motion_questions.encoded_videos import Encoders, encode_videos, picture_tokens
from videotok.lm.motion_questions.footage import photographs
from videotok.lm.motion_questions.labeled_videos import SourceFolders, labeled_videos
from videotok.lm.motion_questions.scenes import COUNT, OBJECT, SPEED, TIME
from videotok.lm.motion_questions.wordings import describe, question_turns, still_camera_turns, training_texts
from videotok.lm.packing import Document, PackedBatch, VideoInput, conversation_document, generation_document, pack
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embedding_table, extend
from videotok.lm.train import Plan
from videotok.tokens import VideoTokens
from videotok.training import trainer
from videotok.training.dataset import is_validation

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

PHOTOS, STILL, MOVING, OTHER = "photos2", "droid", "camera", "misc"
"""Subfolders of the footage: photographs, videos of cameras that stand still, of cameras that move, and others."""
FOOTAGE_CLIPS = {STILL: 2, MOVING: 3, OTHER: 3}
"""Clips of each video of footage, from its beginning."""
INSTRUCTIONS = "labels.jsonl"
"""In the folder of a video: one object a line, {"file": name, "instruction": text}."""
TOKENS_PER_KEYFRAME = 64
"""That the model reads, on average."""
TEXT_TOKENS = 1024
"""Size of the text tokenizer, which is trained on the recipe's own texts and all bytes."""
ROWS = {"global motion": 24, "motion": 6, "keyframes": 4}
"""Documents a step: with global motion alone (some 90 ids), with motion alone (some 220), with keyframes (some 300)."""
LATER_ROWS = {"global motion": 8, "pictures": 12, "motion": 4, "keyframes": 4}
"""From `LATER_STEP` on: then answers are mostly learned, and what a text says has to be found before a picture, too."""
LATER_STEP = 1200
GUIDANCE, TEMPERATURE = 3.0, 0.7
"""Of generated video, by default: what a description says is found more often, and moves more."""
LONG_SHARE, LONG_ROWS = 0.25, 2
"""Share of steps whose documents with keyframes have two clips, and how many these are."""
KIND_WEIGHTS = {"text": 1.0, "global motion": 0.5, "motion": 0.5, "keyframe": 0.2}
"""Of the mean losses of each kind of ids."""
STILL_SHARE = 0.1
"""Share of documents with motion alone that ask about a camera that stands still."""
TEXT_DROPOUT = 0.15
"""Share of videos that are learned without the text that describes them: for classifier-free guidance."""
VARIANTS = tuple(range(16))
"""Of every scene: mirrored, with time reversed, at another speed (`labeled_videos.augment`)."""


@dataclass(frozen=True)
class Recipe:
    """How much material, how large a model, how long a run; the defaults are those of the shipped model."""

    scenes: int = 400
    """Scenes of known motion, each in `VARIANTS`."""
    photographs: int = 300
    """Whose keyframes stand beside the motion of a scene."""
    footage: int = 300
    """Videos of footage, in turn from the folders of `FOOTAGE_CLIPS`."""
    width: int = 192
    layers: int = 4
    plan: Plan = field(
        default_factory=lambda: Plan(
            1900, sum(ROWS.values()), 2e-3, warmup_steps=100, precision="bf16", average_decay=0.998, save_every=250
        )
    )


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


def shipped_settings(tokenizer: "VideoTokenizer") -> VideoSettings:
    """Return how the shipped model's videos are encoded."""
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    tokens = min(TOKENS_PER_KEYFRAME, tokenizer.keyframes.num_patches)
    return VideoSettings(
        "12",
        1,
        max_clips=2,
        models=weights,
        tokens_per_keyframe=tokens,
        complete_clips=True,
        guidance=GUIDANCE,
        temperature=TEMPERATURE,
    )


def new_model(folder: Path, tokenizer: "VideoTokenizer", recipe: Recipe) -> VideoLanguageModel:
    """Return the untrained model. Embeddings of visual ids stay as the codebook sets them."""
    torch.manual_seed(recipe.plan.seed)
    texts = [*training_texts(), *sorted(set(instructions(folder).values()))]
    text = tiny_tokenizer(texts, TEXT_TOKENS)
    model = tiny_llama(len(text), width=recipe.width, layers=recipe.layers, heads=recipe.width // 64, length=1024)
    model.set_attn_implementation("eager")  # twice as fast on a CPU as torch's own, whose bfloat16 gradient is slow
    settings = shipped_settings(tokenizer)
    codebooks = Codebooks.from_tokenizer(tokenizer, motion_quantizers=settings.motion_quantizers)
    # names of 24,000 ids would make the tokenizer's file larger than the weights
    vocabulary = extend(text, model, codebooks, add_tokens=False)
    visual = vocabulary.visual

    def keep_visual(gradient: Tensor) -> Tensor:
        gradient[visual.start : visual.stop] = 0  # each id is too rare to be learned
        return gradient

    embedding_table(model).register_hook(keep_visual)
    return VideoLanguageModel(model, text, vocabulary, settings=settings)


# ---- material ----


def instructions(folder: Path) -> dict[str, str]:
    """Return file name -> instruction, in lower case without a full stop, of all videos of a folder that have one."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob(INSTRUCTIONS)):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["file"]] = row["instruction"].strip().rstrip(".").lower()
    return found


def read_scenes(
    folder: Path,
    cache: Path,
    model: VideoLanguageModel,
    tokenizer: "VideoTokenizer",
    count: int,
    on_progress: Callable[[str, int, int], None],
) -> list[Scene]:
    """Return `count` scenes of the training split in all variants; rendered and encoded once, then from `cache`."""
    sources = SourceFolders(folder / PHOTOS, folder / STILL, folder / MOVING)
    videos = encode_videos(
        labeled_videos(sources, cache, "train", count),
        tokenizer,
        cache,
        "train",
        variants=VARIANTS,
        tokens_per_keyframe=0,
        with_raw_field=False,
        on_progress=lambda number: on_progress("scenes", number, count),
    )
    scenes = []
    for video in videos:
        tokens = video.tokens.first_quantizers(model.settings.motion_quantizers)
        ids = torch.from_numpy(model.vocabulary.ids(tokens, [0]))
        scenes.append(Scene(ids[ids.tolist().index(model.vocabulary.motion_begin) :], dict(video.answers)))
    return scenes


def read_keyframes(
    folder: Path,
    cache: Path,
    model: VideoLanguageModel,
    tokenizer: "VideoTokenizer",
    count: int,
    on_progress: Callable[[str, int, int], None],
) -> list[Tensor]:
    """Return the keyframes of about `count` photographs of the training split as ids; from `cache` if it is there."""
    files = photographs(folder / PHOTOS, "train").files
    files = files[:: max(len(files) // count, 1)][:count]
    path, number = cache / f"photographs-{len(files)}.safetensors", model.settings.tokens_per_keyframe or 0
    if not path.exists():
        encoders, rows = Encoders.from_tokenizer(tokenizer), []
        for done, file in enumerate(files, 1):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise MediaError(f"{file} is not a picture that OpenCV reads; take it out of the folder")
            rows.append(encoders.keyframe_ids([np.ascontiguousarray(_widescreen(image)[..., ::-1])], number))
            on_progress("photographs", done, len(files))
        tensors = {"ids": torch.cat([ids for ids, _ in rows]), "masks": torch.cat([masks for _, masks in rows])}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    arrays = load_file(path)
    tokens = picture_tokens(arrays["ids"], arrays["masks"], tokenizer)
    return [
        torch.from_numpy(model.vocabulary.ids(tokens, [clip], keyframes_only=True)) for clip in range(tokens.num_clips)
    ]


def _widescreen(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image [H, W, 3] in the shape of video, 16:9."""
    height, width = image.shape[:2]
    if width * 9 > height * 16:
        start = (width - height * 16 // 9) // 2
        return image[:, start : start + height * 16 // 9]
    start = (height - width * 9 // 16) // 2
    return image[start : start + width * 9 // 16]


def read_footage(
    folder: Path,
    cache: Path,
    model: VideoLanguageModel,
    tokenizer: "VideoTokenizer",
    count: int,
    on_progress: Callable[[str, int, int], None],
    *,
    held_back: bool = False,
) -> list[Footage]:
    """Return `count` videos of the training split (or of what it holds back) as ids; encoded once."""
    files = [file for file in footage_files(folder) if is_validation(file) == held_back][:count]
    texts, found = instructions(folder), []
    caches = {
        name: TokenCache(cache / "videos", tokenizer, model.settings, max_clips=clips)
        for name, clips in FOOTAGE_CLIPS.items()
    }
    for number, file in enumerate(files, 1):
        try:
            tokens = caches[file.relative_to(folder).parts[0]].get(file).tokens
        except MediaError:  # a file that cannot be read has nothing to teach
            continue
        found.append(
            Footage(clip_ids(model, tokens), texts.get(file.name, ""), STILL in file.relative_to(folder).parts)
        )
        on_progress("footage", number, len(files))
    return [video for video in found if video.clips]


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


# ---- documents ----


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

    def of_global_motion(self, rng: np.random.Generator) -> Document:
        """Return a document with the global motion of a clip alone: questions about it, or it after a description."""
        scene = _draw(self._global_scenes, rng)
        motion = scene.global_motion(self.vocabulary.num_global_motion_ids)
        return self._scene(motion, scene, rng, generated=rng.random() < 0.4)

    def of_pictures(self, rng: np.random.Generator) -> Document:
        """Return a description of a camera's motion, a picture, and the global motion that follows, to be generated."""
        scene = _draw(self._described_scenes, rng)
        motion = scene.global_motion(self.vocabulary.num_global_motion_ids)
        ids = torch.cat([_draw(self.material.keyframes, rng), motion])
        return self._scene(ids, scene, rng, generated=True)

    def of_motion(self, rng: np.random.Generator) -> Document:
        """Return a document with the motion of a clip and no keyframe."""
        if self._still_footage and rng.random() < STILL_SHARE:
            clip = _draw(_draw(self._still_footage, rng).clips, rng)
            motion = clip[clip.tolist().index(self.vocabulary.motion_begin) :]
            return self.conversation(motion, still_camera_turns(rng))
        scene = _draw(self.material.scenes, rng)
        return self._scene(scene.motion, scene, rng, generated=rng.random() < 0.25)

    def of_keyframes(self, rng: np.random.Generator, num_clips: int = 1) -> Document:
        """Return a document of one or two clips with keyframes: a scene, or footage.

        Nothing but the motion of a scene is asked for or described, so any photograph can stand for its keyframe.
        """
        kind = rng.choice(3, p=(0.4, 0.25, 0.35)) if self.material.footage else rng.choice(2)
        if kind == 2:
            return self._footage(rng, num_clips)
        scene, keyframes = _draw(self.material.scenes, rng), self.material.keyframes
        parts = [_draw(keyframes, rng), scene.motion]
        if num_clips > 1:
            # of a change of speed a longer video has no single one; a video of the same answers stands for the second
            # clip that is asked about, and the same motion for the one that is generated
            scene = replace(scene, answers={name: answer for name, answer in scene.answers.items() if name != SPEED})
            parts += [_draw(keyframes, rng), (scene if kind else self._alike(scene, rng)).motion]
        if kind == 0:
            return self._scene(torch.cat(parts), scene, rng, generated=False)
        text = describe(scene.answers, rng)
        return self._generation(torch.cat(parts), text, rng, learn_keyframes=rng.random() < 0.25)

    def _alike(self, scene: Scene, rng: np.random.Generator) -> Scene:
        others = (_draw(self.material.scenes, rng) for _ in range(200))
        return next((other for other in others if scene.answers.items() <= other.answers.items()), scene)

    def _footage(self, rng: np.random.Generator, num_clips: int) -> Document:
        """Return one or two clips of footage: in a third of those of still cameras, asked about the camera."""
        video = _draw(self.material.footage, rng)
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


class RecipeTask:
    """Predict answers and videos among the ids that are legal in each place (`VideoLanguageModel.legal_losses`)."""

    def __init__(self, model: VideoLanguageModel) -> None:
        self.model = model

    def initialize(self, batches: object) -> None:
        """Nothing to do: embeddings start from the codebooks."""

    def loss(self, batch: Step, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted sum of the mean losses of each kind of ids, []; and these means in nats."""
        del progress
        means = self._means([batch])
        loss = torch.stack([KIND_WEIGHTS[kind] * mean for kind, mean in means.items()]).sum()
        return loss, {kind: float(mean.detach()) for kind, mean in means.items()}

    def validate(self, batches: Any) -> dict[str, float]:
        """Return the mean loss of each kind of ids in nats."""
        return {kind: float(mean) for kind, mean in self._means(batches).items()}

    def _means(self, steps: Any) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {}
        for step in steps:
            for packed in step:
                for kind, losses in self.model.legal_losses(packed, fixed_visual=True).items():
                    found.setdefault(kind, []).append(losses)
        return {kind: torch.cat(parts).mean() for kind, parts in found.items()}


# ---- the run ----


def run(
    folder: Path,
    out: Path,
    tokenizer: "VideoTokenizer",
    recipe: Recipe,
    *,
    resume: bool = False,
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    on_progress: Callable[[str, int, int], None] = lambda what, number, count: None,
) -> dict[str, Any]:
    """Make the material, train the model, and return the record of the run. All stages go on where a killed run was.

    Writes to `out`: `material/` (caches), the run (as `videotok.training.trainer` writes it, the language model in
    `best/`), and `float16/`, the language model as it ships.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        MediaError: the folder lacks a subfolder of `PHOTOS`, `STILL` and `MOVING`, or files in them.
    """
    for name in (PHOTOS, STILL, MOVING):
        if not (folder / name).is_dir():
            raise MediaError(
                f"{folder} has no folder {name}; the recipe needs {PHOTOS} (photographs), {STILL} (videos of still "
                f"cameras) and {MOVING} (of moving ones)"
            )
    model, cache = new_model(folder, tokenizer, recipe), out / "material"
    cache.mkdir(parents=True, exist_ok=True)
    material = Material(
        read_scenes(folder, cache, model, tokenizer, recipe.scenes, on_progress),
        read_keyframes(folder, cache, model, tokenizer, recipe.photographs, on_progress),
        read_footage(folder, cache, model, tokenizer, recipe.footage, on_progress),
    )
    count = max(recipe.footage // 20, 4)
    held_back = read_footage(folder, cache, model, tokenizer, count, on_progress, held_back=True)
    validation = replace(material, footage=held_back)
    batches = RecipeBatches(Documents(model, validation), seed=1)
    record = trainer.train(
        RecipeTask(model),
        RecipeBatches(Documents(model, material), recipe.plan.seed),
        [batches.batch(np.random.default_rng([1, number])) for number in range(4)] if validation.footage else [],
        recipe.plan,
        out,
        resume=resume,
        criterion=None,
        no_weight_decay=[embedding_table(model.model)],
        facts={
            "scenes": len(material.scenes),
            "photographs": len(material.keyframes),
            "videos": len(material.footage),
            "clips": sum(len(video.clips) for video in material.footage),
        },
        report=report,
    )
    trained = VideoLanguageModel.from_pretrained(out / "best", torch.float16)
    trained.save_pretrained(out / "float16")
    write_json(out / "float16" / "run.json", record)
    return record


def _draw(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]
