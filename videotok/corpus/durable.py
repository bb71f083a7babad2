"""Files that are there whole or not at all, also after a power cut: written beside their place, flushed, renamed."""

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from codec import replacing


def write_bytes(path: Path, data: bytes) -> None:
    """Puts `data` at `path`. When this returns, neither a kill nor a power cut takes it away again.

    Raises:
        OSError: no space left, no permission; what stood at `path` before is untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def write_table(path: Path, table: pa.Table) -> None:
    """Puts a table at `path` as Parquet. Equal tables give equal bytes. Raises as `write_bytes`."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def remove(path: Path) -> None:
    """Takes a file away for good."""
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is kept by the disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
