"""Motion measured from pictures, for what a stream has no vectors for: I frames, and intra blocks."""

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

LONG_SIDE, SHORT_SIDE = 256, 144
"""Pictures are compared at this size: the grid is far coarser."""

CUT = 20
"""Mean difference, of 255, between a picture and the one before it moved along: above this they are two scenes."""


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
        if cv2.absdiff(moved, now).mean() > CUT:
            return Measured(np.zeros((*grid, 2), np.float32), True)
        cells = cv2.resize(flow, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return Measured(cells / np.array([width, height], np.float32), False)

    def _small(self, picture: av.VideoFrame) -> np.ndarray:
        size = (LONG_SIDE, SHORT_SIDE) if picture.width >= picture.height else (SHORT_SIDE, LONG_SIDE)
        return self._scaler.reformat(picture, *size, "gray", interpolation=Interpolation.AREA).to_ndarray()
