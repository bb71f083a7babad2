"""What the commands share: refusals, outputs and progress bars."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Device = Literal["auto", "cpu", "cuda", "mps"]
DEVICE_HELP = "Where the models run; auto: the fastest device of this machine."
Dtype = Literal["float32", "float64", "float16", "bfloat16"]


class Refusal(Exception):
    """A request that is refused before any work; the message is one line that says why and what to do."""


@contextmanager
def invalid_options_refused() -> Iterator[None]:
    """Turn a ValueError into a Refusal: for the checks of a config, whose messages name the option.

    Raises:
        Refusal: instead of ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise Refusal(str(error)) from error


def progress_bar() -> Progress:
    """Return a progress bar on stderr, counted in seconds of video; it shows nothing where stderr is no terminal."""
    console = Console(stderr=True)
    counted = TextColumn("{task.completed:.1f} / {task.fields[of]} s of video")
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def refuse_unwritable(path: Path, force: bool, *inputs: Path | None) -> None:
    """Refuse an output before the work and not after it.

    Raises:
        Refusal: it is one of the `inputs`, it exists and `force` is not given, it is a folder, or its folder cannot be
            written to.
    """
    if any(path.exists() and source and source.exists() and path.samefile(source) for source in inputs):
        raise Refusal(f"{path} is read by this command; name another output with -o")
    if path.is_dir():
        raise Refusal(f"{path} is a folder; name a file with -o")
    if path.exists() and not force:
        raise Refusal(f"{path} exists; give --force to replace it, or another name with -o")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror}; choose another place with -o") from error


def parse_fps(text: str) -> Fraction:
    """Parse a frame rate such as `12`, `12.5` or `30000/1001`."""
    try:
        fps = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a number of frames a second, such as 12 or 30000/1001") from error
    if fps <= 0:
        raise typer.BadParameter(f"{text!r} must be above 0")
    return fps


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as `256x144`: width and height, both even and at least 32."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, such as 256x144")
    width, height = map(int, sides)
    if width % 2 or height % 2 or min(width, height) < 32:
        raise typer.BadParameter(f"{text!r}: both sides must be even and at least 32")
    return width, height
