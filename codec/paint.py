"""Decoded pictures as people see them."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from codec.probe import displayed_size, quarter_turns

EXACT_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without the two flags swscale's pictures are one to two levels too dark, and 2 to 4 dB further from the source."""


class Painter:
    """Turns decoded pictures into upright RGB with square pixels; keeps the scaler, which is dear to set up.

    Args:
        stream: where the pictures come from; its pixels may not be square.
        size: (width, height) to give; the size of each picture itself where not given.
    """

    def __init__(self, stream: VideoStream, size: tuple[int, int] | None = None) -> None:
        self._stream, self._size = stream, size
        self._scaler = VideoReformatter()

    def __call__(self, picture: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [H, W, 3] RGB at `size`, else at the painter's own, else at the size the picture is shown at."""
        turns = quarter_turns(picture)
        width, height = size or self._size or displayed_size(picture, self._stream)
        if turns % 2:
            width, height = height, width
        scaled = self._scaler.reformat(picture, width, height, "rgb24", interpolation=EXACT_AREA)
        image = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
