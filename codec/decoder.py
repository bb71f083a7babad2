"""Decode a video stream: frames in display order, each with the motion vectors of the bitstream."""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, demux_packets, duration_from_header, nominal_frame_interval
from codec.reference_lists import PictureHeaders, ReferenceListBuilder

TRUNCATION_SECONDS = 0.5
"""A stream that ends this much before its header says has lost its end. One whose first decodable frame comes this much
after its first packet has lost its beginning."""

GC_BYTES = 80 << 20
"""Run the garbage collector after this many bytes of pictures: a picture and its side data refer to each other, and
Python alone would let hundreds of megabytes accumulate."""

MAX_PAUSE_SECONDS = 60.0
"""A longer jump in timestamps, forward or back, is a clock reset or damage: the next frame follows at once."""

MotionRecord = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"],
        "formats": ["i4", "u1", "u1", "i2", "i2", "i4", "i4", "u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)
"""FFmpeg's AVMotionVector without src_x and src_y, which are rounded."""

IsShown = Callable[[float, float, float | None], bool]
"""`is_shown(since, until, first)`: whether a frame on screen from `since` until `until` is used. `first` is the time of
the stream's first frame, None before that is decoded. All in seconds."""


@dataclass(frozen=True)
class DecodedPicture:
    """One picture as the decoder returns it, in display order."""

    picture: av.VideoFrame
    index: int
    """Position in the stream, in decoding order from 1."""
    headers: PictureHeaders | None
    """What the slice headers say; None if they were not read (only those of H.264 are)."""
    damaged: bool
    """Some data was lost in this picture or since the one before."""


@dataclass(frozen=True)
class SourceFrame:
    """One decoded frame of the source, in display order."""

    picture: av.VideoFrame
    pts_seconds: float
    """Strictly increasing, even if the timestamps of the stream are not."""
    duration_seconds: float
    """How long the frame is meant to be shown."""
    vectors: np.ndarray | None
    """MotionRecord [n]; None if the frame has no vectors or they were not requested."""
    index: int
    """Position in the stream, in decoding order from 1. A frame refers only to frames with a smaller index."""
    headers: PictureHeaders | None = None
    """What the slice headers say; None if they were not read (only those of H.264 are)."""
    damaged: bool = False
    """Some data was lost in this frame or since the one before."""

    @property
    def is_reference(self) -> bool:
        """Whether other frames may refer to this one."""
        return self.picture.pict_type != PictureType.B if self.headers is None else self.headers.is_reference


def decode_pictures(
    container: InputContainer,
    stream: VideoStream,
    *,
    with_vectors: bool,
    threads: str,
    loop_filter: bool,
    is_needed: Callable[[DemuxedPacket], bool],
    packets: Iterator[DemuxedPacket] | None = None,
) -> Iterator[DecodedPicture]:
    """Decode pictures from the container's current position on.

    Args:
        container, stream: as opened by `open_video`.
        with_vectors: export motion vectors, and read the slice headers of H.264.
        threads: FFmpeg's thread type: SLICE, or AUTO if no vectors are read.
        loop_filter: apply H.264's deblocking filter. Without it vectors are the same, but pictures drift.
        is_needed: whether the picture in a packet is used. If it is not, and no other picture refers to it, it is not
            decoded.
        packets: the packets to decode; all that follow if None.
    """
    context = stream.codec_context
    _configure(context, with_vectors, threads, loop_filter)
    references = ReferenceListBuilder(context.extradata) if with_vectors and context.name == "h264" else None
    context.skip_frame, skips = "DEFAULT", False
    lost = False
    base, earliest_pts, has_begun = float(stream.time_base or 0), math.inf, False
    for index, demuxed in enumerate(packets or demux_packets(container, stream), 1):
        packet = demuxed.packet
        lost |= demuxed.is_truncated
        if packet is not None:
            lost |= packet.is_corrupt
            if not has_begun and packet.pts is not None and not packet.is_discard:
                earliest_pts = min(earliest_pts, packet.pts)
            headers = references.add_packet(bytes(packet), index) if references else None
            packet.opaque = index, headers
            unused = headers is not None and not (headers.is_reference or headers.is_interlaced or is_needed(demuxed))
            if unused != skips:
                context.skip_frame, skips = "NONREF" if unused else "DEFAULT", unused
        try:
            pictures = context.decode(packet)
        except EndOfStream:
            return
        except FFmpegError:
            pictures, lost = [], True
        for picture in pictures:
            # a stream that begins without a keyframe shows nothing until one comes
            lost |= (
                not has_begun and picture.pts is not None and (picture.pts - earliest_pts) * base > TRUNCATION_SECONDS
            )
            has_begun = True
            position, headers = cast(Any, picture.opaque) or (index, None)
            yield DecodedPicture(picture, position, headers, lost or picture.is_corrupt)
            lost = False


def _configure(context: av.VideoCodecContext, with_vectors: bool, threads: str, loop_filter: bool) -> None:
    """Set the decoder's options, unless it is open already."""
    if context.is_open:
        return
    context.thread_type = threads
    context.copy_opaque = True
    if with_vectors:
        context.options = {"flags2": "+export_mvs"} | ({} if loop_filter else {"skip_loop_filter": "all"})


def is_packet_shown(demuxed: DemuxedPacket, time_base: float, is_shown: IsShown, first: float | None) -> bool:
    """Return whether the frame in a packet is used; True if its times are not known."""
    if demuxed.packet is None or demuxed.packet.pts is None or demuxed.next_pts is None:
        return True
    return is_shown(demuxed.packet.pts * time_base, demuxed.next_pts * time_base, first)


def read_frames(
    container: InputContainer,
    stream: VideoStream,
    *,
    with_vectors: bool,
    threads: str = "SLICE",
    is_shown: IsShown | None = None,
    loop_filter: bool = True,
    pictures: Iterator[DecodedPicture] | None = None,
) -> Iterator[SourceFrame]:
    """Decode frames from the container's current position on.

    A damaged packet costs its frames, not the file: the next frame is marked as damaged. So is the last frame of a
    stream that ends before its header says.

    Args:
        container, stream: as opened by `open_video`.
        with_vectors: export motion vectors. This needs SLICE threads: FRAME threads lose vectors of B frames.
        threads: FFmpeg's thread type, SLICE or AUTO; only used without vectors.
        is_shown: which frames are used; all if None. Others that no frame refers to are not decoded, where the stream
            says so (only H.264 does).
        loop_filter: apply H.264's deblocking filter. Without it vectors are the same, but pictures drift.
        pictures: the stream's pictures, if they are decoded elsewhere.
    """
    timestamps = _Timestamps(float(stream.time_base or 0), float(nominal_frame_interval(stream)))

    def is_needed(demuxed: DemuxedPacket) -> bool:
        if is_shown is None or timestamps.shift:
            return True
        return is_packet_shown(demuxed, timestamps.time_base, is_shown, timestamps.first)

    if pictures is None:
        pictures = decode_pictures(
            container,
            stream,
            with_vectors=with_vectors,
            threads="SLICE" if with_vectors else threads,
            loop_filter=loop_filter,
            is_needed=is_needed,
        )
    last: SourceFrame | None = None
    uncollected_bytes = 0
    for decoded in pictures:
        picture = decoded.picture
        uncollected_bytes += 2 * picture.width * picture.height
        if with_vectors and uncollected_bytes > GC_BYTES:
            gc.collect()
            uncollected_bytes = 0
        seconds = timestamps.next_seconds(picture.pts)
        if last is not None:
            yield last
        last = SourceFrame(
            picture=picture,
            pts_seconds=seconds,
            duration_seconds=picture.duration * timestamps.time_base if picture.duration else timestamps.step,
            vectors=_motion_records(picture) if with_vectors else None,
            index=decoded.index,
            headers=decoded.headers,
            damaged=decoded.damaged or (decoded.headers is not None and decoded.headers.follows_loss),
        )
    if last is not None:
        yield replace(last, damaged=last.damaged or _is_truncated(container, stream, last))


class _Timestamps:
    """Turns the pts of frames in display order into strictly increasing seconds.

    Args:
        time_base: seconds per unit of pts.
        step: nominal seconds from one frame to the next.
    """

    def __init__(self, time_base: float, step: float) -> None:
        self.time_base, self.step = time_base, step
        self.first: float | None = None
        """Time of the first frame."""
        self.shift = 0.0
        """Seconds added to all times since a clock reset."""
        self._last = 0.0

    def next_seconds(self, pts: int | None) -> float:
        """Return the time of the next frame."""
        seconds = pts * self.time_base + self.shift if pts is not None else None
        if self.first is None:
            self.first = seconds = seconds or 0.0
        else:
            expected = self._last + self.step
            if seconds is None:
                seconds = expected
            elif abs(seconds - expected) > MAX_PAUSE_SECONDS:
                self.shift, seconds = self.shift + expected - seconds, expected
            elif seconds <= self._last:
                seconds = self._last + self.step / 20
        self._last = seconds
        return seconds


def _motion_records(picture: av.VideoFrame) -> np.ndarray | None:
    data = cast(Any, picture.side_data.get("MOTION_VECTORS"))
    return None if data is None else np.frombuffer(data, MotionRecord)


def _is_truncated(container: InputContainer, stream: VideoStream, last: SourceFrame) -> bool:
    """Return whether the stream ends well before the duration in its header."""
    declared = duration_from_header(container, stream)
    if declared is None or stream.time_base is None:
        return False
    end = float((stream.start_time or 0) * stream.time_base) + declared
    return last.pts_seconds + 2 * last.duration_seconds + TRUNCATION_SECONDS < end
