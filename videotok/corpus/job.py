"""Encode a corpus: what is stored already is left alone, what comes is written in complete videos.

read_inputs ──► pending videos ──► encode_on_ray ──► VideoAssembler ──► ShardWriter, errors.parquet ──► report
"""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from videotok.config import EncodeConfig
from videotok.corpus import DEFAULT_CONFIG
from videotok.corpus.manifest import read_inputs
from videotok.corpus.ray_pipeline import Cluster, encode_on_ray
from videotok.corpus.report import JobProgress, format_report, job_report
from videotok.corpus.schema import CLIP_COLUMNS, ENCODED_ROWS, ERRORS, VERSION
from videotok.corpus.settings import EncodePlan, make_plan
from videotok.corpus.storage import CorpusFolder, ShardWriter, StoredVideos, repair
from videotok.errors import CorpusError

COMMIT_SECONDS = 30.0
"""Time between two writes of the open shard. A killed job loses no more than this, and the videos being read."""


def encode_corpus(
    videos: str,
    out: str | Path,
    config: EncodeConfig | None = None,
    *,
    model: str | None = None,
    cluster: Cluster | None = None,
    shard_rows: int = 2048,
    overwrite: bool = False,
    retry_errors: bool = False,
    commit_seconds: float = COMMIT_SECONDS,
    on_progress: Callable[[JobProgress], None] = lambda progress: None,
    on_left_out: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Encode many videos to a folder of Parquet; called again, however it ended, it continues.

    Args:
        videos: as for `manifest.read_inputs`.
        out: the folder.
        config: how to encode; `videotok.corpus.DEFAULT_CONFIG` if None. Clips are encoded independently of each other.
        model: folder or hub id of the weights; those that ship with videotok if None.
        cluster: where to run; on all cores of this machine if None.
        shard_rows: clips in a file.
        overwrite: begin anew if `out` was made with other weights, options or versions, or at all.
        retry_errors: read again the videos that were refused before.
        commit_seconds: time between two writes of what is done.
        on_progress: called whenever rows come.
        on_left_out: called with one line on the files of a folder that are left out; see `manifest.read_inputs`.

    Returns:
        The report, which is also written to report.json.

    Raises:
        CorpusError: nothing to read, an option that a corpus does not support, another fingerprint in `out`, another
            job at work there, a full disk, or Ray gave up. What was written stays.
        ModelError: there is no such model.
    """
    cluster = cluster or Cluster()
    inputs = read_inputs(videos, on_left_out)
    plan = make_plan(model, config or DEFAULT_CONFIG)
    folder = CorpusFolder(out)
    with folder.locked(), _disk_errors_explained(folder):
        stored = _begin(folder, plan, videos, inputs, overwrite=overwrite, retry_errors=retry_errors)
        return _Job(folder, plan, stored, shard_rows, commit_seconds, on_progress).run(cluster)


def _begin(
    folder: CorpusFolder, plan: EncodePlan, videos: str, inputs: pa.Table, *, overwrite: bool, retry_errors: bool
) -> StoredVideos:
    """Prepare a folder for a plan and its inputs; return what is done already."""
    if overwrite or not folder.exists:
        fingerprint = {"fingerprint": plan.fingerprint.facts, "fingerprint_sha256": plan.fingerprint.sha256}
        origin = {"codebooks": plan.codebooks, "videos": videos, "model": plan.model or "shipped"}
        folder.begin(fingerprint | origin)
    if (version := folder.facts["schema"]) != VERSION:
        raise CorpusError(
            f"{folder.folder} was made by an earlier videotok (schema {version}, now {VERSION}): it can be read but "
            "not continued; take another folder, or overwrite this one"
        )
    plan.fingerprint.check(folder.fingerprint, folder.folder)
    stored = repair(folder.folder, plan.fingerprint.sha256)
    if retry_errors:
        folder.write_errors(ERRORS.empty_table())
    folder.write_inputs(_merge_inputs(folder, inputs, stored))
    return stored


def _merge_inputs(folder: CorpusFolder, inputs: pa.Table, stored: StoredVideos) -> pa.Table:
    """Return what is asked for now, and what was asked for before and is finished."""
    before = folder.inputs
    if not before.num_rows:
        return inputs
    if before.schema != inputs.schema:
        raise CorpusError(
            f"{folder.folder} has the columns {_column_text(before)}, the manifest now has {_column_text(inputs)}; "
            "take another folder, or overwrite this one"
        )
    is_asked_again = pc.is_in(before["video_id"], _ids(inputs))
    kept = before.filter(pc.and_(_is_finished(before, folder, stored), pc.invert(is_asked_again)))
    return pa.concat_tables([inputs, kept]).sort_by("video_id")


def _is_finished(inputs: pa.Table, folder: CorpusFolder, stored: StoredVideos) -> pa.ChunkedArray:
    """Return which inputs are done or refused, bool [inputs]."""
    return pc.or_(pc.is_in(inputs["video_id"], stored.complete), pc.is_in(inputs["video_id"], _ids(folder.errors)))


def _column_text(inputs: pa.Table) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in inputs.schema)


def _ids(table: pa.Table) -> pa.Array:
    return table["video_id"].combine_chunks()


class _Job:
    """One run over the pending videos."""

    def __init__(
        self,
        folder: CorpusFolder,
        plan: EncodePlan,
        stored: StoredVideos,
        shard_rows: int,
        commit_seconds: float,
        on_progress: Callable[[JobProgress], None],
    ) -> None:
        self._folder, self._plan, self._on_progress = folder, plan, on_progress
        self._inputs, self._errors, self._schema = folder.inputs, folder.errors, folder.schema
        self._writer = ShardWriter(folder.folder, shard_rows, self._schema)
        self._commit_seconds, self._last_commit = commit_seconds, time.monotonic()
        self._refused: list[dict[str, str]] = []
        self._pending = np.flatnonzero(~_is_finished(self._inputs, folder, stored).to_numpy())
        self._progress = JobProgress(len(self._pending))

    def run(self, cluster: Cluster) -> dict[str, Any]:
        """Encode everything and return the report."""
        if len(self._pending):
            pending = self._inputs.take(self._pending).select(["path", "start", "duration"])
            pending = pending.add_column(0, "index", pa.array(self._pending, pa.int64()))
            rows = encode_on_ray(pending, self._plan, cluster)
            try:
                self._store(rows)
            except BaseException:
                with suppress(OSError):  # the disk may be the cause
                    self._commit()
                raise
            finally:
                rows.close()  # type: ignore[attr-defined]
        self._commit()
        facts = job_report(self._folder, self._progress)
        self._folder.write_report(facts, format_report(facts))
        return facts

    def _store(self, encoded: Iterator[pa.Table]) -> None:
        assembler = VideoAssembler()
        for rows in encoded:
            self._progress.add_rows(rows)
            for video in assembler.add(rows):
                if isinstance(video, RefusedVideo):
                    self._add_refused(video)
                else:
                    self._add_video(video)
            if time.monotonic() - self._last_commit > self._commit_seconds:
                self._commit()
            self._on_progress(self._progress)

    def _add_refused(self, video: "RefusedVideo") -> None:
        facts = self._inputs.slice(video.index, 1)
        name, path = facts["video_id"][0].as_py(), facts["path"][0].as_py()
        self._refused.append({"video_id": name, "path": path, "stage": video.stage, "message": video.message})
        self._progress.refused += 1

    def _add_video(self, video: "CompleteVideo") -> None:
        facts, clips = self._inputs.slice(video.index, 1), video.rows
        for name in self._schema.names:
            if name in facts.column_names:
                clips = clips.append_column(name, facts[name].take(pa.array(np.zeros(clips.num_rows, int))))
        fingerprint = pa.array([self._plan.fingerprint.sha256] * clips.num_rows)
        clips = clips.append_column("fingerprint", fingerprint)
        self._writer.add(clips)
        self._progress.add_video(clips)

    def _commit(self) -> None:
        self._writer.commit()
        if self._refused:
            self._errors = pa.concat_tables([self._errors, pa.Table.from_pylist(self._refused, ERRORS)])
            self._folder.write_errors(self._errors)
            self._refused = []
        self._last_commit = time.monotonic()


@dataclass(frozen=True)
class RefusedVideo:
    """A video that gives no tokens."""

    index: int
    stage: str
    message: str


@dataclass(frozen=True)
class CompleteVideo:
    """A video with all of its clips."""

    index: int
    rows: pa.Table
    """In order; columns of `schema.ENCODED_ROWS`."""


@dataclass
class _IncompleteVideo:
    rows: dict[int, pa.Table] = field(default_factory=dict)
    num_clips: int = 0
    """0 until the last clip has come."""


class VideoAssembler:
    """Puts videos together from clips that come in any order, those of many videos mixed.

    Only unfinished videos are in memory, some kilobytes a clip.
    """

    def __init__(self) -> None:
        self._incomplete: dict[int, _IncompleteVideo] = {}
        self._finished: set[int] = set()

    def add(self, rows: pa.Table) -> Iterator[CompleteVideo | RefusedVideo]:
        """Add rows of the last stage; yield each video once, when it is complete or refused.

        Rows that come again, because a worker died and its task was repeated, are ignored.
        """
        columns = (rows[name].to_pylist() for name in ("index", "clip", "clips", "stage", "message"))
        for row, (index, clip, clips, stage, message) in enumerate(zip(*columns, strict=True)):
            if index in self._finished:
                continue
            video = self._incomplete.setdefault(index, _IncompleteVideo())
            video.rows[clip] = rows.slice(row, 1)
            video.num_clips = clips or video.num_clips
            if message or len(video.rows) == video.num_clips:
                self._finished.add(index)
                del self._incomplete[index]
                yield RefusedVideo(index, stage, message) if message else CompleteVideo(index, _in_order(video))


def _in_order(video: _IncompleteVideo) -> pa.Table:
    """Return the clips in order, each with the number of clips."""
    rows = pa.concat_tables(video.rows[clip] for clip in range(video.num_clips)).combine_chunks()
    column = CLIP_COLUMNS.field("clips")
    return rows.set_column(
        ENCODED_ROWS.get_field_index("clips"), column, pa.array([video.num_clips] * video.num_clips, column.type)
    )


@contextmanager
def _disk_errors_explained(folder: CorpusFolder) -> Iterator[None]:
    """Turn an OSError, such as a full disk, into one line for the user.

    Raises:
        CorpusError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"cannot write {folder.folder}: {error.strerror or error}; what was written is safe, solve this and run "
            "the same command again"
        ) from error
