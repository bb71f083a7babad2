"""Read clips for tokenizing a corpus: keyframes resized to the tokenizer's input, and motion fields.

This module runs in the child process of `codec.SubprocessReader`, so it imports neither torch nor Ray.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from codec import ClipSpec, iter_clips, probe
from codec.probe import check_length, expected_seconds


@dataclass(frozen=True)
class ResizedClip:
    """A clip whose keyframe is resized to a square."""

    keyframe: np.ndarray
    """uint8 [side, side, 3] RGB."""
    vectors: np.ndarray
    """float32 [T, h, w, 2], fractions of the frame."""
    valid: np.ndarray
    """bool [T, h, w]."""
    pts_seconds: float
    num_frames: int
    damaged: bool
    motion_source: str
    codec: str
    width: int
    """Width of the video as displayed."""
    height: int
    """Height of the video as displayed."""
    cpu_seconds: float
    """Processor time that reading this clip took, in this process and its children."""


def read_resized_clips(
    path: str,
    spec: ClipSpec,
    side: int,
    motion_source: Any = "auto",
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> Iterator[ResizedClip]:
    """Yield the clips of a video.

    Args:
        path: a local file.
        spec: frames, frame rate and grid of a clip.
        side: width and height of the resized keyframes in pixels.
        motion_source, start_seconds, duration_seconds: as for `codec.iter_clips`.

    Raises:
        MediaError: as `codec.iter_clips`; and, after the last clip, if packets are missing at the end of the file.
    """
    info = probe(path)
    expected = expected_seconds(info, spec, start_seconds, duration_seconds)
    num_frames, is_truncated, spent = 0, False, _cpu_seconds()
    for clip in iter_clips(
        path, spec, motion_source=motion_source, start_seconds=start_seconds, duration_seconds=duration_seconds
    ):
        num_frames, is_truncated = num_frames + clip.num_frames, clip.is_truncated
        before, spent = spent, _cpu_seconds()
        yield ResizedClip(
            # the same as videotok.image_utils.to_square_tensor, without torch
            keyframe=cv2.resize(clip.keyframe, (side, side), interpolation=cv2.INTER_AREA),
            vectors=clip.motion.vectors,
            valid=clip.motion.valid,
            pts_seconds=clip.pts_seconds,
            num_frames=clip.num_frames,
            damaged=clip.damaged,
            motion_source=clip.motion_source,
            codec=info.codec,
            width=info.width,
            height=info.height,
            cpu_seconds=spent - before,
        )
    check_length(path, spec, num_frames, expected, is_truncated)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])
