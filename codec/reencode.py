"""Motion vectors of our own making: the pictures encoded again with x264, one reference and no B frames."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.video.reformatter import Interpolation

from codec.demux import SourceFrame

LONG_SIDE = 640
"""Pictures are made no larger than this before they are encoded: the grid is coarse."""


def reencoded(pictures: Iterable[av.VideoFrame], fps: Fraction) -> Iterator[SourceFrame]:
    """Encodes pictures one after another and gives them back with x264's vectors, each pointing to the one before."""
    encoder = decoder = None
    for number, picture in enumerate(pictures):
        if encoder is None or decoder is None:
            size = encoded_size(picture.width, picture.height)
            encoder, decoder = _encoder(size, fps), _decoder()
        small = picture.reformat(
            width=encoder.width, height=encoder.height, format="yuv420p", interpolation=Interpolation.AREA
        )
        small.pts, small.time_base, small.pict_type = number, 1 / fps, 0
        for packet in encoder.encode(small):
            for frame in decoder.decode(packet):
                data = frame.side_data.get("MOTION_VECTORS")
                yield SourceFrame(frame, float(number / fps), None if data is None else data.to_ndarray(), number, None)


def encoded_size(width: int, height: int) -> tuple[int, int]:
    """Even size with the same shape whose long side is at most LONG_SIDE."""
    scale = min(1, LONG_SIDE / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def _encoder(size: tuple[int, int], fps: Fraction) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.time_base, encoder.framerate = 1 / fps, fps
    encoder.options = {
        "preset": "medium",
        "tune": "zerolatency",
        "crf": "20",
        "x264-params": "ref=1:bframes=0:scenecut=0:keyint=infinite:threads=1:weightp=0",
    }
    return encoder


def _decoder() -> av.VideoCodecContext:
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_type = "NONE"
    decoder.options = {"flags2": "+export_mvs", "flags": "+low_delay"}
    return decoder
