"""What the commands share: refusals, printed lines, checks of outputs, and progress bars."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videotok.errors import printable, shorten

URL_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]", re.IGNORECASE)
"""A URL after it was taken for a path, which has no double slashes."""
OTHER_FLAGS = {
    "start_seconds": "start",
    "duration_seconds": "duration",
    "num_inference_steps": "steps",
    "widths": "refiner-widths",
    "blocks": "refiner-blocks",
}
"""Options of Python whose flags have other names on the command line."""


class Refusal(Exception):
    """A request that is refused before any work; the message is one line that says why and what to do."""


@contextmanager
def invalid_options_refused() -> Iterator[None]:
    """Turn a ValueError into a Refusal: for the checks of a config, whose messages name the option as `option`.

    Raises:
        Refusal: instead of ValueError; it names the flag, --option.
    """
    try:
        yield
    except ValueError as error:
        raise Refusal(re.sub(r"`([a-z_]+)`", lambda found: _flag(found[1]), str(error))) from error


def _flag(option: str) -> str:
    return "--" + OTHER_FLAGS.get(option, option).replace("_", "-")


def counted(number: int, noun: str) -> str:
    """Return a number and what is counted, as `1 clip`, `2 clips` or `2 patches`."""
    plural = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{plural}"


def print_line(text: str) -> None:
    """Print a line on stdout; control characters, in the names of files or in a file's own text, are escaped."""
    print(printable(text), flush=True)


def print_lines(text: str) -> None:
    """Print lines on stdout as `print_line` does."""
    for line in text.removesuffix("\n").split("\n"):
        print_line(line)


def print_note(message: str) -> None:
    """Print a line on stderr that is no error; nothing where the message is empty."""
    if message:
        print(f"videotok: {printable(message)}", file=sys.stderr)


def progress_bar() -> Progress:
    """Return a progress bar on stderr, counted in seconds of video; it shows nothing where stderr is no terminal."""
    console = Console(stderr=True)
    # names of files may look like markup
    described = TextColumn("{task.description}", markup=False)
    counted = TextColumn("{task.completed:.1f} / {task.fields[of]} s of video")
    columns = (described, BarColumn(), counted, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def step_progress(unit: str, console: Console) -> Progress:
    """Return a progress bar that counts in a unit such as `steps`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def training_report(progress: Progress, steps: int) -> Callable[[int, dict[str, float]], None]:
    """Add a bar of training steps, and return what the trainer reports to: it moves the bar and prints validations."""
    bar = progress.add_task("train", total=steps)

    def report(step: int, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        progress.update(bar, completed=step, description=shown)
        if any(name.startswith("validation") for name in figures):
            progress.console.print(f"step {step}: {shown}", highlight=False)

    return report


def refuse_unwritable(path: Path, force: bool, *inputs: str | Path | None) -> None:
    """Refuse an output before the work and not after it.

    A device or FIFO needs no `force`: it is written to and not replaced.

    Raises:
        Refusal: it is one of the `inputs`, it exists and `force` is not given, it is a folder, its name is too long, or
            its folder cannot be written to.
    """
    from codec import MediaError, check_writable

    if URL_PATH.match(str(path)) and not path.parent.exists():
        raise Refusal(f"{path} is a URL; outputs are written to local files, name one")
    try:
        check_writable(path)
    except MediaError as error:
        raise Refusal(str(error)) from error
    if not path.is_file():
        return
    if any(_is_same_file(path, Path(source)) for source in inputs if source):
        raise Refusal(f"{path} is read by this command; name another output")
    if not force:
        raise Refusal(f"{path} exists; give --force to replace it, or name another output")


def beside(path: Path, ending: str) -> Path:
    """Return the name of an output beside an input: its own without suffix, followed by `ending`.

    Raises:
        Refusal: the input is a folder.
    """
    if path.is_dir():
        raise Refusal(f"{path} is a folder; name a file")
    return path.with_name(f"{path.stem}{ending}")


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except (OSError, ValueError):  # there is no such file
        return False


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size such as `256x144`: width and height, both even and at least 32."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and len(side) <= 6 for side in sides):
        raise typer.BadParameter(f"size {shorten(text)} is not WIDTHxHEIGHT, such as 256x144")
    width, height = map(int, sides)
    if width % 2 or height % 2 or min(width, height) < 32:
        raise typer.BadParameter(f"size {text!r}: both sides must be even and at least 32")
    return width, height
