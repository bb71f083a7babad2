"""How near one picture is to another, and how a video looks without a reference. All take uint8 RGB."""

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


def psnr(truth: np.ndarray, picture: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of one picture uint8 [H, W, 3]; equal pictures count as 100 dB."""
    if np.array_equal(truth, picture):
        return 100.0
    return float(peak_signal_noise_ratio(truth, picture, data_range=255))


def ssim(truth: np.ndarray, picture: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of one picture uint8 [H, W, 3], mean over channels, 7 x 7 windows."""
    return float(np.asarray(structural_similarity(truth, picture, data_range=255, channel_axis=2)))


def sharpness(frames: np.ndarray) -> float:
    """Mean absolute Laplacian of the luminance of frames uint8 [T, H, W, 3], in levels of 255: blur lowers it."""
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    return float(np.mean([np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean() for picture in grey]))


def flicker(frames: np.ndarray) -> float:
    """Mean absolute second difference in time of frames uint8 [T, H, W, 3], in levels of 255: steady motion of smooth
    things is low, frames that come and go are high. 0 for fewer than three frames."""
    if len(frames) < 3:
        return 0.0
    values = frames.astype(np.float32)
    return float(np.abs(values[2:] - 2 * values[1:-1] + values[:-2]).mean())
