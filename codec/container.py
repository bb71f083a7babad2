"""A file opened for reading, and the video stream in it.

Packets of a stream, in decoding order, each with the time at which another frame takes its place on screen.
"""

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
"""Codecs whose vectors FFmpeg exports."""

NOT_VIDEO = {"tty", "hls", "concat", "dash", "sdp"}
"""What FFmpeg calls a format although it is text, or a list of other files."""

LONGEST_SIDE = 16384
"""Larger pictures are damage, or an attack."""


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens `path` and picks its largest video stream.

    Raises:
        MediaError: no such file, not a video, or no video stream in it.
    """
    # not a level: FFmpeg's threads would call back into Python, and can wait for each other for ever
    set_level(None)
    source = Path(path)
    if not source.is_file():
        what = "is a directory" if source.is_dir() else "no such file"
        raise MediaError(f"cannot read {source}: {what}; give the path of a video file")
    if source.stat().st_size == 0:
        raise MediaError(f"cannot read {source}: the file is empty (0 bytes)")
    try:
        # a media file has no business opening other files or addresses
        container = av.open(str(source), options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot read {source}: {_reason(error)}; is it a video file, and whole?") from error
    with container:
        yield container, _video(container, source)


def _video(container: InputContainer, source: Path) -> VideoStream:
    if NOT_VIDEO & set(container.format.name.split(",")):
        raise MediaError(f"cannot read {source}: it is text, not a video; give the path of a video file")
    streams = [video for video in container.streams.video if not video.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"cannot read {source}: there is no video stream in it")
    readable = [video for video in streams if video.codec_context is not None]
    if not readable:
        raise MediaError(f"cannot read {source}: no decoder for its video; re-encode it as H.264 first")
    stream = max(readable, key=lambda video: (video.codec_context.width or 0) * (video.codec_context.height or 0))
    if max(stream.codec_context.width or 0, stream.codec_context.height or 0) > LONGEST_SIDE:
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        raise MediaError(f"cannot read {source}: pictures of {size} pixels; at most {LONGEST_SIDE} a side")
    return stream


def video_in(container: InputContainer) -> VideoStream:
    """The first video stream of a container of our own making."""
    return container.streams.video[0]


def frame_interval(stream: VideoStream) -> Fraction:
    """Nominal time between two frames, where nothing says it better."""
    rate = stream.average_rate or stream.base_rate or Fraction(25)
    return 1 / rate if 0 < rate <= 1000 else Fraction(1, 25)


def duration_of(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds, from the header; None where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def _reason(error: Exception) -> str:
    """FFmpeg's own words for an error, without its number and path."""
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".").lower()


REORDERED = 16
"""A frame is decoded at most this many frames before one shown earlier (H.264 keeps 16 pictures at most)."""


@dataclass(frozen=True)
class DemuxedPacket:
    """One packet, or the end."""

    packet: av.Packet | None
    """None at the end of what can be read."""
    next_pts: int | None
    """Earliest time after the packet's own at which another frame is shown, in the stream's time base; None where this
    is not known."""
    is_cut_off: bool = False
    """The file cannot be read on from here."""


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[DemuxedPacket]:
    """Packets of `stream` from where `container` stands, and the end."""
    waiting: deque[av.Packet] = deque()
    around: deque[int | None] = deque(maxlen=2 * REORDERED + 1)
    source, end = container.demux(stream), None
    while end is None or waiting:
        if end is None:
            try:
                packet = next(source)
                if packet.size:
                    waiting.append(packet)
                    around.append(packet.pts)
            except StopIteration:
                end = DemuxedPacket(None, None)
            except (FFmpegError, OSError):
                end = DemuxedPacket(None, None, is_cut_off=True)
        if waiting and (end is not None or len(waiting) > REORDERED):
            packet = waiting.popleft()
            yield DemuxedPacket(packet, _following(packet.pts, around))
    yield end


def _following(pts: int | None, around: deque[int | None]) -> int | None:
    if pts is None:
        return None
    return min((other for other in around if other is not None and other > pts), default=None)
