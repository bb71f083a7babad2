"""Motion tokens against plain k-means codes of the same size: what warping along each is worth.

    python -m benchmarks.motion_codes TRAIN_CACHE TEST_CACHE --levels 1 2 4

The caches are folders that `videotok train prepare` wrote; k-means is fitted on the first, both are measured on the
second: mean PSNR of frames 1 to 22 at the size of the cache's pictures, exact keyframes, mean over clips, then videos.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.kmeans import KMeansCodes, fields, sample
from codec import atomic_path
from motion_vq import MotionTokenizer, MotionTokens
from motion_vq.fields import to_pixels
from unet3d.warping import compose, warp, warp_bidirectional
from videotok.evaluation import still_baselines
from videotok.image_utils import to_tensor, to_uint8
from videotok.metrics import psnr
from videotok.training.dataset import Cache, Row


def main() -> None:
    parser = argparse.ArgumentParser(description="Motion tokens against plain k-means codes of the same size.")
    parser.add_argument("train", type=Path, help="cache that k-means is fitted on")
    parser.add_argument("test", type=Path, help="cache that both are measured on")
    parser.add_argument("--model", type=Path, help="weights of a motion tokenizer instead of the shipped ones")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--max-clips", type=int, help="clips a video")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    shipped = Path(__file__).parent.parent / "videotok" / "weights" / "motion"
    model = MotionTokenizer.from_pretrained(args.model or shipped).double().eval()
    torch.manual_seed(0)
    baseline = KMeansCodes.fit(sample(Cache(args.train).clips("train")), max(args.levels))
    rows: list[dict] = []
    for row, following in _pairs(Cache(args.test).clips(), args.max_clips):
        rows += measure(model, baseline, row, following, args.levels)
    print_table(rows)
    print_fields(model, Cache(args.test).clips(), args.levels)
    if args.json:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


@torch.no_grad()
def measure(
    model: MotionTokenizer, baseline: KMeansCodes, row: Row, following: Row | None, levels: list[int]
) -> list[dict]:
    """Rows {video, clip, rung, levels, ids, psnr} of one clip; `ids`: motion ids of a clip."""
    item = row.clip()
    truth = item["frames"]
    next_keyframe = None if following is None else to_tensor(item["next_keyframe_frame"])
    keyframe = to_tensor(truth[0])
    vectors, valid = fields([row] if following is None else [row, following])
    tokens = model.encode(vectors, valid, max(levels))

    def score(rung: str, frames: np.ndarray, levels: int | None = None, ids: int | None = None) -> dict:
        found = float(np.mean([psnr(a, b) for a, b in zip(truth[1:23], frames[1:23], strict=True)]))
        return {"video": row.source, "clip": row.row, "rung": rung, "levels": levels, "ids": ids, "psnr": found}

    rows = [score(rung, frames) for rung, frames in still_baselines(keyframe, next_keyframe, len(truth)).items()]
    tried: list[tuple[str, int | None, int | None, Tensor]] = [("_raw", None, None, vectors)]
    if model.num_global_motion_ids:
        tried.append(("_camera", 0, model.num_global_motion_ids, model.decode(tokens.first_quantizers(0))))
    for number in levels:
        coarse = tokens.first_quantizers(number)
        tried.append(("", number, coarse.tokens_per_clip, model.decode(coarse)))
        tried.append(("_kmeans", number, baseline.ids(vectors, number), baseline.coded(vectors, number)))
    for suffix, number, ids, field in tried:
        rows.append(score(f"warp{suffix}", to_uint8(warp(keyframe, compose(field[:1]))), number, ids))
        if next_keyframe is not None:
            both = warp_bidirectional(keyframe, field[:1], next_keyframe, field[1:])
            rows.append(score(f"bidirectional{suffix}", to_uint8(both.pictures), number, ids))
    return rows


def print_table(rows: list[dict]) -> None:
    """One line a rung and level: mean over clips, then over videos."""
    found: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["rung"], row["levels"], row["ids"]][row["video"]].append(row["psnr"])
    print(f"{'rung':<16}{'levels':>7}{'ids':>6}{'PSNR dB':>9}{'videos':>8}")
    for (rung, levels, ids), videos in found.items():
        mean = np.mean([np.mean(values) for values in videos.values()])
        print(f"{rung:<16}{'' if levels is None else levels:>7}{ids or '':>6}{mean:>9.2f}{len(videos):>8}")


@torch.no_grad()
def print_fields(model: MotionTokenizer, rows: list[Row], levels: list[int]) -> None:
    """What the codes do to the fields themselves, all clips: end-point error, still cells, words of a level in use."""
    vectors, valid = fields(rows)
    parts = [
        model.encode(part, there, max(levels)) for part, there in zip(vectors.split(16), valid.split(16), strict=True)
    ]
    tokens = MotionTokens(
        torch.cat([part.ids for part in parts]), torch.cat([part.global_motion_ids for part in parts])
    )
    print(f"{'levels':>6}{'error a step px':>17}{'error to keyframe px':>22}{'still cells':>13}{'words used':>12}")
    print(f"{'raw':>6}{0:>17}{0:>22}{_still(vectors):>13.0%}")
    for number in levels:
        decoded = model.decode(tokens.first_quantizers(number))
        step = to_pixels(decoded - vectors).norm(dim=-1).mean()
        path = to_pixels(compose(decoded) - compose(vectors)).norm(dim=-1).mean()
        used = len(tokens.ids[:, number - 1].unique()) / model.codebook_size
        print(f"{number:>6}{step:>17.3f}{path:>22.2f}{_still(decoded):>13.0%}{used:>12.0%}")


def _still(vectors: Tensor) -> float:
    """Share of cells that move by less than a tenth of a pixel in a step."""
    return float((to_pixels(vectors).norm(dim=-1) < 0.1).float().mean())


def _pairs(rows: list[Row], max_clips: int | None) -> list[tuple[Row, Row | None]]:
    """Whole clips, each with the one that follows it in its video, if any."""
    pairs, seen = [], defaultdict(int)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        whole = row.motion()["num_frames"] == len(row.motion()["vectors"])
        if whole and (max_clips is None or seen[row.source] < max_clips):
            seen[row.source] += 1
            joined = (
                following is not None
                and following.shard is row.shard
                and following.shard.arrays["follows"][following.row]
            )
            pairs.append((row, following if joined else None))
    return pairs


if __name__ == "__main__":
    main()
