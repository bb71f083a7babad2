"""Motion measured between two pictures, for frames without vectors, and whether the two show different scenes."""

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

FLOW_LONG_SIDE, FLOW_SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the motion grid is far coarser."""

MIN_SCENE_CORRELATION = 0.37
"""Below this mean correlation of windows, a picture and the motion-compensated one before show two scenes. On 1,026
pairs around 35 cuts in six encodings: at most 0.29 at a cut, at least 0.45 elsewhere."""

CORRELATION_WINDOW = 17
"""Pixels a side of a window."""

MIN_TEXTURE_VARIANCE = 25.0
"""Windows with less variance, in squared levels of 255, are not compared."""

MIN_TEXTURED_SHARE = 0.02
"""With fewer windows to compare, the mean difference of brightness decides."""

PLAIN_CUT_DIFFERENCE = 20
"""Mean difference, in levels of 255, above which two pictures without texture show two scenes."""


@dataclass(frozen=True)
class FlowResult:
    """Motion measured between two pictures."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero at a scene cut."""
    is_cut: bool
    """The pictures show two scenes."""


class OpticalFlow:
    """Measures motion between two pictures at low resolution: dense inverse search (Kroeger et al., ECCV 2016).

    It serves frames without vectors: I frames, and frames with many intra blocks.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def measure(self, picture: av.VideoFrame, previous: av.VideoFrame, grid: tuple[int, int]) -> FlowResult:
        """Return the displacement of each cell of a (h, w) grid from `picture` to `previous`."""
        now, before = self._shrink(picture), self._shrink(previous)
        height, width = now.shape
        num_threads = cv2.getNumThreads()
        # the result depends on how many threads share the search
        cv2.setNumThreads(1)
        try:
            flow = self._search.calc(now, before, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(num_threads)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        warped = cv2.remap(
            before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if is_scene_cut(now, np.asarray(warped)):
            return FlowResult(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return FlowResult(cells / np.array([width, height], np.float32), False)

    def _shrink(self, picture: av.VideoFrame) -> np.ndarray:
        """Return the picture in grey, uint8 [h, w]."""
        is_wide = picture.width >= picture.height
        size = (FLOW_LONG_SIDE, FLOW_SHORT_SIDE) if is_wide else (FLOW_SHORT_SIDE, FLOW_LONG_SIDE)
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()


def is_scene_cut(picture: np.ndarray, warped: np.ndarray) -> bool:
    """Return whether two pictures show two scenes.

    Structure is compared, not brightness, so that a flash or a fade is no cut.

    Args:
        picture: uint8 [h, w].
        warped: uint8 [h, w], the picture before, motion-compensated to match `picture`.
    """
    one, other = picture.astype(np.float32), warped.astype(np.float32)
    window = (CORRELATION_WINDOW, CORRELATION_WINDOW)
    mean, other_mean = cv2.blur(one, window), cv2.blur(other, window)
    variance = cv2.blur(one * one, window) - mean * mean
    other_variance = cv2.blur(other * other, window) - other_mean * other_mean
    covariance = cv2.blur(one * other, window) - mean * other_mean
    textured = np.maximum(variance, other_variance) > MIN_TEXTURE_VARIANCE
    if textured.mean() < MIN_TEXTURED_SHARE:
        return float(np.abs(one - other).mean()) > PLAIN_CUT_DIFFERENCE
    correlation = covariance[textured] / np.sqrt(np.maximum(variance * other_variance, 1))[textured]
    return float(correlation.mean()) < MIN_SCENE_CORRELATION
