"""The `videotok` command."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from videotok.cli import corpus, lm, train
from videotok.cli.console import Refusal
from videotok.cli.convert import convert
from videotok.cli.decode import decode
from videotok.cli.doctor import doctor
from videotok.cli.encode import encode
from videotok.cli.eval import evaluate
from videotok.cli.info import info
from videotok.cli.inspect import inspect
from videotok.cli.sample import sample

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Video as a short sequence of discrete tokens, and back.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(encode)
app.command()(decode)
app.command()(info)
app.command()(inspect)
app.command()(convert)
app.command()(sample)
app.command(name="eval")(evaluate)
app.command()(doctor)
app.add_typer(train.app, name="train")
app.add_typer(lm.app, name="lm")
app.add_typer(corpus.app, name="corpus")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"videotok {version('videotok')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del show_version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; those of the process where None.

    Returns:
        0; 2 where the request or a file is at fault, with one line on stderr that says how; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(args=arguments, prog_name="videotok", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        line = _user_error_line(error)
        if line is None:
            raise
        print(f"videotok: {line}", file=sys.stderr)
        return BAD_INPUT
    code = code if isinstance(code, int) else 0
    if code == INTERRUPTED:
        print("videotok: interrupted; no output is left half written", file=sys.stderr)
    return code


def _user_error_line(error: Exception) -> str | None:
    """Return one line for an error that the user can mend; None for one of videotok's own."""
    from codec import MediaError  # slow to import: only where it is needed
    from videotok.errors import CorpusError, ModelError, TokensError

    if isinstance(error, Refusal | MediaError | TokensError | ModelError | CorpusError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'input or output'}: {error.strerror}"
    if hasattr(error, "format_message"):  # Typer's usage errors; their class has no public name
        return f"{error.format_message()} See `videotok --help`."  # type: ignore[attr-defined]
    return None


if __name__ == "__main__":
    sys.exit(main())
