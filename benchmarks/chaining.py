"""Quality at the boundaries of clips: python -m benchmarks.chaining VIDEOS… --json OUT

Each video is one chain of up to `--clips` whole clips at 256x144, 12 fps, in three modes: bidirectional (between
keyframes), forward (each clip from its own keyframe alone), constrained (forward, and each clip is denoised starting
from the last frame before it, taken back to noise at 0.85: the explicit noise constraint of Video-LaVIT).

seam: mean absolute difference across a clip boundary over that inside clips, divided by the same ratio of the source's
own frames: 1 is a boundary that cannot be told from the source's. drift: PSNR of the last clip less that of the first
(frames 1 to 22), which is meaningful where the scene is stationary. memory: the most that the process has held, in MB,
after the third clip and after the last. JSON: a list of rows, one for each video and mode.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.footage import add_footage_arguments, footage
from codec import Clip, ClipSpec, MediaError, iter_clips
from unet3d import decode_chain
from videotok.evaluation import inner_frames
from videotok.image_utils import to_tensor, to_uint8
from videotok.io_utils import write_json
from videotok.metrics import psnr
from videotok.pipeline import VideoTokenizer

SIZE = (256, 144)
MODES = {
    "bidirectional": {"bidirectional": True},
    "forward": {"bidirectional": False},
    "constrained": {"bidirectional": False, "noise_rate": 0.85},
}


@dataclass(frozen=True)
class ChainResult:
    """One chain of clips in one mode; the module's docstring defines seam, drift and memory."""

    video: str
    mode: str
    clips: int
    seam: float
    source_ratio: float
    """Difference across boundaries over that inside clips, of the source's frames."""
    psnr: float
    """Mean over clips, in dB."""
    drift: float
    """dB."""
    psnr_of_clips: list[float]
    memory_third: int
    """MB, after the third clip."""
    memory_last: int
    """MB, after the last clip."""
    seconds: float
    """Wall-clock seconds, reading included."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality at the boundaries of clips, drift and memory of long chains.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="bundle of weights instead of the shipped one")
    parser.add_argument("--motion-quantizers", type=int, help="residual motion quantizers (default: the model's own)")
    parser.add_argument("--keyframes", choices=("exact", "tokens"), default="exact", help="keyframes to decode from")
    parser.add_argument("--clips", type=int, default=20, help="clips per chain at most")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES), help="modes to measure")
    args = parser.parse_args()
    model = VideoTokenizer.from_pretrained(args.model)
    results: list[ChainResult] = []
    for path in footage(args.videos):
        for mode in args.modes:
            try:
                result = measure(model, args, path, mode)
            except MediaError as error:
                print(f"left out: {error}")
                break
            if result is None:
                print(f"left out: {path} has fewer than two whole clips")
                break
            results.append(result)
            print_result(result)
    for mode in args.modes:
        print_mean(mode, [result for result in results if result.mode == mode])
    if args.json:
        write_json(args.json, [asdict(result) for result in results])


class FrameDifferences:
    """Mean absolute differences of successive frames, across clip boundaries and inside clips."""

    def __init__(self) -> None:
        self.across: list[float] = []
        self.inside: list[float] = []
        self.last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """Add the next clip, uint8 [T, H, W, 3]."""
        values = frames.astype(np.int16)
        if self.last is not None:
            self.across.append(float(np.abs(values[0] - self.last).mean()))
        self.inside += np.abs(np.diff(values, axis=0)).mean((1, 2, 3)).tolist()
        self.last = values[-1]

    @property
    def ratio(self) -> float:
        """Mean across boundaries over mean inside clips; 1 for a still video."""
        return (float(np.mean(self.across)) + 1e-3) / (float(np.mean(self.inside)) + 1e-3)


def measure(model: VideoTokenizer, args: argparse.Namespace, path: Path, mode: str) -> ChainResult | None:
    """Return the figures of one video in one mode; None where it has fewer than two whole clips."""
    quantizers = model.default_motion_quantizers if args.motion_quantizers is None else args.motion_quantizers
    truths: list[np.ndarray] = []

    def read() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for clip in whole_clips(path, args.clips):
            truths.append(np.asarray(clip.frames))
            exact = args.keyframes == "exact"
            keyframe = to_tensor(truths[-1][0]) if exact else model.reconstruct_keyframe(clip.keyframe, SIZE)
            yield keyframe, model.reconstruct_motion(clip.motion, quantizers)

    source, rebuilt, quality, memory = FrameDifferences(), FrameDifferences(), [], []
    inner = inner_frames(ClipSpec().frames)
    start = time.monotonic()
    for decoded in decode_chain(model.detokenizer, read(), **MODES[mode]):
        truth, frames = truths.pop(0), to_uint8(decoded)
        source.add(truth)
        rebuilt.add(frames)
        quality.append(float(np.mean([psnr(a, b) for a, b in zip(truth[inner], frames[inner], strict=True)])))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    if len(quality) < 2:
        return None
    return ChainResult(
        video=path.name,
        mode=mode,
        clips=len(quality),
        seam=rebuilt.ratio / source.ratio,
        source_ratio=source.ratio,
        psnr=float(np.mean(quality)),
        drift=quality[-1] - quality[0],
        psnr_of_clips=quality,
        memory_third=memory[min(2, len(memory) - 1)],
        memory_last=memory[-1],
        seconds=time.monotonic() - start,
    )


def whole_clips(path: Path, max_clips: int) -> Iterator[Clip]:
    """Yield clips of full length; a short last one has no boundary after it."""
    spec = ClipSpec()
    for clip in iter_clips(path, spec, frames=True, frame_size=SIZE, max_clips=max_clips):
        if clip.num_frames == spec.frames:
            yield clip


def print_result(result: ChainResult) -> None:
    """Print one line for one chain."""
    print(
        f"{result.video[:44]:<45}{result.mode:<15}{result.clips:>3} clips  seam {result.seam:.3f}  "
        f"PSNR {result.psnr:.2f}  drift {result.drift:+.2f}  "
        f"memory {result.memory_third} -> {result.memory_last} MB  {result.seconds:.0f} s",
        flush=True,
    )


def print_mean(mode: str, results: list[ChainResult]) -> None:
    """Print the means over all videos, each boundary and each clip counted once."""
    if results:
        boundaries = [result.clips - 1 for result in results]
        seam = np.average([result.seam for result in results], weights=boundaries)
        quality = np.average([result.psnr for result in results], weights=[result.clips for result in results])
        print(f"{mode:<15}{sum(boundaries)} boundaries in {len(results)} videos: seam {seam:.3f}  PSNR {quality:.2f}")


if __name__ == "__main__":
    main()
