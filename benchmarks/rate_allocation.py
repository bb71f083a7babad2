"""What rate control gains over the fixed layout: `python -m benchmarks.rate_allocation VIDEOS… --json OUT`.

Every video is encoded with the default options (two motion quantizers for each clip, keyframes with half of their
patches on average) and at rates (`--rates`, tokens a second); each is decoded by the video detokenizer at 256x144, and
compared with the source's frames 1 to 22 of each clip (every third one, see `--stride`). `moving_psnr` is of the
regions that move by themselves: where the field, less the global motion, is above a quarter of a pixel a step.

JSON: a row for each video, layout and clip.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.footage import add_footage_arguments, footage
from codec import Clip
from videotok.config import DecodeConfig, EncodeConfig
from videotok.evaluation import SIZE, frames_of, inner_frames, source_clips
from videotok.io_utils import write_json
from videotok.metrics import perceptual_distance, psnr, ssim
from videotok.perceptual import LPIPS
from videotok.pipeline import VideoTokenizer

FIXED = "fixed"
MOVING_PIXELS = 0.25
"""Own motion in pixels a step, of a frame 256 pixels wide, from which a region counts as moving."""
FIGURES = ("tokens_per_second", "psnr", "ssim", "lpips", "moving_psnr")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.rate_allocation", description="What rate control gains over the fixed layout."
    )
    add_footage_arguments(parser)
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    parser.add_argument("--rates", type=float, nargs="+", default=[200.0, 150.0], help="tokens a second")
    parser.add_argument("--max-clips", type=int, default=3, help="clips of a video (default 3)")
    parser.add_argument("--stride", type=int, default=3, help="every so many frames of a clip are compared (default 3)")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    options = parser.parse_args(arguments)
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    lpips = LPIPS.load(options.lpips) if options.lpips else None
    layouts = {FIXED: EncodeConfig(max_clips=options.max_clips)} | {
        f"{rate:g}/s": EncodeConfig(max_clips=options.max_clips, tokens_per_second=rate) for rate in options.rates
    }
    rows: list[dict[str, Any]] = []
    for video in footage(options.videos):
        for layout, config in layouts.items():
            rows += (row | {"layout": layout} for row in measure(tokenizer, video, config, options.stride, lpips))
            if options.json:
                write_json(options.json, rows)
        print(video.name, *(_line(rows, layout, video.name) for layout in layouts), sep="\n    ", flush=True)
    print_table(rows, list(layouts))


def measure(
    tokenizer: VideoTokenizer, video: Path, config: EncodeConfig, stride: int, lpips: LPIPS | None
) -> Iterator[dict[str, Any]]:
    """Encode and decode a video, and yield a row for each clip of more than one frame."""
    began = time.process_time()
    tokens = tokenizer.encode(video, config)
    seconds = (time.process_time() - began) / tokens.num_clips
    sources, clips = source_clips(tokens, video, SIZE), tokenizer.decode_clips(tokens, DecodeConfig(size=SIZE))
    for index, (source, clip) in enumerate(zip(sources, clips, strict=True)):
        inner = inner_frames(clip.num_frames)
        chosen = range(*inner.indices(clip.num_frames))[::stride]
        if not chosen:
            continue
        pairs = [(frames_of(source)[frame], clip.frames[frame]) for frame in chosen]
        yield {
            "video": video.name,
            "clip": index,
            "tokens_per_second": tokens.tokens_per_second,
            "motion_quantizers": int(tokens.motion_quantizers[index]),
            "visual_tokens": int(tokens.visual_counts[index]),
            "skipped": int(tokens.skip_mask[index].sum()),
            "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
            "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
            "lpips": None if lpips is None else float(np.mean([perceptual_distance(lpips, *pair) for pair in pairs])),
            "moving_psnr": masked_psnr(pairs, moving_masks(tokenizer, source)[list(chosen)]),
            "encode_cpu_seconds": seconds,
        }


def moving_masks(tokenizer: VideoTokenizer, clip: Clip) -> np.ndarray:
    """Return which pixels move otherwise than the global motion, bool [T, height, width] at `SIZE`."""
    motion = tokenizer.encode_motion([clip.motion], 0)
    own = clip.motion.vectors - tokenizer.decode_motion(motion)[0].cpu().numpy()
    pixels = np.linalg.norm(own * np.array(SIZE, np.float32), axis=-1) * clip.motion.valid
    # a step shows what has just moved; what moves stands out over some frames
    smooth = [cv2.resize(step, SIZE, interpolation=cv2.INTER_LINEAR) for step in _mean_of_three(pixels)]
    return np.stack(smooth) > MOVING_PIXELS


def _mean_of_three(steps: np.ndarray) -> np.ndarray:
    padded = np.concatenate([steps[:1], steps, steps[-1:]])
    return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).astype(np.float32)


def masked_psnr(pairs: Sequence[tuple[np.ndarray, np.ndarray]], masks: np.ndarray) -> float | None:
    """Return the PSNR of the pixels in the masks over all frames together, in dB; None where there are none."""
    if not masks.any():
        return None
    errors = [((a.astype(np.float64) - b) ** 2)[mask] for (a, b), mask in zip(pairs, masks, strict=True)]
    return float(10 * np.log10(255**2 / max(np.concatenate(errors).mean(), 1e-10)))


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each figure over clips; None where no clip has it."""
    values = {name: [row[name] for row in rows if row[name] is not None] for name in (*FIGURES, "encode_cpu_seconds")}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _line(rows: list[dict[str, Any]], layout: str, video: str) -> str:
    own = [row for row in rows if row["layout"] == layout and row["video"] == video]
    clips = ", ".join(f"{row['motion_quantizers']}+{row['visual_tokens']}" for row in own)
    return f"{layout:>8} {_text(_means(own))}  quantizers+visual tokens: {clips}" if own else f"{layout:>8} no clip"


def _text(means: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in means.items() if value is not None)


def print_table(rows: list[dict[str, Any]], layouts: Sequence[str]) -> None:
    """Print a line for each layout: means over all clips, and the share of videos that gain PSNR."""
    table = Table("layout", "videos", "clips", *FIGURES, "encode CPU s/clip", "dPSNR", "videos better")
    videos: dict[str, dict[str, float]] = defaultdict(dict)
    for layout in layouts:
        own = [row for row in rows if row["layout"] == layout]
        for name in {row["video"] for row in own}:
            videos[layout][name] = float(np.mean([row["psnr"] for row in own if row["video"] == name]))
    for layout in layouts:
        means = _means([row for row in rows if row["layout"] == layout])
        gains = [videos[layout][name] - videos[FIXED][name] for name in videos[layout]]
        cells = ["" if means[name] is None else f"{means[name]:.3f}" for name in (*FIGURES, "encode_cpu_seconds")]
        count = sum(row["layout"] == layout for row in rows)
        better = f"{sum(gain > 0 for gain in gains)}/{len(gains)}"
        table.add_row(layout, str(len(gains)), str(count), *cells, f"{np.mean(gains):+.2f}", better)
    Console(width=150).print(table)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
