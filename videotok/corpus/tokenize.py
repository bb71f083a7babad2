"""First stage: files fetched and taken apart, many at a time.

Second stage: keyframes and motion fields to ids, in batches that fill from many videos.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from codec import MediaError
from videotok.corpus.decoder import Decoder, Part, SmallClip
from videotok.corpus.settings import Plan
from videotok.corpus.storage import STREAM
from videotok.image_utils import tensor
from videotok.pipeline import VideoTokenizer

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


KEPT = ("clip", "clips", "num_frames", "damaged", "motion_source", "codec", "width", "height")


class TokenizeClips:
    """Loads the weights once, then turns batches of clips into ids.

    Ids do not depend on the batch: encoders run in float64. On a GPU where the worker has one.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # processor time where the work is the processor's: other processes on the machine do not count
        self._clock = time.perf_counter if self._device.type == "cuda" else time.process_time
        torch.set_num_threads(1)
        tokenizer = VideoTokenizer.from_pretrained(plan.settings.model)
        self._keyframes, self._motion = tokenizer.keyframe_encoder, tokenizer.motion_encoder
        for model in (self._keyframes, self._motion):
            if isinstance(model, torch.nn.Module):
                torch.nn.Module.to(model, self._device)

    def __call__(self, clips: dict[str, np.ndarray]) -> pa.Table:
        readable = np.flatnonzero(clips["message"] == "")
        rows = self._tokens({name: column[readable] for name, column in clips.items()}) if len(readable) else []
        rows += [_refused(clips, number) for number in np.flatnonzero(clips["message"] != "").tolist()]
        return pa.Table.from_pylist(rows, STREAM)

    def _tokens(self, clips: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        try:
            return self._batch(clips)
        except (RuntimeError, ValueError) as error:  # a batch too large for the memory, or one clip that is odd
            if len(clips["index"]) == 1:
                return [_refused(clips, 0, "tokenizers", " ".join(str(error).split()))]
        halves = np.array_split(np.arange(len(clips["index"])), 2)
        return [row for half in halves for row in self._tokens({name: clips[name][half] for name in clips})]

    def _batch(self, clips: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        began = self._clock()
        pictures = torch.cat([tensor(picture) for picture in clips["keyframe"]]).to(self._device)
        visual = self._keyframes.encode(pictures, self._plan.settings.keep)
        visual_ids, keep_mask = [ids.cpu().numpy() for ids in visual.ids], visual.keep_mask.cpu().numpy()
        between = self._clock()
        vectors = torch.from_numpy(clips["vectors"]).to(self._device)
        valid = torch.from_numpy(clips["valid"]).to(self._device)
        motion = self._motion.encode(vectors, valid, self._plan.motion_quantizers)
        motion_ids, global_motion_ids = motion.ids.cpu().numpy(), motion.global_motion_ids.cpu().numpy()
        count, ended = len(motion_ids), self._clock()
        seconds = {"keyframe_seconds": (between - began) / count, "motion_seconds": (ended - between) / count}
        return [
            _known(clips, row)
            | seconds
            | {
                "start_seconds": float(clips["pts_seconds"][row]),
                "end_seconds": float(clips["pts_seconds"][row] + clips["num_frames"][row] / self._plan.spec.fps),
                "visual_ids": visual_ids[row],
                "keep_mask": keep_mask[row],
                "motion_ids": list(motion_ids[row]),
                "global_motion_ids": global_motion_ids[row],
            }
            for row in range(count)
        ]


def _known(clips: dict[str, np.ndarray], row: int) -> dict[str, Any]:
    """What was known before the tokenizers."""
    names = [*KEPT, "index", "stage", "message"]
    return {name: clips[name][row] for name in names} | {"codec_seconds": clips["cpu_seconds"][row]}


def _refused(clips: dict[str, np.ndarray], row: int, stage: str = "", message: str = "") -> dict[str, Any]:
    """A row that holds no tokens, only why."""
    known = _known(clips, row)
    nothing = {"visual_ids": [], "keep_mask": [], "motion_ids": [], "global_motion_ids": []}
    times = {"start_seconds": 0.0, "end_seconds": 0.0, "keyframe_seconds": 0.0, "motion_seconds": 0.0}
    return known | nothing | times | ({"stage": stage, "message": message} if message else {})
