"""Frames and vectors read by motion-vector-extractor, for comparison: its vectors, our times and reference lists."""

from bisect import insort
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from codec.container import REORDERED, frame_interval, packets_of
from codec.decoder import MotionRecord, SourceFrame
from codec.errors import MediaError
from codec.reference_lists import Picture, ReferenceLists

COLUMNS = ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
"""Of the extractor's table of vectors."""


def read_frames_mvextractor(path: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[SourceFrame]:
    """Frames in display order, from the file's beginning; pictures come as the extractor gives them, not turned.

    Args:
        path: the file.
        container, stream: the same file, opened: it tells the times, which the extractor does not.

    Raises:
        MediaError: motion-vector-extractor is not installed, or cannot read the file.
    """
    try:
        from mvextractor.videocap import VideoCap
    except ImportError as error:
        raise MediaError(
            "backend mvextractor: motion-vector-extractor is not installed; `pip install videotok[peers]`, "
            "or choose backend av"
        ) from error
    capture = VideoCap()
    if not capture.open(str(path)):
        raise MediaError(f"cannot read {path}: motion-vector-extractor does not open it; choose backend av")
    step = float(frame_interval(stream))
    try:
        for seconds, index, headers in _shown(container, stream):
            got, pixels, table, *_ = capture.read()
            if not got:
                return
            picture = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            yield SourceFrame(picture, seconds, step, _records(table), index, headers)
    finally:
        capture.release()


def _shown(container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, int, Picture | None]]:
    """(time, place in the stream, headers) of each frame, in display order."""
    context = stream.codec_context
    lists = ReferenceLists(context.extradata) if context.name == "h264" else None
    base, step = float(stream.time_base or 0), float(frame_interval(stream))
    waiting: list[tuple[float, int, Picture | None]] = []
    for index, sent in enumerate(packets_of(container, stream), 1):
        if sent.packet is not None:
            pts = sent.packet.pts
            seconds = pts * base if pts is not None else (index - 1) * step
            insort(waiting, (seconds, index, lists.feed(bytes(sent.packet), index) if lists else None))
        while waiting and (sent.packet is None or len(waiting) > REORDERED):
            yield waiting.pop(0)


def _records(table: Any) -> np.ndarray | None:
    """The extractor's table as FFmpeg's records; None where it holds nothing."""
    if not len(table):
        return None
    records = np.zeros(len(table), MotionRecord)
    for number, name in enumerate(COLUMNS):
        if name in (MotionRecord.names or ()):
            records[name] = table[:, number]
    return records
