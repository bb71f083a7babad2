"""Open a video file and demux the packets of its video stream."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.logging import set_level
from av.stream import Disposition
from av.video.stream import VideoStream

from codec.errors import MediaError

NATIVE_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3")
"""Codecs whose motion vectors FFmpeg exports."""

NON_VIDEO_FORMATS = {"tty", "hls", "concat", "dash", "sdp"}
"""FFmpeg's names of formats that are text or lists of other files."""

MAX_SIDE = 16384
"""Largest width or height in pixels. A larger picture is taken for damage or an attack."""

MAX_REORDERED_FRAMES = 16
"""A frame is decoded at most this many frames before one that is shown earlier (an H.264 buffer has 16 pictures)."""


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and select its video stream with the largest pictures.

    Raises:
        MediaError: there is no such file, it is not a video, or it has no video stream.
    """
    # no log level at all: with one, FFmpeg's threads call back into Python and can deadlock
    set_level(None)
    source = Path(path)
    if not source.is_file():
        problem = "is a directory" if source.is_dir() else "no such file"
        raise MediaError(f"cannot read {source}: {problem}; give the path of a video file")
    if source.stat().st_size == 0:
        raise MediaError(f"cannot read {source}: the file is empty (0 bytes)")
    try:
        # a media file must not make us open other files or addresses
        container = av.open(str(source), options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot read {source}: {_reason(error)}; is it a video file, and whole?") from error
    with container:
        yield container, _select_stream(container, source)


def _select_stream(container: InputContainer, source: Path) -> VideoStream:
    if NON_VIDEO_FORMATS & set(container.format.name.split(",")):
        raise MediaError(f"cannot read {source}: it is text, not a video; give the path of a video file")
    streams = [video for video in container.streams.video if not video.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"cannot read {source}: there is no video stream in it")
    readable = [video for video in streams if video.codec_context is not None]
    if not readable:
        raise MediaError(f"cannot read {source}: no decoder for its video; re-encode it as H.264 first")
    stream = max(readable, key=lambda video: (video.codec_context.width or 0) * (video.codec_context.height or 0))
    width, height = stream.codec_context.width or 0, stream.codec_context.height or 0
    if max(width, height) > MAX_SIDE:
        raise MediaError(f"cannot read {source}: its pictures are {width}x{height} pixels; at most {MAX_SIDE} a side")
    return stream


def _reason(error: Exception) -> str:
    """Return FFmpeg's error text without its number and path."""
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".").lower()


def nominal_frame_interval(stream: VideoStream) -> Fraction:
    """Return the header's time between two frames in seconds; 1/25 if the header gives none that makes sense."""
    rate = stream.average_rate or stream.base_rate or Fraction(25)
    return 1 / rate if 0 < rate <= 1000 else Fraction(1, 25)


def duration_from_header(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the duration in seconds that the header states; None if it states none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


@dataclass(frozen=True)
class DemuxedPacket:
    """One packet of the video stream, or the end of the stream."""

    packet: av.Packet | None
    """None at the end of what can be read."""
    next_pts: int | None
    """The next larger pts in the stream, when another frame replaces this one on screen. In the stream's time base;
    None if not known."""
    is_truncated: bool = False
    """The file could not be read any further."""


def demux_packets(container: InputContainer, stream: VideoStream) -> Iterator[DemuxedPacket]:
    """Yield the packets of `stream` in decoding order from the current position on, then the end."""
    waiting: deque[av.Packet] = deque()
    nearby_pts: deque[int | None] = deque(maxlen=2 * MAX_REORDERED_FRAMES + 1)
    source, end = container.demux(stream), None
    while end is None or waiting:
        if end is None:
            try:
                packet = next(source)
                if packet.size:
                    waiting.append(packet)
                    nearby_pts.append(packet.pts)
            except StopIteration:
                end = DemuxedPacket(None, None)
            except (FFmpegError, OSError):
                end = DemuxedPacket(None, None, is_truncated=True)
        if waiting and (end is not None or len(waiting) > MAX_REORDERED_FRAMES):
            packet = waiting.popleft()
            yield DemuxedPacket(packet, _next_pts(packet.pts, nearby_pts))
    yield end


def _next_pts(pts: int | None, nearby_pts: deque[int | None]) -> int | None:
    if pts is None:
        return None
    return min((other for other in nearby_pts if other is not None and other > pts), default=None)
