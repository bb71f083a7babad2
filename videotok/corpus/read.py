"""First stage: files fetched and taken apart, many at a time."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from codec import MediaError
from videotok.corpus.decoder import Decoder, Part, SmallClip
from videotok.corpus.settings import Plan

CLIPS_AT_ONCE = 8
"""Clips that leave together: how much of a long video is in memory."""

Columns = dict[str, np.ndarray]


class ReadVideos:
    """Rows of videos in, rows of clips out; a video that cannot be read is one row that says so.

        index, path, start, duration ──► index, clip, clips, keyframe, vectors, valid, …

    `clips`, the number of clips of the video, is 0 in all rows but its last one: a video is known to be whole when that
    one has come. A refusal is a row with `stage` and `message`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._decoder = Decoder(plan.spec, plan.side, plan.settings.motion_source)

    def __call__(self, videos: Columns) -> Iterator[Columns]:
        columns = (videos["index"], videos["path"], videos["start"], videos["duration"])
        for index, path, start, duration in zip(*columns, strict=True):
            begin = 0.0 if np.isnan(start) else float(start)
            yield from self.video(int(index), str(path), begin, None if np.isnan(duration) else float(duration))

    def video(self, index: int, path: str, start: float, duration: float | None) -> Iterator[Columns]:
        """The rows of one video."""
        stage = "read"
        try:
            with local_copy(path) as file:
                stage = "codec"
                yield from self._clips(index, Part(str(file), start, duration))
        except (MediaError, OSError, ValueError, ImportError) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            yield _columns([self._row(index, 0, None, stage=stage, message=words.replace(path, path_name(path)))])

    def _clips(self, index: int, part: Part) -> Iterator[Columns]:
        rows: list[dict[str, Any]] = []
        for number, clip in enumerate(self._decoder.clips(part)):
            if len(rows) == CLIPS_AT_ONCE:
                yield _columns(rows)
                rows = []
            rows.append(self._row(index, number, clip))
        # only now it is known that the file is whole
        rows[-1]["clips"] = rows[-1]["clip"] + 1
        yield _columns(rows)

    def _row(self, index: int, number: int, clip: SmallClip | None, **facts: Any) -> dict[str, Any]:
        steps, side = (self._plan.spec.frames, *self._plan.spec.grid), self._plan.side
        row = {"index": index, "clip": number, "clips": 0, "stage": "", "message": ""} | facts
        if clip is None:
            nothing = np.zeros((side, side, 3), np.uint8), np.zeros((*steps, 2), np.float32), np.zeros(steps, bool)
            clip = SmallClip(*nothing, 0.0, 0, False, "", "", 0, 0, 0.0)
        return row | vars(clip)


def path_name(path: str) -> str:
    """The last part of a path or URL: what a message calls it."""
    return PurePosixPath(path).name


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A file as FFmpeg can open it: itself where it is local, else a copy that is gone afterwards.

    Raises:
        OSError, ValueError, ImportError: it cannot be had, or its protocol is not known.
    """
    filesystem, place = url_to_fs(path)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(place)
        return
    with tempfile.NamedTemporaryFile(suffix=PurePosixPath(place).suffix) as copy:
        with filesystem.open(place, "rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        yield Path(copy.name)


def _columns(rows: list[dict[str, Any]]) -> Columns:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
