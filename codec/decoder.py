"""Pictures out of a decoder, in display order, with what the bitstream said about each.

Frames of a stream in display order, each with the stream's own vectors.
"""

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, duration_of, frame_interval, packets_of
from codec.frame_schedule import FrameSchedule
from codec.reference_lists import Picture, ReferenceLists

CUT_SHORT_SECONDS = 0.5
"""A stream that ends this much before its header says has lost its end; one whose first frame that can be decoded comes
this much after its first packet, its beginning."""


class Decoded(NamedTuple):
    """One picture."""

    picture: av.VideoFrame
    index: int
    """Place in the stream, in decoding order."""
    headers: Picture | None
    """What the bitstream says about it; None where this was not read (H.264 alone is)."""
    damaged: bool
    """Something was lost here, or since the picture before."""


def decoded(
    container: InputContainer,
    stream: VideoStream,
    *,
    with_vectors: bool,
    threads: str,
    loop_filter: bool,
    may_show: Callable[[DemuxedPacket], bool],
    packets: Iterator[DemuxedPacket] | None = None,
) -> Iterator[Decoded]:
    """Decodes `stream` from where `container` stands.

    Args:
        with_vectors: export vectors, and read H.264's headers.
        threads: FFmpeg's threads: SLICE, or AUTO where no vectors are read.
        loop_filter: without, vectors are the same but pictures drift.
        may_show: whether anybody may look at the picture in a packet; if not, and if nothing points to it, it is left
            out.
        packets: those to decode; all that come where not given.
    """
    context = stream.codec_context
    if not context.is_open:
        context.thread_type = threads
        context.copy_opaque = True
    if with_vectors and not context.is_open:
        context.options = {"flags2": "+export_mvs"} | ({} if loop_filter else {"skip_loop_filter": "all"})
    lists = ReferenceLists(context.extradata) if with_vectors and context.name == "h264" else None
    context.skip_frame, skips = "DEFAULT", False
    lost = False
    base, earliest, begun = float(stream.time_base or 0), math.inf, False
    for index, sent in enumerate(packets or packets_of(container, stream), 1):
        packet = sent.packet
        lost |= sent.is_cut_off
        if packet is not None:
            lost |= packet.is_corrupt
            if not begun and packet.pts is not None and not packet.is_discard:
                earliest = min(earliest, packet.pts)
            headers = lists.feed(bytes(packet), index) if lists else None
            packet.opaque = index, headers
            unused = headers is not None and not (headers.is_reference or headers.is_interlaced or may_show(sent))
            if unused != skips:
                context.skip_frame, skips = "NONREF" if unused else "DEFAULT", unused
        try:
            frames = context.decode(packet)
        except EndOfStream:
            return
        except FFmpegError:
            frames, lost = [], True
        for frame in frames:
            # a stream that begins without a keyframe shows nothing until one comes
            lost |= not begun and frame.pts is not None and (frame.pts - earliest) * base > CUT_SHORT_SECONDS
            begun = True
            place, headers = cast(Any, frame.opaque) or (index, None)
            yield Decoded(frame, place, headers, lost or frame.is_corrupt)
            lost = False


MotionRecord = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"],
        "formats": ["i4", "u1", "u1", "i2", "i2", "i4", "i4", "u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)
"""FFmpeg's AVMotionVector, as far as it is right: src_x and src_y are rounded."""

FREED_BYTES = 80 << 20
"""Bytes of pictures after which those no longer needed are freed: a picture and its side data hold each other, and
Python by itself would let hundreds of megabytes of them gather."""

LONGEST_PAUSE_SECONDS = 60.0
"""A longer jump, forward or back, is a clock that was set anew or is damaged: the next frame follows at once."""


@dataclass(frozen=True)
class SourceFrame:
    """One decoded frame, in display order."""

    picture: av.VideoFrame
    pts_seconds: float
    """Strictly increasing, whatever the stream says."""
    duration_seconds: float
    """How long it is meant to be shown."""
    vectors: np.ndarray | None
    """FFmpeg's AVMotionVector records; None where the frame has none, or where they were not asked for."""
    index: int
    """Place in the stream, in decoding order: a frame points only to frames with a smaller one."""
    headers: Picture | None = None
    """What the bitstream says about it; None where this was not read (H.264 alone is)."""
    damaged: bool = False
    """Something was lost here, or since the frame before."""

    @property
    def is_reference(self) -> bool:
        """Whether other frames may point to this one."""
        return self.picture.pict_type != PictureType.B if self.headers is None else self.headers.is_reference


def read_frames(
    container: InputContainer,
    stream: VideoStream,
    *,
    with_vectors: bool,
    threads: str = "SLICE",
    beat: FrameSchedule | None = None,
    loop_filter: bool = True,
    pictures: Iterator[Decoded] | None = None,
) -> Iterator[SourceFrame]:
    """Decodes `stream` from where `container` stands.

    A damaged packet costs its frames, not the file; the next frame says that something was lost. So does the last one
    of a stream that ends before its time.

    Args:
        with_vectors: decode with FFmpeg's vectors. Needs SLICE threads: FRAME threads lose vectors of B frames.
        threads: SLICE, or AUTO where no vectors are read.
        beat: times at which frames are looked at. Others that nothing points to are left out, where the stream says
            so (H.264 alone does).
        loop_filter: without, vectors are the same but pictures drift.
        pictures: those of the stream, where they are decoded elsewhere.
    """
    base = float(stream.time_base or 0)
    step = float(frame_interval(stream))
    held: SourceFrame | None = None
    shift = 0.0

    def may_show(sent: DemuxedPacket) -> bool:
        pts = sent.packet.pts if sent.packet is not None else None
        if beat is None or shift or pts is None or sent.next_pts is None:
            return True
        return beat.may_show(pts * base, sent.next_pts * base)

    if pictures is None:
        threads = "SLICE" if with_vectors else threads
        how = {"with_vectors": with_vectors, "threads": threads, "loop_filter": loop_filter, "may_show": may_show}
        pictures = decoded(container, stream, **how)
    gathered = 0
    for picture, index, headers, damaged in pictures:
        gathered += 2 * picture.width * picture.height
        if with_vectors and gathered > FREED_BYTES:
            gc.collect()
            gathered = 0
        seconds = picture.pts * base + shift if picture.pts is not None else None
        if held is not None:
            expected = held.pts_seconds + step
            if seconds is None:
                seconds = expected
            elif abs(seconds - expected) > LONGEST_PAUSE_SECONDS:
                shift, seconds = shift + expected - seconds, expected
            elif seconds <= held.pts_seconds:
                seconds = held.pts_seconds + step / 20
            yield held
        elif beat is not None:
            beat.begin(seconds or 0.0)
        duration = picture.duration * base if picture.duration else step
        vectors = _vectors(picture) if with_vectors else None
        damaged |= headers is not None and headers.follows_loss
        held = SourceFrame(picture, seconds or 0.0, duration, vectors, index, headers, damaged)
    if held is not None:
        yield replace(held, damaged=held.damaged or _cut_short(container, stream, held))


def _vectors(picture: av.VideoFrame) -> np.ndarray | None:
    data = cast(Any, picture.side_data.get("MOTION_VECTORS"))
    return None if data is None else np.frombuffer(data, MotionRecord)


def _cut_short(container: InputContainer, stream: VideoStream, last: SourceFrame) -> bool:
    declared = duration_of(container, stream)
    if declared is None or stream.time_base is None:
        return False
    end = float((stream.start_time or 0) * stream.time_base) + declared
    return last.pts_seconds + 2 * last.duration_seconds + CUT_SHORT_SECONDS < end
