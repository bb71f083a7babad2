"""A corpus in other people's layouts: WebDataset tar shards, and a folder that Hugging Face `datasets` knows."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from videotok.corpus import durable
from videotok.corpus.folder import CorpusFolder
from videotok.corpus.ordered import ordered_rows
from videotok.corpus.schema import VERSION
from videotok.corpus.shards import held
from videotok.errors import CorpusError

ARRAYS = {"visual_ids": np.int32, "keep_mask": np.bool_, "motion_ids": np.int32, "camera_ids": np.int32}
"""Columns that become .npy files, and their types."""


def to_webdataset(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """Tar shards with a sample a clip, its key `<video>-<clip>`: .npy files of the ids, everything else as .json.

    Equal corpora give equal bytes: clips in order of `video_id`, no times and no owners in the archive.

    Raises:
        CorpusError: there is no corpus, nothing in it, or `out` is not empty.
    """
    from webdataset.writer import TarWriter

    paths, numbers = [], _Numbers()
    for number, rows in enumerate(ordered_rows(ready(folder, out), shard_rows)):
        buffer = io.BytesIO()
        with TarWriter(buffer, user="", group="", mtime=0.0, encoder=False) as writer:
            for row in rows.to_pylist():
                key = f"{numbers.of(row['video_id']):08d}-{row['clip']:05d}"
                writer.write({"__key__": key} | _files(row))
        paths.append(out / f"clips-{number:05d}.tar")
        durable.write_bytes(paths[-1], buffer.getvalue())
    return paths


def to_huggingface(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """A folder for `datasets.load_dataset(out)`: Parquet in order of `video_id`, and a card that names the columns.

    Raises:
        CorpusError: there is no corpus, nothing in it, or `out` is not empty.
    """
    place = ready(folder, out)
    total = sum(1 for _ in ordered_rows(place, shard_rows))
    (out / "data").mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(ordered_rows(place, shard_rows)):
        paths.append(out / "data" / f"train-{number:05d}-of-{total:05d}.parquet")
        durable.write_table(paths[-1], rows)
    durable.write_bytes(out / "README.md", _card(folder).encode())
    return paths


def ready(folder: CorpusFolder, out: Path) -> Path:
    """Refuses what would give nothing, or mix with something."""
    folder.facts  # noqa: B018 (refuses what is no corpus)
    found = held(folder.folder)
    if not len(found.whole):
        raise CorpusError(f"{folder.folder} has no clips yet; `videotok corpus encode` makes some")
    if len(found.broken):
        raise CorpusError(f"{folder.folder} is not in order; `videotok corpus verify` says why")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot write {out}: {error.strerror}; choose another place with --out") from error
    if any(out.iterdir()):
        raise CorpusError(f"{out} is not empty; choose another folder with --out")
    return folder.folder


class _Numbers:
    """Videos numbered as they come; only the last one is asked for again."""

    def __init__(self) -> None:
        self._number, self._video = -1, None

    def of(self, video: str) -> int:
        if video != self._video:
            self._number, self._video = self._number + 1, video
        return self._number


def _files(row: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, kind in ARRAYS.items():
        buffer = io.BytesIO()
        np.save(buffer, np.array(row.pop(name), kind), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return files | {"json": json.dumps(row, sort_keys=True, default=str).encode()}


def _card(folder: CorpusFolder) -> str:
    facts, schema = folder.facts, folder.schema
    columns = "\n".join(f"| `{field.name}` | {field.type} |" for field in schema)
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n\n"
        f"Tokens of videos, one row a clip, in order of `video_id` and `clip` (videotok corpus, schema {VERSION}).\n\n"
        f"| column | type |\n|---|---|\n{columns}\n\n"
        f"Ids run from 0 in each codebook: {json.dumps(facts['codebooks'])}. They were made with\n\n"
        f"```json\n{json.dumps(facts['fingerprint'], indent=2)}\n```\n"
    )
