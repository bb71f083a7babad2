"""Clips come in any order and from many videos at once; a video is done when all of its clips are there.

A corpus encoded, or gone on with: what is there is left alone, what comes is written at once, in whole videos.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from videotok.corpus.manifest import read_inputs
from videotok.corpus.ray_pipeline import Cluster, stream
from videotok.corpus.report import Run, report
from videotok.corpus.settings import Plan, Settings
from videotok.corpus.storage import ERRORS, STREAM, TOKENS, CorpusFolder, Held, ShardWriter, repaired
from videotok.errors import CorpusError


@dataclass(frozen=True)
class Refused:
    """A video that gives no tokens."""

    index: int
    stage: str
    message: str


@dataclass(frozen=True)
class Whole:
    """A video with all of its clips, in order."""

    index: int
    rows: pa.Table
    """Columns of `schema.STREAM`."""


@dataclass
class _Begun:
    rows: dict[int, pa.Table] = field(default_factory=dict)
    clips: int = 0
    """0 until the last clip has come."""


class Assembler:
    """Gathers the rows of the last stage. Holds tokens of unfinished videos only: some kilobytes a clip."""

    def __init__(self) -> None:
        self._begun: dict[int, _Begun] = {}
        self._finished: set[int] = set()

    @property
    def num_unfinished(self) -> int:
        """Videos of which something has come, but not all."""
        return len(self._begun)

    def add(self, rows: pa.Table) -> Iterator[Whole | Refused]:
        """Takes in rows; gives each video once, as soon as it is whole or refused. What comes again is left out."""
        columns = (rows[name].to_pylist() for name in ("index", "clip", "clips", "stage", "message"))
        for number, (index, clip, clips, stage, message) in enumerate(zip(*columns, strict=True)):
            if index in self._finished:
                continue
            video = self._begun.setdefault(index, _Begun())
            video.rows[clip] = rows.slice(number, 1)
            video.clips = clips or video.clips
            if message or len(video.rows) == video.clips:
                self._finished.add(index)
                del self._begun[index]
                yield Refused(index, stage, message) if message else Whole(index, _whole(video))


def _whole(video: _Begun) -> pa.Table:
    rows = pa.concat_tables(video.rows[clip] for clip in range(video.clips)).combine_chunks()
    every = pa.array([video.clips] * video.clips, TOKENS.field("clips").type)
    return rows.set_column(STREAM.get_field_index("clips"), TOKENS.field("clips"), every)


# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)


COMMIT_SECONDS = 30.0
"""Between two writes of the open shard: a kill costs no more than this, and the videos that were being read."""


def encode_corpus(
    videos: str,
    out: str | Path,
    settings: Settings | None = None,
    cluster: Cluster | None = None,
    *,
    shard_rows: int = 2048,
    overwrite: bool = False,
    retry_errors: bool = False,
    commit_seconds: float = COMMIT_SECONDS,
    watch: Callable[[Run], None] = lambda run: None,
) -> dict[str, Any]:
    """Turns many videos into a folder of Parquet. Called again after any kind of end, it goes on.

    Args:
        videos: as for `manifest.read_inputs`.
        out: the folder.
        settings: how to encode; the defaults of `videotok encode` where not given.
        cluster: where to run; here, on all cores, where not given.
        shard_rows: clips a file.
        overwrite: begin anew where `out` was made with other weights, settings or versions, or anything else.
        retry_errors: read the videos again that were refused before.
        commit_seconds: how often what is done is written.
        watch: told how far it is, whenever rows come.

    Returns:
        The report, which is also written to report.json.

    Raises:
        CorpusError: nothing to read, another fingerprint in `out`, another job at work there, the disk is full, or
            Ray gave up. What is written by then stays.
        ModelError: there is no such model.
    """
    cluster = cluster or Cluster()
    inputs = read_inputs(videos)
    plan = Plan.of(settings or Settings())
    folder = CorpusFolder(out)
    with folder.locked(), _disk(folder):
        held = _begin(folder, plan, videos, inputs, overwrite, retry_errors)
        return _Job(folder, plan, held, shard_rows, commit_seconds, watch).run(cluster)


def _begin(
    folder: CorpusFolder, plan: Plan, videos: str, inputs: pa.Table, overwrite: bool, retry_errors: bool
) -> Held:
    """A folder that fits the plan and knows all inputs; what is done already."""
    if overwrite or not folder.exists:
        facts = {"fingerprint": plan.fingerprint.facts, "fingerprint_sha256": plan.fingerprint.sha256}
        folder.begin(facts | {"codebooks": plan.codebooks, "videos": videos, "model": plan.settings.model or "shipped"})
    plan.fingerprint.check(folder.fingerprint, folder.folder)
    held = repaired(folder.folder, plan.fingerprint.sha256)
    if retry_errors:
        folder.write_errors(ERRORS.empty_table())
    folder.write_inputs(_merged(folder, inputs, held))
    return held


def _merged(folder: CorpusFolder, inputs: pa.Table, held: Held) -> pa.Table:
    """What is asked for now, and what was asked for earlier and is finished."""
    before = folder.inputs
    if not before.num_rows:
        return inputs
    if before.schema != inputs.schema:
        raise CorpusError(
            f"{folder.folder} has the columns {_described(before)}, the manifest now has {_described(inputs)}; "
            "take another folder, or --overwrite to begin anew"
        )
    finished = pc.or_(pc.is_in(before["video_id"], held.whole), pc.is_in(before["video_id"], _ids(folder.errors)))
    gone = pc.invert(pc.is_in(before["video_id"], _ids(inputs)))
    return pa.concat_tables([inputs, before.filter(pc.and_(finished, gone))]).sort_by("video_id")


def _described(inputs: pa.Table) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in inputs.schema)


def _ids(table: pa.Table) -> pa.Array:
    return table["video_id"].combine_chunks()


class _Job:
    """One run over what is pending."""

    def __init__(
        self,
        folder: CorpusFolder,
        plan: Plan,
        held: Held,
        shard_rows: int,
        commit_seconds: float,
        watch: Callable[[Run], None],
    ) -> None:
        self._folder, self._plan, self._watch = folder, plan, watch
        self._inputs, self._errors = folder.inputs, folder.errors
        self._fingerprint = plan.fingerprint.sha256
        self._schema = folder.schema
        self._writer = ShardWriter(folder.folder, shard_rows, self._schema)
        self._commit_seconds, self._committed = commit_seconds, time.monotonic()
        self._refused: list[dict[str, str]] = []
        finished = pc.or_(
            pc.is_in(self._inputs["video_id"], held.whole), pc.is_in(self._inputs["video_id"], _ids(self._errors))
        )
        self._pending = np.flatnonzero(~finished.to_numpy())
        self._run = Run(len(self._pending))

    def run(self, cluster: Cluster) -> dict[str, Any]:
        """All of it, and the report."""
        if len(self._pending):
            todo = self._inputs.take(self._pending).select(["path", "start", "duration"])
            todo = todo.add_column(0, "index", pa.array(self._pending, pa.int64()))
            rows = stream(todo, self._plan, cluster)
            try:
                self._gather(rows)
            except BaseException:
                with suppress(OSError):  # the disk may be what is at fault
                    self._commit()
                raise
            finally:
                rows.close()  # type: ignore[attr-defined]
        self._commit()
        facts, text = report(self._folder, self._run)
        self._folder.write_report(facts, text)
        return facts

    def _gather(self, stream: Iterator[pa.Table]) -> None:
        assembler = Assembler()
        for rows in stream:
            self._run.saw(rows)
            for video in assembler.add(rows):
                self._take(video)
            if time.monotonic() - self._committed > self._commit_seconds:
                self._commit()
            self._watch(self._run)

    def _take(self, video: Whole | Refused) -> None:
        facts = self._inputs.slice(video.index, 1)
        if isinstance(video, Refused):
            name, path = facts["video_id"][0].as_py(), facts["path"][0].as_py()
            self._refused.append({"video_id": name, "path": path, "stage": video.stage, "message": video.message})
            self._run.refused += 1
            return
        clips = video.rows
        for name in self._schema.names:
            if name in facts.column_names:
                clips = clips.append_column(name, facts[name].take(pa.array(np.zeros(clips.num_rows, int))))
        clips = clips.append_column("fingerprint", pa.array([self._fingerprint] * clips.num_rows))
        self._writer.add(clips)
        self._run.wrote(clips)

    def _commit(self) -> None:
        self._writer.commit()
        if self._refused:
            self._errors = pa.concat_tables([self._errors, pa.Table.from_pylist(self._refused, ERRORS)])
            self._folder.write_errors(self._errors)
            self._refused = []
        self._committed = time.monotonic()


@contextmanager
def _disk(folder: CorpusFolder) -> Iterator[None]:
    """A disk that is full, or gone, is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"cannot write {folder.folder}: {error.strerror or error}; what was written is safe, mend this and give "
            "the same command"
        ) from error
