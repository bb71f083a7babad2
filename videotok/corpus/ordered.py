"""The clips of a corpus in one order, video after video, however a job happened to finish them."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from videotok.corpus.shards import read_shard, shard_paths

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
