"""What a corpus holds, and what the last run of a job reached: for people, and as JSON.

Whether a corpus is what it says: every input accounted for, every row in order.
"""

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

from videotok.corpus.storage import CorpusFolder, held, read_shard, shard_paths, stored_fingerprint
from videotok.corpus.tokenize import path_name
from videotok.errors import CorpusError

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)


PERCENTILES = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
COUNTED = [
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
class Run:
    """How far a job is."""

    videos: int
    """To do in this run."""
    done: int = 0
    refused: int = 0
    clips: int = 0
    tokens: int = 0
    video_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: {"codec": 0.0, "keyframe": 0.0, "motion": 0.0})
    """Spent in each stage by all workers together."""
    began: float = field(default_factory=time.monotonic)
    start_up_seconds: float = 0.0
    """Until the first clips came: Ray started, weights loaded, the first batch filled."""

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.began

    def saw(self, rows: pa.Table) -> None:
        """Counts rows of the last stage."""
        self.start_up_seconds = self.start_up_seconds or self.seconds
        for stage in self.stage_seconds:
            self.stage_seconds[stage] += pc.sum(rows[f"{stage}_seconds"]).as_py() or 0.0

    def wrote(self, clips: pa.Table) -> None:
        """Counts a video that is done."""
        self.done += 1
        self.clips += clips.num_rows
        self.tokens += num_tokens(clips)
        self.video_seconds += pc.sum(pc.subtract(clips["end_seconds"], clips["start_seconds"])).as_py()


def num_tokens(clips: pa.Table) -> int:
    """Visual, motion and camera ids of some clips."""
    levels = pc.list_flatten(clips["motion_ids"])
    lists = (clips["visual_ids"], levels, clips["global_motion_ids"])
    return sum(pc.sum(pc.list_value_length(column)).as_py() or 0 for column in lists)


def state(folder: CorpusFolder) -> dict[str, Any]:
    """Inputs done, refused and pending, and what lies in the shards; plain values.

    Raises:
        CorpusError: there is no corpus, or it is damaged.
    """
    folder.facts  # noqa: B018 (refuses what is no corpus)
    inputs, errors, paths = folder.inputs, folder.errors, shard_paths(folder.folder)
    done = int(pc.sum(pc.is_in(inputs["video_id"], held(folder.folder).whole)).as_py() or 0)
    facts = {
        "inputs": inputs.num_rows,
        "done": done,
        "refused": errors.num_rows,
        "pending": inputs.num_rows - done - errors.num_rows,
        "shards": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
    }
    counted = [_counted(read_shard(path, COUNTED)) for path in paths]
    contents = _contents(pa.concat_tables(counted)) if counted else {"clips": 0}
    return facts | contents | {"errors": _kinds(errors)}


def report(folder: CorpusFolder, run: "Run") -> tuple[dict[str, Any], str]:
    """(facts, text) of a job that has come to its end."""
    seconds, busy = run.seconds, sum(run.stage_seconds.values())
    facts = state(folder)
    facts["this_run"] = {
        "videos": run.done,
        "refused": run.refused,
        "clips": run.clips,
        "video_seconds": run.video_seconds,
        "seconds": seconds,
        "start_up_seconds": run.start_up_seconds,
        "videos_per_second": run.done / seconds,
        "times_real_time": run.video_seconds / seconds,
        "tokens_per_second_of_work": run.tokens / seconds,
        "stage_seconds": run.stage_seconds,
        "times_real_time_a_core": run.video_seconds / busy if busy else None,
    }
    return facts, text(facts)


def text(facts: dict[str, Any]) -> str:
    """The facts of `state` or `report`, a line each."""
    lines = [
        f"{'videos':<18} {facts['inputs']:,}: {facts['done']:,} done, {facts['refused']:,} refused, "
        f"{facts['pending']:,} pending"
    ]
    if facts["clips"]:
        spread = ", ".join(f"{name} {value:.0f}" for name, value in facts["tokens_per_second"].items())
        sources = ", ".join(f"{name} {count:,}" for name, count in facts["motion_sources"].items())
        lines += [
            f"{'clips':<18} {facts['clips']:,}, {facts['hours']:.2f} hours, {facts['damaged_clips']:,} damaged",
            f"{'tokens':<18} {facts['tokens']:,}: {facts['visual_tokens']:,} visual, {facts['motion_tokens']:,} motion",
            f"{'tokens/s of video':<18} {spread}",
            f"{'motion source':<18} {sources} clips",
            f"{'files':<18} {facts['shards']:,} shards, {facts['bytes']:,} bytes",
        ]
    if run := facts.get("this_run"):
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in run["stage_seconds"].items())
        core = run["times_real_time_a_core"]
        lines += [
            f"{'this run':<18} {run['videos']:,} videos in {run['seconds']:.1f} s: "
            f"{run['videos_per_second']:.2f} videos/s, {run['times_real_time']:.1f} times real time",
            f"{'work':<18} {stages}" + (f"; {core:.1f} times real time a core" if core else ""),
        ]
    lines += [f"{'refused':<18} {kind['videos']:,} x {kind['stage']}: {kind['kind']}" for kind in facts["errors"]]
    return "\n".join(lines) + "\n"


def _counted(rows: pa.Table) -> pa.Table:
    """The columns of a shard that are counted, ids replaced by how many there are."""
    levels = rows["motion_ids"].combine_chunks()
    inner = np.concatenate([[0], np.cumsum(pc.list_value_length(levels.flatten()).to_numpy(zero_copy_only=False))])
    offsets = levels.offsets.to_numpy() - levels.offsets[0].as_py()
    motion = np.diff(inner[offsets]) + pc.list_value_length(rows["global_motion_ids"]).to_numpy()
    rows = rows.drop_columns(["motion_ids", "global_motion_ids"]).append_column("motion", pa.array(motion, pa.int64()))
    return rows.set_column(rows.column_names.index("visual_ids"), "visual", pc.list_value_length(rows["visual_ids"]))


def _contents(rows: pa.Table) -> dict[str, Any]:
    visual, motion = pc.sum(rows["visual"]).as_py(), pc.sum(rows["motion"]).as_py()
    rows = rows.append_column("seconds", pc.subtract(rows["end_seconds"], rows["start_seconds"]))
    rows = rows.append_column("tokens", pc.add(rows["visual"], rows["motion"]))
    videos = rows.group_by("video_id").aggregate([("tokens", "sum"), ("seconds", "sum")])
    rates = videos["tokens_sum"].to_numpy() / videos["seconds_sum"].to_numpy()
    seconds = pc.sum(rows["seconds"]).as_py()
    spread = {name: float(np.percentile(rates, share)) for name, share in PERCENTILES.items()}
    return {
        "clips": rows.num_rows,
        "damaged_clips": int(pc.sum(rows["damaged"]).as_py()),
        "hours": seconds / 3600,
        "tokens": visual + motion,
        "visual_tokens": visual,
        "motion_tokens": motion,
        "tokens_per_second": spread | {"mean": (visual + motion) / seconds},
        "motion_sources": dict(sorted(Counter(rows["motion_source"].to_pylist()).items())),
    }


def _kinds(errors: pa.Table) -> list[dict[str, Any]]:
    """Refusals by what they say, names and numbers left out; the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in errors.to_pylist():
        words = row["message"].replace(path_name(row["path"]), "…")
        counts[row["stage"], re.sub(r"\d+(\.\d+)?", "N", words)] += 1
    return [{"stage": stage, "kind": kind, "videos": count} for (stage, kind), count in counts.most_common()]


# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)


def faults(folder: CorpusFolder) -> Iterator[str]:
    """One line for everything that is wrong; nothing where all is well. Pending inputs are no fault.

    Reads every shard whole.

    Raises:
        CorpusError: there is no corpus.
    """
    facts, schema, fingerprint = folder.facts, folder.schema, folder.fingerprint
    for path in shard_paths(folder.folder):
        try:
            yield from (f"{path.name}: {fault}" for fault in _faults_of_shard(path, schema, facts))
            if stored_fingerprint(path) != fingerprint.sha256:
                yield f"{path.name}: was written with another fingerprint, encode again to have it removed"
        except CorpusError as error:
            yield str(error)
            return
    yield from _faults_of_inputs(folder)
    if not folder.is_being_written:
        for leftover in sorted((folder.folder / "clips").glob(".part-*")):
            yield f"{leftover.name}: left by a job that was killed; the next one removes it"


def _faults_of_inputs(folder: CorpusFolder) -> Iterator[str]:
    found, inputs, errors = held(folder.folder), folder.inputs["video_id"], folder.errors["video_id"]
    for video in found.broken.to_pylist():
        yield f"{video}: some of its clips are missing or there twice; encode again to have it mended"
    for name, ids in (("in the shards", found.whole), ("in errors.parquet", errors.combine_chunks())):
        for video in ids.filter(pc.invert(pc.is_in(ids, inputs.combine_chunks()))).to_pylist():
            yield f"{video}: is {name}, but was never asked for"
    for video in found.whole.filter(pc.is_in(found.whole, errors.combine_chunks())).to_pylist():
        yield f"{video}: is done and refused at once"
    for name, ids in (("inputs.parquet", inputs), ("errors.parquet", errors)):
        if doubles := len(ids) - pc.count_distinct(ids).as_py():
            yield f"{name}: {doubles} videos are there twice"


def _faults_of_shard(path: Path, schema: pa.Schema, facts: dict[str, Any]) -> Iterator[str]:
    rows = read_shard(path)
    if not rows.schema.equals(schema):
        yield f"has the columns {rows.schema.names}, not {schema.names}, or other types"
        return
    if nulls := [field.name for field in schema if not field.nullable and rows[field.name].null_count]:
        yield f"nothing stands in some rows of {', '.join(nulls)}"
    if pc.any(pc.not_equal(rows["fingerprint"], facts["fingerprint_sha256"])).as_py():
        yield "rows carry another fingerprint"
    if pc.any(pc.less_equal(rows["end_seconds"], rows["start_seconds"])).as_py():
        yield "clips end before they start"
    kept = _sums(rows["keep_mask"])
    if not np.array_equal(kept, pc.list_value_length(rows["visual_ids"]).to_numpy()):
        yield "rows have more or fewer visual ids than patches kept"
    codebooks = facts["codebooks"]
    for name, column in (
        ("visual", pc.list_flatten(rows["visual_ids"])),
        ("motion", pc.list_flatten(pc.list_flatten(rows["motion_ids"]))),
        ("camera", pc.list_flatten(rows["global_motion_ids"])),
    ):
        bounds = pc.min_max(column)
        if len(column) and not 0 <= bounds["min"].as_py() <= bounds["max"].as_py() < codebooks[name]:
            yield f"{name} ids run from {bounds['min']} to {bounds['max']}, the codebook to {codebooks[name] - 1}"


def _sums(lists: pa.ChunkedArray) -> np.ndarray:
    """How many are True, row by row."""
    flags = pc.list_flatten(lists).to_numpy()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy())
    return np.diff(np.concatenate([[0], np.concatenate([[0], np.cumsum(flags)])[ends]]))
