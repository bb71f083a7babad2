"""Write output files atomically: a reader sees the whole file or none. Devices and FIFOs are never replaced."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.errors import MediaError

MAX_SUFFIX = 16
"""Characters of a suffix that the temporary file has too; longer ones select no format."""


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    On any error the temporary file is removed and `path` stays as it was. A symbolic link is followed: the file that it
    names is replaced, not the link. A FIFO or character device, such as /dev/null, stays in place: the temporary file
    is in the system's folder for these, and its content is written to the device at the end.

    Args:
        path: the file to write. The temporary file has the same suffix.
        durable: flush the file and its folder to disk (fsync), so that the file survives a power failure once the
            block has ended.

    Raises:
        MediaError: `path` cannot be written to; see `check_writable`.
    """
    named = Path(path)
    is_stream = _is_stream(named)
    target = named if is_stream else _follow_links(named)
    temporary = _make_temporary(target, Path(tempfile.gettempdir()) if is_stream else target.parent)
    try:
        yield temporary
        if is_stream:
            _copy(temporary, target)
        else:
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


def check_writable(path: str | Path) -> None:
    """Check, before the work, that `atomic_path` can write a file.

    Raises:
        MediaError: `path` is a folder, a socket or a disk, its name is too long, or its folder does not exist or cannot
            be written to.
    """
    target = Path(path)
    if _is_stream(target):
        if not os.access(target, os.W_OK):
            raise MediaError(f"cannot write {target}: permission denied; choose another output")
        return
    target = _follow_links(target)
    _make_temporary(target, target.parent).unlink()


def _is_stream(path: Path) -> bool:
    """Return whether something is written to as it is: a FIFO or a character device.

    Raises:
        MediaError: there is something that no file can be written to, or the name is not possible.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise _write_error(path, error) from error
    for is_kind, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk")):
        if is_kind(mode):
            raise MediaError(f"cannot write {path}: it is {name}; name a file")
    return not stat.S_ISREG(mode)


def _follow_links(path: Path) -> Path:
    """Return the file that a path names after all symbolic links, which may not exist.

    Raises:
        MediaError: the links lead in a circle.
    """
    try:
        return Path(os.path.realpath(path)) if path.is_symlink() else path
    except (OSError, RuntimeError) as error:
        raise _write_error(path, error) from error


def _make_temporary(target: Path, folder: Path) -> Path:
    """Create an empty file of a short name in ASCII, whatever the target's: names have at most 255 bytes.

    Raises:
        MediaError: it cannot be created, or the target's name is too long.
    """
    stem = "".join(character for character in target.stem[:32] if character.isascii() and character.isprintable())
    suffix = target.suffix if len(target.suffix) <= MAX_SUFFIX and target.suffix.isascii() else ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=suffix, dir=folder)
    except (OSError, ValueError) as error:
        raise _write_error(target, error) from error
    os.close(handle)
    return Path(name)


def _copy(source: Path, target: Path) -> None:
    """Write a file to a FIFO or a device.

    Raises:
        MediaError: the device refuses it.
    """
    try:
        with source.open("rb") as content, target.open("wb") as device:
            shutil.copyfileobj(content, device)
    except OSError as error:
        raise _write_error(target, error) from error


def _write_error(path: Path, error: Exception) -> MediaError:
    reason = error.strerror if isinstance(error, OSError) else None
    return MediaError(f"cannot write {path}: {reason or error}; choose another place or name for the output")


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
