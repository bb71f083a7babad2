"""What predictive coding of keyframes saves and costs: `python -m benchmarks.keyframe_prediction VIDEOS… --json OUT`.

The first clips of each video are encoded in two ways, at the model's own rate or with `--tokens-per-keyframe`, and
their keyframes are decoded:

    independent   every keyframe by itself (`encode --no-predict-keyframes`)
    predicted     only what the clip before does not predict, the default

JSON: rows {video, mode, tokens_per_keyframe (null: the model's own rate), keyframes, tokens, seconds,
tokens_per_second, psnr, worst_psnr, skipped, independent_keyframes, encode_seconds}. `tokens` are visual tokens; `psnr`
is the mean over keyframes in dB, on squares as the tokenizer sees them; `worst_psnr` the largest loss of one keyframe
against its independent version; `skipped` the mean share of skipped patches; `encode_seconds` the time of the whole
encoding, reading and motion included, for each clip.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from motion_vq.losses import psnr
from videotok import VideoTokenizer
from videotok.config import DecodeConfig, EncodeConfig
from videotok.evaluation import source_clips
from videotok.image_utils import to_square_tensor
from videotok.io_utils import write_json

MODES = {"independent": False, "predicted": True}
"""Name of a mode -> `EncodeConfig.predict_keyframes`."""


@dataclass(frozen=True)
class Measured:
    """The keyframes of one video in one mode."""

    row: dict[str, Any]
    """What goes into the JSON."""
    psnr: np.ndarray
    """float [n], dB of each keyframe."""


def measure(tokenizer: VideoTokenizer, video: Path, config: EncodeConfig) -> Measured:
    """Encode a video, decode its keyframes and compare them with the source's."""
    began = time.perf_counter()
    tokens = tokenizer.encode(video, config)
    seconds = time.perf_counter() - began
    inputs = tokenizer.detokenizer_inputs(tokens, DecodeConfig(keyframe_source="tokens"))
    errors = []
    for decoded, source in zip(inputs, source_clips(tokens, video), strict=True):
        square = cast(Tensor, decoded.square).float().cpu()  # never None where keyframes come from the tokens
        errors.append((square - to_square_tensor(source.keyframe, square.shape[-1])).square().mean())
    quality = psnr(torch.stack(errors), 2).numpy()
    row = {
        "keyframes": tokens.num_clips,
        "tokens": len(tokens.visual_ids),
        "seconds": tokens.duration_seconds,
        "tokens_per_second": len(tokens.visual_ids) / tokens.duration_seconds,
        "psnr": float(quality.mean()),
        "skipped": float(tokens.skip_mask.mean()),
        "independent_keyframes": int(tokens.independent.sum()),
        "encode_seconds": seconds / tokens.num_clips,
    }
    return Measured(row, quality)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.keyframe_prediction", description="What predictive coding of keyframes saves and costs."
    )
    add_footage_arguments(parser)
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    parser.add_argument("--max-clips", type=int, default=8, help="keyframes of a video (default 8)")
    parser.add_argument("--tokens-per-keyframe", type=int, help="tokens on average; default: the model's own rate")
    options = parser.parse_args(arguments)
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    rows: list[dict[str, Any]] = []
    for video in footage(options.videos):
        independent: np.ndarray | None = None
        for mode, predicts in MODES.items():
            config = EncodeConfig(
                max_clips=options.max_clips,
                tokens_per_keyframe=options.tokens_per_keyframe,
                predict_keyframes=predicts,
            )
            found = measure(tokenizer, video, config)
            independent = found.psnr if independent is None else independent
            shared = {"video": video.name, "mode": mode, "tokens_per_keyframe": options.tokens_per_keyframe}
            rows.append(shared | found.row | {"worst_psnr": float((found.psnr - independent).min())})
            if options.json:
                write_json(options.json, rows)
    print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a line for each video, and the mean over all keyframes."""
    columns = ("tokens/s", "predicted", "PSNR dB", "predicted", "worst", "skipped", "s/keyframe")
    table = Table("video", "keyframes", *columns)
    videos: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        videos[row["video"]][row["mode"]] = row
    total = {mode: _total([row for row in rows if row["mode"] == mode]) for mode in MODES}
    for name, modes in [*videos.items(), ("all", total)]:
        independent, predicted = modes["independent"], modes["predicted"]
        cells = [f"{row['tokens_per_second']:.1f}" for row in (independent, predicted)]
        cells += [f"{row['psnr']:.2f}" for row in (independent, predicted)]
        cells += [
            f"{predicted['worst_psnr']:+.2f}",
            f"{predicted['skipped']:.0%}",
            f"{predicted['encode_seconds']:.2f}",
        ]
        table.add_row(name, str(independent["keyframes"]), *cells)
    Console(width=150).print(table)


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    weights = [row["keyframes"] for row in rows]
    return {
        "keyframes": sum(weights),
        "tokens_per_second": sum(row["tokens"] for row in rows) / sum(row["seconds"] for row in rows),
        "worst_psnr": min(row["worst_psnr"] for row in rows),
        **{
            name: float(np.average([row[name] for row in rows], weights=weights))
            for name in ("psnr", "skipped", "encode_seconds")
        },
    }


if __name__ == "__main__":
    main()
