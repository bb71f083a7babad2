"""Read videos in a child process: a decoder that crashes or hangs on a damaged file is one MediaError here.

One child serves one file after another; after a crash or a hang the next file gets a new child. The child is a plain
Python process, not one of `multiprocessing`, whose `spawn` would import the parent's main module again.
"""

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import cv2

from codec.clips import iter_clips
from codec.container import Source, local_file
from codec.errors import MediaError, error_text, is_caused_by_file
from codec.probe import MediaInfo, probe
from codec.types import Clip, ClipSpec

PATIENCE_SECONDS = 120.0
"""A decoder that returns nothing for this long is taken to hang."""


def iter_clips_isolated(
    source: Source, spec: ClipSpec | None = None, *, patience_seconds: float | None = PATIENCE_SECONDS, **options: Any
) -> Iterator[Clip]:
    """Yield the clips of a video that is read in a child process.

    Args:
        source, spec: as for `iter_clips`.
        patience_seconds: how long to wait for a clip; None: until there is one.
        options: keyword arguments of `iter_clips`.

    Raises:
        MediaError: as `iter_clips`; and if the child dies, or returns nothing for `patience_seconds`.
    """
    with local_file(source) as path, SubprocessReader(patience_seconds) as reader:
        yield from reader.run(iter_clips, path, spec, **options)


def probe_isolated(
    source: Source, stream: int | None = None, *, patience_seconds: float = PATIENCE_SECONDS
) -> MediaInfo:
    """Return facts about a video file that is read in a child process; arguments as for `probe`.

    Raises:
        MediaError: as `probe`; and if the child dies, or returns nothing for `patience_seconds`.
    """
    with local_file(source) as path, SubprocessReader(patience_seconds) as reader:
        (info,) = reader.run(_probe_once, path, stream)
        return info


def _probe_once(path: str, stream: int | None) -> Iterator[MediaInfo]:
    yield probe(path, stream)


@dataclass(frozen=True)
class _Item:
    """One result of a function that runs in the child."""

    value: Any


@dataclass(frozen=True)
class _End:
    """The end of a function's results."""

    error: Exception | None = None
    """The exception that ended it."""


class SubprocessReader:
    """Runs functions that read files in a child process, which lives until it fails or is closed.

    Args:
        patience_seconds: how long to wait for a result; None: until there is one.
    """

    def __init__(self, patience_seconds: float | None = PATIENCE_SECONDS) -> None:
        self.patience_seconds = patience_seconds
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None if there is none."""
        return self._child.pid if self._child else None

    def run(
        self, function: Callable[..., Iterable[Any]], path: str | Path, *arguments: Any, **options: Any
    ) -> Iterator[Any]:
        """Yield the results of `function(path, *arguments, **options)`, which runs in the child.

        The child is ended if the caller stops before the last result.

        Args:
            function: a function at the top level of a module, which returns results that can be pickled.
            path: the file to read; its first argument.
            arguments, options: further arguments that can be pickled.

        Raises:
            MediaError: the child dies, or returns nothing for `patience_seconds`.
            Exception: as `function`. Faults that are not the file's have the child's traceback in their notes.
        """
        pipe, is_finished = self._connect(), False
        try:
            pipe.send((function, (str(path), *arguments), options))
            while isinstance(message := self._receive(pipe, path), _Item):
                yield message.value
            is_finished = True
        except (EOFError, OSError) as error:
            code = self._child.wait() if self._child else None
            raise MediaError(
                f"cannot read {path}: its decoder died (exit code {code}); the file may be damaged"
            ) from error
        finally:
            if not is_finished:
                self.close()
        if message.error is not None:
            raise message.error

    def _receive(self, pipe: Connection, path: str | Path) -> _Item | _End:
        if not pipe.poll(self.patience_seconds):
            raise MediaError(
                f"cannot read {path}: its decoder returned nothing for {self.patience_seconds:g} s; "
                "the file may be damaged"
            )
        return pipe.recv()

    def _connect(self) -> Connection:
        """Return the pipe to the child, which is started if there is none."""
        if self._pipe is None or self._child is None or self._child.poll() is not None:
            self.close()
            self._pipe, child_end = Pipe()
            program = f"from codec import subprocess_reader; subprocess_reader.serve({child_end.fileno()})"
            # the child finds the same modules as this process
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            # Ctrl-C in a terminal reaches the child too, which would print a traceback even while Python starts; what a
            # thread blocks stays blocked in the processes that it starts. This process reports it, and ends the child
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-c", program],
                    pass_fds=[child_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            child_end.close()
        return self._pipe

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._pipe = self._child = None

    def __enter__(self) -> "SubprocessReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def serve(handle: int) -> None:
    """Answer requests that arrive on a connection; this is what the child does.

    Args:
        handle: file descriptor of the connection.
    """
    cv2.setNumThreads(1)
    pipe = Connection(handle)
    with suppress(EOFError, OSError):  # the parent has closed the connection
        while True:
            function, arguments, options = pipe.recv()
            pipe.send(_answer(pipe, function, arguments, options))


def _answer(
    pipe: Connection, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...], options: dict[str, Any]
) -> _End:
    """Send the results of a function, and return how it ended."""
    try:
        for value in function(*arguments, **options):
            pipe.send(_Item(value))
    except ConnectionError:  # the parent has closed the connection
        raise
    except Exception as error:
        return _End(_portable(error, arguments[0]))
    return _End()


def _portable(error: Exception, path: str) -> Exception:
    """Return an exception that can be pickled and says as much as `error`."""
    if isinstance(error, MediaError):
        return MediaError(str(error))
    if is_caused_by_file(error):
        return MediaError(f"cannot read {path}: {error_text(error)}; is it a video file, and whole?")
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note("in the child process that reads videos:\n" + "".join(traceback.format_exception(error)))
    return copy
