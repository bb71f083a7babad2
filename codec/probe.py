"""Read facts about a video file, and check that it gave as much video as its header says."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from codec.container import NATIVE_CODECS, duration_from_header, open_video
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.types import ClipSpec


@dataclass(frozen=True)
class MediaInfo:
    """Facts about a file's video stream."""

    codec: str
    """FFmpeg's name: `h264`, `hevc`, `vp9` …"""
    width: int
    """Width in pixels as displayed: upright, square pixels."""
    height: int
    """Height in pixels as displayed."""
    rotation_degrees: int
    """Counter-clockwise rotation that makes the coded picture upright: 0, 90, 180 or 270."""
    duration_seconds: float | None
    """From the header; None if it states none (raw streams, live recordings)."""
    average_fps: Fraction | None
    """From the header; many streams have no constant rate."""
    pixel_format: str
    """FFmpeg's name, such as `yuv420p`."""
    has_native_vectors: bool
    """FFmpeg exports the stream's motion vectors, and they lead from frame to frame; otherwise motion is read from a
    re-encoding."""
    is_interlaced: bool
    """Coded in fields, or in frames that may have field macroblocks."""


def probe(path: str | Path) -> MediaInfo:
    """Return facts about a video file, from its header and its first frame.

    Raises:
        MediaError: the file is missing, empty or unreadable, has no video, or none of its frames can be decoded.
    """
    with open_video(path) as (container, stream):
        first = next(read_frames(container, stream, with_vectors=True), None)
        if first is None:
            raise no_frame_error(path)
        width, height = displayed_size(first.picture, stream)
        context = stream.codec_context
        return MediaInfo(
            codec=context.codec.canonical_name,
            width=width,
            height=height,
            rotation_degrees=90 * quarter_turns(first.picture),
            duration_seconds=duration_from_header(container, stream),
            average_fps=Fraction(stream.average_rate) if stream.average_rate else None,
            pixel_format=first.picture.format.name,
            has_native_vectors=has_native_vectors(first, stream),
            is_interlaced=is_interlaced(first),
        )


def no_frame_error(path: str | Path) -> MediaError:
    """Return the error for a file of which no frame can be decoded."""
    return MediaError(f"cannot read {path}: no frame of it can be decoded; the file is damaged or encrypted")


def is_interlaced(frame: SourceFrame) -> bool:
    """Return whether vectors of the frame may lead from field to field instead of from frame to frame."""
    return frame.headers.is_interlaced if frame.headers is not None else frame.picture.interlaced_frame


def has_native_vectors(first: SourceFrame, stream: VideoStream) -> bool:
    """Return whether the stream's own vectors can be used, judged by its first frame."""
    return stream.codec_context.name in NATIVE_CODECS and not is_interlaced(first)


def quarter_turns(picture: av.VideoFrame) -> int:
    """Return how many counter-clockwise turns by 90 degrees make the picture upright (0 to 3)."""
    return round(picture.rotation / 90) % 4


def displayed_size(picture: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Return the picture's (width, height) as displayed: upright, and widened so that its pixels are square."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    if not 0.1 < aspect < 10:
        aspect = Fraction(1)
    width, height = max(1, round(picture.width * aspect)), picture.height
    return (height, width) if quarter_turns(picture) % 2 else (width, height)


def expected_seconds(
    info: MediaInfo,
    spec: ClipSpec,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
) -> float | None:
    """Return how many seconds of the requested part the file has by its header; None if the header does not say."""
    if info.duration_seconds is None:
        return None
    limits = [duration_seconds, None if max_clips is None else max_clips * spec.duration_seconds]
    return float(min([info.duration_seconds - start_seconds, *(limit for limit in limits if limit is not None)]))


def check_length(path: str | Path, spec: ClipSpec, num_frames: int, expected: float | None) -> None:
    """Refuse a file that gave less video than its header says, or a single frame.

    Args:
        path: the file, for the error message.
        spec: of the clips.
        num_frames: resampled frames that were read.
        expected: seconds, from `expected_seconds`.

    Raises:
        MediaError: `num_frames` fall short of `expected` by more than sound may outlast the pictures, or are fewer than
            two.
    """
    seconds = float(num_frames / spec.fps)
    if expected is not None and expected - seconds > max(0.5, 0.05 * expected):
        raise MediaError(
            f"{path} is cut short: {seconds:.2f} s of {expected:.2f} s can be read; get a whole copy, "
            f"or encode that part, with a duration of {math.floor(seconds * 100) / 100} s"
        )
    if num_frames < 2:
        raise MediaError(f"{path} shows a single frame at {spec.fps} frames a second; a video has at least two")
