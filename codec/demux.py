"""A file opened for reading, and its frames in display order, each with the stream's own vectors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from codec.errors import MediaError
from codec.references import Picture, ReferenceLists

NATIVE_CODECS = ("h264", "mpeg4", "mpeg2video", "mpeg1video", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3")
"""Codecs whose vectors FFmpeg exports."""


@dataclass(frozen=True)
class SourceFrame:
    """One decoded frame, in display order."""

    picture: av.VideoFrame
    pts_seconds: float
    """Strictly increasing, whatever the stream says."""
    vectors: np.ndarray | None
    """FFmpeg's AVMotionVector records; None where the frame has none, or where they were not asked for."""
    index: int
    """Place in the stream, in decoding order: a frame points only to frames with a smaller one."""
    headers: Picture | None
    """What the bitstream says about it; None where this was not read (H.264 alone is)."""

    @property
    def is_reference(self) -> bool:
        """Whether other frames may point to this one."""
        return self.picture.pict_type != PictureType.B if self.headers is None else self.headers.is_reference


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens `path` and picks its best video stream.

    Raises:
        MediaError: no such file, not a video, or no video stream in it.
    """
    # not a level: FFmpeg's threads would call back into Python, and can wait for each other for ever
    av.logging.set_level(None)
    source = Path(path)
    if not source.is_file():
        what = "is a directory" if source.is_dir() else "no such file"
        raise MediaError(f"cannot read {source}: {what}; give the path of a video file")
    if source.stat().st_size == 0:
        raise MediaError(f"cannot read {source}: the file is empty (0 bytes)")
    try:
        container = av.open(str(source))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"cannot read {source}: {reason(error)}; is it a video file, and whole?") from error
    with container:
        videos = [stream for stream in container.streams.video if not is_cover_art(stream)]
        if not videos:
            raise MediaError(f"cannot read {source}: there is no video stream in it")
        stream = max(videos, key=lambda video: (video.codec_context.width or 0) * (video.codec_context.height or 0))
        yield container, stream


def is_cover_art(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def reason(error: Exception) -> str:
    """FFmpeg's own words for an error, without its number and path."""
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".").lower()


def read_frames(
    container: InputContainer, stream: VideoStream, *, with_vectors: bool, start_seconds: float = 0.0
) -> Iterator[SourceFrame]:
    """Decodes `stream` frame by frame.

    One damaged packet costs its frames, not the file. Decoder threads work on slices at most: FRAME threads lose
    vectors of B frames.
    """
    context = stream.codec_context
    context.thread_type = "SLICE" if with_vectors else "AUTO"
    context.copy_opaque = True
    if with_vectors:
        context.options = {"flags2": "+export_mvs"}
    step = 1 / float(stream.average_rate or stream.base_rate or 25)
    lists = ReferenceLists(context.extradata) if with_vectors and context.name == "h264" else None
    previous = None
    for picture, index, headers in _decoded(container, stream, lists):
        seconds = float(picture.pts * picture.time_base) if picture.pts is not None else None
        if seconds is None or (previous is not None and seconds <= previous):
            seconds = 0.0 if previous is None else previous + step
        previous = seconds
        yield SourceFrame(picture, seconds, _vectors(picture) if with_vectors else None, index, headers)


def _decoded(
    container: InputContainer, stream: VideoStream, lists: ReferenceLists | None
) -> Iterator[tuple[av.VideoFrame, int, Picture | None]]:
    context = stream.codec_context
    packets = container.demux(stream)
    index = 0
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError, OSError):
            packet = None
        index += 1
        if packet is not None and packet.size:
            packet.opaque = index, lists.feed(bytes(packet), index) if lists else None
        try:
            frames = context.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            frames = []
        for frame in frames:
            yield frame, *(frame.opaque or (index, None))
        if packet is None:
            return


def _vectors(picture: av.VideoFrame) -> np.ndarray | None:
    data = picture.side_data.get("MOTION_VECTORS")
    return None if data is None else data.to_ndarray()


def frame_interval(stream: VideoStream) -> Fraction:
    """Nominal time between two frames, for what has no better clock."""
    return 1 / Fraction(stream.average_rate or stream.base_rate or 25)
