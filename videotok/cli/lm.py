"""`videotok lm`: train and ask language models that read video."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from videotok.cli.console import Refusal, invalid_options_refused, step_progress, training_report
from videotok.cli.generate import generate
from videotok.cli.options import (
    Device,
    LanguageModel,
    LanguageModelPrecision,
    LearningRate,
    MaxMinutes,
    Resume,
    SaveEvery,
    Threads,
    TrainingPrecision,
    VideoModel,
    training_precision,
)
from videotok.config import parse_rate
from videotok.errors import is_utf8, shorten
from videotok.threads import set_up_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from videotok.lm.model import VideoLanguageModel, VideoSettings
    from videotok.lm.packing import Document
    from videotok.lm.train import Plan
    from videotok.pipeline import VideoTokenizer

    Report = Callable[[int, dict[str, float]], None]

app = typer.Typer(no_args_is_help=True, help="Train and ask language models that read video, and generate with them.")
app.command()(generate)
console = Console(stderr=True, markup=False)
DEFAULT_STEPS = 1000


@app.command()
def train(
    data: Annotated[
        list[Path],
        typer.Argument(help=".vtok or .jsonl files, folders of them, or corpora; with --recipe, one folder."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the language model and its run.")],
    model: Annotated[
        str, typer.Option(help="`tiny` (from scratch), or a causal language model: a folder, or a hub id.")
    ] = "tiny",
    inputs: Annotated[
        Literal["ids", "features"], typer.Option(help="Read video as ids, or as the encoders' continuous features.")
    ] = "ids",
    loss: Annotated[
        Literal["answers", "all"], typer.Option(help="Tokens of a conversation to train on: the answers, or all.")
    ] = "answers",
    recipe: Annotated[
        Literal["shipped"] | None,
        typer.Option(
            help="Train the model that ships, from a folder of photographs and videos (docs/understanding.md). Only "
            "--steps, --max-minutes, --seed, --save-every, --resume, --device and --video-model go with it."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Optimizer steps of the whole run; by default {DEFAULT_STEPS}, or the recipe's."),
    ] = None,
    max_minutes: MaxMinutes = None,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a row; documents are packed into rows.")] = 2048,
    rows: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 4,
    learning_rate: LearningRate = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and data order.")] = 0,
    precision: TrainingPrecision = "auto",
    save_every: SaveEvery = 200,
    resume: Resume = False,
    fps: Annotated[str, typer.Option(help="Frames per second of the clips of videos that are encoded here.")] = "6",
    motion_quantizers: Annotated[int, typer.Option(min=0, help="Residual quantizers of motion ids to read.")] = 1,
    max_clips: Annotated[int, typer.Option(min=1, help="Clips of a long video to read, evenly spaced.")] = 8,
    keyframes_only: Annotated[bool, typer.Option("--keyframes-only", help="Leave motion out.")] = False,
    validation_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of documents kept for validation.")
    ] = 0.02,
    video_model: VideoModel = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a language model on text and video."""
    with invalid_options_refused():
        parse_rate(fps)
    if (out / "checkpoint.safetensors").exists() and not resume:
        raise Refusal(f"{out} already holds a run; continue it with --resume, or choose another --out")
    limits = {"seed": seed, "save_every": save_every, "max_seconds": max_minutes and 60 * max_minutes}
    if recipe:
        set_up_cpu(threads)
        _train_by_recipe(data, out, video_model, limits | {"steps": steps}, resume, device)
        return

    from videotok.lm.data import TokenCache, make_documents, read_samples
    from videotok.lm.model import VideoSettings
    from videotok.lm.train import Plan

    samples = list(read_samples(data))  # what cannot be read is refused before any model is loaded
    set_up_cpu(threads)
    tokenizer = _load_video_tokenizer(video_model, device)
    if motion_quantizers > tokenizer.motion.num_quantizers:
        raise Refusal(f"--motion-quantizers {motion_quantizers}: these weights have {tokenizer.motion.num_quantizers}")
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    settings = VideoSettings(fps, motion_quantizers, max_clips, keyframes_only, weights)
    language_model = _load_initial_model(model, tokenizer, settings, inputs, seed)
    cache = TokenCache(out / "videos", tokenizer, language_model.settings, language_model.feature_kinds)
    documents = list(make_documents(language_model, samples, cache, length, loss))
    count = round(validation_share * len(documents)) if len(documents) > 1 else 0
    split = len(documents) - count
    tokens = sum(map(len, documents))
    console.print(f"{len(documents)} documents, {tokens} tokens, {count} for validation", highlight=False)
    steps = steps or DEFAULT_STEPS
    plan = Plan(
        steps,
        rows,
        learning_rate,
        warmup_steps=min(100, steps // 10),
        precision=training_precision(precision, device),
        row_length=length,
        **limits,
    )
    _run(language_model, documents[:split], documents[split:], plan, out, resume, device)
    console.print(f"{out}: ask it with `videotok lm ask VIDEO QUESTION --lm {out}`", highlight=False)


def _train_by_recipe(
    data: "Sequence[Path]", out: Path, video_model: str | None, limits: dict[str, Any], resume: bool, device: str
) -> None:
    """Train the model that ships."""
    if len(data) != 1 or not data[0].is_dir():
        raise Refusal(f"--recipe takes one folder of photographs and videos, got {', '.join(map(str, data))}")
    from videotok.lm.recipe.run import Recipe, run

    tokenizer, recipe = _load_video_tokenizer(video_model, device), Recipe().limited(**limits)
    with step_progress("steps", console) as progress:
        bars = {}

        def on_progress(what: str, number: int, count: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=count)
            progress.update(bars[what], completed=number)

        def train(report: "Report") -> None:
            run(
                data[0],
                out,
                tokenizer,
                recipe,
                resume=resume,
                device=device,
                report=report,
                on_progress=on_progress,
            )

        _train_with_bar(progress, recipe.steps, train)
    console.print(f"{out}/float16: ask it with `videotok lm ask VIDEO QUESTION --lm {out}/float16`", highlight=False)


def _run(
    model: "VideoLanguageModel",
    documents: "Sequence[Document]",
    validation: "Sequence[Document]",
    plan: "Plan",
    out: Path,
    resume: bool,
    device: str,
) -> None:
    """Train with a progress bar."""
    from videotok.lm.train import train as train_model

    with step_progress("steps", console) as progress:
        _train_with_bar(
            progress,
            plan.steps,
            lambda report: train_model(
                model, documents, validation, plan, out, resume=resume, device=device, report=report
            ),
        )


def _train_with_bar(progress: Progress, steps: int, train: "Callable[[Report], object]") -> None:
    """Call `train` with a report that moves a bar and prints validations; what it cannot train on is refused."""
    try:
        train(training_report(progress, steps))
    except (ValueError, FloatingPointError) as error:
        raise Refusal(str(error)) from error


@app.command()
def ask(
    video: Annotated[Path, typer.Argument(help="A video file, or a .vtok file.")],
    question: Annotated[str, typer.Argument(help="The question to answer.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the answer at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0: the most likely tokens.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of sampled answers.")] = 0,
    inputs: Annotated[
        Literal["auto", "ids", "features"],
        typer.Option(help="What the model reads of keyframes; auto: what it was trained with."),
    ] = "auto",
    lm: LanguageModel = None,
    video_model: VideoModel = None,
    precision: LanguageModelPrecision = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Answer a question about a video; the answer is printed while it is generated."""
    if not is_utf8(question):
        raise Refusal(f"the question {shorten(question)} is not UTF-8; type it in a terminal that is set to UTF-8")
    from videotok.inputs import check_readable

    check_readable(video)

    import tempfile

    from transformers.utils import logging

    from videotok.lm.data import TokenCache
    from videotok.lm.generation import answer
    from videotok.lm.loading import load_language_model

    set_up_cpu(threads)
    logging.disable_progress_bar()  # it would stand in the middle of the answer
    loaded = load_language_model(lm, video_model, inputs, precision, device)
    model = loaded.model
    if loaded.note:
        console.print(loaded.note, highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        encoded = TokenCache(Path(folder), loaded.tokenizer, model.settings, model.feature_kinds).get(video)

    def print_text(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    answer(model, question, encoded, max_new_tokens=max_tokens, temperature=temperature, seed=seed, on_text=print_text)
    print()


def _load_video_tokenizer(model: str | None, device: str) -> "VideoTokenizer":
    from transformers.utils import logging

    from videotok.pipeline import VideoTokenizer

    logging.disable_progress_bar()  # the command has its own
    return VideoTokenizer.from_pretrained(model, device=device)


def _load_initial_model(
    name: str, tokenizer: "VideoTokenizer", settings: "VideoSettings", inputs: str, seed: int
) -> "VideoLanguageModel":
    """Return a new tiny model, one that reads video already, or another one extended by the ids of video."""
    import torch

    from videotok.errors import ModelError, first_line
    from videotok.lm.loading import extended_model, new_tiny_model
    from videotok.lm.model import VIDEO_CONFIG_NAME, VideoLanguageModel

    torch.manual_seed(seed)
    if (Path(name) / VIDEO_CONFIG_NAME).is_file():
        return VideoLanguageModel.from_pretrained(name, torch.float32)
    if name == "tiny":
        return new_tiny_model(tokenizer, settings, inputs == "features")
    try:
        return extended_model(name, tokenizer, settings, inputs == "features")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {name}: {first_line(error)}") from error
