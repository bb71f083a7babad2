"""What a video can be read from: a path, bytes, or an open file."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from codec.errors import MediaError

Source = str | Path | bytes | BinaryIO
"""A path, the content of a file, or a file that is open for reading in binary mode."""


@contextmanager
def local_file(source: Source) -> Iterator[Path]:
    """Give the path of a source; bytes and open files are copied to a temporary file, since videos are read by seeking.

    Raises:
        MediaError: the open file cannot be read, or holds text.
    """
    if isinstance(source, str | Path):
        yield Path(source)
        return
    name = source_name(source)
    suffix = Path(name).suffix if name.isprintable() else ""
    with tempfile.NamedTemporaryFile(prefix="videotok-", suffix=suffix) as copy:
        try:
            if isinstance(source, bytes | bytearray | memoryview):
                copy.write(source)
            else:
                shutil.copyfileobj(source, copy)
            copy.flush()
        except (OSError, TypeError, ValueError, AttributeError) as error:
            raise MediaError(
                f"cannot read {name}: {error}; give a path, bytes, or a file opened in binary mode"
            ) from error
        try:
            yield Path(copy.name)
        except MediaError as error:
            raise MediaError(str(error).replace(copy.name, name)) from error


def source_name(source: Source) -> str:
    """Return how a source is named in messages."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<open file>"
