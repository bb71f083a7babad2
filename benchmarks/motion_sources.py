"""Measure how much native and x264 vectors differ from the MPEG-4 vectors that the published weights expect.

    python -m benchmarks.motion_sources VIDEOS… [--clips 1] [--json OUT]

Mean end-point error against motion source `mpeg4`, in pixels of a 256 x 144 picture, over the cells of steps 1 to 11
and 13 to 23 (no I frames). `zero` is the error of no motion: the mean length of the MPEG-4 vectors.
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.footage import add_footage_arguments, footage
from codec import ClipSpec, MediaError, iter_clips
from videotok.io_utils import write_json

PIXELS = np.array([256, 144], np.float32)
STEPS = [step for step in range(1, 24) if step != 12]


def motion_of_clips(path: Path, source: str, clips: int) -> np.ndarray:
    """Return the motion of whole clips, [clips, 22, 20, 36, 2] in pixels of a 256 x 144 picture."""
    found = islice(iter_clips(path, ClipSpec(), motion_source=source), clips)  # type: ignore[arg-type]
    return np.stack([clip.motion.vectors[STEPS] for clip in found if clip.num_frames == 24]) * PIXELS


def errors(path: Path, clips: int) -> dict[str, float]:
    """Return the mean end-point errors of one video."""
    expected = motion_of_clips(path, "mpeg4", clips)
    found = {"zero": float(np.linalg.norm(expected, axis=-1).mean())}
    for source in ("native", "reencode"):
        try:
            other = motion_of_clips(path, source, clips)
        except MediaError:
            continue  # the stream has no vectors of its own
        found[source] = float(np.linalg.norm(other - expected[: len(other)], axis=-1).mean())
        mean = np.linalg.norm(other.mean((2, 3)) - expected[: len(other)].mean((2, 3)), axis=-1)
        found[f"{source}, mean of the frame"] = float(mean.mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_footage_arguments(parser)
    parser.add_argument("--clips", type=int, default=1, help="clips of each video (default 1)")
    arguments = parser.parse_args()
    rows = {}
    for path in footage(arguments.videos):
        try:
            rows[path.name] = errors(path, arguments.clips)
        except (MediaError, ValueError) as error:
            print(f"{path.name}: {error}")
            continue
        print(path.name, {name: round(value, 3) for name, value in rows[path.name].items()}, flush=True)
    complete = [row for row in rows.values() if "native" in row]
    for name in ("zero", "native", "reencode", "native, mean of the frame", "reencode, mean of the frame"):
        print(f"{name:30} {np.mean([row[name] for row in complete]):.3f} pixels, {len(complete)} videos")
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
