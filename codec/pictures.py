"""Pictures out of a decoder, in display order, with what the bitstream said about each."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import av
from av.container import InputContainer
from av.error import EOFError as EndOfStream
from av.error import FFmpegError
from av.video.stream import VideoStream

from codec.packets import Sent, packets_of
from codec.references import Picture, ReferenceLists

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
    may_show: Callable[[Sent], bool],
    packets: Iterator[Sent] | None = None,
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
