"""How well clips are rebuilt: python -m benchmarks.reconstruction VIDEOS… --json OUT

Every rung of the ladder on every clip, against the source's own frames at 256x144, 12 fps: mean over frames 1…22 (fewer
in a short last clip) of PSNR and SSIM, sharpness (mean absolute Laplacian) and flicker (mean absolute second difference
in time) beside the source's. Keyframes are exact, or `--keyframes tokens` decodes them from their tokens.
The table averages clips that have a next clip, so that all rungs stand on the same clips; last clips, which can only be
rebuilt forward, follow in a line of their own. JSON: a list of rows, one a video, clip, rung and number of levels.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.footage import add_footage_arguments, footage
from codec import Clip, ClipSpec, MediaError, iter_clips, replacing
from videotok.ladder import Ends, pixels, still_rungs, tensor, warp_rungs
from videotok.metrics import flicker, psnr, sharpness, ssim
from videotok.pipeline import VideoTokenizer

SIZE = (256, 144)


def main() -> None:
    parser = argparse.ArgumentParser(description="How well clips are rebuilt, rung by rung.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="bundle of weights instead of the shipped one")
    parser.add_argument("--levels", type=int, nargs="+", help="motion levels to measure (default: the model's own)")
    parser.add_argument("--keyframes", choices=("exact", "tokens"), default="exact")
    parser.add_argument("--steps", type=int, help="network evaluations a clip (default: the model's own)")
    parser.add_argument("--max-clips", type=int, help="clips a video")
    parser.add_argument("--no-detokenizer", action="store_true", help="leave out the slow rung")
    args = parser.parse_args()
    model = VideoTokenizer.from_pretrained(args.model)
    rows = []
    for path in footage(args.videos):
        try:
            rate = model.encode(path, max_clips=args.max_clips).tokens_per_second
            for index, clip, following in clips(path, args.max_clips):
                name = {"video": path.name, "clip": index, "tokens_per_second": rate}
                rows += measure(model, args, clip, following, name)
        except MediaError as error:
            print(f"left out: {error}")
            continue
        print(f"{path.name}: {summary([row for row in rows if row['video'] == path.name])}", flush=True)
    print_videos(rows)
    print_table(rows)
    if args.json:
        with replacing(args.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


def clips(path: Path, max_clips: int | None) -> Iterator[tuple[int, Clip, Clip | None]]:
    """Clips of a video beside the one that follows, if any; clips of fewer than three frames are left out."""
    found = iter_clips(path, ClipSpec(), frames=True, frame_size=SIZE, max_clips=max_clips and max_clips + 1)
    for index, (clip, following) in enumerate(pairwise(chain(found, [None]))):
        if clip is not None and clip.num_frames >= 3 and (max_clips is None or index < max_clips):
            yield index, clip, following


def measure(
    model: VideoTokenizer, args: argparse.Namespace, clip: Clip, following: Clip | None, name: dict
) -> list[dict]:
    """Rows of one clip."""
    truth = _frames(clip)
    last = min(22, len(truth) - 2)
    shared = {"source_sharpness": sharpness(truth[1 : last + 1]), "source_flicker": flicker(truth[1 : last + 1])}
    shared |= {**name, "last": following is None}

    def row(rung: str, frames: np.ndarray, levels: int | None, seconds: float) -> dict:
        pairs = list(zip(truth[1 : last + 1], frames[1 : last + 1], strict=True))
        figures = {
            "psnr": float(np.mean([psnr(a, b) for a, b in pairs])),
            "ssim": float(np.mean([ssim(a, b) for a, b in pairs])),
            "sharpness": sharpness(frames[1 : last + 1]),
            "flicker": flicker(frames[1 : last + 1]),
        }
        return {**shared, "rung": rung, "levels": levels, **figures, "seconds": seconds}

    ends = Ends(_keyframe(model, args, clip), None if following is None else _keyframe(model, args, following))
    steps = len(clip.motion.vectors)
    rows = [row(rung, frames, None, 0.0) for rung, frames in still_rungs(ends, steps).items()]
    raw, raw_next = _field(clip), following and _field(following)
    rows += [row(rung, frames, None, 0.0) for rung, frames in warp_rungs(ends, raw, raw_next, "_raw").items()]
    for levels in args.levels or [model.default_motion_levels]:
        coded = model.coded_motion(clip.motion, levels)
        coded_next = following and model.coded_motion(following.motion, levels)
        began = time.monotonic()
        rungs = warp_rungs(ends, coded, coded_next)
        rows += [row(rung, frames, levels, time.monotonic() - began) for rung, frames in rungs.items()]
        if not args.no_detokenizer:
            began = time.monotonic()
            rebuilt = model.detokenizer.reconstruct(
                ends.keyframe,
                coded,
                next_keyframe=ends.next_keyframe,
                next_vectors=coded_next,
                num_inference_steps=args.steps,
                generator=torch.Generator().manual_seed(0),
            )
            rows.append(row("detokenized", pixels(rebuilt), levels, time.monotonic() - began))
    return rows


def _keyframe(model: VideoTokenizer, args: argparse.Namespace, clip: Clip) -> torch.Tensor:
    if args.keyframes == "exact":
        return tensor(_frames(clip)[0])
    return model.rebuilt_keyframe(clip.keyframe, SIZE)


def _frames(clip: Clip) -> np.ndarray:
    if clip.frames is None:
        raise ValueError(f"{clip} was read without frames; read it with frames=True")
    return clip.frames


def _field(clip: Clip) -> torch.Tensor:
    return torch.from_numpy(clip.motion.vectors)[None]


def summary(rows: list[dict]) -> str:
    """`hold 20.1  warp 24.0 …`, means over all rows of a rung."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["rung"], row["levels"]].append(row["psnr"])
    return "  ".join(
        f"{rung}{f'/{levels}' if levels else ''} {np.mean(values):.2f}" for (rung, levels), values in groups.items()
    )


def print_videos(rows: list[dict]) -> None:
    """A Markdown table, one line a video: PSNR over all its clips, at the last number of levels measured."""
    rungs = ("hold", "warp", "two_way", "detokenized")
    levels = [row["levels"] for row in rows if row["rung"] == "warp"][-1:]
    print(f"\n| video | clips | tokens/s | {' | '.join(rungs)} |\n|---|---|---|{'---|' * len(rungs)}")
    means = defaultdict(list)
    for video in dict.fromkeys(row["video"] for row in rows):
        mine = [row for row in rows if row["video"] == video and row["levels"] in (None, *levels)]
        cells = []
        for rung in rungs:
            # a last clip has no two-way warp: what it can be rebuilt from is the forward one
            figures = [
                row["psnr"] for row in mine if row["rung"] == ("warp" if rung == "two_way" and row["last"] else rung)
            ]
            cells.append(f"{np.mean(figures):.2f}" if figures else "")
            means[rung] += figures
        clips_of_video = sum(row["rung"] == "hold" for row in mine)
        print(f"| {video} | {clips_of_video} | {mine[0]['tokens_per_second']:.0f} | {' | '.join(cells)} |")
    cells = [f"{np.mean(means[rung]):.2f}" if means[rung] else "" for rung in rungs]
    print(f"| all clips | {len(means['hold'])} | | {' | '.join(cells)} |")


def print_table(rows: list[dict]) -> None:
    """Means by rung, of clips with a next clip; then those of last clips."""
    groups = defaultdict(list)
    for row in rows:
        if not row["last"]:
            groups[row["rung"], row["levels"]].append(row)
    print(f"\n{'rung':<14}{'levels':>7}{'clips':>7}{'PSNR':>8}{'SSIM':>8}{'sharpness':>11}{'flicker':>9}{'seconds':>9}")
    for (rung, levels), group in groups.items():
        means = {
            key: np.mean([row[key] for row in group]) for key in ("psnr", "ssim", "sharpness", "flicker", "seconds")
        }
        print(
            f"{rung:<14}{levels or '':>7}{len(group):>7}{means['psnr']:>8.2f}{means['ssim']:>8.3f}"
            f"{means['sharpness']:>11.2f}{means['flicker']:>9.2f}{means['seconds']:>9.2f}"
        )
    first = [row for row in rows if not row["last"] and row["rung"] == "hold"]
    for key in ("sharpness", "flicker"):
        if first:
            print(f"source {key}: {np.mean([row[f'source_{key}'] for row in first]):.2f}")
    print(f"last clips, forward only: {summary([row for row in rows if row['last']])}")


if __name__ == "__main__":
    main()
