"""Figures of quality: how near frames come to their source, and how they look by themselves.

All take uint8 RGB. PSNR, SSIM, MS-SSIM and LPIPS compare a frame with its source; sharpness and flicker are properties
of a sequence and are to be read beside those of the source.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from motion_vq import losses
from videotok.image_utils import to_tensor
from videotok.perceptual import LPIPS

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (Wang, Simoncelli, Bovik 2003)."""
MS_SSIM_WINDOW, MS_SSIM_SIGMA = 11, 1.5


@dataclass(frozen=True)
class MeanFigures:
    """Means over frames."""

    psnr: float
    """dB."""
    ssim: float
    ms_ssim: float
    lpips: float | None
    """None where no network was given."""
    sharpness: float
    """See `sharpness`; of the frames, not against the source."""
    flicker: float
    """See `flicker`."""

    def to_dict(self) -> dict[str, float | None]:
        """Return the figures as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Figures:
    """What was measured of some frames of one clip."""

    psnr: list[float]
    """dB of each frame."""
    ssim: list[float]
    """Of each frame."""
    ms_ssim: list[float]
    """Of each frame."""
    lpips: list[float] | None
    """Of each frame; None where no network was given."""
    sharpness: float
    """Of all frames together."""
    flicker: float
    """Of all frames together."""

    @property
    def num_frames(self) -> int:
        """Number of frames that were measured."""
        return len(self.psnr)


def measure(source: np.ndarray, frames: np.ndarray, lpips: LPIPS | None = None) -> Figures:
    """Compare frames with their source.

    Args:
        source, frames: uint8 [T, H, W, 3] RGB, T >= 1.
        lpips: the network for LPIPS, which is left out without it.

    Raises:
        ValueError: the shapes differ.
    """
    if source.shape != frames.shape:
        raise ValueError(f"`frames` (={list(frames.shape)}) must have the shape of `source` (={list(source.shape)})")
    pairs = list(zip(source, frames, strict=True))
    return Figures(
        psnr=[psnr(*pair) for pair in pairs],
        ssim=[ssim(*pair) for pair in pairs],
        ms_ssim=[ms_ssim(*pair) for pair in pairs],
        lpips=None if lpips is None else [perceptual_distance(lpips, *pair) for pair in pairs],
        sharpness=sharpness(frames),
        flicker=flicker(frames),
    )


def mean_figures(figures: Sequence[Figures]) -> MeanFigures:
    """Return the means over all frames of one or more clips.

    Raises:
        ValueError: there is no frame.
    """
    weights = [one.num_frames for one in figures]
    if not sum(weights):
        raise ValueError("there is no frame to average over")

    def over_frames(name: str) -> float:
        return float(np.mean([value for one in figures for value in getattr(one, name)]))

    return MeanFigures(
        psnr=over_frames("psnr"),
        ssim=over_frames("ssim"),
        ms_ssim=over_frames("ms_ssim"),
        lpips=None if any(one.lpips is None for one in figures) else over_frames("lpips"),
        sharpness=float(np.average([one.sharpness for one in figures], weights=weights)),
        flicker=float(np.average([one.flicker for one in figures], weights=weights)),
    )


def psnr(source: np.ndarray, picture: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of one picture uint8 [H, W, 3]; 100 dB for equal pictures."""
    difference = source.astype(np.float64) - picture
    return float(losses.psnr(float(np.mean(difference * difference)), 255))


def ssim(source: np.ndarray, picture: np.ndarray) -> float:
    """Return the structural similarity (Wang et al. 2004) of one picture uint8 [H, W, 3]: the mean over channels, with
    uniform windows of 7 x 7 pixels."""
    from skimage.metrics import structural_similarity  # slow to import

    return float(np.asarray(structural_similarity(source, picture, data_range=255, channel_axis=2)))


def ms_ssim(source: np.ndarray, picture: np.ndarray) -> float:
    """Return the multi-scale structural similarity (Wang, Simoncelli, Bovik 2003) of one picture uint8 [H, W, 3].

    Gaussian windows of 11 x 11 pixels, the mean over channels. A picture of fewer than 176 pixels in height or width
    has no room for a window on all five scales: it is compared on as many as fit, four for 256 x 144, and their
    exponents are divided by their sum.
    """
    x, y = source.astype(np.float64), picture.astype(np.float64)
    scales = max(1, min(len(MS_SSIM_WEIGHTS), int(np.log2(min(x.shape[:2]) / MS_SSIM_WINDOW)) + 1))
    exponents = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    result = np.ones(x.shape[2])
    for scale, exponent in enumerate(exponents):
        similarity, contrast = _similarity(x, y)
        result *= np.maximum(similarity if scale == scales - 1 else contrast, 0) ** exponent
        x, y = _halved(x), _halved(y)
    return float(result.mean())


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return SSIM and its part of contrast and structure, each the mean over float64 [H, W, C]: [C]."""
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _smoothed(x), _smoothed(y)
    variances = _smoothed(x * x) - mean_x**2 + _smoothed(y * y) - mean_y**2
    contrast = (2 * (_smoothed(x * y) - mean_x * mean_y) + second) / (variances + second)
    luminance = (2 * mean_x * mean_y + first) / (mean_x**2 + mean_y**2 + first)
    return (luminance * contrast).mean((0, 1)), contrast.mean((0, 1))


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return the Gaussian means of values float64 [H, W, C] over the windows that lie wholly in the picture."""
    radius = MS_SSIM_WINDOW // 2
    means = cv2.GaussianBlur(values, (MS_SSIM_WINDOW, MS_SSIM_WINDOW), MS_SSIM_SIGMA)
    return np.asarray(means)[radius:-radius, radius:-radius]


def _halved(values: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels of values [H, W, C]; an odd last row or column is left out."""
    height, width = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    even = values[:height, :width]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def perceptual_distance(lpips: LPIPS, source: np.ndarray, picture: np.ndarray) -> float:
    """Return the LPIPS distance of one picture uint8 [H, W, 3]; 0 for equal pictures."""
    device = lpips.mean.device
    return float(lpips(to_tensor(picture).to(device), to_tensor(source).to(device)))


def sharpness(frames: np.ndarray) -> float:
    """Return the mean absolute Laplacian of the luminance of frames uint8 [T, H, W, 3], in steps of 1/255.

    Blur lowers it.
    """
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    return float(np.mean([np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean() for picture in grey]))


def flicker(frames: np.ndarray) -> float:
    """Return the mean absolute second difference in time of frames uint8 [T, H, W, 3], in steps of 1/255.

    Steady motion of smooth things is low, frames that come and go are high. 0 for fewer than three frames.
    """
    if len(frames) < 3:
        return 0.0
    values = frames.astype(np.float32)
    return float(np.abs(values[2:] - 2 * values[1:-1] + values[:-2]).mean())
