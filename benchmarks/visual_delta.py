"""What saying only what is new saves, and what it costs: `python -m benchmarks.predict_keyframes VIDEOS… --json OUT`.

The first keyframes of each video go through their tokens and back in two ways, at the model's own rate or within
`--visual-tokens`:

    independent   every keyframe by itself (`encode --no-predict-keyframes`)
    delta         only what the clip before does not explain, the default

Rows of the JSON: {video, mode, visual_tokens (the budget; null: the model's rate), keyframes, tokens, seconds,
tokens_per_second, psnr, worst_psnr, carried, independent_keyframes, encode_seconds}. `tokens` are visual tokens; psnr
is the mean over keyframes in dB, of squares as the tokenizer sees them, worst_psnr the lowest difference of a keyframe
to the independent one; `carried` the mean share of patches; encode_seconds are a keyframe's.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from codec import atomic_path, iter_clips
from videotok import VideoTokenizer
from videotok.image_utils import squashed
from videotok.keyframe_prediction import PredictiveKeyframeEncoder, decode_predicted_keyframe, predict_keyframe
from videotok.keyframes.train import psnr

MODES = {"independent": False, "delta": True}


@dataclass(frozen=True)
class Keyframes:
    """The keyframes of a video, and the motion between them as it is decoded."""

    squares: Tensor
    """[n, 3, S, S] in [-1, 1]."""
    vectors: Tensor
    """[n, T, h, w, 2]."""
    seconds: float
    damaged: list[bool]


def read(model: VideoTokenizer, video: Path, most: int) -> Keyframes:
    """The first `most` keyframes of a video."""
    spec, squares, vectors, seconds, damaged = model.spec(), [], [], 0.0, []
    for clip in iter_clips(video, spec, max_clips=most):
        squares.append(squashed(clip.keyframe, model.keyframe_encoder.image_size))
        coded = model.motion_tokens([clip.motion], model.default_motion_quantizers)
        vectors.append(model.motion_encoder.decode(coded))
        seconds += float(clip.num_frames / spec.fps)
        damaged.append(clip.damaged)
    return Keyframes(torch.cat(squares), torch.cat(vectors), seconds, damaged)


def measured(model: VideoTokenizer, video: Keyframes, budget: int | None, delta: bool) -> tuple[dict[str, Any], Tensor]:
    """A row, and the PSNR of each keyframe."""
    chain = PredictiveKeyframeEncoder(model.keyframe_encoder, visual_tokens=budget, delta=delta)
    began = time.perf_counter()
    told = chain.push(video.squares, video.vectors, video.damaged) + chain.finish()
    took = time.perf_counter() - began
    drawn: list[Tensor] = []
    for index, keyframe in enumerate(told):
        ids, kept, carried = (torch.from_numpy(part) for part in (keyframe.ids, keyframe.keep_mask, keyframe.skip_mask))
        if carried.any():
            steps = video.vectors.float()[index - 1 : index + 1]
            guess = predict_keyframe(drawn[-1], steps[:1], steps[1:])
            drawn.append(decode_predicted_keyframe(model.keyframes, ids, kept, carried, guess))
        else:
            drawn.append(model.keyframes.decode([ids], kept[None]))
    quality = psnr(torch.cat(drawn), video.squares)
    tokens = sum(len(keyframe.ids) for keyframe in told)
    return {
        "keyframes": len(told),
        "tokens": tokens,
        "seconds": video.seconds,
        "tokens_per_second": tokens / video.seconds,
        "psnr": float(quality.mean()),
        "carried": float(np.mean([keyframe.skip_mask.mean() for keyframe in told])),
        "independent_keyframes": sum(not keyframe.skip_mask.any() for keyframe in told),
        "encode_seconds": took / len(told),
    }, quality


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.predict_keyframes", description="What carrying keyframes on is worth."
    )
    add_footage_arguments(parser)
    parser.add_argument("--model", help="folder or hub id of the weights; default: the ones that ship")
    parser.add_argument("--max-clips", type=int, default=8, help="keyframes a video (default 8)")
    parser.add_argument("--visual-tokens", type=int, help="a budget a keyframe; default: the model's own rate")
    options = parser.parse_args(arguments)
    model = VideoTokenizer.from_pretrained(options.model)
    rows: list[dict[str, Any]] = []
    for path in footage(options.videos):
        video, alone = read(model, path, options.max_clips), None
        for mode, delta in MODES.items():
            row, quality = measured(model, video, options.visual_tokens, delta)
            alone = quality if alone is None else alone
            about = {"video": path.name, "mode": mode, "visual_tokens": options.visual_tokens}
            rows.append(about | row | {"worst_psnr": float((quality - alone).min())})
            if options.json:
                with atomic_path(options.json) as temporary:
                    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """A line a video, and the mean over all keyframes."""
    table = Table(
        "video", "keyframes", "tokens/s", "with delta", "PSNR dB", "with delta", "worst", "carried", "s/keyframe"
    )
    videos: dict[str, dict[str, dict]] = defaultdict(dict)
    for row in rows:
        videos[row["video"]][row["mode"]] = row
    total = {
        mode: {
            "keyframes": sum(row["keyframes"] for row in group),
            "tokens_per_second": sum(row["tokens"] for row in group) / sum(row["seconds"] for row in group),
            "worst_psnr": min(row["worst_psnr"] for row in group),
            **{
                name: float(np.average([row[name] for row in group], weights=[row["keyframes"] for row in group]))
                for name in ("psnr", "carried", "encode_seconds")
            },
        }
        for mode, group in ((mode, [row for row in rows if row["mode"] == mode]) for mode in MODES)
    }
    for name, pair in [*videos.items(), ("all", total)]:
        alone, delta = pair["independent"], pair["delta"]
        cells = [f"{row['tokens_per_second']:.1f}" for row in (alone, delta)]
        cells += [f"{row['psnr']:.2f}" for row in (alone, delta)]
        cells += [f"{delta['worst_psnr']:+.2f}", f"{delta['carried']:.0%}", f"{delta['encode_seconds']:.2f}"]
        table.add_row(name, str(alone["keyframes"]), *cells)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
