"""Whether a corpus is what it says: every input accounted for, every row in order."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from videotok.corpus.folder import CorpusFolder
from videotok.corpus.shards import held, read_shard, shard_paths, stored_fingerprint
from videotok.errors import CorpusError


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
        ("camera", pc.list_flatten(rows["camera_ids"])),
    ):
        bounds = pc.min_max(column)
        if len(column) and not 0 <= bounds["min"].as_py() <= bounds["max"].as_py() < codebooks[name]:
            yield f"{name} ids run from {bounds['min']} to {bounds['max']}, the codebook to {codebooks[name] - 1}"


def _sums(lists: pa.ChunkedArray) -> np.ndarray:
    """How many are True, row by row."""
    flags = pc.list_flatten(lists).to_numpy()
    ends = np.cumsum(pc.list_value_length(lists).to_numpy())
    return np.diff(np.concatenate([[0], np.concatenate([[0], np.cumsum(flags)])[ends]]))
