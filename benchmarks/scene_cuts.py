"""Measure how well scene cuts are found.

    python -m benchmarks.scene_cuts VIDEOS… --json OUT [--shots 40]

Shots of the videos, 0.7 to 2.5 seconds long and chosen at random by a seed, are concatenated at 256 x 144 and 25 fps
and encoded in several ways. A cut counts as found if `Clip.cuts` names its exact frame. Videos that have cuts of their
own lower the precision: each additional cut is listed with the shot it is in.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, cycle
from pathlib import Path

import numpy as np

from benchmarks.footage import add_footage_arguments, footage
from codec import ClipSpec, VideoWriter, iter_clips, probe
from videotok.io_utils import write_json

SIZE, FPS = (256, 144), 25
ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "x264": ("libx264", {}),
    "x264, no I frames at cuts": ("libx264", {"g": "1000", "sc_threshold": "0"}),
    "x264, neither, fast, crf 32": ("libx264", {"g": "1000", "sc_threshold": "0", "preset": "veryfast", "crf": "32"}),
    "x264, an I frame every 12": ("libx264", {"g": "12"}),
    "zerolatency": ("libx264", {"tune": "zerolatency", "g": "1000", "sc_threshold": "0"}),
    "MPEG-4": ("mpeg4", {"b": "1M", "bf": "2", "g": "300", "sc_threshold": "1000000000"}),
}
"""Encoder and its options."""


@dataclass(frozen=True)
class Shot:
    """A part of a video."""

    name: str
    """File name and start time."""
    frames: np.ndarray
    """uint8 [n, 144, 256, 3] RGB."""


def random_shots(videos: list[Path], count: int, seed: int) -> Iterator[Shot]:
    """Yield random shots; consecutive ones are from different videos."""
    rng = np.random.default_rng(seed)
    order = cycle(rng.permutation(len(videos)).tolist())
    found = 0
    while found < count:
        video = videos[next(order)]
        length = int(rng.uniform(0.7, 2.5) * FPS)
        latest_start = (probe(video).duration_seconds or 0) - length / FPS
        start = float(rng.uniform(0, min(max(latest_start, 0), 3)))
        spec = ClipSpec(frames=length, fps=Fraction(FPS))
        whole = iter_clips(
            video, spec, frames=True, frame_size=SIZE, motion_source="native", start_seconds=start, max_clips=1
        )
        clip = next(whole, None)
        if clip is None or clip.frames is None or clip.num_frames < length // 2:
            continue
        found += 1
        yield Shot(f"{video.name} {start:.2f} s", clip.frames)


def write_shots(path: Path, shots: Sequence[Shot], codec: str, options: dict[str, str]) -> None:
    """Write shots one after another as a video, at `SIZE` and `FPS`."""
    with VideoWriter(path, FPS, SIZE, codec=codec, options=options) as writer:
        for frame in chain.from_iterable(shot.frames for shot in shots):
            writer.write(frame)


def measure(path: Path, starts: list[int], names: list[str]) -> dict[str, object]:
    """Return the cuts found in an encoded video whose shots `names` begin at the frames `starts`."""
    spec = ClipSpec(frames=24, fps=Fraction(FPS))
    found = {number * spec.frames + cut for number, clip in enumerate(iter_clips(path, spec)) for cut in clip.cuts}
    true = set(starts[1:])
    hits = len(found & true)

    def describe(frame: int) -> str:
        shot = int(np.searchsorted(starts, frame, side="right")) - 1
        return f"{names[shot]} + {frame - starts[shot]}"

    return {
        "cuts": len(true),
        "recall": round(hits / max(len(true), 1), 3),
        "precision": round(hits / max(len(found), 1), 3),
        "missed": [describe(frame) for frame in sorted(true - found)],
        "additional": [describe(frame) for frame in sorted(found - true)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_footage_arguments(parser)
    parser.add_argument("--shots", type=int, default=40, help="number of shots (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of shots (default 0)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shots = list(random_shots(footage(arguments.videos), arguments.shots, arguments.seed))
        starts = np.cumsum([0, *(len(shot.frames) for shot in shots[:-1])]).tolist()
        for encoding, (codec, options) in ENCODINGS.items():
            path = Path(folder) / "shots.mp4"
            write_shots(path, shots, codec, options)
            row = {"encoding": encoding} | measure(path, starts, [shot.name for shot in shots])
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
