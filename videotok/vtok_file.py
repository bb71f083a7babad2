"""Open a .vtok file: a safetensors file whose metadata have one entry, JSON that says what the arrays mean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from codec import MediaError, probe
from videotok.errors import TokensError
from videotok.text import one_line, shorten
from videotok.vtok_checks import StoredArray, parse_header

FORMAT = 3
"""Raised whenever an older reader would misread a file."""
HEADER = "videotok"
"""Key of the JSON in the safetensors metadata. One key only: the order of several is not fixed."""


def is_vtok(path: str | Path) -> bool:
    """Return whether a file begins as a .vtok file does, whatever its name: with the header of a safetensors file."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    return brace == b"{" and 2 <= length <= path.stat().st_size - 8


@dataclass(frozen=True)
class VtokFile:
    """A .vtok file whose header has been read."""

    version: int
    header: dict[str, Any]
    arrays: dict[str, StoredArray]
    """By the names in the file."""
    load: Callable[[str], np.ndarray]
    """Reads an array."""


@contextmanager
def open_vtok(path: Path) -> Iterator[VtokFile]:
    """Open a .vtok file; a ValueError in the block becomes a TokensError that calls the file damaged.

    Raises:
        TokensError: not a .vtok file, a newer format, or a header that is not JSON.
    """
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "it is not a regular file" if path.exists() else "no such file"
        raise TokensError(f"cannot read {path}: {problem}; `videotok encode` makes a .vtok file")
    try:
        opened = safe_open(path, framework="numpy")
    except (SafetensorError, OSError, ValueError) as error:
        raise TokensError(_not_vtok_message(path, error)) from error
    with opened as file:
        text = (file.metadata() or {}).get(HEADER)
        if text is None:
            raise TokensError(f"{path} is a safetensors file, but not a .vtok: its header has no entry {HEADER!r}")
        try:
            header = parse_header(text)
            version = header.get("format")
            if type(version) is not int or not 1 <= version <= FORMAT:
                raise TokensError(
                    f"{path} has format {shorten(version)}, this videotok reads formats 1 to {FORMAT}; "
                    "update videotok, or encode the video again"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            arrays = {name: StoredArray(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            yield VtokFile(version, header, arrays, file.get_tensor)
        except (ValueError, SafetensorError) as error:
            raise TokensError(
                f"{path} is damaged: {one_line(error)}; copy it again, or encode the video again"
            ) from error


def _not_vtok_message(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that is not in safetensors form: it may be a video."""
    try:
        info = probe(path)
    except MediaError:
        return f"{path} is not a .vtok file, or it is cut short or damaged ({one_line(error)}); encode the video again"
    return f"{path} is a video ({info.codec}, {info.width}x{info.height}), not a .vtok file; encode it first"
