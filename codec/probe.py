"""What a video file says about itself.

Whether a file gave as much video as its header promises.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from codec.container import NATIVE_CODECS, duration_of, opened
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.types import ClipSpec


@dataclass(frozen=True)
class MediaInfo:
    """Facts about a file's video stream."""

    codec: str
    """FFmpeg's name: `h264`, `hevc`, `vp9` …"""
    width: int
    """Displayed width in pixels: rotation applied, square pixels."""
    height: int
    """Displayed height in pixels."""
    rotation_degrees: int
    """Counter-clockwise turn that shows the coded picture upright: 0, 90, 180 or 270."""
    duration_seconds: float | None
    """From the header; None where it does not say (raw streams, live recordings)."""
    average_fps: Fraction | None
    """From the header; many streams have no constant rate."""
    pixel_format: str
    """FFmpeg's name, such as `yuv420p`."""
    has_native_vectors: bool
    """FFmpeg exports this stream's motion vectors, and they are those of whole frames; otherwise they come from a
    re-encoding."""
    is_interlaced: bool
    """Coded in fields, or in frames that may hold field macroblocks."""


def probe(path: str | Path) -> MediaInfo:
    """Reads a file's headers, and its first frame for what only frames know.

    Raises:
        MediaError: missing, empty or unreadable file, no video in it, or no frame that can be decoded.
    """
    with opened(path) as (container, stream):
        first = next(read_frames(container, stream, with_vectors=True), None)
        if first is None:
            raise MediaError(f"cannot read {path}: no frame of it can be decoded; the file is damaged or encrypted")
        width, height = displayed_size(first.picture, stream)
        context = stream.codec_context
        return MediaInfo(
            codec=context.codec.canonical_name,
            width=width,
            height=height,
            rotation_degrees=90 * quarter_turns(first.picture),
            duration_seconds=duration_of(container, stream),
            average_fps=Fraction(stream.average_rate) if stream.average_rate else None,
            pixel_format=first.picture.format.name,
            has_native_vectors=has_native_vectors(first, stream),
            is_interlaced=is_interlaced(first),
        )


def is_interlaced(frame: SourceFrame) -> bool:
    """Whether vectors of the frame may be between fields, half a picture each."""
    return frame.headers.is_interlaced if frame.headers is not None else frame.picture.interlaced_frame


def has_native_vectors(first: SourceFrame, stream: VideoStream) -> bool:
    """Whether the stream's vectors can be used, judged by its first frame."""
    return stream.codec_context.name in NATIVE_CODECS and not is_interlaced(first)


def quarter_turns(picture: av.VideoFrame) -> int:
    """Counter-clockwise turns by 90 degrees that show the picture upright (0 to 3)."""
    return round(picture.rotation / 90) % 4


def square_pixels(picture: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Size of the picture before rotation, (width, height), when its pixels are made square by widening."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    if not 0.1 < aspect < 10:
        aspect = Fraction(1)
    return max(1, round(picture.width * aspect)), picture.height


def displayed_size(picture: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Size of the picture as shown, (width, height)."""
    width, height = square_pixels(picture, stream)
    return (height, width) if quarter_turns(picture) % 2 else (width, height)


def expected_seconds(
    info: MediaInfo,
    spec: ClipSpec,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
) -> float | None:
    """What the header promises of the part asked for, in seconds; None where it does not say."""
    if info.duration_seconds is None:
        return None
    asked = [duration_seconds, None if max_clips is None else max_clips * spec.duration_seconds]
    return float(min([info.duration_seconds - start_seconds, *(limit for limit in asked if limit is not None)]))


def check_length(path: str | Path, spec: ClipSpec, num_frames: int, expected: float | None) -> None:
    """Refuses what is no whole video: `num_frames` of the spec's frames came of `expected` seconds.

    Raises:
        MediaError: the file ends before its header says, by more than sound may outlast its pictures, or it shows
            fewer than two frames.
    """
    seconds = float(num_frames / spec.fps)
    if expected is not None and expected - seconds > max(0.5, 0.05 * expected):
        raise MediaError(
            f"{path} is cut short: {seconds:.2f} s of {expected:.2f} s can be read; "
            f"get a whole copy, or encode that part with --duration {math.floor(seconds * 100) / 100}"
        )
    if num_frames < 2:
        raise MediaError(f"{path} shows a single frame at {spec.fps} frames a second; a video has at least two")
