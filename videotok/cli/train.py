"""`videotok train`: from footage to a training cache, and from the cache to weights."""

import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console

from videotok.cli.console import Refusal, counted, invalid_options_refused, step_progress, training_report
from videotok.cli.options import (
    Device,
    LearningRate,
    LpipsWeights,
    MaxMinutes,
    Resume,
    SaveEvery,
    Threads,
    TrainingPrecision,
    training_precision,
)
from videotok.config import parse_rate
from videotok.errors import first_line
from videotok.threads import available_cores, set_up_cpu

if TYPE_CHECKING:
    from videotok.keyframes import KeyframeTokenizerProtocol
    from videotok.training.dataset import Cache, Read, Row
    from videotok.training.trainer import Plan

app = typer.Typer(no_args_is_help=True, help="Prepare footage, and train the three models on it.")
console = Console(stderr=True, markup=False)

CacheFolder = Annotated[Path, typer.Argument(help="Folder written by `videotok train prepare`.")]


@dataclass(frozen=True)
class RunOptions:
    """The options that all train commands have."""

    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run: checkpoint, best weights, run.json.")]
    steps: Annotated[int, typer.Option(help="Optimizer steps of the whole run.", min=1)] = 1_000
    batch_size: Annotated[int, typer.Option(help="Items per step.", min=1)] = 8
    learning_rate: LearningRate = 1e-3
    max_minutes: MaxMinutes = None
    save_every: SaveEvery = 100
    precision: TrainingPrecision = "auto"
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False
    seed: Annotated[int, typer.Option(help="Seed of data order, noise and initial weights.")] = 0
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.", min=0)] = 1
    resume: Resume = False
    device: Device = "auto"
    threads: Threads = None
    start: Annotated[
        Path | None, typer.Option("--from", help="Folder of weights to start from, instead of new ones.")
    ] = None

    def plan(self) -> "Plan":
        """Return what the trainer needs of these options."""
        from videotok.training.trainer import Plan

        return Plan(
            self.steps,
            self.batch_size,
            self.learning_rate,
            warmup_steps=min(200, self.steps // 10),
            precision=training_precision(self.precision, self.device),
            seed=self.seed,
            save_every=self.save_every,
            max_seconds=None if self.max_minutes is None else 60 * self.max_minutes,
            compile=self.compile,
        )


def train_command(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a train command: typer shows the fields of its `RunOptions` argument as options.

    Args:
        defaults: of this command, in the place of those of `RunOptions`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function).parameters.values() if p.name != "options"]
        hints = get_type_hints(RunOptions, include_extras=True)
        shared = []
        for field in fields(RunOptions):
            default = defaults.get(field.name, field.default)
            default = inspect.Parameter.empty if default is MISSING else default
            kind = inspect.Parameter.KEYWORD_ONLY
            shared.append(inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name]))

        @wraps(function)
        def command(**values: Any) -> None:
            options = RunOptions(**{name: values.pop(name) for name in hints})
            function(**values, options=options)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__  # type: ignore[attr-defined]
        app.command()(command)
        return command

    return register


@app.command()
def prepare(
    videos: Annotated[Path, typer.Argument(help="Folder of videos and photographs.", exists=True, file_okay=False)],
    cache: Annotated[Path, typer.Argument(help="Folder to write.")],
    fps: Annotated[str, typer.Option(help="Frames per second of the clips.")] = "12",
    frames: Annotated[int, typer.Option(help="Frames per clip.", min=2)] = 24,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = available_cores(),
) -> None:
    """Cut videos into clips and write them, and photographs, to a training cache."""
    with invalid_options_refused():
        rate = parse_rate(fps)

    from codec import ClipSpec
    from videotok.training.prepare import prepare as prepare_cache

    with step_progress("files", console) as progress:
        bar = progress.add_task("prepare", total=None)
        result = prepare_cache(
            videos,
            cache,
            ClipSpec(frames=frames, fps=rate),
            workers=workers,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    counts = f"{counted(result.clips, 'clip')}, {counted(result.photos, 'photograph')}"
    console.print(f"{cache}: {counts}, {counted(len(result.refused), 'file')} refused")
    for name, reason in result.refused.items():
        console.print(f"  {name}: {reason}", highlight=False)


@app.command()
def synthesize(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.", exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write videos to; `prepare` it like other footage.")],
    videos: Annotated[
        Path | None, typer.Option(help="Folder of footage for some of the backgrounds.", file_okay=False)
    ] = None,
    count: Annotated[int, typer.Option(help="Number of videos, 6.4 seconds each.", min=1)] = 400,
) -> None:
    """Make training videos: photographs and footage under a moving virtual camera. Existing ones are kept."""
    from videotok.training.synthetic import synthesize as write_videos

    with step_progress("videos", console) as progress:
        bar = progress.add_task("synthesize", total=count)
        write_videos(photos, videos, folder, count, progress=lambda done: progress.update(bar, completed=done))


@train_command(steps=5_300, batch_size=8, learning_rate=2.5e-4, save_every=100)
def keyframes(
    cache: CacheFolder,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with options of KeyframeTokenizer, for a new model.", dir_okay=False)
    ] = None,
    lpips: LpipsWeights = None,
    lpips_weight: Annotated[
        float | None, typer.Option(min=0, help="Weight of LPIPS in the loss; by default 0.05, adversarial 0.2.")
    ] = None,
    adversarial: Annotated[
        bool,
        typer.Option(
            "--adversarial", help="Train the detokenizer alone against a discriminator; needs --from, --lpips."
        ),
    ] = False,
    adversarial_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the discriminator's verdict in the loss.")
    ] = 0.5,
    *,
    options: RunOptions,
) -> None:
    """Train the keyframe tokenizer and its detokenizer on photographs and keyframes."""
    from videotok.keyframes.tokenizer import KeyframeTokenizer
    from videotok.keyframes.train import KeyframeAdversarialTraining, KeyframeTraining, TrainingOptions
    from videotok.perceptual import LPIPS
    from videotok.training.dataset import Row

    data = _cache(cache)
    rows = data.photos("train") + data.clips("train")
    held_back = data.photos("validation") + data.clips("validation")
    model = _trained_model(KeyframeTokenizer, options, config)
    default_weight = 0.2 if adversarial else 0.05
    losses = TrainingOptions(
        lpips=None if lpips is None else LPIPS.load(lpips),
        lpips_weight=default_weight if lpips_weight is None else lpips_weight,
    )
    plan = options.plan()
    if not adversarial:
        _train(KeyframeTraining(model, losses), rows, held_back, Row.picture, options, plan, validation_items=64)
        return
    with invalid_options_refused():
        task = KeyframeAdversarialTraining(model, losses, adversarial_weight=adversarial_weight)
    plan = replace(plan, betas=(0.5, 0.99), discriminator_learning_rate=2 * plan.learning_rate)
    # the discriminator trades PSNR for sharpness, so the highest PSNR would be the start
    _train(task, rows, held_back, Row.picture, options, plan, criterion=None, validation_items=64)


@train_command(steps=3_000, batch_size=16, learning_rate=1e-3, save_every=250)
def motion(cache: CacheFolder, options: RunOptions) -> None:
    """Train the motion tokenizer on motion fields."""
    from motion_vq import MotionTokenizer, MotionTraining
    from videotok.training.dataset import Row

    data = _cache(cache)
    task = MotionTraining(_trained_model(MotionTokenizer, options))
    _train(
        task, data.clips("train"), data.clips("validation"), Row.motion, options, options.plan(), validation_items=128
    )


@train_command(steps=5_000, batch_size=2, learning_rate=6e-4, save_every=100)
def detokenizer(
    cache: CacheFolder,
    tokenizer: Annotated[Path, typer.Option(help="Motion tokenizer whose decoded motion the model is trained on.")],
    keyframes: Annotated[
        Path | None,
        typer.Option(help="Keyframe tokenizer whose decoded keyframes, at every rate, the model is trained on."),
    ] = None,
    exact_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of clips with exact keyframes, where --keyframes is given.")
    ] = 0.3,
    refiner_widths: Annotated[
        str | None, typer.Option(help="Add a refiner with these channels at 1/2, 1/4, … of the size, as 32,64,96.")
    ] = None,
    refiner_blocks: Annotated[
        str | None, typer.Option(help="Residual blocks of the refiner at each size, as 1,2,2; by default 1 each.")
    ] = None,
    refiner_only: Annotated[
        bool, typer.Option("--refiner-only", help="Train the refiner and leave all other weights as they are.")
    ] = False,
    lpips: LpipsWeights = None,
    lpips_weight: Annotated[float, typer.Option(min=0, help="Weight of LPIPS in the loss.")] = 6.0,
    sharpness_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the difference in local sharpness, with a refiner or --lpips.")
    ] = 0.6,
    spectrum_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the difference in the power of waves, with a refiner or --lpips.")
    ] = 0.8,
    pattern_weight: Annotated[
        float, typer.Option(min=0, help="Weight of patterns such as grids, with a refiner or --lpips.")
    ] = 3.0,
    *,
    options: RunOptions,
) -> None:
    """Train the video detokenizer on clips, with motion that went through the motion tokenizer.

    With a refiner or --lpips it is trained for what one evaluation shows: log squared error, LPIPS, sharpness and the
    power of waves. Without both, as a denoiser at all noise levels by squared error.
    """
    from motion_vq import MotionTokenizer
    from unet3d import DetokenizerPerceptualTraining, DetokenizerTraining, PerceptualOptions, VideoDetokenizer
    from videotok.perceptual import LPIPS
    from videotok.training.dataset import CodedKeyframes, CodedMotion, Row

    data = _cache(cache)
    widths = _numbers("--refiner-widths", refiner_widths)
    blocks = _numbers("--refiner-blocks", refiner_blocks) or (1,) * len(widths)
    hooks: dict[str, Any] = {
        "code_motion": CodedMotion(_model(MotionTokenizer, tokenizer)),
        "code_keyframes": None if keyframes is None else CodedKeyframes(_keyframe_tokenizer(keyframes)),
        "exact_share": exact_share,
    }
    model = _trained_model(VideoDetokenizer, options)
    with invalid_options_refused():
        if widths or refiner_blocks:
            model.add_refiner(widths, blocks)
        if lpips is None and model.refiner is None and not refiner_only:
            task, criterion = DetokenizerTraining(model, **hooks), "psnr"
        else:
            losses = PerceptualOptions(
                lpips=None if lpips is None else LPIPS.load(lpips),
                lpips_weight=lpips_weight,
                sharpness_weight=sharpness_weight,
                spectrum_weight=spectrum_weight,
                pattern_weight=pattern_weight,
                refiner_only=refiner_only,
            )
            task = DetokenizerPerceptualTraining(model, losses, **hooks)
            # sharpness costs PSNR, so the highest PSNR would be the start
            criterion = None if lpips is None else "score"
    rows, held_back = data.clips("train"), data.clips("validation")
    _train(task, rows, held_back, Row.clip, options, options.plan(), criterion=criterion, validation_items=24)


@app.command()
def export(
    model: Annotated[Literal["keyframes", "motion", "detokenizer"], typer.Argument(help="Which model it is.")],
    run: Annotated[Path, typer.Argument(help="Folder of the run.", exists=True, file_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write the weights to.")],
    interpolate_with: Annotated[
        Path | None, typer.Option(help="A second run; the weights are interpolated between both.", file_okay=False)
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the second run's weights.")] = 0.5,
) -> None:
    """Write a run's best weights in half precision."""
    from motion_vq import MotionTokenizer
    from unet3d import VideoDetokenizer
    from videotok.io_utils import read_json
    from videotok.keyframes import KeyframeTokenizer
    from videotok.keyframes.train import interpolate_weights
    from videotok.training.checkpoint import export_weights, load_best

    classes = {"keyframes": KeyframeTokenizer, "motion": MotionTokenizer, "detokenizer": VideoDetokenizer}
    try:
        weights, record = load_best(classes[model], run), read_json(run / "run.json")
        if interpolate_with is not None:
            interpolate_weights(weights, load_best(classes[model], interpolate_with), share)
            record["interpolated_with"] = {"share": share, "run": read_json(interpolate_with / "run.json")}
    except (FileNotFoundError, ValueError) as error:
        raise Refusal(str(error)) from error
    size = export_weights(weights, record, folder)
    console.print(f"{folder}: {size / 1e6:.1f} MB")


def _cache(folder: Path) -> "Cache":
    from videotok.training.dataset import Cache

    try:
        return Cache(folder)
    except (FileNotFoundError, ValueError) as error:
        raise Refusal(str(error)) from error


def _trained_model(model_class: Any, options: RunOptions, config: Path | None = None) -> Any:
    """Return the model that a run starts from; its new weights, also those added later, depend on the seed alone."""
    import torch

    torch.manual_seed(options.seed)
    return _model(model_class, options.start, config)


def _model(model_class: Any, folder: Path | None, config: Path | None = None) -> Any:
    """Return the model of a folder, or a new one with the options of a JSON file.

    Raises:
        Refusal: the folder or the file cannot be loaded.
    """
    if folder is None:
        try:
            return model_class(**({} if config is None else json.loads(config.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise Refusal(f"{config} does not hold options of {model_class.__name__}: {error}") from error
    if config is not None:
        raise Refusal("--config is for a new model; leave it out with --from")
    try:
        return model_class.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot load {folder}: {first_line(error)}") from error


def _keyframe_tokenizer(folder: Path) -> "KeyframeTokenizerProtocol":
    """Return the keyframe tokenizer of a folder, of any class that videotok knows.

    Raises:
        Refusal: the folder cannot be loaded.
    """
    import torch

    from videotok.bundle import load_keyframes

    try:
        return load_keyframes(folder, torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refusal(f"cannot load {folder}: {first_line(error)}") from error


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Return the whole numbers of a list as 32,64,96; none of None.

    Raises:
        Refusal: another text.
    """
    parts = [] if text is None else text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise Refusal(f"{option} takes whole numbers above 0 with commas between them, such as 32,64,96; got {text}")
    return tuple(map(int, parts))


def _train(
    task: Any,
    rows: list["Row"],
    held_back: list["Row"],
    read: "Read",
    options: RunOptions,
    plan: "Plan",
    *,
    criterion: str | None = "psnr",
    validation_items: int,
) -> None:
    """Train a task on rows of a cache, with a progress bar.

    Raises:
        Refusal: the folder holds a run, or the checkpoint in it does not fit; the loss has no finite gradient.
    """
    from videotok.training.dataset import SPLIT_VERSION, Batches, validation_batches
    from videotok.training.trainer import train

    set_up_cpu(options.threads)
    facts = {
        "items": len(rows),
        "validation_items": min(validation_items, len(held_back or rows)),
        "held_back": bool(held_back),
        "split_version": SPLIT_VERSION,
    }
    with step_progress("steps", console) as progress:
        try:
            batches = Batches(rows, read, task.prepare, plan.batch_size, plan.steps, plan.seed)
            # a cache too small to hold anything back is validated on its training data, and run.json says so
            validation = validation_batches(held_back or rows, read, task.prepare, plan.batch_size, validation_items)
            train(
                task,
                batches,
                validation,
                plan,
                options.out,
                resume=options.resume,
                workers=options.workers,
                criterion=criterion,
                facts=facts,
                device=options.device,
                report=training_report(progress, plan.steps),
            )
        except FileExistsError as error:
            raise Refusal(
                f"{options.out} already holds a run; continue it with --resume, or choose another --out"
            ) from error
        except (ValueError, FloatingPointError) as error:
            raise Refusal(str(error)) from error
    names = {None: "the latest weights", "psnr": "the weights with the highest validation PSNR"}
    kept = names.get(criterion, f"the weights with the highest validation {criterion}")
    console.print(f"{options.out / 'best'}: {kept}")
