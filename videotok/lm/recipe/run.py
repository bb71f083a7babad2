"""The run of the recipe: the shipped language model from one folder of footage, in two stages.

material ──► first stage: questions, descriptions, clips ──► second stage: freer wordings, real footage, longer
videos, continuation ──► the model as it ships
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codec import MediaError
from videotok.io_utils import write_json
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.motion_questions.wordings import training_texts
from videotok.lm.recipe.documents import ROWS, Documents, RecipeBatches, Step
from videotok.lm.recipe.material import MOVING, PHOTOS, STILL, Material, MaterialReader, instructions
from videotok.lm.recipe.second_stage import (
    GLOBAL_MOTION_CLIPS,
    SecondBatches,
    SecondDocuments,
    read_real_videos,
    second_plan,
)
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import Codebooks, embedding_table, extend
from videotok.lm.train import Plan
from videotok.training import trainer

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

TOKENS_PER_KEYFRAME = 64
"""That the model reads, on average."""
TEXT_TOKENS = 1024
"""Size of the text tokenizer, which is trained on the recipe's own texts and all bytes."""
GUIDANCE, TEMPERATURE = 3.0, 0.7
"""Of generated video, by default: what a description says is found more often, and moves more."""
KIND_WEIGHTS = {"text": 1.0, "global motion": 0.5, "motion": 0.5, "keyframe": 0.2}
"""Of the mean losses of each kind of ids."""


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
    """Of the first stage."""
    second_plan: Plan = field(default_factory=second_plan)

    @property
    def steps(self) -> int:
        """Optimizer steps of both stages."""
        return self.plan.steps + self.second_plan.steps

    def limited(
        self, *, seed: int, save_every: int, steps: int | None = None, max_seconds: float | None = None
    ) -> "Recipe":
        """Return the recipe with other limits; steps and seconds are those of both stages, which keep their shares."""
        first_share, limits = self.plan.steps / self.steps, {"seed": seed, "save_every": save_every}

        def limited_plan(plan: Plan, share: float) -> Plan:
            number = plan.steps if steps is None else max(1, round(steps * share))
            warmup, seconds = min(plan.warmup_steps, number // 10), None if max_seconds is None else max_seconds * share
            return replace(plan, steps=number, warmup_steps=warmup, max_seconds=seconds, **limits)

        plans = limited_plan(self.plan, first_share), limited_plan(self.second_plan, 1 - first_share)
        return replace(self, plan=plans[0], second_plan=plans[1])


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
    settings = shipped_settings(tokenizer)
    codebooks = Codebooks.from_tokenizer(tokenizer, motion_quantizers=settings.motion_quantizers)
    # names of 24,000 ids would make the tokenizer's file larger than the weights
    vocabulary = extend(text, model, codebooks, add_tokens=False)
    return _trainable(VideoLanguageModel(model, text, vocabulary, settings=settings))


def _trainable(model: VideoLanguageModel) -> VideoLanguageModel:
    """Prepare a model for training; embeddings of visual ids get no gradient."""
    # twice as fast on a CPU as torch's own, whose bfloat16 gradient is slow
    model.model.set_attn_implementation("eager")
    visual = model.vocabulary.visual

    def keep_visual(gradient: Tensor) -> Tensor:
        gradient[visual.start : visual.stop] = 0  # each id is too rare to be learned
        return gradient

    embedding_table(model.model).register_hook(keep_visual)
    return model


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


def run(
    folder: Path,
    out: Path,
    tokenizer: "VideoTokenizer",
    recipe: Recipe,
    *,
    resume: bool = False,
    device: str = "auto",
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    on_progress: Callable[[str, int, int], None] = lambda what, number, count: None,
) -> dict[str, Any]:
    """Make the material, train the model, and return the record of the run. All stages go on where a killed run was.

    Writes to `out`: `material/` (caches), the run (as `videotok.training.trainer` writes it, the language model in
    `best/`), `second/`, likewise of the second stage, and `float16/`, the language model as it ships.

    Args:
        folder: of the footage.
        out: folder of the run.
        tokenizer: encodes the material, on its own device.
        recipe: how much of everything.
        resume: continue from the checkpoints in `out`, if there are any.
        device: where to train, see `videotok.training.trainer.train`.
        report: called after every step with the step of both stages (from 1) and its figures.
        on_progress: called while material is made, with its name, a number and how many there are.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        MediaError: the folder lacks a subfolder of `PHOTOS`, `STILL` and `MOVING`, or files in them.
    """
    _check_folder(folder)
    model, cache = new_model(folder, tokenizer, recipe), out / "material"
    cache.mkdir(parents=True, exist_ok=True)
    reader = MaterialReader(folder, cache, model, tokenizer, on_progress)
    material, held_back = _read_material(reader, recipe)
    batches = RecipeBatches(Documents(model, material), recipe.plan.seed)
    validation = RecipeBatches(Documents(model, held_back), seed=1) if held_back.footage else None
    first = _train(model, batches, validation, recipe.plan, out, resume, device, report)

    model = _trainable(VideoLanguageModel.from_pretrained(out / "best", torch.float32))
    model.settings = replace(model.settings, global_motion_clips=GLOBAL_MOTION_CLIPS)
    videos = read_real_videos(replace(reader, model=model))
    second_batches = SecondBatches(SecondDocuments(model, material, videos), recipe.second_plan.seed)
    validation = SecondBatches(SecondDocuments(model, held_back, videos), seed=1) if held_back.footage else None
    second = _train(
        model, second_batches, validation, recipe.second_plan, out / "second", resume, device,
        lambda step, figures: report(recipe.plan.steps + step, figures),
    )  # fmt: skip
    trained = VideoLanguageModel.from_pretrained(out / "second" / "best", torch.float16)
    trained.save_pretrained(out / "float16")
    record = {"first stage": first, "second stage": second}
    write_json(out / "float16" / "run.json", record)
    return record


def _check_folder(folder: Path) -> None:
    for name in (PHOTOS, STILL, MOVING):
        if not (folder / name).is_dir():
            raise MediaError(
                f"{folder} has no folder {name}; the recipe needs {PHOTOS} (photographs), {STILL} (videos of still "
                f"cameras) and {MOVING} (of moving ones)"
            )


def _read_material(reader: MaterialReader, recipe: Recipe) -> tuple[Material, Material]:
    """Return the material for training, and the same with the footage that is held back, for validation."""
    scenes, keyframes = reader.scenes(recipe.scenes), reader.keyframes(recipe.photographs)
    material = Material(scenes, keyframes, reader.footage(recipe.footage))
    return material, replace(material, footage=reader.footage(max(recipe.footage // 20, 4), held_back=True))


def _train(
    model: VideoLanguageModel,
    batches: RecipeBatches | SecondBatches,
    validation: RecipeBatches | SecondBatches | None,
    plan: Plan,
    out: Path,
    resume: bool,
    device: str,
    report: Callable[[int, dict[str, float]], None],
) -> dict[str, Any]:
    """Train one stage and return its record."""
    steps = [] if validation is None else [validation.batch(np.random.default_rng([1, n])) for n in range(4)]
    material = batches.documents.material
    facts = {
        "scenes": len(material.scenes),
        "photographs": len(material.keyframes),
        "videos": len(material.footage),
        "clips": sum(len(video.clips) for video in material.footage),
        **batches.documents.facts,
    }
    return trainer.train(
        RecipeTask(model),
        batches,
        steps,
        plan,
        out,
        resume=resume,
        criterion=None,
        no_weight_decay=[embedding_table(model.model)],
        facts=facts,
        device=device,
        report=report,
    )
