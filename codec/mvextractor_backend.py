"""Read frames and vectors with motion-vector-extractor, for comparison with PyAV.

Vectors and pictures are the extractor's; times and reference lists, which it does not give, are read here.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from codec.container import MAX_REORDERED_FRAMES, Demuxer, nominal_frame_interval
from codec.decoder import SourceFrame
from codec.errors import MediaError
from codec.reference_lists import PictureHeaders, ReferenceListBuilder
from codec.side_data import MotionRecord

COLUMNS = ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
"""Columns of the extractor's table of vectors."""


def read_frames_mvextractor(path: str | Path, container: InputContainer, stream: VideoStream) -> Iterator[SourceFrame]:
    """Yield frames in display order, from the file's beginning; pictures are not rotated.

    Args:
        path: the file.
        container, stream: the same file as opened by `open_video`, for times and headers.

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
    # a relative name may look like an address
    if not capture.open(str(Path(path).absolute())):
        raise MediaError(f"cannot read {path}: motion-vector-extractor does not open it; choose backend av")
    step = float(nominal_frame_interval(stream))
    try:
        for facts in _facts_in_display_order(container, stream):
            got, pixels, table, *_ = capture.read()
            if not got:
                return
            picture = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            yield SourceFrame(picture, facts.pts_seconds, step, _motion_records(table), facts.index, facts.headers)
    finally:
        capture.release()


@dataclass(frozen=True, order=True)
class _FrameFacts:
    """What a frame's packet says."""

    pts_seconds: float
    index: int
    """Position in the stream, in decoding order from 1."""
    headers: PictureHeaders | None = field(compare=False)


def _facts_in_display_order(container: InputContainer, stream: VideoStream) -> Iterator[_FrameFacts]:
    context = stream.codec_context
    references = ReferenceListBuilder(context.extradata) if context.name == "h264" else None
    base, step = float(stream.time_base or 0), float(nominal_frame_interval(stream))
    waiting: list[_FrameFacts] = []
    for index, demuxed in enumerate(Demuxer(container, stream).packets(), 1):
        packet = demuxed.packet
        if packet is not None:
            seconds = demuxed.pts * base if demuxed.pts is not None else (index - 1) * step
            headers = references.add_packet(bytes(packet), index) if references else None
            insort(waiting, _FrameFacts(seconds, index, headers))
        while waiting and (packet is None or len(waiting) > MAX_REORDERED_FRAMES):
            yield waiting.pop(0)


def _motion_records(table: Any) -> np.ndarray | None:
    """Return the extractor's table as MotionRecord [n]; None if it is empty."""
    if not len(table):
        return None
    records = np.zeros(len(table), MotionRecord)
    for number, name in enumerate(COLUMNS):
        if name in (MotionRecord.names or ()):
            records[name] = table[:, number]
    return records
