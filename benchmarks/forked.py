"""Call functions in forked processes: a crash, a hang or much memory is an outcome, and what is imported stays so."""

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from resource import RLIMIT_CPU, setrlimit
from signal import SIGXCPU
from threading import Timer

REFUSED = 2
"""Exit code for a request or a file at fault."""


@dataclass(frozen=True)
class Outcome:
    """How a function ended."""

    name: str
    """`done` (exit code 0), `refused` (exit code 2 and one printable line), `fault` (any other exit code, or more than
    one line), `crash` (a signal) or `hang`."""
    message: str
    """What the process wrote to standard error; the last 4,000 characters."""
    seconds: float
    """Of CPU, child processes included."""
    megabytes: float
    """Peak memory of the process."""

    @property
    def is_good(self) -> bool:
        """Whether the function did its work or refused it in one line."""
        return self.name in ("done", "refused")


def run_forked(function: Callable[[], int], timeout: float) -> Outcome:
    """Call a function in a forked process, in a process group of its own that ends with it.

    Args:
        function: returns an exit code. What it prints to standard output is lost.
        timeout: seconds of CPU time after which it counts as a hang; and so does a tenfold of it on the clock, since
            the machine may be busy.
    """
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            setrlimit(RLIMIT_CPU, (ceil(timeout), ceil(timeout) + 1))
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(errors.fileno(), 2)
            os._exit(_exit_code(function))
        began = time.monotonic()
        timer = Timer(10 * timeout, _kill, (child,))
        timer.start()
        _, status, usage = os.wait4(child, 0)
        timer.cancel()
        is_late = time.monotonic() - began >= 10 * timeout or os.waitstatus_to_exitcode(status) == -SIGXCPU
        errors.seek(0)
        message = errors.read().decode(errors="replace").removesuffix("\n")
    name = "hang" if is_late else _outcome_name(os.waitstatus_to_exitcode(status), message)
    return Outcome(name, message[-4000:], usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, 9)


def _outcome_name(code: int, message: str) -> str:
    if code < 0:
        return "crash"
    if "Traceback" in message:
        return "fault"
    if code == REFUSED:
        return "refused" if message.isprintable() else "fault"
    return "fault" if code else "done"


def _exit_code(function: Callable[[], int]) -> int:
    try:
        return function()
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
        return 1
