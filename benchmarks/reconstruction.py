"""How well clips are rebuilt: python -m benchmarks.reconstruction VIDEOS… --json OUT

Every rung of the ladder on every clip, against the source's own frames at 256x144, 12 fps: mean over frames 1…22 (fewer
in a short last clip) of PSNR and SSIM, sharpness (mean absolute Laplacian) and flicker (mean absolute second difference
in time) beside the source's. Keyframes are exact, or `--keyframes tokens` decodes them from their tokens. `kmeans` is
the two-way warp (the forward one in a last clip) along plain k-means codes of as many levels, see benchmarks/kmeans.py;
`forward`, measured on request, is the detokenizer without the next keyframe, to be compared with `warp`.
The table averages clips that have a next clip, so that all rungs stand on the same clips; last clips, which can only be
rebuilt forward, follow in a line of their own. JSON: a list of rows, one a video, clip, rung and number of levels;
`ids` are the motion ids of the clip.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch

from benchmarks.footage import add_footage_arguments, footage
from benchmarks.kmeans import KMeansCodes
from codec import Clip, MediaError, atomic_path
from videotok.evaluation import (
    Ends,
    Rung,
    clips_with_next,
    ends_of,
    figures,
    flicker,
    frames_of,
    ladder,
    measured,
    sharpness,
    warp_rungs,
)
from videotok.pipeline import VideoTokenizer
from videotok.config import EncodeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description="How well clips are rebuilt, rung by rung.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="bundle of weights instead of the shipped one")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 4], help="motion levels to measure")
    parser.add_argument("--keyframes", choices=("exact", "tokens"), default="exact")
    parser.add_argument("--steps", type=int, help="network evaluations a clip (default: the model's own)")
    parser.add_argument("--max-clips", type=int, help="clips a video")
    parser.add_argument("--forward", action="store_true", help="the detokenizer without next keyframes too")
    parser.add_argument("--no-detokenizer", action="store_true", help="leave out the slow rung")
    args = parser.parse_args()
    model, plain = VideoTokenizer.from_pretrained(args.model), KMeansCodes.load()
    rows = []
    for path in footage(args.videos):
        try:
            rate = model.encode(path, EncodeConfig(max_clips=args.max_clips)).tokens_per_second
            for index, clip, following in clips_with_next(path, args.max_clips):
                name = {"video": path.name, "clip": index, "tokens_per_second": rate}
                rows += measure(model, plain, args, clip, following, name)
        except MediaError as error:
            print(f"left out: {error}")
            continue
        print(f"{path.name}: {summary([row for row in rows if row['video'] == path.name])}", flush=True)
    print_videos(rows)
    print_table(rows)
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


def measure(
    model: VideoTokenizer, plain: KMeansCodes, args: argparse.Namespace, clip: Clip, following: Clip | None, name: dict
) -> list[dict]:
    """Rows of one clip."""
    truth = frames_of(clip)
    source = truth[measured(truth)]
    shared = {**name, "source_sharpness": sharpness(source), "source_flicker": flicker(source)}
    shared["last"] = following is None
    ends = ends_of(model, clip, following, exact=args.keyframes == "exact")
    learned = ladder(
        model,
        ends,
        clip,
        following,
        args.levels,
        steps=args.steps,
        detokenize=not args.no_detokenizer,
        forward=args.forward,
    )
    rows = []
    for rung in chain(learned, kmeans_rungs(plain, ends, clip, following, args.levels)):
        found = figures(truth, rung.frames)
        row = {**shared, "rung": rung.name, "levels": rung.levels, "ids": _ids(model, rung)}
        row |= {"psnr": float(np.mean(found.psnr)), "ssim": float(np.mean(found.ssim))}
        rows.append(row | {"sharpness": found.sharpness, "flicker": found.flicker, "seconds": rung.seconds})
    return rows


def kmeans_rungs(
    plain: KMeansCodes, ends: Ends, clip: Clip, following: Clip | None, levels: list[int]
) -> Iterator[Rung]:
    """The best warp along k-means codes, at each number of levels."""
    for number in levels:
        began = time.monotonic()
        coded = [
            plain.coded(torch.from_numpy(one.motion.vectors)[None], number)
            for one in (clip, following)
            if one is not None
        ]
        rungs = dict(warp_rungs(ends, coded[0], coded[1] if following else None))
        yield Rung("kmeans", number, rungs.get("bidirectional", rungs["warp"]), time.monotonic() - began)


def _ids(model: VideoTokenizer, rung: Rung) -> int | None:
    """Motion ids of a clip that a rung is rebuilt from."""
    if rung.levels is None:
        return None
    own = 0 if rung.name == "kmeans" else model.motion.num_global_motion_ids
    return own + rung.levels * model.motion.tokens_per_quantizer


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
    rungs = ("hold", "warp", "bidirectional", "detokenized")
    levels = [row["levels"] for row in rows if row["rung"] == "warp"][-1:]
    print(f"\n| video | clips | tokens/s | {' | '.join(rungs)} |\n|---|---|---|{'---|' * len(rungs)}")
    means = defaultdict(list)
    for video in dict.fromkeys(row["video"] for row in rows):
        mine = [row for row in rows if row["video"] == video and row["levels"] in (None, *levels)]
        cells = []
        for rung in rungs:
            # a last clip has no two-way warp: what it can be rebuilt from is the forward one
            figures = [
                row["psnr"]
                for row in mine
                if row["rung"] == ("warp" if rung == "bidirectional" and row["last"] else rung)
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
    print(
        f"\n{'rung':<14}{'levels':>7}{'ids':>6}{'clips':>7}{'PSNR':>8}{'SSIM':>8}{'sharpness':>11}{'flicker':>9}{'seconds':>9}"
    )
    for (rung, levels), group in groups.items():
        means = {
            key: np.mean([row[key] for row in group]) for key in ("psnr", "ssim", "sharpness", "flicker", "seconds")
        }
        print(
            f"{rung:<14}{levels or '':>7}{group[0]['ids'] or '':>6}{len(group):>7}"
            f"{means['psnr']:>8.2f}{means['ssim']:>8.3f}{means['sharpness']:>11.2f}{means['flicker']:>9.2f}"
            f"{means['seconds']:>9.2f}"
        )
    first = [row for row in rows if not row["last"] and row["rung"] == "hold"]
    for key in ("sharpness", "flicker"):
        if first:
            print(f"source {key}: {np.mean([row[f'source_{key}'] for row in first]):.2f}")
    print(f"last clips, forward only: {summary([row for row in rows if row['last']])}")


if __name__ == "__main__":
    main()
