"""`videotok lm`: language models that read video"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videotok.cli.console import Refusal, parse_fps

if TYPE_CHECKING:
    from videotok.lm.model import VideoLanguageModel
    from videotok.pipeline import VideoTokenizer

app = typer.Typer(no_args_is_help=True, help="Train and ask language models that read video.")
console = Console(stderr=True)
COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("steps"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)

VideoModel = Annotated[
    str | None, typer.Option("--video-model", help="Folder or hub id of other video weights than the shipped ones.")
]


@app.command()
def train(
    shards: Annotated[list[Path], typer.Argument(help=".vtok or .jsonl files, folders of them, or corpora.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the language model and its run.")],
    model: Annotated[
        str, typer.Option(help="`tiny` (from scratch), or a causal language model: a folder, or a hub id.")
    ] = "tiny",
    inputs: Annotated[
        Literal["ids", "features"], typer.Option(help="Video as ids, or as the features behind visual and motion ids.")
    ] = "ids",
    loss: Annotated[
        Literal["answers", "all"], typer.Option(help="Of a conversation learn the answers, or everything.")
    ] = "answers",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the whole run.")] = 1000,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a row; documents are packed into rows.")] = 2048,
    rows: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 4,
    learning_rate: Annotated[float, typer.Option("--lr", help="Highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Decides starting weights and order.")] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "no"], typer.Option(help="Of the forward pass: auto is bf16 on a GPU.")
    ] = "auto",
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    fps: Annotated[str, typer.Option(help="Frames a second of a clip; for videos that are encoded here.")] = "6",
    motion_quantizers: Annotated[int, typer.Option(min=0, help="Levels of motion ids that are read.")] = 1,
    max_clips: Annotated[int, typer.Option(min=1, help="Clips that are read of a long video.")] = 8,
    keyframes_only: Annotated[bool, typer.Option("--keyframes-only", help="Leave motion out.")] = False,
    held_back: Annotated[float, typer.Option(min=0, max=0.5, help="Share of documents kept for validation.")] = 0.02,
    video_model: VideoModel = None,
) -> None:
    """Train a language model on text and video."""
    parse_fps(fps)
    if (out / "checkpoint.safetensors").exists() and not resume:
        raise Refusal(f"{out} already holds a run; go on with --resume, or choose another --out")

    from videotok.lm.data import TokenCache, samples
    from videotok.lm.data import documents as made
    from videotok.lm.model import VideoSettings
    from videotok.lm.train import Plan
    from videotok.lm.train import train as run

    found = list(samples(shards))  # what cannot be read is said before any model is loaded
    tokenizer = _video_tokenizer(video_model)
    if motion_quantizers > tokenizer.motion.num_quantizers:
        raise Refusal(f"--motion-quantizers {motion_quantizers}: these weights have {tokenizer.motion.num_quantizers}")
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    settings = VideoSettings(fps, motion_quantizers, max_clips, keyframes_only, weights)
    language_model = _starting_model(model, tokenizer, settings, inputs, seed)
    store = TokenCache(out / "videos", tokenizer, language_model.settings, language_model.feature_kinds)
    documents = list(made(language_model, found, store, length, loss))
    kept = round(held_back * len(documents)) if len(documents) > 1 else 0
    learned, validation = documents[: len(documents) - kept], documents[len(documents) - kept :]
    _start_projections(language_model, learned)
    plan = Plan(
        steps,
        length,
        rows,
        learning_rate,
        warmup_steps=min(100, steps // 10),
        precision=_precision(precision),
        seed=seed,
        save_every=save_every,
    )
    tokens = sum(map(len, documents))
    console.print(f"{len(documents)} documents, {tokens} tokens, {len(validation)} held back", highlight=False)
    with Progress(*COLUMNS, console=console) as progress:
        bar = progress.add_task("train", total=steps)

        def report(step: int, figures: dict[str, float]) -> None:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            progress.update(bar, completed=step, description=shown)
            if "validation loss" in figures:
                progress.console.print(f"step {step}: {shown}", highlight=False)

        try:
            run(language_model, learned, validation, plan, out, resume=resume, report=report)
        except (ValueError, FloatingPointError) as error:
            raise Refusal(str(error)) from error
    console.print(f"{out}: ask it with `videotok lm ask VIDEO QUESTION --lm {out}`", highlight=False)


@app.command()
def ask(
    video: Annotated[Path, typer.Argument(help="A video file, or a .vtok file.")],
    question: Annotated[str, typer.Argument(help="What is to be answered.")],
    lm: Annotated[Path, typer.Option("--lm", help="Folder of a language model that reads video.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest answer; above: drawn.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of answers that are drawn.")] = 0,
    video_model: VideoModel = None,
    inputs: Annotated[
        Literal["auto", "ids", "features"],
        typer.Option(help="What it is given of keyframes; auto: as it was embedded_tokenizers."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the language model: auto is bfloat16 on a GPU, float32 on a CPU."),
    ] = "auto",
) -> None:
    """Answer a question about a video, word by word."""
    if not video.is_file():
        raise Refusal(f"cannot read {video}: no such file")

    import tempfile

    from transformers.utils import logging

    from videotok.lm.data import TokenCache
    from videotok.lm.generation import answer
    from videotok.lm.loading import load_for_video

    logging.disable_progress_bar()  # the answer is written as it comes
    sighted = load_for_video(lm, video_model, inputs, precision)
    model, tokenizer = sighted.model, sighted.tokenizer
    if sighted.note:
        console.print(sighted.note, highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        store = TokenCache(Path(folder), tokenizer, model.settings, model.feature_kinds)
        kept = store.get(video)

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    answer(model, question, kept, max_new_tokens=max_tokens, temperature=temperature, seed=seed, show=show)
    print()


def _video_tokenizer(model: str | None) -> "VideoTokenizer":
    from transformers.utils import logging

    from videotok.pipeline import VideoTokenizer

    logging.disable_progress_bar()  # of files read and written; the command has its own
    return VideoTokenizer.from_pretrained(model)


def _starting_model(
    name: str, tokenizer: "VideoTokenizer", settings: Any, inputs: str, seed: int
) -> "VideoLanguageModel":
    """`tiny`, a model that already knows video, or one that is embedded_tokenizers its ids now."""
    import torch

    from videotok.errors import ModelError
    from videotok.lm.loading import new_model, taught_model
    from videotok.lm.model import FACTS, VideoLanguageModel

    torch.manual_seed(seed)
    if (Path(name) / FACTS).is_file():
        return VideoLanguageModel.from_pretrained(name, torch.float32)
    if name == "tiny":
        return new_model(tokenizer, settings, inputs == "features")
    try:
        return taught_model(name, tokenizer, settings, inputs == "features")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {name}: {str(error).strip().splitlines()[0]}") from error


def _start_projections(model: "VideoLanguageModel", documents: list) -> None:
    import torch

    from videotok.lm.model import Projection

    table = model.model.get_input_embeddings().weight
    for kind in model.feature_kinds:
        rows = [document.features[kind] for document in documents[:256] if kind in document.features]
        if rows and isinstance(model.projections[kind], Projection):
            model.projections[kind].start(torch.cat(rows), table[: model.vocabulary.text_size])  # type: ignore[operator]


def _precision(wanted: str) -> Literal["no", "bf16"]:
    import torch

    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return "bf16" if wanted == "bf16" else "no"
