"""Second stage: keyframes and motion fields to ids, in batches that fill from many videos."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from videotok.corpus.schema import STREAM
from videotok.corpus.settings import Plan
from videotok.ladder import tensor
from videotok.pipeline import VideoTokenizer

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
        motion = self._motion.encode(vectors, valid, self._plan.motion_levels)
        motion_ids, camera_ids = motion.ids.cpu().numpy(), motion.camera_ids.cpu().numpy()
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
                "camera_ids": camera_ids[row],
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
    nothing = {"visual_ids": [], "keep_mask": [], "motion_ids": [], "camera_ids": []}
    times = {"start_seconds": 0.0, "end_seconds": 0.0, "keyframe_seconds": 0.0, "motion_seconds": 0.0}
    return known | nothing | times | ({"stage": stage, "message": message} if message else {})
