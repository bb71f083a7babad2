"""Corpora for tests: a few small videos, encoded in this process without Ray."""

import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from videos import even, scenes, write

from videotok.corpus import job
from videotok.corpus.ray_pipeline import Cluster
from videotok.corpus.settings import EncodePlan
from videotok.corpus.storage import read_shard, shard_path, shard_paths, write_table
from videotok.corpus.tokenize import ReadVideos, TokenizeClips

SIZE, FPS = (128, 80), 24
SECONDS = {"pan": 1.0, "zoom": 2.5, "turn": 4.5, "layers": 3.0}
"""1, 2, 3 and 2 clips."""


def make_videos(folder: Path) -> Path:
    """Write four videos, two of them in a subfolder, and a file that is no video."""
    (folder / "more").mkdir(parents=True)
    for number, (name, scene) in enumerate(scenes(SIZE).items()):
        place = folder / "more" if number % 2 else folder
        write(place / f"{name}.mp4", scene, even(SECONDS[name], FPS), "ultrafast", FPS)
    (folder / "broken.mp4").write_text("this is not a video\n" * 100)
    (folder / "notes.txt").write_text("nothing")
    return folder


def make_corpus(folder: Path, rows: str, model: Path) -> Path:
    """Encode videos in this process, three clips a shard, and return the folder of the corpus.

    Args:
        rows: lines `path,caption`.
        model: folder of the weights.
    """
    (folder / "list.csv").write_text(f"path,caption\n{rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "encode_on_ray", encode_in_process)
        patch.setattr(job, "make_plan", cache(job.make_plan))
        job.encode_corpus(str(folder / "list.csv"), folder / "tokens", model=str(model), shard_rows=3)
    return folder / "tokens"


def reorder(corpus: Path) -> Path:
    """Mix the clips of a corpus, as a job that finished them in another order would have left them."""
    tables = [read_shard(path) for path in shard_paths(corpus)]
    rows = pa.concat_tables(tables)
    order = random.Random(1).sample(range(rows.num_rows), rows.num_rows)
    rows = rows.take(pa.array(order)).replace_schema_metadata(tables[0].schema.metadata)
    for number, path in enumerate(shard_paths(corpus)):
        path.unlink()
        write_table(shard_path(corpus, number), rows.slice(3 * number, 3))
    return corpus


def copied(corpus: Path, place: Path) -> Path:
    """Return a copy of a corpus, which a test may change."""
    shutil.copytree(corpus, place)
    return place


def encode_in_process(videos: pa.Table, plan: EncodePlan, cluster: Cluster) -> Iterator[pa.Table]:
    """Yield what `videotok.corpus.ray_pipeline.encode_on_ray` yields, in this process and in order."""
    read, tokenize = ReadVideos(plan), TokenizeClips(plan)
    for row in videos.to_pylist():
        columns = {name: np.array([np.nan if value is None else value]) for name, value in row.items()}
        for clips in read(columns):
            yield tokenize(clips)


class CachedEncoder:
    """`encode_in_process` with each video encoded once and then repeated from memory."""

    def __init__(self) -> None:
        self._known: dict[tuple, list[pa.Table]] = {}

    def __call__(self, videos: pa.Table, plan: EncodePlan, cluster: Cluster) -> Iterator[pa.Table]:
        for number in range(videos.num_rows):
            video = videos.slice(number, 1)
            (row,) = video.to_pylist()
            key = (plan.fingerprint.sha256, row["path"], row["start"], row["duration"])
            if key not in self._known:
                self._known[key] = list(encode_in_process(video, plan, cluster))
            for rows in self._known[key]:
                index = pa.array([row["index"]] * rows.num_rows, pa.int64())
                yield rows.set_column(rows.column_names.index("index"), "index", index)


def all_rows(corpus: Path) -> pa.Table:
    """Return every clip of a corpus, sorted."""
    table = pa.concat_tables([read_shard(path) for path in shard_paths(corpus)])
    return table.sort_by([("video_id", "ascending"), ("clip", "ascending")]).combine_chunks()
