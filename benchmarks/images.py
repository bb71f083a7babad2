"""Reconstruction of still images at several rates: `python -m benchmarks.images FOLDER --json OUT`.

Every photograph of the folder is resized to 256 pixels on its short side and cropped to its middle square, as the field
measures image tokenizers, encoded into a fixed number of tokens and decoded: PSNR, SSIM, MS-SSIM and, with `--lpips`,
LPIPS, means over images. The published figures beside (`PUBLISHED`) are of other sets of images: they say what is
usual, not which is better. rFID is not measured: it needs tens of thousands of images and a network of its own.

JSON: a row for each image and number of tokens.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from codec import MediaError
from videotok import VideoTokenizer
from videotok.image_utils import to_tensor, to_uint8
from videotok.inputs import PHOTO_SUFFIXES
from videotok.io_utils import write_json
from videotok.metrics import mean_figures, measure
from videotok.perceptual import LPIPS

TOKENS = (32, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Published:
    """A figure that others have published."""

    name: str
    tokens: str
    dataset: str
    psnr: float
    rfid: float | None


PUBLISHED = (
    Published("IBQ-16384", "256", "COCO 2017 validation, 256x256", 21.58, 7.67),
    Published("LlamaGen", "256", "ImageNet validation, 256x256", 20.28, None),
    Published("DINO-Tok", "not given", "ImageNet validation", 23.98, None),
    Published("VidTok FSQ 4x16x16", "1,920 a second", "MCL-JCV, video", 25.38, None),
)


def load_square(path: Path, side: int) -> np.ndarray:
    """Read an image, resize its short side and crop its middle square: uint8 [side, side, 3] RGB.

    Raises:
        MediaError: the file cannot be decoded.
    """
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise MediaError(f"{path} cannot be decoded as an image")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    scale = side / min(image.shape[:2])
    size = (max(side, round(image.shape[1] * scale)), max(side, round(image.shape[0] * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def reconstruct_image(tokenizer: VideoTokenizer, image: np.ndarray, num_tokens: int) -> np.ndarray:
    """Encode an image uint8 [S, S, 3] into a number of tokens and decode it: uint8 [S, S, 3]."""
    with tokenizer.encoding():
        model = tokenizer.keyframes
        tokens = model.encode(to_tensor(image).to(model.device), num_tokens=num_tokens)
    with tokenizer.decoding(), torch.no_grad():
        return to_uint8(tokenizer.keyframes.decode(tokens.ids, tokens.keep_mask)[:, None])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Reconstruction of still images at several rates.")
    parser.add_argument("folder", type=Path, help="photographs, in this folder and below")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), help="numbers of tokens")
    parser.add_argument("--max-images", type=int, help="images at most, evenly spread over the folder")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    if not files:
        raise SystemExit(f"no image in {options.folder}; names of images end in {', '.join(sorted(PHOTO_SUFFIXES))}")
    if options.max_images and options.max_images < len(files):
        files = [files[index] for index in np.linspace(0, len(files) - 1, options.max_images).astype(int)]
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    lpips = LPIPS.load(options.lpips) if options.lpips else None
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            image = load_square(path, tokenizer.keyframes.image_size)
        except MediaError as error:
            print(f"left out: {error}")
            continue
        for number in options.tokens:
            decoded = reconstruct_image(tokenizer, image, number)
            figures = mean_figures([measure(image[None], decoded[None], lpips)])
            name = str(path.relative_to(options.folder))
            rows.append({"image": name, "tokens": number, **figures.to_dict()})
    print_table(rows, options.folder)
    if options.json:
        write_json(options.json, rows)


def print_table(rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the means over images, and the published figures with their sets."""
    table = Table("tokenizer", "tokens", "set", "images", "PSNR dB", "SSIM", "MS-SSIM", "LPIPS", "rFID")
    for number in dict.fromkeys(row["tokens"] for row in rows):
        group = [row for row in rows if row["tokens"] == number]
        means = [
            "" if group[0][name] is None else f"{np.mean([row[name] for row in group]):.{digits}f}"
            for name, digits in (("psnr", 2), ("ssim", 3), ("ms_ssim", 3), ("lpips", 3))
        ]
        table.add_row("videotok", str(number), folder.name, str(len(group)), *means, "")
    for one in PUBLISHED:
        rfid = "" if one.rfid is None else f"{one.rfid:.2f}"
        table.add_row(one.name, one.tokens, one.dataset, "", f"{one.psnr:.2f}", "", "", "", rfid)
    console = Console(width=150)
    console.print(table)
    console.print("Rows of different sets cannot be compared with each other.")


if __name__ == "__main__":
    main()
