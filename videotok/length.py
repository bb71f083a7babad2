"""Whether a file gave as much video as its header promises."""

import math
from pathlib import Path

from codec import ClipSpec, MediaError, MediaInfo


def expected_seconds(
    info: MediaInfo,
    spec: ClipSpec,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
) -> float | None:
    """What the header promises of the part asked for, in seconds; None where it does not say."""
    if info.duration_seconds is None:
        return None
    asked = [duration_seconds, None if max_clips is None else max_clips * spec.duration_seconds]
    return float(min([info.duration_seconds - start_seconds, *(limit for limit in asked if limit is not None)]))


def check_length(path: str | Path, spec: ClipSpec, num_frames: int, expected: float | None) -> None:
    """Refuses what is no whole video: `num_frames` of the spec's frames came of `expected` seconds.

    Raises:
        MediaError: the file ends before its header says, by more than sound may outlast its pictures, or it shows
            fewer than two frames.
    """
    seconds = float(num_frames / spec.fps)
    if expected is not None and expected - seconds > max(0.5, 0.05 * expected):
        raise MediaError(
            f"{path} is cut short: {seconds:.2f} s of {expected:.2f} s can be read; "
            f"get a whole copy, or encode that part with --duration {math.floor(seconds * 100) / 100}"
        )
    if num_frames < 2:
        raise MediaError(f"{path} shows a single frame at {spec.fps} frames a second; a video has at least two")
