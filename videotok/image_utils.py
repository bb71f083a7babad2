"""Pictures between the door and the models: uint8 and tensors, and the sizes of both."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

DEFAULT_AREA = 256 * 144
"""Pixels of a decoded frame where the caller names no size: what the shipped detokenizer was trained on."""
SMALLEST_SIDE = 32
IMAGE_QUALITY = 90
"""Of JPEG files, where the caller names none: hard to tell from the source."""


def display_size(width: int, height: int, area: int = DEFAULT_AREA) -> tuple[int, int]:
    """(width, height) of about `area` pixels in the shape of `width` x `height`, both even and at least 32."""
    scale = math.sqrt(area / (width * height))
    return _even(width * scale), _even(height * scale)


def squashed(picture: np.ndarray, side: int) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, side, side] in [-1, 1]: the whole picture, as keyframe tokenizers see it."""
    return tensor(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3] for `size` (width, height): area to shrink, cubic to enlarge."""
    shrinks = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def to_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """uint8 [H, W, 3] RGB -> a JPEG file, quality 1 to 100, colours at full resolution from 90 upward."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if quality >= 90 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [*options, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    return data.tobytes()


def from_jpeg(data: bytes) -> np.ndarray | None:
    """A JPEG file -> uint8 [H, W, 3] RGB; None where it is none."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def pixels(frames: Tensor) -> np.ndarray:
    """float [1, T, 3, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    values = ((frames[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())


def tensor(picture: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _even(side: float) -> int:
    return max(SMALLEST_SIDE, 2 * round(side / 2))
