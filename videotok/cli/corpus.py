"""`videotok corpus`: many videos to Parquet, and from there on"""

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videotok.cli.console import Refusal, parse_fps

if TYPE_CHECKING:
    from videotok.corpus.report import Run

app = typer.Typer(no_args_is_help=True, help="Encode many videos, on one machine or a cluster (Ray Data).")

Tokens = Annotated[Path, typer.Argument(help="Folder of a corpus.")]


@app.command()
def encode(
    videos: Annotated[str, typer.Argument(help="Folder, glob, or manifest (.txt, .csv, .parquet); or a URL of one.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tokens.")],
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; `auto` for the one running here.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes a stage; as many as there are cores.")] = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs, or a part of one, for each tokenizer.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that go through the models at once.")] = 16,
    shard_rows: Annotated[int, typer.Option(min=1, help="Clips a Parquet file.")] = 2048,
    fps: Annotated[str, typer.Option(help="Frames a second of a clip's 24 frames; 6 for understanding.")] = "12",
    keep: Annotated[float | None, typer.Option(help="Share of a keyframe's patches to keep on average.")] = None,
    motion_quantizers: Annotated[int | None, typer.Option(min=0, help="Levels of motion ids.")] = None,
    motion_source: Annotated[
        Literal["auto", "native", "reencode", "mpeg4"],
        typer.Option(help="The stream's own vectors, those of a re-encoding, or the first where there are any."),
    ] = "auto",
    model: Annotated[str | None, typer.Option(help="Folder or hub id of other weights than the shipped ones.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Begin anew, whatever is in --out.")] = False,
    retry_errors: Annotated[bool, typer.Option(help="Read videos again that were refused before.")] = False,
) -> None:
    """Turn many videos into Parquet. Stopped in any way, the same command goes on."""
    if keep is not None and not 0 < keep <= 1:
        raise Refusal(f"--keep {keep} must be above 0 and at most 1: it is the share of patches to keep")
    rate = parse_fps(fps)
    _need("pyarrow", "fsspec", "ray")
    from videotok.corpus.job import encode_corpus
    from videotok.corpus.ray_pipeline import Cluster
    from videotok.corpus.report import text
    from videotok.corpus.settings import Settings

    settings = Settings(model, rate, keep, motion_quantizers, motion_source)
    cluster = Cluster(address, workers or (None if address else os.cpu_count()), gpus_per_worker, batch_size)
    with _display() as show:
        facts = encode_corpus(
            videos,
            out,
            settings,
            cluster,
            shard_rows=shard_rows,
            overwrite=overwrite,
            retry_errors=retry_errors,
            watch=show,
        )
    print(text(facts), end="")


@app.command()
def status(
    tokens: Tokens, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Say how far a corpus is, and what is in it; also while a job is at work."""
    _need("pyarrow", "fsspec")
    from videotok.corpus.report import state, text
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    facts = state(folder) | {"is_being_written": folder.is_being_written}
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print(text(facts), end="")
    print(f"{'job':<18} {'at work' if facts['is_being_written'] else 'none'}")


@app.command()
def verify(tokens: Tokens) -> None:
    """Read every row; prove that each input is done, refused or pending, and that no clip is lost or there twice."""
    _need("pyarrow", "fsspec")
    from videotok.corpus.report import faults, state, text
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    found = list(faults(folder))
    for fault in found:
        print(fault)
    if found:
        raise Refusal(f"{tokens} has {len(found)} faults; the first: {found[0]}")
    print(text(state(folder)), end="")
    for row in folder.errors.to_pylist():
        print(f"{'refused':<18} {row['video_id']}: {row['stage']}: {row['message']}")
    print(f"{tokens} is in order")


@app.command()
def export(
    tokens: Tokens,
    to: Annotated[Literal["webdataset", "ids", "huggingface"], typer.Option(help="Which layout.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="An empty folder.")],
    shard_rows: Annotated[int, typer.Option(min=1, help="Clips, or packed rows, a file.")] = 2048,
    length: Annotated[int, typer.Option(min=2, help="ids: length of a packed row.")] = 4096,
    tokenizer: Annotated[
        str | None, typer.Option(help="ids: folder or hub id of a text tokenizer; without one, captions are left out.")
    ] = None,
    text_size: Annotated[int, typer.Option(min=1, help="ids: ids of text where no tokenizer is given.")] = 32_000,
    motion_quantizers: Annotated[int | None, typer.Option(min=0, help="ids: levels of motion that are told.")] = None,
    interleaved: Annotated[bool, typer.Option(help="ids: motion place after place, not level after level.")] = False,
) -> None:
    """Write a corpus in another layout; equal corpora give equal bytes."""
    _need("pyarrow", "fsspec", *(["webdataset"] if to == "webdataset" else []))
    from videotok.corpus.export import Layout, to_huggingface, to_ids, to_webdataset
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    if to == "webdataset":
        paths = to_webdataset(folder, out, shard_rows)
    elif to == "huggingface":
        paths = to_huggingface(folder, out, shard_rows)
    else:
        layout = Layout(length, text_size, motion_quantizers, interleaved)
        paths = to_ids(folder, out, layout, _text_tokenizer(tokenizer), shard_rows)
    print(f"{out}: {len(paths)} files, {sum(path.stat().st_size for path in paths):,} bytes")


@app.command()
def search(
    tokens: Tokens,
    like: Annotated[Path, typer.Option(help="Any video; its clips are what is looked for.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Clips to show of each kind.")] = 5,
    model: Annotated[str | None, typer.Option(help="Weights the corpus was made with, where not the shipped.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find clips that look, or move, like those of a video, from the codes alone."""
    _need("pyarrow", "fsspec")
    from videotok.corpus.search import Codes, Index, query_rows
    from videotok.corpus.storage import CorpusFolder

    folder = CorpusFolder(tokens)
    facts = folder.facts
    codes = Codes.of(query_rows(like, facts, model), facts["codebooks"])
    found = Index(folder.folder, facts["codebooks"]).nearest(codes, count)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for kind, hits in found.items():
        print(f"by {kind}")
        for hit in hits:
            part = f"{hit['start_seconds']:.1f} to {hit['end_seconds']:.1f} s"
            print(f"  {hit['similarity']:.3f}  {hit['video_id']}  {part}")


def _text_tokenizer(name: str | None):
    if name is None:
        return None
    _need("transformers")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise Refusal(f"cannot load the text tokenizer {name}: {str(error).strip().splitlines()[0]}") from error


def _need(*modules: str) -> None:
    """Refuses where the extra is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Refusal(
                f"videotok corpus needs {module}, which is not installed: pip install 'videotok[corpus]'"
            ) from error


class _display:
    """One line on stderr: videos, clips, tokens a second, times real time, errors, time left. Also where stderr is no
    terminal, every minute."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("videos  {task.description}"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal)

    def __enter__(self):
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None)
        return self.show

    def show(self, run: "Run") -> None:
        words = (
            f"{run.clips:,} clips  {run.tokens / run.seconds:,.0f} tokens/s  "
            f"{run.video_seconds / run.seconds:.1f}x real time  {run.refused:,} errors"
        )
        self._bar.update(self._task, total=run.videos, completed=run.done + run.refused, description=words)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
