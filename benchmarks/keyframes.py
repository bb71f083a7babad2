"""Quality of keyframes at a rate: `python -m benchmarks.keyframes VIDEOS... --json OUT`.

For every number of tokens a keyframe (32 to 256) and three ways to choose the patches, with the same weights:

    learned     the tokenizer's own selector
    variance    the patches whose pixels vary most
    random      patches drawn at random, from a fixed seed

and the tokenizer's default rate, where plain images take fewer tokens than detailed ones: how well the number follows
the size of the image's H.264 intra coding is given as Spearman's rank correlation.

Rows of the JSON: {video, selector, keyframes (their number), tokens, psnr, ssim, ms_ssim, lpips, seconds}, means over
the video's keyframes squashed to the model's size; psnr in dB; lpips only with `--lpips`; seconds are those of encoding
and decoding one keyframe. At the default rate, selector is "default".
"""

import argparse
import io
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.footage import add_footage_arguments, footage
from codec import iter_clips
from motion_vq.vector_quantizer import CodebookUsage, codebook_usage
from videotok import metrics
from videotok.bundle import SHIPPED
from videotok.image_utils import to_uint8
from videotok.io_utils import write_json
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.vit import patchify
from videotok.perceptual import LPIPS

SELECTORS = ("learned", "variance", "random")
TOKENS = (32, 48, 64, 90, 128, 192, 256)


def load_keyframes(video: Path, size: int, count: int) -> Tensor:
    """Return up to `count` keyframes, spread over the video's clips: [n, 3, size, size] in [-1, 1]."""
    keyframes = [cv2.resize(clip.keyframe, (size, size), interpolation=cv2.INTER_AREA) for clip in iter_clips(video)]
    chosen = [keyframes[i] for i in np.linspace(0, len(keyframes) - 1, min(count, len(keyframes))).astype(int)]
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1


def selection(model: KeyframeTokenizer, images: Tensor, selector: str, tokens: int) -> dict[str, Any]:
    """Return the arguments of `encode` with which `selector` keeps `tokens` patches of each image."""
    if selector == "learned":
        return {"num_tokens": tokens}
    if selector == "variance":
        scores = patchify(images, model.config["patch_size"]).var(dim=-1)
    else:
        scores = torch.rand(len(images), model.num_patches, generator=torch.Generator().manual_seed(0))
    best = scores.topk(tokens, dim=1).indices
    return {"keep_mask": torch.zeros(len(images), model.num_patches, dtype=torch.bool).scatter_(1, best, True)}


def quality(decoded: Tensor, images: Tensor, lpips: LPIPS | None) -> dict[str, float]:
    """Return means over images [B, 3, S, S]: PSNR in dB, SSIM, MS-SSIM and, with a network, LPIPS."""
    measured = metrics.measure(to_uint8(images[None]), to_uint8(decoded[None]), lpips)
    figures = metrics.mean_figures([measured]).to_dict()
    # sharpness and flicker are of sequences
    found = {name: figures[name] for name in ("psnr", "ssim", "ms_ssim", "lpips")}
    return {name: value for name, value in found.items() if value is not None}


def intra_bytes(image: Tensor) -> int:
    """Return the size of an image [3, S, S] in [-1, 1] as one H.264 intra frame at constant quantizer."""
    pixels = to_uint8(image[None, None])[0]
    with av.open(io.BytesIO(), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=1, options={"qp": "26", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return sum(packet.size for part in (frame, None) for packet in stream.encode(part))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the correlation of ranks; equal values share their mean rank. NaN where one side never changes."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    ranks = [np.mean([np.searchsorted(np.sort(v), v, side) for side in ("left", "right")], axis=0) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(
    model: KeyframeTokenizer,
    images: Tensor,
    lpips: LPIPS | None,
    refinement_steps: int | None,
    selectors: Sequence[str] = SELECTORS,
    rates: Sequence[int] = TOKENS,
) -> Iterator[tuple[dict[str, Any], list[Tensor]]]:
    """Yield a row and the ids for each selector and rate, and for the default rate."""
    cases: list[tuple[str, int | None]] = [(selector, count) for selector in selectors for count in rates]
    for selector, count in [*cases, ("default", None)]:
        options = {} if count is None else selection(model, images, selector, count)
        start = time.perf_counter()
        tokens = model.encode(images, refinement_steps=refinement_steps, **options)
        decoded = model.decode(tokens.ids, tokens.keep_mask)
        seconds = (time.perf_counter() - start) / len(images)
        kept = float(tokens.keep_mask.sum(dim=1).double().mean())
        figures = quality(decoded, images, lpips)
        yield (
            {"selector": selector, "keyframes": len(images), "tokens": kept, **figures, "seconds": seconds},
            tokens.ids,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(prog="benchmarks.keyframes", description="Quality of keyframes at a rate.")
    add_footage_arguments(parser)
    parser.add_argument(
        "--model", type=Path, default=SHIPPED / "keyframes", help="folder of weights; default: those that ship"
    )
    parser.add_argument("--keyframes", type=int, default=4, help="keyframes a video at most (default 4)")
    parser.add_argument("--refinement-steps", type=int, help="steps of code refinement; default: the model's own")
    parser.add_argument("--lpips", type=Path, help="LPIPS network (safetensors); without it there is no LPIPS")
    parser.add_argument("--selectors", nargs="+", default=SELECTORS, choices=SELECTORS, help="ways to choose patches")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="tokens a keyframe to measure at")
    options = parser.parse_args(arguments)
    model = KeyframeTokenizer.from_pretrained(options.model).eval()
    lpips = LPIPS.load(options.lpips) if options.lpips else None
    rows, counts, sizes, ids = [], [], [], []
    for video in footage(options.videos):
        images = load_keyframes(video, model.image_size, options.keyframes)
        measured = measure(model, images, lpips, options.refinement_steps, options.selectors, options.tokens)
        for row, row_ids in measured:
            rows.append({"video": video.name, **row})
            if row["selector"] == "default":
                counts += [len(one) for one in row_ids]
            elif row["selector"] == "learned" and row["tokens"] == model.num_patches:
                ids += row_ids
        sizes += [intra_bytes(image) for image in images]
    show(rows, counts, sizes, codebook_usage(torch.cat(ids), model.codebook_size) if ids else None)
    if options.json:
        write_json(options.json, rows)


def show(rows: list[dict[str, Any]], counts: list[int], sizes: list[int], usage: CodebookUsage | None) -> None:
    """Print the table of means over videos, and what the default rate spends."""
    names = [name for name in ("psnr", "ssim", "ms_ssim", "lpips", "seconds") if name in rows[0]]
    table = Table("tokens", "selector", *names)
    groups: dict[tuple[str, int], list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["selector"], 0 if row["selector"] == "default" else round(row["tokens"])].append(row)
    for (selector, _), group in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        mean = {name: float(np.mean([row[name] for row in group])) for name in ("tokens", *names)}
        cells = (f"{mean[name]:.2f}" if name == "psnr" else f"{mean[name]:.3f}" for name in names)
        table.add_row(f"{mean['tokens']:.0f}", selector, *cells)
    console = Console()
    console.print(table)
    console.print(f"default: {min(counts)} to {max(counts)} tokens, mean {np.mean(counts):.1f};", end=" ")
    console.print(f"Spearman with H.264 intra size {spearman(counts, sizes):.2f}")
    if usage is not None:  # the largest rate was measured, at which every patch has an id
        console.print(f"{usage.used_share:.0%} of the codes used here, perplexity {usage.perplexity:.0f}")


if __name__ == "__main__":
    main()
