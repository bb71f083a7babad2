"""Motion vectors of our own making: the pictures encoded again with x264, one reference and no B frames."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
from av.video.reformatter import Interpolation, VideoReformatter

from codec.clock import FINER, Tick, fine_grid
from codec.decode import SourceFrame
from codec.field import pooled, turned
from codec.motion import motion_of
from codec.probe import quarter_turns
from codec.types import ClipSpec

LONG_SIDE = 640
"""Pictures are made no larger than this before they are encoded: the grid is coarse."""


def with_motion(ticks: Generator[Tick, None, None], spec: ClipSpec) -> Generator[Tick, None, None]:
    """Ticks, each with the motion that x264 finds between its picture and the one before."""
    waiting: deque[Tick] = deque()

    def pictures() -> Iterator[av.VideoFrame]:
        for tick in ticks:
            if tick.picture is not None:
                waiting.append(tick)
                yield tick.picture

    try:
        for moved in motion_of(reencoded(pictures(), spec.fps), fine_grid(spec)):
            tick = waiting.popleft()
            turns = quarter_turns(tick.picture) if tick.picture is not None else 0
            vectors, valid = pooled(*turned(moved.vectors, moved.valid, turns), FINER)
            yield replace(tick, vectors=vectors, valid=valid)
    finally:
        ticks.close()


def reencoded(pictures: Iterable[av.VideoFrame], fps: Fraction) -> Iterator[SourceFrame]:
    """Encodes pictures one after another and gives them back with x264's vectors, each pointing to the one before."""
    encoder = decoder = None
    scaler = VideoReformatter()
    for number, picture in enumerate(pictures):
        if encoder is None or decoder is None:
            encoder, decoder = _encoder(encoded_size(picture.width, picture.height), fps), _decoder()
        small = scaler.reformat(picture, encoder.width, encoder.height, "yuv420p", interpolation=Interpolation.AREA)
        small.pts, small.time_base, small.pict_type = number, 1 / fps, 0
        for packet in encoder.encode(small):
            for frame in decoder.decode(packet):
                data = cast(Any, frame.side_data.get("MOTION_VECTORS"))
                vectors = None if data is None else data.to_ndarray()
                yield SourceFrame(frame, float(number / fps), float(1 / fps), vectors, number)


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
