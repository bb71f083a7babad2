"""Losses of decoded motion fields, and PSNR.

A frame is warped from its keyframe along the sum of all steps between them, so that errors of single steps add up: a
small error that lasts costs more than a large one that does not. And a picture's error stops growing once content is
displaced by more than its own detail, so that a large error of displacement must not weigh by its square.
"""

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from motion_vq.fields import accumulate, to_pixels

ERROR_FLOOR = 0.1
"""Added to a frame's robust error before its logarithm: about what codec noise and resampling cost in any case."""
INVALID_WEIGHT = 0.2
"""Weight of a cell without a vector, where one with a vector has 1: its value is interpolated."""
MAX_PSNR_DB = 100.0

ErrorT = TypeVar("ErrorT", float, np.ndarray, Tensor)


def psnr(squared_error: ErrorT, peak: float) -> ErrorT:
    """Return the peak signal-to-noise ratio in dB, at most 100, of a mean squared error.

    Args:
        squared_error: a float, NumPy array or tensor of mean squared errors; the result has the same type and shape.
        peak: difference between the largest and the smallest value: 255 for uint8, 2 for pictures in [-1, 1].
    """
    floor = peak**2 / 10 ** (MAX_PSNR_DB / 10)
    if isinstance(squared_error, Tensor):
        return 10 * torch.log10(peak**2 / squared_error.clamp(min=floor))
    if isinstance(squared_error, np.ndarray):
        return 10 * np.log10(peak**2 / np.maximum(squared_error, floor))
    return 10 * math.log10(peak**2 / max(squared_error, floor))


def path_loss(decoded: Tensor, vectors: Tensor, valid: Tensor) -> Tensor:
    """Return the robust error of displacements per clip, [B].

    The mean over frames, in both directions, of log(1 + error / ERROR_FLOOR), where the error of a frame is the mean
    over cells of log(1 + e²), e in pixels of a 256x144 picture. The logarithm of a frame's error makes the loss follow
    PSNR: a factor is worth as much in a nearly still clip as in a moving one, and the loss of a clip is about
    proportional to the dB that its warped frames lose.

    Args:
        decoded, vectors: fields [B, T, h, w, 2] in fractions of the frame.
        valid: bool [B, T, h, w], which cells have a vector.
    """
    errors = displacements(decoded) - displacements(vectors)
    steps = valid[:, 1:]
    return _robust_error(errors, torch.cat([steps, steps.flip(1)], 1))


def step_loss(decoded: Tensor, vectors: Tensor, valid: Tensor) -> Tensor:
    """Return the robust error of single steps per clip, [B]; slot 0 included; arguments and units as in `path_loss`."""
    return _robust_error(decoded - vectors, valid)


def displacements(vectors: Tensor) -> Tensor:
    """Return the displacements [B, 2 (T - 1), h, w, 2] of a field [B, T, h, w, 2] in both directions.

    First those of frames 1 to T - 1 back to the keyframe, then those of frames T - 2 to 0 forward to the last frame,
    for which each step is negated where it stands.
    """
    steps = list(vectors.unbind(1))[1:]
    return torch.cat([accumulate(steps), accumulate([-step for step in reversed(steps)])], 1)


def _robust_error(errors: Tensor, valid: Tensor) -> Tensor:
    """Return the robust error [B] of differences [B, N, h, w, 2] in fractions of the frame."""
    squared = to_pixels(errors).square().sum(-1)
    weights = INVALID_WEIGHT + (1 - INVALID_WEIGHT) * valid.to(squared.dtype)
    frames = (weights * torch.log1p(squared)).sum((2, 3)) / weights.sum((2, 3))
    return torch.log1p(frames / ERROR_FLOOR).mean(1)
