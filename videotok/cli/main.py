"""The `videotok` command."""

import atexit
import gc
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from videotok.cli import corpus, lm, train
from videotok.cli.console import Refusal
from videotok.cli.convert import convert
from videotok.cli.decode import decode
from videotok.cli.demo import demo
from videotok.cli.doctor import doctor
from videotok.cli.encode import encode
from videotok.cli.eval import evaluate
from videotok.cli.info import info
from videotok.cli.inspect import inspect
from videotok.cli.sample import sample
from videotok.errors import printable, shorten
from videotok.threads import sleep_while_waiting

OWN_FAULT, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
CLEANING_SECONDS = 10.0
"""How long further signals are ignored after one that asks the process to end."""
DEBUG = "--debug"

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
app.command()(demo)
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
    debug: Annotated[bool, typer.Option(DEBUG, help="Print the traceback of an error as well.")] = False,
) -> None:
    del show_version, debug  # `main` looks for --debug itself: it may stand anywhere


class Terminated(BaseException):
    """A signal that asks the process to end; raised where it is at work, so that its files are cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; those of the process where None.

    Returns:
        0; 2 where the request or a file is at fault, and 1 where videotok itself is, each with one line on stderr; 130
        after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 where nobody reads the output any more.
    """
    if arguments is None:  # this process is ours alone
        _run_garbage_collector_rarely()
        arguments = sys.argv[1:]
        # training and language models share each operation among all threads, which wait often and not for long
        if arguments[:1] not in (["train"], ["lm"]):
            sleep_while_waiting()
    arguments = list(arguments) or ["--help"]
    is_debug = DEBUG in arguments
    arguments = [argument for argument in arguments if argument != DEBUG] if len(arguments) > 1 else arguments
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        with _signals_raised():
            code = app(args=arguments, prog_name="videotok", standalone_mode=False)
            sys.stdout.flush()
    except BaseException as error:
        if is_debug:
            traceback.print_exc()
        return _report(error)
    code = code if isinstance(code, int) else 0
    return _report(KeyboardInterrupt()) if code == INTERRUPTED else code


def _run_garbage_collector_rarely() -> None:
    """Spare a command the searches for garbage in what libraries make on import, a quarter of its time for one clip."""
    gc.set_threshold(10_000, 20, 100)
    atexit.register(gc.freeze)  # at the end nothing is to be freed


def _open_standard_streams() -> None:
    """Replace standard streams that are closed, as by `>&-`.

    The next file would get the number of one of them, and what libraries print would be written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        setattr(sys, name, os.fdopen(number, mode, closefd=False))


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise `Terminated` when a signal asks the process to end; not for one that is ignored, as under `nohup`.

    Where a library makes another error of it, `Terminated` is raised from that one; where it is lost in a destructor,
    it is raised again.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    received, until = 0, 0.0

    def raise_terminated(number: int, frame: object) -> None:
        nonlocal received, until
        del frame
        if time.monotonic() < until:
            return  # `timeout` sends it twice, and cleaning up takes a moment
        received, until = number, time.monotonic() + CLEANING_SECONDS
        raise Terminated(number)

    def raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal until
        if isinstance(unraisable.exc_value, Terminated):
            until = 0.0
            # not here: this is still a part of the destructor
            main_thread = threading.main_thread().ident
            threading.Timer(0.05, signal.pthread_kill, (main_thread, unraisable.exc_value.number)).start()
        else:
            report_unraisable(unraisable)

    report_unraisable, sys.unraisablehook = sys.unraisablehook, raise_again
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, raise_terminated)
    try:
        yield
    except Exception as error:
        if received:
            raise Terminated(received) from error
        raise
    finally:
        sys.unraisablehook = report_unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(error: BaseException) -> int:
    """Print one line on what ended the command, and return the exit code."""
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, BrokenPipeError):  # Typer exits so when nobody reads its output
            error = error.__context__
        elif error.code == signal.SIGTERM:  # and Ray so at this signal
            error = Terminated(signal.SIGTERM)
    if isinstance(error, BrokenPipeError):
        # nobody reads the output: another write, when Python exits, would fail again
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else OWN_FAULT
    if isinstance(error, KeyboardInterrupt | typer.Abort | Terminated):
        word, code = (error, 128 + error.number) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
        print(f"videotok: {word}; no output is left half written", file=sys.stderr)
        return code
    line = _user_error_line(error)
    code = OWN_FAULT if line is None else BAD_INPUT
    if line is None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = (
            f"a fault of videotok and not of your file: {type(error).__name__}: {shorten(str(error), 200)} "
            f"({Path(where.filename).name}:{where.lineno}); please report it, with what the same command prints with "
            f"{DEBUG}"
        )
    print(f"videotok: {printable(line)}", file=sys.stderr)
    return code


def _user_error_line(error: BaseException) -> str | None:
    """Return one line for an error that the user can mend; None for one of videotok's own."""
    from codec import MediaError  # slow to import: only where it is needed
    from codec.errors import is_out_of_memory
    from videotok.errors import CorpusError, ModelError, TokensError

    if isinstance(error, Refusal | MediaError | TokensError | ModelError | CorpusError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'input or output'}: {error.strerror}"
    if is_out_of_memory(error):
        return "there is not enough memory for this; take a smaller size or batch, or another device"
    if hasattr(error, "format_message"):  # Typer's usage errors; their class has no public name
        return _usage_error_line(error)
    return None


def _usage_error_line(error: BaseException) -> str:
    """Return one line for a usage error of Typer: what is wrong, and where help is."""
    message = error.format_message().rstrip(".") or "name a command"  # type: ignore[attr-defined]
    if hasattr(error.__cause__, "errors"):  # a check by pydantic, whose message does not say what came
        (found, *_) = error.__cause__.errors()  # type: ignore[union-attr]
        message = message.replace("Value error, ", "").replace("Input should", f"{shorten(found['input'])} should")
    context = getattr(error, "ctx", None)
    return f"{message}; see `{context.command_path if context else 'videotok'} --help`"


if __name__ == "__main__":
    sys.exit(main())
