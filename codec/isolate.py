"""Decoding in a process of its own, for files nobody vouches for: a decoder that dies is one MediaError."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from codec.clips import iter_clips
from codec.errors import MediaError
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
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(there, str(path), spec, options), daemon=True)
    child.start()
    there.close()
    try:
        while (clip := _received(here, child, path, patience_seconds)) is not None:
            yield clip
    finally:
        here.close()
        child.kill()
        child.join()
        child.close()


def _received(pipe: Connection, child: SpawnProcess, path: str | Path, patience: float) -> Clip | None:
    try:
        if not pipe.poll(patience):
            raise MediaError(f"cannot read {path}: no clip for {patience:g} s; the file is damaged")
        message = pipe.recv()
    except (EOFError, OSError) as error:
        child.join()
        how = f"its decoder died (exit code {child.exitcode})"
        raise MediaError(f"cannot read {path}: {how}; the file is damaged") from error
    if isinstance(message, str):
        raise MediaError(message)
    return message


def _serve(pipe: Connection, path: str, spec: ClipSpec | None, options: dict[str, Any]) -> None:
    """Sends clips one by one, None at the end, or the words of a MediaError; waits where they are not taken."""
    try:
        for clip in iter_clips(path, spec, **options):
            pipe.send(clip)
        pipe.send(None)
    except MediaError as error:
        pipe.send(str(error))
    except BrokenPipeError:
        return
