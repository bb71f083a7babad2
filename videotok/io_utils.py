"""Files: sha256 of files and of weights, and JSON that is written whole or not at all."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codec import atomic_path
from videotok.errors import ModelError

ORIGIN = "source.json"
"""File beside converted weights with the sha256 of the published ones, which identifies their ids."""


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Return the sha256 of files as if they were one, in the given order.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """Return the sha256 that identifies the weights of a folder: of its safetensors files, or of the published files
    that they were converted from.

    Raises:
        ModelError: there are no weights.
    """
    if (folder / ORIGIN).is_file():
        return read_json(folder / ORIGIN)["sha256"]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"no weights in {folder}: there is no .safetensors file")
    return sha256_of_files(files)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path.name} nests too deeply") from error


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write a value as an indented JSON file, whole or not at all.

    Args:
        path: the file; replaced where it exists.
        value: plain values.
        durable: the file survives a power cut once this has returned.

    Raises:
        MediaError: the place cannot be written to.
    """
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
