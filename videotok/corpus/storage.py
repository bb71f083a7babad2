"""The folder of a corpus on disk.

    tokens/
      corpus.json                schema version, fingerprint, codebooks, where the videos came from
      inputs.parquet             every video that was asked for
      clips/part-00000.parquet   a full shard: shard_rows rows, never written again
      clips/part-00001.parquet   the open shard: written anew, whole, at every commit, until it is full
      errors.parquet             videos that were refused, and why
      report.json, report.txt

The shards alone say which videos are done; there is no other journal. A video may lie across the end of a shard. A job
that was killed between two writes leaves the first part of such a video: `repair` removes it, and it is encoded again.

Every file is written atomically and flushed to disk, so that neither a kill nor a power failure leaves half a file.
"""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codec import atomic_path
from codec.atomic_files import sync_to_disk
from videotok.corpus.schema import (
    CLIP_COLUMNS,
    ERRORS,
    INPUTS,
    METADATA_FINGERPRINT,
    METADATA_FINGERPRINT_SHA256,
    METADATA_VERSION,
    READABLE_VERSIONS,
    VERSION,
    clip_schema,
    names_on_disk,
    schema_version,
    with_todays_names,
)
from videotok.corpus.settings import Fingerprint
from videotok.errors import CorpusError
from videotok.io_utils import read_json, write_json
from videotok.vtok import current_codebooks

NUM_CACHED_SHARDS = 16
"""Shards kept in memory while clips are read in order. Clips next to each other lie in nearby shards."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably: once this has returned, a power failure does not lose it.

    Raises:
        OSError: no space left; what was at `path` before is unchanged.
    """
    with atomic_path(path, durable=True) as temporary:
        temporary.write_bytes(data)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet, as `write_bytes` does; equal tables give equal bytes."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(path, buffer.getvalue().to_pybytes())


def remove(path: Path) -> None:
    """Remove a file if it exists, durably."""
    path.unlink(missing_ok=True)
    sync_to_disk(path.parent)


def shard_paths(folder: Path) -> list[Path]:
    """Return the shards of a corpus, in order."""
    return sorted((folder / "clips").glob("part-*.parquet"))


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard, counted from 0."""
    return folder / "clips" / f"part-{number:05d}.parquet"


def read_shard(path: Path, columns: list[str] | None = None, *, check: bool = True) -> pa.Table:
    """Return a shard, or some of its columns, under today's names.

    Args:
        path: the shard.
        columns: names of columns; all if None.
        check: refuse columns that are not as videotok writes them.

    Raises:
        CorpusError: it cannot be read, or is refused.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            version = schema_version(file.schema_arrow.metadata)
            table = file.read(None if columns is None else names_on_disk(columns, version))
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it and encode again: only its videos are read "
            "once more"
        ) from error
    table = with_todays_names(table, version)
    if check:
        _check_columns(path, table, columns)
    return table


def _check_columns(path: Path, table: pa.Table, columns: list[str] | None) -> None:
    """Check that the columns that videotok writes, or those of `columns`, are as it writes them.

    Raises:
        CorpusError: one is missing, has another type, or has no values where it must have some.
    """
    for field in CLIP_COLUMNS:
        if columns is not None and field.name not in columns:
            continue
        if field.name not in table.column_names:
            fault = "is missing"
        elif table.schema.field(field.name).type != field.type:
            fault = f"is {table.schema.field(field.name).type}, it must be {field.type}"
        elif not field.nullable and table[field.name].null_count:
            fault = "lacks values"
        else:
            continue
        raise CorpusError(
            f"{path} is damaged, or no shard of videotok: its column `{field.name}` {fault}; delete it and encode again"
        )


def shard_fingerprint(path: Path) -> str | None:
    """Return the sha256 of the fingerprint that a shard was written with; None if it has none.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path} is damaged ({' '.join(str(error).split())}); delete it and encode again") from error
    return metadata.get(METADATA_FINGERPRINT_SHA256.encode(), b"").decode() or None


@dataclass(frozen=True)
class StoredVideos:
    """The videos in the shards of a corpus."""

    complete: pa.Array
    """string: ids of the videos that have every clip once."""
    incomplete: pa.Array
    """string: ids of the others."""


def find_stored_videos(folder: Path) -> StoredVideos:
    """Return which videos are in the shards, from ids and clip numbers alone."""
    rows = [read_shard(path, ["video_id", "clip", "clips"]) for path in shard_paths(folder)]
    if not rows:
        return StoredVideos(pa.array([], pa.string()), pa.array([], pa.string()))
    counts = ("count", "count_distinct", "min", "max")
    wanted = [("clip", count) for count in counts] + [("clips", "min"), ("clips", "max")]
    videos = pa.concat_tables(rows).group_by("video_id").aggregate(wanted)
    clips = videos["clips_max"]
    checks = [
        pc.equal(videos["clips_min"], clips),
        pc.equal(videos["clip_count"], clips),
        pc.equal(videos["clip_count_distinct"], clips),
        pc.equal(videos["clip_min"], 0),
        pc.equal(videos["clip_max"], pc.subtract(clips, 1)),
    ]
    is_complete = reduce(pc.and_, checks).combine_chunks()
    ids = videos["video_id"].combine_chunks()
    return StoredVideos(ids.filter(is_complete), ids.filter(pc.invert(is_complete)))


def repair(folder: Path, fingerprint: str) -> StoredVideos:
    """Remove what a killed job has left: temporary files, shards of another fingerprint, incomplete videos.

    Args:
        folder: of the corpus.
        fingerprint: sha256 of the corpus' fingerprint.

    Returns:
        What is stored now: complete videos only.
    """
    for temporary in (folder / "clips").glob(".part-*"):
        remove(temporary)
    for path in shard_paths(folder):
        if shard_fingerprint(path) != fingerprint:  # from before a job that overwrites, and that was killed
            remove(path)
    stored = find_stored_videos(folder)
    if len(stored.incomplete):
        for path in shard_paths(folder):
            table = read_shard(path)
            kept = table.filter(pc.invert(pc.is_in(table["video_id"], stored.incomplete)))
            if not kept.num_rows:
                remove(path)
            elif kept.num_rows < table.num_rows:
                write_table(path, kept)
    return StoredVideos(stored.complete, stored.incomplete.slice(0, 0))


class ShardWriter:
    """Writes complete videos to shards.

    Args:
        folder: of a corpus after `repair`.
        shard_rows: rows of a full shard.
        schema: of the rows.
    """

    def __init__(self, folder: Path, shard_rows: int, schema: pa.Schema) -> None:
        self._folder, self._shard_rows, self._schema = folder, shard_rows, schema
        self._open_rows: list[pa.Table] = []
        self._number, self._is_changed = 0, False
        if paths := shard_paths(folder):
            self._number = int(paths[-1].stem.removeprefix("part-"))
            last = read_shard(paths[-1])
            if last.num_rows < shard_rows:
                self._open_rows = [last.cast(schema)]
            else:
                self._number += 1

    def add(self, video: pa.Table) -> None:
        """Add all clips of a video. Full shards are written at once, other rows at the next `commit`."""
        self._open_rows.append(video.select(self._schema.names).cast(self._schema))
        self._is_changed = True
        if sum(table.num_rows for table in self._open_rows) >= self._shard_rows:
            self.commit()

    def commit(self) -> None:
        """Write what was added since the last commit, durably."""
        if not self._is_changed:
            return
        rows = pa.concat_tables(self._open_rows).combine_chunks()
        while rows.num_rows:
            part = rows.slice(0, self._shard_rows)
            write_table(shard_path(self._folder, self._number), part)
            if part.num_rows < self._shard_rows:
                break
            self._number += 1
            rows = rows.slice(self._shard_rows)
        self._open_rows = [rows] if rows.num_rows else []
        self._is_changed = False


class CorpusFolder:
    """Reads and writes the files beside the shards.

    All that reads raises:
        CorpusError: there is no corpus, one of a newer version, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether there is a corpus."""
        return (self.folder / "corpus.json").is_file()

    @property
    def facts(self) -> dict[str, Any]:
        """What corpus.json says, with codebooks under today's names."""
        path = self.folder / "corpus.json"
        if not self.exists:
            raise CorpusError(f"{self.folder} is no corpus: it has no corpus.json; `videotok corpus encode` makes one")
        try:
            facts = read_json(path)
            version = facts["schema"]
            codebooks = current_codebooks(facts["codebooks"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
        if version not in READABLE_VERSIONS:
            raise CorpusError(
                f"{self.folder} has schema {version}, this videotok reads {', '.join(map(str, READABLE_VERSIONS))}; "
                "update videotok"
            )
        return facts | {"codebooks": codebooks}

    @property
    def fingerprint(self) -> Fingerprint:
        """What the tokens of the corpus depend on."""
        return Fingerprint(self.facts["fingerprint"])

    @property
    def inputs(self) -> pa.Table:
        """Every video that was asked for; see `manifest.read_inputs`."""
        return self._read_table("inputs.parquet", INPUTS)

    @property
    def errors(self) -> pa.Table:
        """The videos that were refused; columns of `schema.ERRORS`."""
        return self._read_table("errors.parquet", ERRORS)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the shards as they are written, with metadata."""
        fingerprint = self.fingerprint
        metadata = {
            METADATA_VERSION: str(VERSION),
            METADATA_FINGERPRINT: fingerprint.text,
            METADATA_FINGERPRINT_SHA256: fingerprint.sha256,
        }
        return clip_schema(self.inputs.schema, metadata)

    def begin(self, facts: dict[str, Any]) -> None:
        """Make the folder, or begin it anew: nothing that was in it counts any more.

        Raises:
            CorpusError: the folder cannot be made.
        """
        try:
            (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorpusError(f"cannot write {self.folder}: {error.strerror}; choose another place") from error
        for name in ("errors.parquet", "inputs.parquet"):
            remove(self.folder / name)
        write_json(self.folder / "corpus.json", {"schema": VERSION} | facts, durable=True)
        # if the job is killed here, the next one recognizes old shards by their fingerprint
        for path in shard_paths(self.folder):
            remove(path)

    def write_inputs(self, inputs: pa.Table) -> None:
        """Write the videos that are asked for."""
        write_table(self.folder / "inputs.parquet", inputs)

    def write_errors(self, errors: pa.Table) -> None:
        """Write the videos that were refused."""
        write_table(self.folder / "errors.parquet", errors.sort_by("video_id"))

    def write_report(self, facts: dict[str, Any], text: str) -> None:
        """Write the report of a job, for programs and for people."""
        write_json(self.folder / "report.json", facts, durable=True)
        write_bytes(self.folder / "report.txt", text.encode())

    @property
    def is_being_written(self) -> bool:
        """Whether a job of this machine is writing here."""
        try:
            with self.locked():
                return False
        except CorpusError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other jobs out. The lock ends with the process, however that ends.

        Raises:
            CorpusError: another job is writing here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CorpusError(
                    f"{self.folder} is being written by another job; wait for it, or choose another folder"
                ) from error
            yield

    def _read_table(self, name: str, schema: pa.Schema) -> pa.Table:
        path = self.folder / name
        if not path.exists():
            return schema.empty_table()
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{path} is damaged ({' '.join(str(error).split())})") from error


def ordered_rows(folder: Path, rows: int) -> Iterator[pa.Table]:
    """Yield all clips by `video_id` and `clip`, `rows` at a time, however a job happened to store them.

    Equal corpora give equal tables.

    Raises:
        CorpusError: a shard cannot be read.
    """
    paths = shard_paths(folder)
    read = lru_cache(NUM_CACHED_SHARDS)(read_shard)
    order = _clip_order(paths)
    for first in range(0, len(order), rows):
        wanted = order[first : first + rows]
        tables, positions = [], []
        for shard in np.unique(wanted[:, 0]):
            of_shard = np.flatnonzero(wanted[:, 0] == shard)
            tables.append(read(paths[shard]).take(pa.array(wanted[of_shard, 1])))
            positions.append(of_shard)
        inverse = np.argsort(np.concatenate(positions))
        yield pa.concat_tables(tables).take(pa.array(inverse)).combine_chunks()


def ordered_videos(folder: Path, rows: int = 2048) -> Iterator[pa.Table]:
    """Yield all clips by `video_id` and `clip`, one video at a time; `rows` clips are read at a time."""
    pending: list[pa.Table] = []
    for table in ordered_rows(folder, rows):
        ids = table["video_id"].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if pending and pending[0]["video_id"][0].as_py() != ids[start]:
                yield pa.concat_tables(pending).combine_chunks()
                pending = []
            pending.append(table.slice(start, end - start))
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _clip_order(paths: list[Path]) -> np.ndarray:
    """Return shard and row of every clip in order, int64 [clips, 2]."""
    keys = []
    for number, path in enumerate(paths):
        table = read_shard(path, ["video_id", "clip"])
        table = table.append_column("shard", pa.array(np.full(table.num_rows, number)))
        keys.append(table.append_column("row", pa.array(np.arange(table.num_rows))))
    if not keys:
        return np.zeros((0, 2), np.int64)
    table = pa.concat_tables(keys).sort_by([("video_id", "ascending"), ("clip", "ascending")])
    return np.stack([table["shard"].to_numpy(), table["row"].to_numpy()], axis=1)
