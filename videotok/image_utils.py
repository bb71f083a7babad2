"""Images between files and models: uint8 arrays and tensors, sizes, JPEG."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from codec import atomic_path

if TYPE_CHECKING:  # a video is opened while torch is imported
    from torch import Tensor

DEFAULT_AREA = 256 * 144
"""Pixels of a decoded frame where the caller gives no size: the size that the shipped detokenizer was trained on."""
MIN_SIDE, MAX_SIDE = 32, 4096
"""Limits of a side of a decoded frame in pixels."""
MAX_JPEG_PIXELS = 2**28
"""Pixels of the largest picture that the codec decodes."""
JPEG_OTHER_FRAMES = frozenset({*range(0xC2, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xD8, 0xD9, 0xDA})
"""Markers of JPEG files that are not baseline: progressive, lossless, arithmetic; and of the end of the header."""


def display_size(width: int, height: int, area: int = DEFAULT_AREA) -> tuple[int, int]:
    """Return (width, height) of about `area` pixels in the shape of `width` x `height`: both even, 32 to 4096."""
    scale = math.sqrt(area / (width * height))
    return _even(width * scale), _even(height * scale)


def to_square_tensor(image: np.ndarray, side: int) -> "Tensor":
    """Resize an image to a square, whatever its shape, as keyframe tokenizers take it.

    Args:
        image: uint8 [H, W, 3] RGB.
        side: pixels.

    Returns:
        float32 [1, 3, side, side] in [-1, 1].
    """
    return to_tensor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image uint8 [H, W, 3] to `size` (width, height): by area to shrink it, bicubic to enlarge it."""
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return an image uint8 [H, W, 3] RGB as a JPEG file of quality 1 to 100; from 90 with full colour resolution."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if quality >= 90 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [*options, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    return data.tobytes()


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Return the image of a JPEG file as uint8 [H, W, 3] RGB; None where it cannot be decoded.

    Only baseline JPEG files are decoded, which `encode_jpeg` writes, and only if they are long enough for their size: a
    forged header of some bytes must not cost gigabytes.
    """
    size = jpeg_size(data)
    # the shortest code of an empty block of 8 x 8 pixels has 2 bits
    if size is None or size[0] * size[1] > min(MAX_JPEG_PIXELS, 8 * len(data) * 32):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a baseline JPEG file from its header; None where it is none."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1):
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return (width, height) if width and height else None
        if marker in JPEG_OTHER_FRAMES or length < 2:
            return None
        position += 2 + length
    return None


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an image uint8 [H, W, 3] RGB to a picture file, whole or not at all; the suffix selects the format.

    Raises:
        MediaError: the place cannot be written to.
    """
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def to_uint8(frames: "Tensor") -> np.ndarray:
    """Convert frames float [1, T, 3, H, W] in [-1, 1] to uint8 [T, H, W, 3]."""
    values = ((frames[0].float() + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())


def to_tensor(image: np.ndarray) -> "Tensor":
    """Convert an image uint8 [H, W, 3] to float32 [1, 3, H, W] in [-1, 1]."""
    import torch  # slow to import

    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _even(side: float) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, 2 * round(side / 2)))
