"""Shards: the Parquet files that hold the clips. They alone say which videos are done; there is no other journal.

    clips/part-00000.parquet   full: shard_rows rows, never touched again
    clips/part-00001.parquet   full
    clips/part-00002.parquet   open: written anew, whole, at every commit, until it is full

A video may lie across the end of a shard. A job killed between two writes leaves the first half of such a video:
`repaired` takes it out again, and it is encoded once more.
"""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from videotok.corpus.durable import remove, write_table
from videotok.errors import CorpusError

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
