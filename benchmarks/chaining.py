"""How clips are joined: python -m benchmarks.chaining VIDEOS… --json OUT

Each video is one chain of up to `--clips` whole clips at 256x144, 12 fps, in three ways: bidirectional (between keyframes),
forward (each clip from its own keyframe alone), constrained (forward, and each clip begins from the last frame before
it, taken back to noise at 0.85: Video-LaVIT's explicit noise constraint).

seam: mean absolute difference across a clip boundary over that inside clips, divided by the same ratio of the source's
own frames: 1 is a seam that cannot be told from the source's. drift: PSNR of the last clip less that of the first
(frames 1…22), which says something where the scene is stationary. memory: what the process holds at most, in MB, after
the third clip and after the last. JSON: a list of rows, one a video and way.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.footage import add_footage_arguments, footage
from codec import Clip, ClipSpec, MediaError, atomic_path, iter_clips
from unet3d import decode_chain
from videotok.evaluation import psnr
from videotok.image_utils import pixels, tensor
from videotok.pipeline import VideoTokenizer

SIZE = (256, 144)
WAYS = {
    "bidirectional": {"bidirectional": True},
    "forward": {"bidirectional": False},
    "constrained": {"bidirectional": False, "noise_rate": 0.85},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="How clips are joined, and whether long chains drift or grow.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="bundle of weights instead of the shipped one")
    parser.add_argument("--levels", type=int, help="motion levels (default: the model's own)")
    parser.add_argument("--keyframes", choices=("exact", "tokens"), default="exact")
    parser.add_argument("--clips", type=int, default=20, help="clips a chain")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    args = parser.parse_args()
    model = VideoTokenizer.from_pretrained(args.model)
    rows = []
    for path in footage(args.videos):
        for way in args.ways:
            try:
                row = chained(model, args, path, way)
            except MediaError as error:
                print(f"left out: {error}")
                break
            if row is None:
                print(f"left out: {path} has fewer than two whole clips")
                break
            rows.append(row)
            print(line(row), flush=True)
    for way in args.ways:
        print_mean(way, [row for row in rows if row["way"] == way])
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


class Joints:
    """Differences between frames that follow each other, across boundaries and inside clips."""

    def __init__(self) -> None:
        self.seams: list[float] = []
        self.inside: list[float] = []
        self.last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """The next clip, uint8 [T, H, W, 3]."""
        values = frames.astype(np.int16)
        if self.last is not None:
            self.seams.append(float(np.abs(values[0] - self.last).mean()))
        self.inside += np.abs(np.diff(values, axis=0)).mean((1, 2, 3)).tolist()
        self.last = values[-1]

    @property
    def ratio(self) -> float:
        """A still clip has no seams and no motion: 1."""
        return (float(np.mean(self.seams)) + 1e-3) / (float(np.mean(self.inside)) + 1e-3)


def chained(model: VideoTokenizer, args: argparse.Namespace, path: Path, way: str) -> dict | None:
    """One row, or None where there is nothing to join."""
    levels = model.default_motion_quantizers if args.levels is None else args.levels
    truths: list[np.ndarray] = []

    def read() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for clip in whole_clips(path, args.clips):
            truths.append(np.asarray(clip.frames))
            exact = args.keyframes == "exact"
            keyframe = tensor(truths[-1][0]) if exact else model.rebuilt_keyframe(clip.keyframe, SIZE)
            yield keyframe, model.coded_motion(clip.motion, levels)

    source, ours, figures, memory = Joints(), Joints(), [], []
    began = time.monotonic()
    for rebuilt in decode_chain(model.detokenizer, read(), **WAYS[way]):
        truth, frames = truths.pop(0), pixels(rebuilt)
        source.add(truth)
        ours.add(frames)
        figures.append(float(np.mean([psnr(a, b) for a, b in zip(truth[1:23], frames[1:23], strict=True)])))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    if len(figures) < 2:
        return None
    return {
        "video": path.name,
        "way": way,
        "clips": len(figures),
        "seam": ours.ratio / source.ratio,
        "source_ratio": source.ratio,
        "psnr": float(np.mean(figures)),
        "drift": figures[-1] - figures[0],
        "psnr_of_clips": figures,
        "memory_third": memory[min(2, len(memory) - 1)],
        "memory_last": memory[-1],
        "seconds": time.monotonic() - began,
    }


def whole_clips(path: Path, most: int) -> Iterator[Clip]:
    """Clips of full length; a short last one has no boundary behind it."""
    spec = ClipSpec()
    for clip in iter_clips(path, spec, frames=True, frame_size=SIZE, max_clips=most):
        if clip.num_frames == spec.frames:
            yield clip


def line(row: dict) -> str:
    return (
        f"{row['video'][:44]:<45}{row['way']:<12}{row['clips']:>3} clips  seam {row['seam']:.3f}  "
        f"PSNR {row['psnr']:.2f}  drift {row['drift']:+.2f}  "
        f"memory {row['memory_third']} -> {row['memory_last']} MB  {row['seconds']:.0f} s"
    )


def print_mean(way: str, rows: list[dict]) -> None:
    """Over all videos, seams counted one by one."""
    if rows:
        seams = [row["clips"] - 1 for row in rows]
        seam = np.average([row["seam"] for row in rows], weights=seams)
        quality = np.average([row["psnr"] for row in rows], weights=[row["clips"] for row in rows])
        print(f"{way:<12} {sum(seams)} seams of {len(rows)} videos: seam {seam:.3f}  PSNR {quality:.2f}")


if __name__ == "__main__":
    main()
