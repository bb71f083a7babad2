"""Pictures between the door and the models: uint8 and tensors, and the sizes of both."""

import math

import cv2
import numpy as np
from torch import Tensor

from videotok.ladder import tensor

DEFAULT_AREA = 256 * 144
"""Pixels of a decoded frame where the caller names no size: what the shipped detokenizer was trained on."""
SMALLEST_SIDE = 32


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


def _even(side: float) -> int:
    return max(SMALLEST_SIDE, 2 * round(side / 2))
