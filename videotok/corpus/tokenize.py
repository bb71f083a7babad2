"""The two stages of the pipeline: files to clips, and clips to ids, in batches that fill from many videos."""

import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from codec import MediaError, SubprocessReader
from videotok.corpus.decoder import ResizedClip, read_resized_clips
from videotok.corpus.schema import ENCODED_ROWS
from videotok.corpus.settings import EncodePlan
from videotok.errors import one_line
from videotok.image_utils import to_tensor
from videotok.inputs import local_input
from videotok.pipeline import VideoTokenizer
from videotok.threads import set_up_cpu

CLIPS_PER_BLOCK = 8
"""Clips that leave the first stage together: how much of a long video is in memory."""

Columns = dict[str, np.ndarray]
"""A batch of rows as Ray Data hands it over: column -> values."""


class ReadVideos:
    """The first stage: rows of videos to rows of clips.

        index, path, start, duration ──► index, clip, clips, keyframe, vectors, valid, …

    `clips`, the number of clips of the video, is 0 in all rows but its last one: when that one has come, the video is
    known to be complete. A video that cannot be read is one row with `stage` and `message`.
    """

    def __init__(self, plan: EncodePlan) -> None:
        self._plan = plan
        self._reader = SubprocessReader()

    def __call__(self, videos: Columns) -> Iterator[Columns]:
        columns = (videos["index"], videos["path"], videos["start"], videos["duration"])
        for index, path, start, duration in zip(*columns, strict=True):
            start_seconds = 0.0 if np.isnan(start) else float(start)
            duration_seconds = None if np.isnan(duration) else float(duration)
            yield from self.read_video(int(index), str(path), start_seconds, duration_seconds)

    def read_video(
        self, index: int, path: str, start_seconds: float, duration_seconds: float | None
    ) -> Iterator[Columns]:
        """Yield the rows of one video, some clips at a time."""
        stage = "read"
        try:
            with local_input(path) as file:
                stage = "codec"
                yield from self._clips(index, file.path, start_seconds, duration_seconds)
        except Exception as error:  # one video must not end the job
            message = one_line(error)
            if not isinstance(error, MediaError | OSError):
                message = (
                    f"a fault of videotok and not of the file: {type(error).__name__}: {message}; please report it"
                )
            yield _stack([self._row(index, 0, None, stage=stage, message=message.replace(path, file_name(path)))])

    def _clips(self, index: int, file: Path, start_seconds: float, duration_seconds: float | None) -> Iterator[Columns]:
        plan = self._plan
        clips = self._reader.run(
            read_resized_clips,
            file,
            plan.spec,
            plan.image_size,
            plan.config.motion_source,
            start_seconds,
            duration_seconds,
        )
        rows: list[dict[str, Any]] = []
        for number, clip in enumerate(clips):
            if len(rows) == CLIPS_PER_BLOCK:
                yield _stack(rows)
                rows = []
            rows.append(self._row(index, number, clip))
        # only now is it known that the whole file can be read
        rows[-1]["clips"] = rows[-1]["clip"] + 1
        yield _stack(rows)

    def _row(self, index: int, number: int, clip: ResizedClip | None, **facts: Any) -> dict[str, Any]:
        """Return a row; without a clip its arrays are zeros."""
        row = {"index": index, "clip": number, "clips": 0, "stage": "", "message": ""} | facts
        if clip is None:
            steps, side = (self._plan.spec.frames, *self._plan.spec.grid), self._plan.image_size
            arrays = np.zeros((side, side, 3), np.uint8), np.zeros((*steps, 2), np.float32), np.zeros(steps, bool)
            clip = ResizedClip(*arrays, 0.0, 0, False, "", "", 0, 0, 0.0)
        return row | vars(clip)


def file_name(path: str) -> str:
    """Return the last part of a path or URL, which messages call the video by."""
    return PurePosixPath(path).name


def _stack(rows: list[dict[str, Any]]) -> Columns:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


COPIED_COLUMNS = (
    "index",
    "stage",
    "message",
    "clip",
    "clips",
    "num_frames",
    "damaged",
    "motion_source",
    "codec",
    "width",
    "height",
)
"""Columns of the first stage that the second one returns unchanged."""


class TokenizeClips:
    """The second stage: clips to ids. Loads the weights once.

    Ids do not depend on the batch.
    """

    def __init__(self, plan: EncodePlan, device: str = "auto", threads: int = 1) -> None:
        """Load the models.

        Args:
            plan: how to encode.
            device: where the models run; `auto` is a GPU where the worker has one.
            threads: CPU threads of the models.

        Raises:
            ModelError: there is no such device.
        """
        self._plan = plan
        set_up_cpu(threads)
        self._tokenizer = VideoTokenizer.from_pretrained(plan.model, device=device)
        # on a CPU processor time, so that other processes of the machine do not count
        is_on_cpu = self._tokenizer.device.type == "cpu"
        self._clock = time.process_time if is_on_cpu else time.perf_counter

    def __call__(self, clips: Columns) -> pa.Table:
        """Return rows with the columns of `schema.ENCODED_ROWS`."""
        has_clip = clips["message"] == ""
        rows = self._encode(_select(clips, np.flatnonzero(has_clip))) if has_clip.any() else []
        rows += [_refused_row(clips, number) for number in np.flatnonzero(~has_clip).tolist()]
        return pa.Table.from_pylist(rows, ENCODED_ROWS)

    def _encode(self, clips: Columns) -> list[dict[str, Any]]:
        """Return the rows of a batch; if it cannot be encoded, those of its halves."""
        count = len(clips["index"])
        try:
            return self._encode_batch(clips)
        except (RuntimeError, ValueError) as error:  # too large for the memory, or one clip cannot be encoded
            if count == 1:
                return [_refused_row(clips, 0, "tokenizers", " ".join(str(error).split()))]
        return [row for half in np.array_split(np.arange(count), 2) for row in self._encode(_select(clips, half))]

    def _encode_batch(self, clips: Columns) -> list[dict[str, Any]]:
        config, device, start = self._plan.config, self._tokenizer.device, self._clock()
        with self._tokenizer.encoding():
            images = torch.cat([to_tensor(picture) for picture in clips["keyframe"]]).to(device)
            visual = self._tokenizer.keyframes.encode(
                images, keep_ratio=config.keep_ratio, refinement_steps=config.refinement_steps
            )
            visual_ids, keep_mask = [ids.cpu().numpy() for ids in visual.ids], visual.keep_mask.cpu().numpy()
            middle = self._clock()
            vectors = torch.from_numpy(clips["vectors"]).to(device)
            valid = torch.from_numpy(clips["valid"]).to(device)
            motion = self._tokenizer.motion.encode(vectors, valid, config.motion_quantizers)
            motion_ids, global_motion_ids = motion.ids.cpu().numpy(), motion.global_motion_ids.cpu().numpy()
        count, end = len(motion_ids), self._clock()
        seconds = {"keyframe_seconds": (middle - start) / count, "motion_seconds": (end - middle) / count}
        return [
            _copied_values(clips, row)
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


def _select(clips: Columns, rows: np.ndarray) -> Columns:
    return {name: column[rows] for name, column in clips.items()}


def _copied_values(clips: Columns, row: int) -> dict[str, Any]:
    return {name: clips[name][row] for name in COPIED_COLUMNS} | {"codec_seconds": clips["cpu_seconds"][row]}


def _refused_row(clips: Columns, row: int, stage: str = "", message: str = "") -> dict[str, Any]:
    """Return a row without tokens, which says why; by default what the first stage said."""
    lists = {"visual_ids": [], "keep_mask": [], "motion_ids": [], "global_motion_ids": []}
    times = {"start_seconds": 0.0, "end_seconds": 0.0, "keyframe_seconds": 0.0, "motion_seconds": 0.0}
    reason = {"stage": stage, "message": message} if message else {}
    return _copied_values(clips, row) | lists | times | reason
