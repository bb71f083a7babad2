"""The columns of a corpus, and their version (docs/corpus.md).

Files that are there whole or not at all, also after a power cut: written beside their place, flushed, renamed.

Shards: the Parquet files that hold the clips. They alone say which videos are done; there is no other journal.

    clips/part-00000.parquet   full: shard_rows rows, never touched again
    clips/part-00001.parquet   full
    clips/part-00002.parquet   open: written anew, whole, at every commit, until it is full

A video may lie across the end of a shard. A job killed between two writes leaves the first half of such a video:
`repaired` takes it out again, and it is encoded once more.

The folder of a corpus: what was asked for, what is done, what was refused.

tokens/
  corpus.json       schema version, fingerprint, codebooks, where the videos came from
  inputs.parquet    every video that was asked for
  clips/part-*.parquet
  errors.parquet    videos that were refused, and why
  report.json, report.txt

The clips of a corpus in one order, video after video, however a job happened to finish them.
"""

import fcntl
import io
import json
import os
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
from videotok.corpus.settings import Fingerprint
from videotok.errors import CorpusError

VERSION = 1
"""Raised whenever an older reader would misread a shard."""

IDS = pa.list_(pa.int32())

TOKENS = pa.schema(
    [
        pa.field("clip", pa.int32(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("damaged", pa.bool_(), nullable=False),
        pa.field("motion_source", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("visual_ids", IDS, nullable=False),
        pa.field("keep_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("motion_ids", pa.list_(IDS), nullable=False),
        pa.field("global_motion_ids", IDS, nullable=False),
    ]
)
"""What the pipeline finds out about a clip. `clips` is the number of clips of the whole video: a video is complete
when so many rows carry its id."""

TRANSIENT = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("message", pa.string()),
        pa.field("codec_seconds", pa.float64()),
        pa.field("keyframe_seconds", pa.float64()),
        pa.field("motion_seconds", pa.float64()),
    ]
)
"""What only the job needs to know of a row."""

STREAM = pa.schema([*TRANSIENT, *TOKENS])
"""What comes out of the last stage."""

INPUTS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("caption", pa.string()),
    ]
)
"""What is known of a video before it is read. Other columns of a manifest follow, as they came."""

ERRORS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)

STAGES = ("read", "codec", "tokenizers")
"""Where a video can fail: its file is fetched, taken apart, turned into ids."""


def passed_through(inputs: pa.Schema) -> list[pa.Field]:
    """Fields of a manifest that only its owner knows the meaning of."""
    return [field for field in inputs if field.name not in INPUTS.names]


def clip_schema(inputs: pa.Schema, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Columns of a shard: the video, the clip, its tokens, caption and passed-through columns, the fingerprint."""
    first = [INPUTS.field("video_id"), INPUTS.field("path")]
    last = [INPUTS.field("caption"), *passed_through(inputs), pa.field("fingerprint", pa.string(), nullable=False)]
    return pa.schema([*first, *TOKENS, *last], metadata)


def write_bytes(path: Path, data: bytes) -> None:
    """Puts `data` at `path`. When this returns, neither a kill nor a power cut takes it away again.

    Raises:
        OSError: no space left, no permission; what stood at `path` before is untouched.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
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


# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)


KEYS = ["video_id", "clip", "clips"]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a corpus, in order."""
    return sorted((folder / "clips").glob("part-*.parquet"))


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` lies, counted from 0."""
    return folder / "clips" / f"part-{number:05d}.parquet"


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A shard, or some of its columns.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            return file.read(columns)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it and encode again: only its videos are read "
            "once more"
        ) from error


@dataclass(frozen=True)
class Held:
    """What lies in the shards of a corpus, by video."""

    whole: pa.Array
    """string: ids of videos of which every clip is there, once."""
    broken: pa.Array
    """string: ids of the others."""


def held(folder: Path) -> Held:
    """Reads ids and clip numbers of every shard."""
    rows = [read_shard(path, KEYS) for path in shard_paths(folder)]
    if not rows:
        return Held(pa.array([], pa.string()), pa.array([], pa.string()))
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
    whole = reduce(pc.and_, checks)
    ids = videos["video_id"].combine_chunks()
    return Held(ids.filter(whole.combine_chunks()), ids.filter(pc.invert(whole).combine_chunks()))


def repaired(folder: Path, fingerprint: str) -> Held:
    """Takes out of the shards what a kill has left: rows of another fingerprint, and of videos that are not whole.

    Returns:
        What is held after that: complete videos only.
    """
    for temporary in (folder / "clips").glob(".part-*"):
        remove(temporary)
    for path in shard_paths(folder):
        if stored_fingerprint(path) != fingerprint:  # of a run that --overwrite replaces, and that was killed
            remove(path)
    found = held(folder)
    if len(found.broken):
        for path in shard_paths(folder):
            table = read_shard(path)
            kept = table.filter(pc.invert(pc.is_in(table["video_id"], found.broken)))
            if not kept.num_rows:
                remove(path)
            elif kept.num_rows < table.num_rows:
                write_table(path, kept)
    return Held(found.whole, found.broken.slice(0, 0))


def stored_fingerprint(path: Path) -> str | None:
    """sha256 of the fingerprint that a shard was written with."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path} is damaged ({' '.join(str(error).split())}); delete it and encode again") from error
    return metadata.get(b"videotok.fingerprint_sha256", b"").decode() or None


class ShardWriter:
    """Fills shards with whole videos.

    Args:
        folder: of the corpus; its shards have been `repaired`.
        shard_rows: rows of a full shard.
        schema: of the rows.
    """

    def __init__(self, folder: Path, shard_rows: int, schema: pa.Schema) -> None:
        self._folder, self._shard_rows, self._schema = folder, shard_rows, schema
        self._waiting: list[pa.Table] = []
        self._number, self._is_changed = 0, False
        if paths := shard_paths(folder):
            self._number = int(paths[-1].stem.removeprefix("part-"))
            last = read_shard(paths[-1])
            if last.num_rows < shard_rows:
                self._waiting = [last.cast(schema)]
            else:
                self._number += 1

    @property
    def num_waiting(self) -> int:
        """Rows that are not in a full shard yet."""
        return sum(table.num_rows for table in self._waiting)

    def add(self, video: pa.Table) -> None:
        """Takes in all clips of one video; full shards are written at once, the rest at the next `commit`."""
        self._waiting.append(video.select(self._schema.names).cast(self._schema))
        self._is_changed = True
        if self.num_waiting >= self._shard_rows:
            self.commit()

    def commit(self) -> None:
        """Writes what has come since the last time. When this returns, it stays."""
        if not self._is_changed:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        while rows.num_rows:
            part = rows.slice(0, self._shard_rows)
            write_table(shard_path(self._folder, self._number), part)
            if part.num_rows < self._shard_rows:
                break
            self._number += 1
            rows = rows.slice(self._shard_rows)
        self._waiting = [rows] if rows.num_rows else []
        self._is_changed = False


class CorpusFolder:
    """Reads and writes what stands beside the shards.

    Raises (all methods that read):
        CorpusError: there is no corpus, a newer one, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether a job has been begun here."""
        return (self.folder / "corpus.json").is_file()

    @property
    def facts(self) -> dict[str, Any]:
        """corpus.json."""
        path = self.folder / "corpus.json"
        if not self.exists:
            raise CorpusError(f"{self.folder} is no corpus: it has no corpus.json; `videotok corpus encode` makes one")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            version = facts["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
        if version != VERSION:
            raise CorpusError(
                f"{self.folder} has schema {version}, this videotok reads schema {VERSION}; update videotok"
            )
        return facts

    @property
    def fingerprint(self) -> Fingerprint:
        """What the tokens here depend on."""
        return Fingerprint(self.facts["fingerprint"])

    @property
    def inputs(self) -> pa.Table:
        """Every video asked for; see `manifest.read_inputs`."""
        return self._read("inputs.parquet", INPUTS)

    @property
    def errors(self) -> pa.Table:
        """Refused videos; columns of `schema.ERRORS`."""
        return self._read("errors.parquet", ERRORS)

    @property
    def schema(self) -> pa.Schema:
        """Of the shards."""
        fingerprint = self.fingerprint
        metadata = {
            "videotok.schema": str(VERSION),
            "videotok.fingerprint": fingerprint.text,
            "videotok.fingerprint_sha256": fingerprint.sha256,
        }
        return clip_schema(self.inputs.schema, metadata)

    def begin(self, facts: dict[str, Any]) -> None:
        """Makes the folder, or begins it anew: nothing of what was here before counts any more."""
        try:
            (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorpusError(f"cannot write {self.folder}: {error.strerror}; choose another place") from error
        for name in ("errors.parquet", "inputs.parquet"):
            remove(self.folder / name)
        self._write_json("corpus.json", {"schema": VERSION} | facts)
        # killed here, the next job knows the shards by their fingerprint
        for path in shard_paths(self.folder):
            remove(path)

    def write_inputs(self, inputs: pa.Table) -> None:
        write_table(self.folder / "inputs.parquet", inputs)

    def write_errors(self, errors: pa.Table) -> None:
        write_table(self.folder / "errors.parquet", errors.sort_by("video_id"))

    def write_report(self, report: dict[str, Any], text: str) -> None:
        self._write_json("report.json", report)
        write_bytes(self.folder / "report.txt", text.encode())

    @property
    def is_being_written(self) -> bool:
        """Whether a job is at work here, on this machine."""
        try:
            with self.locked():
                return False
        except CorpusError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other jobs out. The lock goes with the process, however it ends.

        Raises:
            CorpusError: another job is at work here.
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

    def _write_json(self, name: str, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        write_bytes(self.folder / name, f"{text}\n".encode())

    def _read(self, name: str, schema: pa.Schema) -> pa.Table:
        path = self.folder / name
        if not path.exists():
            return schema.empty_table()
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{path} is damaged ({' '.join(str(error).split())})") from error


SHARDS_IN_MEMORY = 16
"""Neighbours in order lie in neighbouring shards, since videos are dealt out in order."""


def ordered_rows(folder: Path, rows: int) -> Iterator[pa.Table]:
    """All clips by `video_id` and `clip`, so many rows at once. Equal corpora give equal rows, wherever they lie.

    Raises:
        CorpusError: a shard cannot be read.
    """
    paths = shard_paths(folder)
    read = lru_cache(SHARDS_IN_MEMORY)(read_shard)
    order = _order(paths)
    for first in range(0, len(order), rows):
        wanted = order[first : first + rows]
        found, places = [], []
        for shard in np.unique(wanted[:, 0]):
            mine = np.flatnonzero(wanted[:, 0] == shard)
            found.append(read(paths[shard]).take(pa.array(wanted[mine, 1])))
            places.append(mine)
        back = np.argsort(np.concatenate(places))
        yield pa.concat_tables(found).take(pa.array(back)).combine_chunks()


def ordered_videos(folder: Path, rows: int = 2048) -> Iterator[pa.Table]:
    """All clips, a video at a time."""
    waiting: list[pa.Table] = []
    for table in ordered_rows(folder, rows):
        ids = table["video_id"].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if waiting and waiting[0]["video_id"][0].as_py() != ids[start]:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting = []
            waiting.append(table.slice(start, end - start))
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _order(paths: list[Path]) -> np.ndarray:
    """int64 [clips, 2]: shard and row of every clip, in order."""
    keys = []
    for number, path in enumerate(paths):
        table = read_shard(path, ["video_id", "clip"])
        table = table.append_column("shard", pa.array(np.full(table.num_rows, number)))
        keys.append(table.append_column("row", pa.array(np.arange(table.num_rows))))
    if not keys:
        return np.zeros((0, 2), np.int64)
    table = pa.concat_tables(keys).sort_by([("video_id", "ascending"), ("clip", "ascending")])
    return np.stack([table["shard"].to_numpy(), table["row"].to_numpy()], axis=1)
