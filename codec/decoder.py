"""Decode a video stream: frames in display order, each with the motion vectors of the bitstream."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError, PatchWelcomeError
from av.video.frame import PictureType
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, Demuxer, end_from_header, is_cut_off, nominal_frame_interval
from codec.errors import MediaError
from codec.reference_lists import PictureHeaders, ReferenceListBuilder
from codec.side_data import UPRIGHT, Orientation, OrientationReader, motion_records, orientation_of, side_data_of
from codec.timeline import FrameTimes, PictureTimes

TRUNCATION_SECONDS = 0.5
"""A stream that ends this much before its header says has lost its end. One whose first decodable frame comes this much
after its first packet has lost its beginning."""

VECTOR_THREADS = "NONE"
"""FFmpeg's thread type where vectors are read. FRAME threads lose vectors of B frames; SLICE threads, which run on more
cores than one, neither conceal lost macroblocks nor report them."""

MAX_PACKETS_IN_DECODER = 512
"""Packets whose facts are kept until their pictures come: more than any decoder holds back."""

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
    pts: int | None = None
    """Presentation time in the stream's time base, on one timeline; None if not known."""


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
    orientation: Orientation = UPRIGHT
    """How the picture is turned and mirrored for display."""
    is_truncated: bool = False
    """The file ends before its header says, with this frame."""

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
    first_index: int = 1,
) -> Iterator[DecodedPicture]:
    """Decode pictures from the container's current position on.

    Args:
        container, stream: as opened by `open_video`.
        with_vectors: export motion vectors, and read the slice headers of H.264.
        threads: FFmpeg's thread type: VECTOR_THREADS, or AUTO if no vectors are read.
        loop_filter: apply H.264's deblocking filter. Without it vectors are the same, but pictures drift.
        is_needed: whether the picture in a packet is used. If it is not, and no other picture refers to it, it is not
            decoded.
        packets: the packets to decode; all that follow if None.
        first_index: `DecodedPicture.index` of the first packet.

    Raises:
        MediaError: FFmpeg's decoder does not support this kind of stream; or the stream is encrypted.
    """
    context = stream.codec_context
    _configure(context, with_vectors, threads, loop_filter)
    references = ReferenceListBuilder(context.extradata) if with_vectors and context.name == "h264" else None
    context.skip_frame, skips = "DEFAULT", False
    lost, reason = False, None
    base, earliest_pts, has_begun = float(stream.time_base or 0), math.inf, False
    in_decoder: dict[int, _SentPacket] = {}
    times = PictureTimes(_packed_step(stream))
    for index, demuxed in enumerate(packets or Demuxer(container, stream).packets(), first_index):
        packet = demuxed.packet
        lost |= demuxed.is_truncated or demuxed.is_corrupt
        if packet is not None:
            if not has_begun and demuxed.pts is not None and not packet.is_discard:
                earliest_pts = min(earliest_pts, demuxed.pts)
            headers = references.add_packet(bytes(packet), index) if references else None
            in_decoder[index] = _SentPacket(demuxed.pts, headers)
            in_decoder.pop(index - MAX_PACKETS_IN_DECODER, None)
            times.add_packet(demuxed.dts)
            # decoders hand this number on: it tells which packet a picture comes from
            packet.pts, packet.is_corrupt = index, demuxed.is_corrupt
            unused = headers is not None and not (headers.is_reference or headers.is_interlaced or is_needed(demuxed))
            if unused != skips:
                context.skip_frame, skips = "NONREF" if unused else "DEFAULT", unused
        try:
            pictures = context.decode(packet)
        except EndOfStream:
            break
        except FFmpegError as error:
            pictures, lost, reason = [], True, error
            times.remove_packet(demuxed.dts)
        for picture in pictures:
            position = index if picture.pts is None else picture.pts
            sent = in_decoder.get(position, NOT_SENT)
            pts = times.next_pts(sent.pts)
            # a stream that begins without a keyframe shows nothing until one comes
            lost |= not has_begun and pts is not None and (pts - earliest_pts) * base > TRUNCATION_SECONDS
            has_begun = True
            yield DecodedPicture(picture, position, sent.headers, lost or picture.is_corrupt, pts)
            lost = False
    if not has_begun and isinstance(reason, PatchWelcomeError):
        raise MediaError(
            f"cannot read {container.name.removeprefix('file:')}: FFmpeg cannot decode this kind of "
            f"{context.codec.canonical_name} video; re-encode it as H.264 first"
        )


@dataclass(frozen=True)
class _SentPacket:
    """Facts about a packet that was sent to the decoder."""

    pts: int | None
    headers: PictureHeaders | None


NOT_SENT = _SentPacket(None, None)


def _configure(context: av.VideoCodecContext, with_vectors: bool, threads: str, loop_filter: bool) -> None:
    """Set the decoder's options, unless it is open already."""
    if context.is_open:
        return
    context.thread_type = threads
    # without it FFmpeg does not crop at the left, unless by a multiple of 32 or 64 pixels
    context.flags = int(context.flags) | Flags.unaligned.value
    if with_vectors:
        context.options = {"flags2": "+export_mvs"} | ({} if loop_filter else {"skip_loop_filter": "all"})


def _packed_step(stream: VideoStream) -> int | None:
    """Return the time from one frame to the next of an MPEG-4 stream, whose frames may be packed; None for others."""
    if stream.codec_context.name != "mpeg4" or stream.average_rate is None or stream.time_base is None:
        return None
    return round(1 / stream.average_rate / stream.time_base)


def is_packet_shown(demuxed: DemuxedPacket, time_base: float, is_shown: IsShown, first: float | None) -> bool:
    """Return whether the frame in a packet is used; True if its times are not known."""
    if demuxed.pts is None or demuxed.next_pts is None:
        return True
    return is_shown(demuxed.pts * time_base, demuxed.next_pts * time_base, first)


def read_frames(
    container: InputContainer,
    stream: VideoStream,
    *,
    with_vectors: bool,
    threads: str = VECTOR_THREADS,
    is_shown: IsShown | None = None,
    loop_filter: bool = True,
    pictures: Iterator[DecodedPicture] | None = None,
    num_skipped: int = 0,
    first_pts: int | None = None,
) -> Iterator[SourceFrame]:
    """Decode frames from the container's current position on.

    A damaged packet costs its frames, not the file: the next frame is marked as damaged. So is the last frame of a
    stream that ends before its header says.

    Args:
        container, stream: as opened by `open_video`.
        with_vectors: export motion vectors.
        threads: FFmpeg's thread type, VECTOR_THREADS or AUTO; only used without vectors.
        is_shown: which frames are used; all if None. Others that no frame refers to are not decoded, where the stream
            says so (only H.264 does).
        loop_filter: apply H.264's deblocking filter. Without it vectors are the same, but pictures drift.
        pictures: the stream's pictures, if they are decoded elsewhere.
        num_skipped: packets that are read but not decoded.
        first_pts: pictures that should be shown before this time are left out: after a seek they refer to pictures that
            were not decoded.
    """
    declared_end = end_from_header(container, stream)
    times = FrameTimes(float(stream.time_base or 0), float(nominal_frame_interval(stream)), declared_end)
    demuxer = Demuxer(container, stream)

    def is_needed(demuxed: DemuxedPacket) -> bool:
        if is_shown is None or times.shift:
            return True
        return is_packet_shown(demuxed, times.time_base, is_shown, times.first)

    if pictures is None:
        pictures = decode_pictures(
            container,
            stream,
            with_vectors=with_vectors,
            threads=VECTOR_THREADS if with_vectors else threads,
            loop_filter=loop_filter,
            is_needed=is_needed,
            packets=islice(demuxer.packets(), num_skipped, None),
        )
    if first_pts is not None:
        pictures = (one for one in pictures if one.pts is None or one.pts >= first_pts)
    orientations = OrientationReader()
    waiting: DecodedPicture | None = None
    last: SourceFrame | None = None

    def frame(decoded: DecodedPicture, following_pts: int | None) -> SourceFrame:
        picture = decoded.picture
        seconds = times.next_seconds(decoded.pts, following_pts)
        side_data = side_data_of(picture) if with_vectors else None
        return SourceFrame(
            picture=picture,
            pts_seconds=seconds,
            duration_seconds=times.duration_seconds(picture.duration, seconds),
            vectors=motion_records(side_data) if side_data else None,
            index=decoded.index,
            headers=decoded.headers,
            damaged=decoded.damaged or (decoded.headers is not None and decoded.headers.follows_loss),
            orientation=orientation_of(side_data) if side_data else orientations.read(picture),
        )

    for decoded in pictures:
        times.begin(decoded.pts)
        if waiting is not None:
            yield frame(waiting, decoded.pts)
        waiting = decoded
    if waiting is not None:
        last = frame(waiting, None)
        is_truncated = _is_truncated(container, stream, last, times.shift, demuxer)
        yield replace(last, damaged=last.damaged or is_truncated, is_truncated=is_truncated)


def _is_truncated(
    container: InputContainer, stream: VideoStream, last: SourceFrame, shift: float, demuxer: Demuxer
) -> bool:
    """Return whether packets are missing after the last frame, whose time was shifted by `shift` seconds.

    The header's duration alone does not tell: sound may last longer than the pictures, and the header may be wrong.
    """
    end = last.pts_seconds - shift + 2 * last.duration_seconds + TRUNCATION_SECONDS
    if end < demuxer.last_frame_seconds:
        return True  # packets were read that could not be decoded
    if (is_cut := is_cut_off(container, stream)) is not None:
        return is_cut
    declared_end = end_from_header(container, stream)
    # the streams of a file are interleaved: where one lasts as long as the header says, no other has lost its end
    return declared_end is not None and max(end, demuxer.end_seconds + TRUNCATION_SECONDS) < declared_end
