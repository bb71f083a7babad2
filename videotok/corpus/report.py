"""What a corpus holds and how far a job is, for people and as JSON; and whether a corpus is in order."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from videotok.corpus.storage import CorpusFolder, find_stored_videos, read_shard, shard_fingerprint, shard_paths
from videotok.corpus.tokenize import file_name
from videotok.errors import CorpusError

PERCENTILES = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
COUNTED_COLUMNS = [
    "video_id",
    "start_seconds",
    "end_seconds",
    "damaged",
    "motion_source",
    "visual_ids",
    "motion_ids",
    "global_motion_ids",
]


@dataclass
class JobProgress:
    """How far a running job is."""

    videos: int
    """To encode in this run."""
    done: int = 0
    refused: int = 0
    clips: int = 0
    tokens: int = 0
    video_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: {"codec": 0.0, "keyframe": 0.0, "motion": 0.0})
    """Time spent in each stage by all workers together."""
    start: float = field(default_factory=time.monotonic)
    """`time.monotonic()` when the job began."""
    start_up_seconds: float = 0.0
    """Until the first rows came: Ray started, weights loaded, the first batch filled."""

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.start

    def add_rows(self, rows: pa.Table) -> None:
        """Count rows of the last stage."""
        self.start_up_seconds = self.start_up_seconds or self.seconds
        for stage in self.stage_seconds:
            self.stage_seconds[stage] += pc.sum(rows[f"{stage}_seconds"]).as_py() or 0.0

    def add_video(self, clips: pa.Table) -> None:
        """Count a video that is done."""
        self.done += 1
        self.clips += clips.num_rows
        self.tokens += num_tokens(clips)
        self.video_seconds += pc.sum(pc.subtract(clips["end_seconds"], clips["start_seconds"])).as_py()


def num_tokens(clips: pa.Table) -> int:
    """Return the number of visual, motion and global-motion ids of clips."""
    lists = (clips["visual_ids"], pc.list_flatten(clips["motion_ids"]), clips["global_motion_ids"])
    return sum(pc.sum(pc.list_value_length(column)).as_py() or 0 for column in lists)


def corpus_report(folder: CorpusFolder) -> dict[str, Any]:
    """Return the inputs done, refused and pending, and what is in the shards; plain values.

    Raises:
        CorpusError: there is no corpus, or it is damaged.
    """
    folder.facts  # noqa: B018 (refuses what is no corpus)
    inputs, errors, paths = folder.inputs, folder.errors, shard_paths(folder.folder)
    stored = find_stored_videos(folder.folder)
    done = int(pc.sum(pc.is_in(inputs["video_id"], stored.complete)).as_py() or 0)
    facts = {
        "inputs": inputs.num_rows,
        "done": done,
        "refused": errors.num_rows,
        "pending": inputs.num_rows - done - errors.num_rows,
        "shards": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
    }
    counts = [_count_ids(read_shard(path, COUNTED_COLUMNS)) for path in paths]
    contents = _contents(pa.concat_tables(counts)) if counts else {"clips": 0}
    return facts | contents | {"errors": _error_kinds(errors)}


def job_report(folder: CorpusFolder, progress: JobProgress) -> dict[str, Any]:
    """Return the report of a corpus and of the job that has just ended; plain values."""
    seconds, work_seconds = progress.seconds, sum(progress.stage_seconds.values())
    job = {
        "videos": progress.done,
        "refused": progress.refused,
        "clips": progress.clips,
        "video_seconds": progress.video_seconds,
        "seconds": seconds,
        "start_up_seconds": progress.start_up_seconds,
        "videos_per_second": progress.done / seconds,
        "times_real_time": progress.video_seconds / seconds,
        "tokens_per_second_of_work": progress.tokens / seconds,
        "stage_seconds": progress.stage_seconds,
        "times_real_time_per_core": progress.video_seconds / work_seconds if work_seconds else None,
    }
    return corpus_report(folder) | {"this_run": job}


def format_report(facts: dict[str, Any]) -> str:
    """Return the facts of `corpus_report` or `job_report` as text, a line each."""
    lines = [
        f"{'videos':<18} {facts['inputs']:,}: {facts['done']:,} done, {facts['refused']:,} refused, "
        f"{facts['pending']:,} pending"
    ]
    if facts["clips"]:
        percentiles = ", ".join(f"{name} {value:.0f}" for name, value in facts["tokens_per_second"].items())
        sources = ", ".join(f"{name} {count:,}" for name, count in facts["motion_sources"].items())
        lines += [
            f"{'clips':<18} {facts['clips']:,}, {facts['hours']:.2f} hours, {facts['damaged_clips']:,} damaged",
            f"{'tokens':<18} {facts['tokens']:,}: {facts['visual_tokens']:,} visual, {facts['motion_tokens']:,} motion",
            f"{'tokens/s of video':<18} {percentiles}",
            f"{'motion source':<18} {sources} clips",
            f"{'files':<18} {facts['shards']:,} shards, {facts['bytes']:,} bytes",
        ]
    if job := facts.get("this_run"):
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in job["stage_seconds"].items())
        per_core = job["times_real_time_per_core"]
        lines += [
            f"{'this run':<18} {job['videos']:,} videos in {job['seconds']:.1f} s: "
            f"{job['videos_per_second']:.2f} videos/s, {job['times_real_time']:.1f} times real time",
            f"{'work':<18} {stages}" + (f"; {per_core:.1f} times real time per core" if per_core else ""),
        ]
    lines += [f"{'refused':<18} {kind['videos']:,} x {kind['stage']}: {kind['kind']}" for kind in facts["errors"]]
    return "\n".join(lines) + "\n"


def _count_ids(rows: pa.Table) -> pa.Table:
    """Return rows with the lists of ids replaced by their numbers, as `visual` and `motion`."""
    quantizers = rows["motion_ids"].combine_chunks()
    lengths = pc.list_value_length(quantizers.flatten()).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    offsets = quantizers.offsets.to_numpy() - quantizers.offsets[0].as_py()
    motion = np.diff(ends[offsets]) + pc.list_value_length(rows["global_motion_ids"]).to_numpy()
    rows = rows.drop_columns(["motion_ids", "global_motion_ids"]).append_column("motion", pa.array(motion, pa.int64()))
    return rows.set_column(rows.column_names.index("visual_ids"), "visual", pc.list_value_length(rows["visual_ids"]))


def _contents(rows: pa.Table) -> dict[str, Any]:
    """Return totals of rows from `_count_ids`, and percentiles of the videos' tokens per second."""
    visual, motion = pc.sum(rows["visual"]).as_py(), pc.sum(rows["motion"]).as_py()
    rows = rows.append_column("seconds", pc.subtract(rows["end_seconds"], rows["start_seconds"]))
    rows = rows.append_column("tokens", pc.add(rows["visual"], rows["motion"]))
    videos = rows.group_by("video_id").aggregate([("tokens", "sum"), ("seconds", "sum")])
    rates = videos["tokens_sum"].to_numpy() / videos["seconds_sum"].to_numpy()
    seconds = pc.sum(rows["seconds"]).as_py()
    percentiles = {name: float(np.percentile(rates, share)) for name, share in PERCENTILES.items()}
    return {
        "clips": rows.num_rows,
        "damaged_clips": int(pc.sum(rows["damaged"]).as_py()),
        "hours": seconds / 3600,
        "tokens": visual + motion,
        "visual_tokens": visual,
        "motion_tokens": motion,
        "tokens_per_second": percentiles | {"mean": (visual + motion) / seconds},
        "motion_sources": dict(sorted(Counter(rows["motion_source"].to_pylist()).items())),
    }


def _error_kinds(errors: pa.Table) -> list[dict[str, Any]]:
    """Return refusals counted by message, without file names and numbers; the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in errors.to_pylist():
        message = row["message"].replace(file_name(row["path"]), "…")
        counts[row["stage"], re.sub(r"\d+(\.\d+)?", "N", message)] += 1
    return [{"stage": stage, "kind": kind, "videos": count} for (stage, kind), count in counts.most_common()]


def find_faults(folder: CorpusFolder) -> Iterator[str]:
    """Yield a line for everything that is wrong with a corpus; pending inputs are no fault. Reads every shard whole.

    Raises:
        CorpusError: there is no corpus.
    """
    facts, schema, fingerprint = folder.facts, folder.schema, folder.fingerprint
    for path in shard_paths(folder.folder):
        try:
            yield from (f"{path.name}: {fault}" for fault in _shard_faults(path, schema, facts))
            if shard_fingerprint(path) != fingerprint.sha256:
                yield f"{path.name}: was written with another fingerprint, encode again to have it removed"
        except CorpusError as error:
            yield str(error)
            return
    yield from _input_faults(folder)
    if not folder.is_being_written:
        for temporary in sorted((folder.folder / "clips").glob(".part-*")):
            yield f"{temporary.name}: left by a job that was killed; the next one removes it"


def _input_faults(folder: CorpusFolder) -> Iterator[str]:
    """Yield what is wrong between the videos that were asked for, stored and refused."""
    stored, inputs, errors = find_stored_videos(folder.folder), folder.inputs["video_id"], folder.errors["video_id"]
    for video in stored.incomplete.to_pylist():
        yield f"{video}: some of its clips are missing or there twice; encode again to have it repaired"
    for place, ids in (("in the shards", stored.complete), ("in errors.parquet", errors.combine_chunks())):
        for video in ids.filter(pc.invert(pc.is_in(ids, inputs.combine_chunks()))).to_pylist():
            yield f"{video}: is {place}, but was never asked for"
    for video in stored.complete.filter(pc.is_in(stored.complete, errors.combine_chunks())).to_pylist():
        yield f"{video}: is both done and refused"
    for name, ids in (("inputs.parquet", inputs), ("errors.parquet", errors)):
        if duplicates := len(ids) - pc.count_distinct(ids).as_py():
            yield f"{name}: {duplicates} videos are there twice"


def _shard_faults(path: Path, schema: pa.Schema, facts: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the rows of a shard."""
    rows = read_shard(path, check=False)
    if not rows.schema.equals(schema):
        yield f"has the columns {rows.schema.names}, not {schema.names}, or other types"
        return
    if nulls := [column.name for column in schema if not column.nullable and rows[column.name].null_count]:
        yield f"some rows have no {', '.join(nulls)}"
    if pc.any(pc.not_equal(rows["fingerprint"], facts["fingerprint_sha256"])).as_py():
        yield "rows carry another fingerprint"
    if pc.any(pc.less_equal(rows["end_seconds"], rows["start_seconds"])).as_py():
        yield "clips end before they start"
    if not np.array_equal(_count_true(rows["keep_mask"]), pc.list_value_length(rows["visual_ids"]).to_numpy()):
        yield "rows have more or fewer visual ids than patches kept"
    codebooks = facts["codebooks"]
    for name, column in (
        ("visual", pc.list_flatten(rows["visual_ids"])),
        ("motion", pc.list_flatten(pc.list_flatten(rows["motion_ids"]))),
        ("global_motion", pc.list_flatten(rows["global_motion_ids"])),
    ):
        bounds = pc.min_max(column)
        if len(column) and not 0 <= bounds["min"].as_py() <= bounds["max"].as_py() < codebooks[name]:
            yield f"{name} ids run from {bounds['min']} to {bounds['max']}, the codebook to {codebooks[name] - 1}"


def _count_true(lists: pa.ChunkedArray) -> np.ndarray:
    """Return how many values of each list are True, int64 [rows]."""
    flags = pc.list_flatten(lists).to_numpy()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy())
    return np.diff(np.concatenate([[0], np.concatenate([[0], np.cumsum(flags)])[ends]]))
