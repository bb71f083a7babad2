"""Quality of keyframes at a rate: `python -m benchmarks.keyframes VIDEOS... --json OUT`.

For every number of tokens a keyframe (32 to 256) and three ways to choose the patches, with the same weights:

    learned     the tokenizer's own selector
    variance    the patches whose pixels vary most
    random      patches drawn blindly, from a fixed seed

and the tokenizer's default rate, where a plain picture takes fewer tokens than a busy one: how well the number follows
the size of the picture's own H.264 intra coding is given as Spearman's rank correlation.

Rows of the JSON: {video, selector, tokens, psnr, ssim, ms_ssim, seconds}, means over the video's keyframes; psnr in dB;
seconds are one keyframe's, there and back. At the default rate, selector is "default".
"""

import argparse
import io
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity
from torch import Tensor

from codec import atomic_path, iter_clips
from motion_vq.vector_quantizer import codebook_use
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.train import psnr
from videotok.keyframes.vit import patchify

RATES = (32, 48, 64, 90, 128, 192, 256)
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", 2003, section 3.2."""


def keyframes(video: Path, size: int, most: int) -> Tensor:
    """Up to `most` keyframes, spread over the video's clips: [n, 3, size, size] in [-1, 1]."""
    found = [cv2.resize(c.keyframe, (size, size), interpolation=cv2.INTER_AREA) for c in iter_clips(video)]
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)]
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1


def rule(model: KeyframeTokenizer, images: Tensor, selector: str, tokens: int) -> dict[str, Any]:
    """What `encode` is told so that `selector` keeps `tokens` patches of each picture."""
    if selector == "learned":
        return {"num_tokens": tokens}
    if selector == "variance":
        scores = patchify(images, model.config["patch_size"]).var(dim=-1)
    else:
        scores = torch.rand(len(images), model.num_patches, generator=torch.Generator().manual_seed(0))
    best = scores.topk(tokens, dim=1).indices
    return {"keep_mask": torch.zeros(len(images), model.num_patches, dtype=torch.bool).scatter_(1, best, True)}


def quality(restored: Tensor, images: Tensor) -> dict[str, float]:
    """Means over pictures in [-1, 1]: PSNR in dB, SSIM and MS-SSIM of the colour channels."""
    pairs = [(r.permute(1, 2, 0).numpy(), i.permute(1, 2, 0).numpy()) for r, i in zip(restored, images, strict=True)]
    return {
        "psnr": float(psnr(restored, images).mean()),
        "ssim": float(np.mean([structural_similarity(r, i, data_range=2.0, channel_axis=-1) for r, i in pairs])),
        "ms_ssim": float(ms_ssim(restored, images).mean()),
    }


def ms_ssim(restored: Tensor, images: Tensor) -> Tensor:
    """Multi-scale structural similarity [B] of pictures [B, 3, H, W] in [-1, 1]; sides of at least 176 pixels."""
    offsets = torch.arange(11) - 5.0
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)
    x, y, value = restored + 1, images + 1, torch.ones(len(images))
    for level, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, contrast = _similarities(x, y, window)
        part = contrast * luminance if level == len(MS_SSIM_WEIGHTS) - 1 else contrast
        value = value * part.mean(dim=(1, 2, 3)).clamp(min=0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return value


def _similarities(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance term, contrast times structure term, of pictures in 0..2 under a window."""
    stacked = torch.cat([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = F.conv2d(stacked, window, groups=3).chunk(5)
    steady_luminance, steady_contrast = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    variances = xx - mean_x**2 + yy - mean_y**2
    luminance = (2 * mean_x * mean_y + steady_luminance) / (mean_x**2 + mean_y**2 + steady_luminance)
    return luminance, (2 * (xy - mean_x * mean_y) + steady_contrast) / (variances + steady_contrast)


def intra_bytes(image: Tensor) -> int:
    """Size of a picture [3, S, S] in [-1, 1] as one H.264 intra frame at constant quantiser."""
    pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    with av.open(io.BytesIO(), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=1, options={"qp": "26", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return sum(packet.size for part in (frame, None) for packet in stream.encode(part))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of ranks; equal values share their mean rank. Not a number where one side never changes."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    ranks = [np.mean([np.searchsorted(np.sort(v), v, side) for side in ("left", "right")], axis=0) for v in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(model: KeyframeTokenizer, images: Tensor, search: int | None = None) -> Iterator[tuple[dict, list[Tensor]]]:
    """A row and the ids for each selector and rate; `search` as in KeyframeTokenizer.encode."""
    rules: list[tuple[str, int | None]] = [(s, t) for s in ("learned", "variance", "random") for t in RATES]
    for selector, tokens in [*rules, ("default", None)]:
        told = {} if tokens is None else rule(model, images, selector, tokens)
        began = time.perf_counter()
        coded = model.encode(images, search=search, **told)
        restored = model.decode(coded.ids, coded.keep_mask)
        seconds = (time.perf_counter() - began) / len(images)
        kept = float(coded.keep_mask.sum(dim=1).double().mean())
        yield {"selector": selector, "tokens": kept, **quality(restored, images), "seconds": seconds}, coded.ids


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.keyframes", description="Quality of keyframes at a rate.")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--model", type=Path, help="folder of the weights; default: the ones that ship")
    parser.add_argument("--most", type=int, default=4, help="keyframes a video (default 4)")
    parser.add_argument("--search", type=int, help="steps in which better words are sought; default: the model's own")
    options = parser.parse_args(arguments)
    shipped = Path(__file__).parent.parent / "videotok" / "weights" / "keyframes"
    model = KeyframeTokenizer.from_pretrained(options.model or shipped).eval()
    rows, counts, sizes, ids = [], [], [], []
    for video in options.videos:
        images = keyframes(video, model.image_size, options.most)
        for row, found in measure(model, images, options.search):
            rows.append({"video": video.name, **row})
            if row["selector"] == "default":
                counts += [len(one) for one in found]
            elif row["selector"] == "learned" and row["tokens"] == model.num_patches:
                ids += found
        sizes += [intra_bytes(image) for image in images]
    show(rows, counts, sizes, codebook_use(torch.cat(ids), model.codebook_size))
    if options.json:
        with atomic_path(options.json) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


def show(rows: list[dict], counts: list[int], sizes: list[int], use: tuple[float, float]) -> None:
    """The curve, and what the default rate spends."""
    table = Table("tokens", "selector", "PSNR dB", "SSIM", "MS-SSIM", "s a keyframe")
    groups: dict[tuple[str, int], list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["selector"], 0 if row["selector"] == "default" else round(row["tokens"])].append(row)
    for (selector, _), group in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        mean = {name: np.mean([row[name] for row in group]) for name in group[0] if name not in ("video", "selector")}
        cells = (f"{mean['psnr']:.2f}", f"{mean['ssim']:.3f}", f"{mean['ms_ssim']:.3f}", f"{mean['seconds']:.3f}")
        table.add_row(f"{mean['tokens']:.0f}", selector, *cells)
    console = Console()
    console.print(table)
    console.print(f"default: {min(counts)} to {max(counts)} tokens; Spearman with H.264 intra size", end=" ")
    console.print(f"{spearman(counts, sizes):.2f}; {use[0]:.0%} of the words used here, perplexity {use[1]:.0f}")


if __name__ == "__main__":
    main()
