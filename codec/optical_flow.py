"""Motion measured between two pictures, for frames without vectors, and whether the two show different scenes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

FLOW_LONG_SIDE, FLOW_SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the motion grid is far coarser."""

MIN_SCENE_CORRELATION = 0.37
"""Below this mean correlation of windows, a picture and the motion-compensated one before show two scenes. On 1,026
pairs around 35 cuts in six encodings: at most 0.29 at a cut, at least 0.45 elsewhere."""

CACHE_LINE_BYTES = 64
"""What a processor fetches from memory at once."""

CORRELATION_WINDOW = 17
"""Pixels a side of a window."""

WINDOW_PIXELS = CORRELATION_WINDOW**2

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
        self._last: tuple[av.VideoFrame, np.ndarray] | None = None
        """The last picture that was measured from, and the same in grey: mostly the next one is measured to it."""

    def measure(
        self,
        picture: av.VideoFrame,
        previous: av.VideoFrame,
        grid: tuple[int, int],
        is_cut: Callable[[np.ndarray, np.ndarray], bool],
    ) -> FlowResult:
        """Return the displacement of each cell of a (h, w) grid from `picture` to `previous`.

        `is_cut` says whether two pictures show two scenes, as `is_scene_cut` does.
        """
        now = self._shrink(picture)
        before = self._last[1] if self._last and self._last[0] is previous else self._shrink(previous)
        self._last = picture, now
        height, width = now.shape
        num_threads = cv2.getNumThreads()
        # the result depends on how many threads share the search
        cv2.setNumThreads(1)
        try:
            flow = self._search.calc(now, before, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(num_threads)
        positions = flow + _pixel_positions(width, height)
        warped = cv2.remap(before, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        if is_cut(now, np.asarray(warped)):
            return FlowResult(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return FlowResult(cells / np.array([width, height], np.float32), False)

    def _shrink(self, picture: av.VideoFrame) -> np.ndarray:
        """Return the picture in grey, uint8 [h, w]."""
        is_wide = picture.width >= picture.height
        size = (FLOW_LONG_SIDE, FLOW_SHORT_SIDE) if is_wide else (FLOW_SHORT_SIDE, FLOW_LONG_SIDE)
        # bring the brightness into the processor's cache: swscale waits longer for its rows than this takes
        np.frombuffer(cast(Any, picture.planes[0]), np.uint8)[::CACHE_LINE_BYTES].max()
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()


@lru_cache(maxsize=2)
def _pixel_positions(width: int, height: int) -> np.ndarray:
    """Return float32 [height, width, 2], (x, y) of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def is_scene_cut(picture: np.ndarray, warped: np.ndarray) -> bool:
    """Return whether two pictures show two scenes.

    Structure is compared, not brightness, so that a flash or a fade is no cut.

    Args:
        picture: uint8 [h, w].
        warped: uint8 [h, w], the picture before, motion-compensated to match `picture`.
    """
    one, other = picture.astype(np.uint16), warped.astype(np.uint16)
    mean, other_mean = _window_sums(one), _window_sums(other)
    # sums of integers are exact: each of these is a window's value times the square of its number of pixels
    variance = _window_sums(one * one) * WINDOW_PIXELS - mean * mean
    other_variance = _window_sums(other * other) * WINDOW_PIXELS - other_mean * other_mean
    covariance = _window_sums(one * other) * WINDOW_PIXELS - mean * other_mean
    textured = np.maximum(variance, other_variance) > MIN_TEXTURE_VARIANCE * WINDOW_PIXELS**2
    if np.count_nonzero(textured) < MIN_TEXTURED_SHARE * textured.size:
        difference = int(np.abs(one.astype(np.int32) - other).sum())
        return difference > PLAIN_CUT_DIFFERENCE * textured.size
    product = np.maximum(variance[textured] * other_variance[textured], float(WINDOW_PIXELS**4))
    return float((covariance[textured] / np.sqrt(product)).mean()) < MIN_SCENE_CORRELATION


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Return float64 [h, w]: sums of uint16 [h, w] over the window around each pixel, mirrored at the border."""
    window = (CORRELATION_WINDOW, CORRELATION_WINDOW)
    return cv2.boxFilter(values, cv2.CV_32S, window, normalize=False).astype(np.float64)
