"""`videotok train`: footage -> cache -> weights."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from videotok.training.trainer import Task

app = typer.Typer(no_args_is_help=True, help="Prepare footage and train the three models.")
console = Console(stderr=True)

CacheFolder = Annotated[Path, typer.Argument(help="Folder written by `videotok train prepare`.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoint, best weights, run.json.")]
Steps = Annotated[int, typer.Option(help="Optimiser steps of the whole run.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Items a step.", min=1)]
LearningRate = Annotated[float, typer.Option("--lr", help="Highest learning rate; warm-up, then a cosine to zero.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")]
Seed = Annotated[int, typer.Option(help="Decides data order, noise and starting weights.")]
Workers = Annotated[int, typer.Option(help="Processes that read ahead.", min=0)]
Precision = Annotated[str, typer.Option(help="Of the forward pass: auto (bf16 on a GPU), bf16 or no.")]
SaveEvery = Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)]
Start = Annotated[Path | None, typer.Option("--from", help="Weights to start from instead of new ones.")]


@app.command()
def prepare(
    videos: Annotated[Path, typer.Argument(help="Folder of videos and photographs.", exists=True, file_okay=False)],
    cache: Annotated[Path, typer.Argument(help="Folder to write.")],
    fps: Annotated[str, typer.Option(help="Frames per second of a clip.")] = "12",
    frames: Annotated[int, typer.Option(help="Frames in a clip.")] = 24,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Cut videos into clips and write shards that need no video library to read."""
    from codec import ClipSpec
    from videotok.training.prepare import prepare as run

    with _progress("files") as progress:
        bar = progress.add_task("prepare", total=None)
        found = run(
            videos,
            cache,
            ClipSpec(frames=frames, fps=Fraction(fps)),
            workers=workers,
            done=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    console.print(f"{cache}: {found.clips} clips, {found.photos} photographs, {len(found.refused)} files refused")
    for name, why in found.refused.items():
        console.print(f"  {name}: {why}", highlight=False)


@app.command()
def film(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.", exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write the films to; `prepare` it like other footage.")],
    videos: Annotated[Path | None, typer.Option(help="Footage for some of the backgrounds.", file_okay=False)] = None,
    count: Annotated[int, typer.Option(help="Films of 6.4 seconds.", min=1)] = 400,
) -> None:
    """Film photographs and footage with a virtual camera that moves in every way; films that are there are kept."""
    from videotok.training.synthetic import films

    with _progress("films") as progress:
        bar = progress.add_task("film", total=count)
        films(photos, videos, folder, count, done=lambda done: progress.update(bar, completed=done))


@app.command()
def keyframes(
    cache: CacheFolder,
    out: Out,
    steps: Steps = 5_300,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 2.5e-4,
    seed: Seed = 0,
    workers: Workers = 1,
    precision: Precision = "auto",
    save_every: SaveEvery = 100,
    resume: Resume = False,
    start: Start = None,
) -> None:
    """Train the keyframe tokenizer and its detokenizer on photographs and keyframes."""
    from videotok.keyframes import KeyframeTokenizer, KeyframeTraining
    from videotok.training.dataset import Cache, Row

    found = Cache(cache)
    rows = found.photos("train") + found.clips("train")
    held_back = found.photos("validation") + found.clips("validation")
    task = KeyframeTraining(_model(KeyframeTokenizer, start))
    plan = _plan(steps, batch_size, learning_rate, seed, precision, save_every)
    _run(task, rows, held_back, Row.picture, plan, out, resume, workers, 64)


@app.command()
def motion(
    cache: CacheFolder,
    out: Out,
    steps: Steps = 3_000,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    seed: Seed = 0,
    workers: Workers = 1,
    precision: Precision = "auto",
    save_every: SaveEvery = 250,
    resume: Resume = False,
    start: Start = None,
) -> None:
    """Train the motion tokenizer on motion fields."""
    from motion_vq import MotionTokenizer, MotionTraining
    from videotok.training.dataset import Cache, Row

    found = Cache(cache)
    task = MotionTraining(_model(MotionTokenizer, start))
    plan = _plan(steps, batch_size, learning_rate, seed, precision, save_every)
    _run(task, found.clips("train"), found.clips("validation"), Row.motion, plan, out, resume, workers, 128)


@app.command()
def detokenizer(
    cache: CacheFolder,
    out: Out,
    tokenizer: Annotated[Path, typer.Option(help="Motion tokenizer whose decoded motion is learned from.")],
    steps: Steps = 5_000,
    batch_size: BatchSize = 2,
    learning_rate: LearningRate = 6e-4,
    seed: Seed = 0,
    workers: Workers = 1,
    precision: Precision = "auto",
    save_every: SaveEvery = 100,
    resume: Resume = False,
    start: Start = None,
) -> None:
    """Train the 3D U-Net on clips, with the motion that the motion tokenizer gives back."""
    from motion_vq import MotionTokenizer
    from unet3d import DetokenizerTraining, VideoDetokenizer
    from videotok.training.dataset import Cache, CodedMotion, Row

    found = Cache(cache)
    coded = CodedMotion(MotionTokenizer.from_pretrained(tokenizer))
    task = DetokenizerTraining(_model(VideoDetokenizer, start), code_motion=coded)
    plan = _plan(steps, batch_size, learning_rate, seed, precision, save_every)
    _run(task, found.clips("train"), found.clips("validation"), Row.clip, plan, out, resume, workers, 24)


@app.command()
def export(
    kind: Annotated[str, typer.Argument(help="keyframes, motion or detokenizer.")],
    run: Annotated[Path, typer.Argument(help="Folder of the run.", exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Where the half-precision weights go.")],
) -> None:
    """Write a run's best weights in half precision."""
    from motion_vq import MotionTokenizer
    from unet3d import VideoDetokenizer
    from videotok.keyframes import KeyframeTokenizer
    from videotok.training.trainer import export as write

    models = {"keyframes": KeyframeTokenizer, "motion": MotionTokenizer, "detokenizer": VideoDetokenizer}
    if kind not in models:
        raise typer.BadParameter(f"{kind!r} is not a model; choose one of {', '.join(models)}")
    size = write(models[kind], run, folder)
    console.print(f"{folder}: {size / 1e6:.1f} MB")


def _model(model_class, start: Path | None):
    return model_class.from_pretrained(start) if start else model_class()


def _plan(steps: int, batch_size: int, learning_rate: float, seed: int, precision: str, save_every: int):
    import torch

    from videotok.training.trainer import Plan

    if precision not in ("auto", "bf16", "no"):
        raise typer.BadParameter(f"--precision {precision!r} must be auto, bf16 or no")
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    warmup = min(200, steps // 10)
    return Plan(
        steps,
        batch_size,
        learning_rate,
        warmup_steps=warmup,
        precision="bf16" if precision == "bf16" else "no",
        seed=seed,
        save_every=save_every,
    )


def _run(
    task: "Task", rows: list, held_back: list, read: Callable, plan, out: Path, resume: bool, workers: int, items: int
) -> None:
    from videotok.training.dataset import Batches, validation_batches
    from videotok.training.trainer import train

    batches = Batches(rows, read, task.prepare, plan.batch_size, plan.steps, plan.seed)
    validation = validation_batches(held_back or rows, read, task.prepare, plan.batch_size, items)
    facts = {"items": len(rows), "validation_items": min(items, len(held_back or rows)), "held_back": bool(held_back)}
    with _progress("steps") as progress:
        bar = progress.add_task("train", total=plan.steps)

        def report(step: int, figures: dict[str, float]) -> None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            progress.update(bar, completed=step, description=shown)
            if any(name.startswith("validation") for name in figures):
                progress.console.print(f"step {step}: {shown}", highlight=False)

        try:
            train(task, batches, validation, plan, out, resume=resume, workers=workers, facts=facts, report=report)
        except (FileExistsError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    console.print(f"{out / 'best'}: the weights with the highest validation PSNR")


def _progress(unit: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
