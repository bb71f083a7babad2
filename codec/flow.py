"""Motion measured from pictures, for what a stream has no vectors for: I frames, and intra blocks."""

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

LONG_SIDE, SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the grid is far coarser."""

UNLIKE = 0.37
"""Mean correlation of WINDOW x WINDOW pixels between a picture and the one before moved along, below which they are two
scenes. On 1,026 pairs around 35 cuts, six encodings: 0.29 at most where there was a cut, 0.45 at least elsewhere."""

WINDOW = 17

TEXTURE = 25.0
"""Variance of a window, in squared levels of 255, above which it can be told what it shows."""

PLAIN, PLAIN_CUT = 0.02, 20
"""Share of windows with texture below which pictures are plain, and the mean difference of plain ones at a cut."""


@dataclass(frozen=True)
class Measured:
    """Motion between two pictures."""

    vectors: np.ndarray
    """float32 [h, w, 2] in fractions of the frame; zero at a cut."""
    is_cut: bool
    """The pictures show two scenes."""


class PictureFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) between two pictures, made small."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def between(self, picture: av.VideoFrame, before: av.VideoFrame, grid: tuple[int, int]) -> Measured:
        """Displacement of each cell from `picture` to `before`."""
        now, then = self._small(picture), self._small(before)
        height, width = now.shape
        threads = cv2.getNumThreads()
        # the search divides its work, and with it its result, among threads
        cv2.setNumThreads(1)
        try:
            flow = self._search.calc(now, then, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(threads)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        moved = cv2.remap(then, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if shows_cut(now, np.asarray(moved)):
            return Measured(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return Measured(cells / np.array([width, height], np.float32), False)

    def _small(self, picture: av.VideoFrame) -> np.ndarray:
        size = (LONG_SIDE, SHORT_SIDE) if picture.width >= picture.height else (SHORT_SIDE, LONG_SIDE)
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()


def shows_cut(now: np.ndarray, moved: np.ndarray) -> bool:
    """Whether two pictures show two scenes, one of them moved to look like the other as far as it can.

    Structure is compared, not brightness: a flash or a fade is no cut. Both are uint8 [h, w].
    """
    one, other = now.astype(np.float32), moved.astype(np.float32)
    window = (WINDOW, WINDOW)
    mean, other_mean = cv2.blur(one, window), cv2.blur(other, window)
    variance = cv2.blur(one * one, window) - mean * mean
    other_variance = cv2.blur(other * other, window) - other_mean * other_mean
    both = cv2.blur(one * other, window) - mean * other_mean
    textured = np.maximum(variance, other_variance) > TEXTURE
    if textured.mean() < PLAIN:
        return float(np.abs(one - other).mean()) > PLAIN_CUT
    likeness = both[textured] / np.sqrt(np.maximum(variance * other_variance, 1))[textured]
    return float(likeness.mean()) < UNLIKE
