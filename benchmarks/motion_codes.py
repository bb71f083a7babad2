"""Motion tokens against plain k-means codes of the same size: PSNR of frames warped along each.

    python -m benchmarks.motion_codes TRAIN_CACHE TEST_CACHE --quantizers 1 2 4

The caches are folders that `videotok train prepare` wrote. K-means is fitted on the first, both are measured on the
second: mean PSNR of frames 1 to 22 at the size of the cache's pictures, exact keyframes, mean over clips, then videos.
"""

import argparse
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.kmeans import KMeansCodes, read_fields, training_vectors
from motion_vq import MotionTokenizer, MotionTokens
from motion_vq.fields import to_pixels
from unet3d.warping import compose, warp, warp_bidirectional
from videotok.bundle import SHIPPED
from videotok.evaluation import inner_frames, still_baselines
from videotok.image_utils import to_tensor, to_uint8
from videotok.io_utils import write_json
from videotok.metrics import psnr
from videotok.training.dataset import Cache, Row


@dataclass(frozen=True)
class Result:
    """The quality of one clip, rebuilt in one way."""

    video: str
    clip: int
    method: str
    quantizers: int | None
    ids: int | None
    """Motion ids of the clip."""
    psnr: float
    """dB."""


@dataclass(frozen=True)
class CodedField:
    """A clip's field, and the next clip's, after coding in one way."""

    suffix: str
    """What the names of methods that warp along it end with."""
    quantizers: int | None
    ids: int | None
    vectors: Tensor
    """[1 or 2, T, h, w, 2] in fractions of the frame."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Motion tokens against plain k-means codes of the same size.")
    parser.add_argument("train", type=Path, help="cache that k-means is fitted on")
    parser.add_argument("test", type=Path, help="cache that both are measured on")
    parser.add_argument("--model", type=Path, help="weights of a motion tokenizer instead of the shipped ones")
    parser.add_argument("--quantizers", type=int, nargs="+", default=[1, 2, 4], help="numbers of residual quantizers")
    parser.add_argument("--max-clips", type=int, help="clips per video at most")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    model = MotionTokenizer.from_pretrained(args.model or SHIPPED / "motion").double().eval()
    torch.manual_seed(0)
    kmeans = KMeansCodes.fit(training_vectors(Cache(args.train).clips("train")), max(args.quantizers))
    results: list[Result] = []
    for row, next_row in _clips_with_next(Cache(args.test).clips(), args.max_clips):
        results += measure(model, kmeans, row, next_row, args.quantizers)
    print_quality(results)
    print_field_errors(model, Cache(args.test).clips(), args.quantizers)
    if args.json:
        write_json(args.json, [asdict(result) for result in results])


@torch.no_grad()
def measure(
    model: MotionTokenizer, kmeans: KMeansCodes, row: Row, next_row: Row | None, quantizers: list[int]
) -> list[Result]:
    """Measure the PSNR of one clip, warped along its motion in every way."""
    item = row.clip()
    truth = item["frames"]
    next_keyframe = None if next_row is None else to_tensor(item["next_keyframe_frame"])
    keyframe = to_tensor(truth[0])

    def result(method: str, frames: np.ndarray, quantizers: int | None = None, ids: int | None = None) -> Result:
        inner = inner_frames(len(truth))
        quality = float(np.mean([psnr(a, b) for a, b in zip(truth[inner], frames[inner], strict=True)]))
        return Result(row.source, row.row, method, quantizers, ids, quality)

    baselines = still_baselines(keyframe, next_keyframe, len(truth))
    results = [result(method, frames) for method, frames in baselines.items()]
    for field in code_fields(model, kmeans, [row] if next_row is None else [row, next_row], quantizers):
        own, following = field.vectors[:1], field.vectors[1:]
        frames = to_uint8(warp(keyframe, compose(own)))
        results.append(result(f"warp{field.suffix}", frames, field.quantizers, field.ids))
        if next_keyframe is not None:
            frames = to_uint8(warp_bidirectional(keyframe, own, next_keyframe, following).blended)
            results.append(result(f"bidirectional{field.suffix}", frames, field.quantizers, field.ids))
    return results


def code_fields(
    model: MotionTokenizer, kmeans: KMeansCodes, rows: list[Row], quantizers: list[int]
) -> list[CodedField]:
    """Code the fields of clips: not at all, as global motion, by the model and by k-means with each number."""
    fields = read_fields(rows)
    vectors = fields.vectors
    tokens = model.encode(vectors, fields.valid, max(quantizers))
    coded = [CodedField("_uncoded", None, None, vectors)]
    if model.num_global_motion_ids:
        global_motion = model.decode(tokens.first_quantizers(0))
        coded.append(CodedField("_global_motion", 0, model.num_global_motion_ids, global_motion))
    for number in quantizers:
        coarse = tokens.first_quantizers(number)
        coded.append(CodedField("", number, coarse.tokens_per_clip, model.decode(coarse)))
        kmeans_ids = kmeans.ids_per_clip(vectors, number)
        coded.append(CodedField("_kmeans", number, kmeans_ids, kmeans.coded(vectors, number)))
    return coded


def print_quality(results: list[Result]) -> None:
    """Print one line for each method and number of quantizers: mean over clips, then over videos."""
    groups: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        groups[result.method, result.quantizers, result.ids][result.video].append(result.psnr)
    print(f"{'method':<28}{'quantizers':>11}{'ids':>6}{'PSNR dB':>9}{'videos':>8}")
    for (method, quantizers, ids), videos in groups.items():
        mean = np.mean([np.mean(values) for values in videos.values()])
        number = "" if quantizers is None else quantizers
        print(f"{method:<28}{number:>11}{ids or '':>6}{mean:>9.2f}{len(videos):>8}")


@torch.no_grad()
def print_field_errors(model: MotionTokenizer, rows: list[Row], quantizers: list[int]) -> None:
    """Print the errors of coded fields of all clips, the share of still cells, and the share of codes in use."""
    fields = read_fields(rows)
    parts = [
        model.encode(vectors, valid, max(quantizers))
        for vectors, valid in zip(fields.vectors.split(16), fields.valid.split(16), strict=True)
    ]
    tokens = MotionTokens(
        torch.cat([part.ids for part in parts]), torch.cat([part.global_motion_ids for part in parts])
    )
    print(
        f"{'quantizers':>10}{'error per step px':>19}{'error to keyframe px':>22}{'still cells':>13}{'codes used':>12}"
    )
    print(f"{'uncoded':>10}{0:>19}{0:>22}{_still_share(fields.vectors):>13.0%}")
    for number in quantizers:
        decoded = model.decode(tokens.first_quantizers(number))
        step = to_pixels(decoded - fields.vectors).norm(dim=-1).mean()
        path = to_pixels(compose(decoded) - compose(fields.vectors)).norm(dim=-1).mean()
        used = len(tokens.ids[:, number - 1].unique()) / model.codebook_size
        print(f"{number:>10}{step:>19.3f}{path:>22.2f}{_still_share(decoded):>13.0%}{used:>12.0%}")


def _still_share(vectors: Tensor) -> float:
    """Return the share of cells that move by less than a tenth of a pixel in a step."""
    return float((to_pixels(vectors).norm(dim=-1) < 0.1).float().mean())


def _clips_with_next(rows: list[Row], max_clips: int | None) -> list[tuple[Row, Row | None]]:
    """Pair whole clips with the one that follows in the same video, if any."""
    pairs, counts = [], defaultdict(int)
    for row, next_row in zip(rows, [*rows[1:], None], strict=True):
        is_whole = row.motion()["num_frames"] == len(row.motion()["vectors"])
        if is_whole and (max_clips is None or counts[row.source] < max_clips):
            counts[row.source] += 1
            follows = (
                next_row is not None and next_row.shard is row.shard and next_row.shard.arrays["follows"][next_row.row]
            )
            pairs.append((row, next_row if follows else None))
    return pairs


if __name__ == "__main__":
    main()
