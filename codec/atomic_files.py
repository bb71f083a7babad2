"""Write output files atomically: a reader sees the whole file or none."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.errors import MediaError


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    On any error the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to write. The temporary file has the same suffix.
        durable: flush the file and its folder to disk (fsync), so that the file survives a power failure once the
            block has ended.

    Raises:
        MediaError: the folder of `path` does not exist or cannot be written to.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise MediaError(f"cannot write {target}: {error.strerror}; choose another folder for the output") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; an output has the permissions of any new file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if durable:
            sync_to_disk(temporary)
        temporary.replace(target)
        if durable:
            sync_to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
