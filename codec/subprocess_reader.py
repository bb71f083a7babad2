"""Decoding in a process of its own, for files nobody vouches for: a decoder that dies is one MediaError."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from codec.clips import iter_clips
from codec.errors import MediaError
from codec.probe import MediaInfo, probe
from codec.types import Clip, ClipSpec

PATIENCE_SECONDS = 120.0
"""Longer without a clip is a decoder that hangs."""


def iter_clips_isolated(
    path: str | Path, spec: ClipSpec | None = None, *, patience_seconds: float = PATIENCE_SECONDS, **options: Any
) -> Iterator[Clip]:
    """`iter_clips` in a child process.

    The child is started anew (spawned), so a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        path: any file FFmpeg reads.
        spec: as for `iter_clips`.
        patience_seconds: how long to wait for a clip.
        options: as for `iter_clips`.

    Raises:
        MediaError: as `iter_clips`; and where the child died, or gave nothing for `patience_seconds`.
    """
    return _from_apart(path, patience_seconds, iter_clips, str(path), spec, **options)


def probe_isolated(path: str | Path, *, patience_seconds: float = PATIENCE_SECONDS) -> MediaInfo:
    """`probe` in a child process, as `iter_clips_isolated`.

    Raises:
        MediaError: as `probe`; and where the child died, or gave nothing for `patience_seconds`.
    """
    (facts,) = _from_apart(path, patience_seconds, _probed, str(path))
    return facts


def _probed(path: str) -> Iterator[MediaInfo]:
    yield probe(path)


def _from_apart(
    path: str | Path, patience: float, made: Callable[..., Iterable[Any]], *arguments: Any, **options: Any
) -> Iterator[Any]:
    """What `made` gives in a child process, one thing after another."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(there, made, arguments, options), daemon=True)
    child.start()
    there.close()
    try:
        while (item := _received(here, child, path, patience)) is not None:
            yield item
    finally:
        here.close()
        child.kill()
        child.join()
        child.close()


def _received(pipe: Connection, child: SpawnProcess, path: str | Path, patience: float) -> Any:
    try:
        if not pipe.poll(patience):
            raise MediaError(f"cannot read {path}: nothing came for {patience:g} s; the file is damaged")
        message = pipe.recv()
    except (EOFError, OSError) as error:
        child.join()
        how = f"its decoder died (exit code {child.exitcode})"
        raise MediaError(f"cannot read {path}: {how}; the file is damaged") from error
    if isinstance(message, str):
        raise MediaError(message)
    return message


def _serve(
    pipe: Connection, made: Callable[..., Iterable[Any]], arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Sends things one by one, None at the end, or the words of a MediaError; waits where they are not taken."""
    try:
        for item in made(*arguments, **options):
            pipe.send(item)
        pipe.send(None)
    except MediaError as error:
        pipe.send(str(error))
    except BrokenPipeError:
        return
