"""What a video file says about itself."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from codec.demux import NATIVE_CODECS, opened, read_frames
from codec.errors import MediaError


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
    """FFmpeg exports this codec's motion vectors; otherwise they come from a re-encoding."""


def probe(path: str | Path) -> MediaInfo:
    """Reads a file's headers, and its first frame for what only frames know.

    Raises:
        MediaError: missing, empty or unreadable file, no video in it, or no frame that can be decoded.
    """
    with opened(path) as (container, stream):
        first = next(read_frames(container, stream, with_vectors=False), None)
        if first is None:
            raise MediaError(f"cannot read {path}: no frame of it can be decoded; the file is damaged or encrypted")
        width, height = displayed_size(first.picture, stream)
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        context = stream.codec_context
        return MediaInfo(
            codec=context.codec.canonical_name,
            width=width,
            height=height,
            rotation_degrees=90 * quarter_turns(first.picture),
            duration_seconds=duration,
            average_fps=Fraction(stream.average_rate) if stream.average_rate else None,
            pixel_format=first.picture.format.name,
            has_native_vectors=context.name in NATIVE_CODECS,
        )


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
