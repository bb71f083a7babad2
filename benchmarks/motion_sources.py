"""How far other motion sources are from the one the published weights know: python -m benchmarks.motion_sources VIDEOS…

End-point error in pixels of a 256x144 picture, mean over the cells of steps 1 to 11 and 13 to 23 (no I frames), of
native and x264 vectors against `mpeg4`; `still` is the mean length of the mpeg4 vectors, the error of no motion.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np

from codec import ClipSpec, MediaError, iter_clips

PIXELS = np.array([256, 144], np.float32)
STEPS = [step for step in range(1, 24) if step != 12]


def fields(path: Path, source: str, clips: int) -> np.ndarray:
    """[clips, 22, 20, 36, 2] in pixels of a 256x144 picture, whole clips alone."""
    found = islice(iter_clips(path, ClipSpec(), motion_source=source), clips)  # type: ignore[arg-type]
    return np.stack([clip.motion.vectors[STEPS] for clip in found if clip.num_frames == 24]) * PIXELS


def errors(path: Path, clips: int) -> dict[str, float]:
    """Mean end-point errors of one video."""
    known = fields(path, "mpeg4", clips)
    found = {"still": float(np.linalg.norm(known, axis=-1).mean())}
    for source in ("native", "reencode"):
        try:
            other = fields(path, source, clips)
        except MediaError:
            continue  # not every stream has vectors of its own
        found[source] = float(np.linalg.norm(other - known[: len(other)], axis=-1).mean())
        mean = np.linalg.norm(other.mean((2, 3)) - known[: len(other)].mean((2, 3)), axis=-1)
        found[f"{source}, mean of the frame"] = float(mean.mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {}
    for path in arguments.videos:
        try:
            rows[path.name] = errors(path, arguments.clips)
        except (MediaError, ValueError) as error:
            print(f"{path.name}: {error}")
            continue
        print(path.name, {name: round(value, 3) for name, value in rows[path.name].items()}, flush=True)
    both = [row for row in rows.values() if "native" in row]
    for name in ("still", "native", "reencode", "native, mean of the frame", "reencode, mean of the frame"):
        print(f"{name:30} {np.mean([row[name] for row in both]):.3f} pixels, {len(both)} videos")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
