"""Rate and quality of videos, method by method: `python -m benchmarks.reconstruction VIDEOS… --json OUT`.

Every video is encoded and decoded with each number of motion quantizers, and compared with its own frames at 256x144,
12 fps, by `videotok.evaluation`: mean over frames 1 to 22 of each clip of PSNR, SSIM, MS-SSIM and, with `--lpips`,
LPIPS; sharpness and flicker beside the source's, sharpness also as a share of it (of the means of all clips, and that
of the median clip). `--keyframes exact` decodes with the source's own keyframes: what the motion alone costs, without a
rate. `--measured-clips 1` measures the first clip of each video alone, between its keyframe and the next; LPIPS of all
methods takes long, `--methods detokenized` leaves the others out.

Methods are those of `videotok.evaluation`, and besides:

    warp_kmeans, bidirectional_kmeans   along plain k-means codes of as many quantizers, see benchmarks/kmeans.py
    forward                             with --forward: detokenized from the clip's own keyframe alone

The table averages clips that have a next one, so that all methods stand on the same clips; last clips, which can only
be decoded from one keyframe, follow in a line of their own. JSON: a list of rows, one for each video, clip, method and
number of motion quantizers.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from benchmarks.kmeans import KMeansCodes
from codec import MediaError, MotionField
from videotok.config import DecodeConfig, EncodeConfig
from videotok.evaluation import SIZE, ClipResult, EvaluationConfig, evaluate, uncoded_motion
from videotok.io_utils import write_json
from videotok.perceptual import LPIPS
from videotok.pipeline import VideoTokenizer

FIGURES = ("psnr", "ssim", "ms_ssim", "lpips", "sharpness", "flicker")
SHARES = ("of source", "median")
"""Columns of sharpness as a share of the source's: of the means over clips, and that of the median clip."""
VIDEO_METHODS = ("repeat", "warp", "bidirectional", "detokenized")
"""Columns of the table of videos."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate and quality of videos, method by method.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    parser.add_argument("--motion-quantizers", type=int, nargs="+", default=[1, 2, 4], help="numbers to encode with")
    parser.add_argument("--keyframes", choices=("tokens", "exact"), default="tokens")
    parser.add_argument("--steps", type=int, help="network evaluations of the detokenizer per clip")
    parser.add_argument("--max-clips", type=int, help="clips of a video")
    parser.add_argument("--measured-clips", type=int, help="the first clips of a video; one more is read")
    parser.add_argument("--methods", nargs="+", help="leave all other methods out")
    parser.add_argument("--forward", action="store_true", help="detokenize without next keyframes as well")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    args = parser.parse_args()
    tokenizer, kmeans = VideoTokenizer.from_pretrained(args.model), KMeansCodes.load()
    lpips = LPIPS.load(args.lpips) if args.lpips else None
    rows: list[dict[str, Any]] = []
    for video in footage(args.videos):
        found: list[dict[str, Any]] = []
        try:
            for quantizers in args.motion_quantizers:
                found += measure(tokenizer, kmeans, video, quantizers, args, lpips)
        except MediaError as error:
            print(f"left out: {error}")
            continue
        rows += found
        print(f"{video.name}: {summary(found)}", flush=True)
    print_videos(rows)
    print_methods(rows)
    if args.json:
        write_json(args.json, rows)


def measure(
    tokenizer: VideoTokenizer,
    kmeans: KMeansCodes,
    video: Path,
    quantizers: int,
    args: argparse.Namespace,
    lpips: LPIPS | None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one video at one number of motion quantizers."""
    measured = args.measured_clips
    config = EvaluationConfig(
        motion_quantizers=(quantizers,),
        keyframes=(args.keyframes,),
        encode=EncodeConfig(max_clips=args.max_clips if measured is None else measured + 1),
        decode=DecodeConfig(size=SIZE, num_inference_steps=args.steps),
    )

    def kmeans_motion(motion: MotionField) -> Tensor:
        return kmeans.coded(uncoded_motion(motion), quantizers)

    wants_baselines = args.methods is None or set(args.methods) != {"detokenized"}
    other_motion = {"uncoded": uncoded_motion, "kmeans": kmeans_motion} if wants_baselines else None
    for clip in evaluate(tokenizer, video, config, other_motion=other_motion, lpips=lpips, methods=args.methods):
        if measured is None or clip.result.index < measured:
            yield from _rows(clip.result)
    if args.forward:
        forward = replace(config, decode=replace(config.decode, bidirectional=False))
        for clip in evaluate(tokenizer, video, forward, lpips=lpips, methods=("detokenized",)):
            if measured is None or clip.result.index < measured:
                yield from (row | {"method": "forward"} for row in _rows(clip.result) if row["method"] != "source")


def _rows(result: ClipResult) -> list[dict[str, Any]]:
    """Return the rows of one clip; only that of `detokenized` has the time that decoding took."""
    return [
        row | {"decode_seconds": result.decode_seconds if row["method"] == "detokenized" else None}
        for row in result.rows()
    ]


def summary(rows: list[dict[str, Any]]) -> str:
    """Return `repeat 20.1  warp/4 24.0 …`: mean PSNR of each method and number of motion quantizers."""
    groups = defaultdict(list)
    for row in rows:
        if row["method"] != "source":
            groups[row["method"], row["motion_quantizers"]].append(row["psnr"])
    return "  ".join(f"{method}/{number} {np.mean(values):.2f}" for (method, number), values in groups.items())


def print_videos(rows: list[dict[str, Any]]) -> None:
    """Print a Markdown table with a line for each video: PSNR over all its clips, at the last number of quantizers."""
    if not rows:
        return
    last = rows[-1]["motion_quantizers"]
    print(f"\n| video | clips | tokens/s | kbit/s | {' | '.join(VIDEO_METHODS)} |")
    print(f"|{'---|' * (4 + len(VIDEO_METHODS))}")
    means = defaultdict(list)
    for video in dict.fromkeys(row["video"] for row in rows):
        own = [row for row in rows if row["video"] == video and row["motion_quantizers"] == last]
        for method in VIDEO_METHODS:
            # a last clip has no next keyframe: what comes nearest to a bidirectional warp is a warp
            means[video, method] = [
                row["psnr"]
                for row in own
                if row["method"] == ("warp" if method == "bidirectional" and row["last"] else method)
            ]
        rate = own[0].get("tokens_per_second"), own[0].get("bits_per_second")
        cells = [f"{rate[0]:.0f}" if rate[0] else "", f"{rate[1] / 1000:.2f}" if rate[1] else ""]
        cells += [f"{np.mean(means[video, name]):.2f}" if means[video, name] else "" for name in VIDEO_METHODS]
        clips = len({row["clip"] for row in own})
        print(f"| {video} | {clips} | {' | '.join(cells)} |")
    totals = {
        method: [value for (_, name), values in means.items() if name == method for value in values]
        for method in VIDEO_METHODS
    }
    cells = [f"{np.mean(values):.2f}" if values else "" for values in totals.values()]
    print(f"| all clips | {max(map(len, totals.values()))} | | | {' | '.join(cells)} |")


def print_methods(rows: list[dict[str, Any]]) -> None:
    """Print means by method and number of quantizers over clips with a next one; then those of last clips."""
    groups = defaultdict(list)
    for row in rows:
        if not row["last"]:
            groups[row["method"], row["motion_quantizers"]].append(row)
    titles = "".join(f"{name:>10}" for name in (*FIGURES, *SHARES))
    print(f"\n{'method':<22}{'quantizers':>11}{'clips':>6}{titles}{'seconds':>9}")
    sources = {_clip_of(row): row["sharpness"] for row in rows if row["method"] == "source"}
    for (method, quantizers), group in groups.items():
        columns = FIGURES if method != "source" else ("sharpness", "flicker")
        cells = [_mean(group, name) if name in columns else "" for name in FIGURES]
        cells += [f"{share:.2f}" for share in sharpness_shares(group, sources)]
        print(
            f"{method:<22}{quantizers:>11}{len(group):>6}{''.join(f'{cell:>10}' for cell in cells)}"
            f"{_mean(group, 'decode_seconds'):>9}"
        )
    print(f"last clips, from one keyframe: {summary([row for row in rows if row['last']])}")


def sharpness_shares(rows: list[dict[str, Any]], sources: dict[tuple, float]) -> tuple[float, float]:
    """Return the sharpness of clips as a share of their sources': that of the means, and that of the median clip."""
    own = np.array([row["sharpness"] for row in rows])
    wanted = np.array([sources[_clip_of(row)] for row in rows])
    return float(own.mean() / wanted.mean()), float(np.median(own / wanted))


def _clip_of(row: dict[str, Any]) -> tuple:
    return row["video"], row["clip"], row["motion_quantizers"]


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    digits = 3 if name in ("ssim", "ms_ssim", "lpips") else 2
    return f"{np.mean(values):.{digits}f}" if values else ""


if __name__ == "__main__":
    main()
