"""`videotok corpus`: many videos to Parquet, and what can be done with that."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videotok.cli.console import Refusal, invalid_options_refused, print_line, print_lines, print_note
from videotok.cli.options import (
    MODELS,
    AsJson,
    Device,
    Fps,
    KeepRatio,
    Model,
    MotionQuantizers,
    MotionSource,
    RefinementSteps,
    Threads,
)
from videotok.config import EncodeConfig
from videotok.corpus import CLIPS_PER_BATCH
from videotok.corpus import DEFAULT_CONFIG as DEFAULTS
from videotok.errors import first_line, to_json

if TYPE_CHECKING:
    from videotok.corpus.report import JobProgress

app = typer.Typer(no_args_is_help=True, help="Encode many videos, on one machine or a cluster (Ray Data).")

Tokens = Annotated[Path, typer.Argument(help="Folder of a corpus.")]


@app.command()
def encode(
    videos: Annotated[str, typer.Argument(help="Folder, glob, or manifest (.txt, .csv, .parquet); or a URL of one.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tokens.")],
    shard_rows: Annotated[int, typer.Option(min=1, help="Clips per Parquet file.")] = 2048,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, whatever is in --out.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Read again the videos that were refused before.")
    ] = False,
    keep_ratio: KeepRatio = DEFAULTS.keep_ratio,
    motion_quantizers: MotionQuantizers = DEFAULTS.motion_quantizers,
    fps: Fps = str(DEFAULTS.fps),
    refinement_steps: RefinementSteps = DEFAULTS.refinement_steps,
    motion_source: MotionSource = DEFAULTS.motion_source,
    model: Model = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster; `auto` for the one on this machine.", rich_help_panel=MODELS),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes per stage; as many as the cores allow by default.", rich_help_panel=MODELS),
    ] = None,
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            min=0,
            help="GPUs of each tokenizer, may be a fraction; 0: tokenizers run on the CPU.",
            rich_help_panel=MODELS,
        ),
    ] = 0.0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Clips that go through the models at once.", rich_help_panel=MODELS)
    ] = CLIPS_PER_BATCH,
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Turn many videos into Parquet. However it was stopped, the same command continues."""
    with invalid_options_refused():
        config = EncodeConfig(
            fps=fps,  # pyright: ignore[reportArgumentType]
            keep_ratio=keep_ratio,
            predict_keyframes=False,
            refinement_steps=refinement_steps,
            motion_quantizers=motion_quantizers,
            motion_source=motion_source,
            batch_size=batch_size,
        )
    _require("pyarrow", "fsspec", "ray")
    from videotok.corpus.job import encode_corpus
    from videotok.corpus.ray_pipeline import Cluster
    from videotok.corpus.report import format_report

    if device == "cuda" and not gpus_per_worker:
        raise Refusal("--device cuda: say how many GPUs each tokenizer has with --gpus-per-worker, such as 1")
    cluster = Cluster(address, workers, gpus_per_worker, device, threads or 1)
    with _ProgressDisplay() as display:
        facts = encode_corpus(
            videos,
            out,
            config,
            model=model,
            cluster=cluster,
            shard_rows=shard_rows,
            overwrite=overwrite,
            retry_errors=retry_errors,
            on_progress=display.show,
            on_left_out=print_note,
        )
    print_lines(format_report(facts))


@app.command()
def status(tokens: Tokens, as_json: AsJson = False) -> None:
    """Show how far a corpus is and what is in it, also while a job is running."""
    _require("pyarrow", "fsspec")
    from videotok.corpus.report import corpus_report, format_report
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    facts = corpus_report(folder) | {"is_being_written": folder.is_being_written}
    if as_json:
        print(to_json(facts))
        return
    print_lines(format_report(facts))
    print_line(f"{'job':<18} {'running' if facts['is_being_written'] else 'none'}")


@app.command()
def verify(tokens: Tokens) -> None:
    """Read every row; check that each input is done, refused or pending, and that every clip is there once."""
    _require("pyarrow", "fsspec")
    from videotok.corpus.report import corpus_report, find_faults, format_report
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    faults = list(find_faults(folder))
    for fault in faults:
        print_line(str(fault))
    if faults:
        raise Refusal(f"{tokens} has {len(faults)} faults; the first: {faults[0]}")
    print_lines(format_report(corpus_report(folder)))
    for row in folder.errors.to_pylist():
        print_line(f"{'refused':<18} {row['video_id']}: {row['stage']}: {row['message']}")
    print_line(f"{tokens} is in order")


@app.command()
def export(
    tokens: Tokens,
    to: Annotated[Literal["webdataset", "ids", "huggingface", "lance"], typer.Option(help="Layout to write.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="An empty folder.")],
    shard_rows: Annotated[int, typer.Option(min=1, help="Clips, or packed rows, per file.")] = 2048,
    row_length: Annotated[int, typer.Option(min=2, help="ids: length of a packed row.")] = 4096,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="ids: folder or hub id of a text tokenizer; captions are left out by default."),
    ] = None,
    text_size: Annotated[
        int, typer.Option(min=1, help="ids: number of text ids, if there is no --tokenizer.")
    ] = 32_000,
    motion_quantizers: Annotated[
        int | None, typer.Option(min=0, help="ids: motion quantizers to write; all by default.")
    ] = None,
    interleaved: Annotated[
        bool, typer.Option("--interleaved", help="ids: order motion by position, not by quantizer.")
    ] = False,
) -> None:
    """Write a corpus in another layout; equal corpora give equal bytes, but for Lance."""
    _require("pyarrow", "fsspec", *([to] if to in ("webdataset", "lance") else []))
    from videotok.corpus.export import PackingOptions, to_huggingface, to_lance, to_packed_ids, to_webdataset
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    if to == "webdataset":
        paths = to_webdataset(folder, out, shard_rows)
    elif to == "huggingface":
        paths = to_huggingface(folder, out, shard_rows)
    elif to == "lance":
        paths = to_lance(folder, out, shard_rows)
    else:
        options = PackingOptions(row_length, text_size, motion_quantizers, interleaved)
        paths = to_packed_ids(folder, out, options, _text_tokenizer(tokenizer), shard_rows)
    print_line(f"{out}: {len(paths)} files, {sum(path.stat().st_size for path in paths):,} bytes")


@app.command()
def search(
    tokens: Tokens,
    like: Annotated[Path, typer.Option(help="Any video; clips similar to its clips are searched.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Clips to show of each kind.")] = 5,
    as_json: AsJson = False,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Find clips that look, or move, like those of a video, from the ids alone."""
    _require("pyarrow", "fsspec")
    from videotok.corpus.search import ClipFeatures, CorpusSearch, encode_query
    from videotok.corpus.storage import CorpusFolder
    from videotok.threads import set_up_cpu

    folder = CorpusFolder(tokens)
    facts = folder.facts
    set_up_cpu(threads)
    query = ClipFeatures.from_rows(encode_query(like, facts, model, device), facts["codebooks"])
    hits = CorpusSearch(folder.folder, facts["codebooks"]).nearest(query, count)
    if as_json:
        print(to_json(hits))
        return
    for kind, clips in hits.items():
        print_line(f"by {kind}")
        for clip in clips:
            part = f"{clip['start_seconds']:.1f} to {clip['end_seconds']:.1f} s"
            print_line(f"  {clip['similarity']:.3f}  {clip['video_id']}  {part}")


def _text_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    _require("transformers")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot load the text tokenizer {name}: {first_line(error)}") from error


def _require(*modules: str) -> None:
    """Check that optional packages are installed.

    Raises:
        Refusal: one is not.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            package = "'videotok[lance]'" if module == "lance" else "'videotok[corpus]'"
            raise Refusal(f"this needs {module}, which is not installed: pip install {package}") from error


class _ProgressDisplay:
    """One line on stderr: videos, clips, tokens per second, times real time, errors, time left.

    Nothing is shown if stderr is no terminal.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos  {task.description}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self) -> "_ProgressDisplay":
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None)
        return self

    def show(self, job: "JobProgress") -> None:
        """Show how far a job is."""
        text = (
            f"{job.clips:,} clips  {job.tokens / job.seconds:,.0f} tokens/s  "
            f"{job.video_seconds / job.seconds:.1f}x real time  {job.refused:,} errors"
        )
        self._bar.update(self._task, total=job.videos, completed=job.done + job.refused, description=text)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
