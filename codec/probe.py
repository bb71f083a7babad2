"""Read facts about a video file, and check that none of it is missing."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from codec.container import (
    MAX_FPS,
    NATIVE_CODECS,
    Source,
    duration_from_header,
    has_no_timestamps,
    local_file,
    nominal_frame_interval,
    open_video,
)
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError, media_errors
from codec.side_data import Orientation
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
    is_mirrored: bool = False
    """The coded picture is mirrored left to right before it is rotated."""
    is_still_image: bool = False
    """The file is a single picture, not a video."""


def probe(source: Source, stream: int | None = None) -> MediaInfo:
    """Return facts about a video, from its header and its first frame.

    Args:
        source: a path, bytes, or a file opened in binary mode.
        stream: index of the video stream in the file; None: its default stream.

    Raises:
        MediaError: the file is missing, empty, encrypted or unreadable, has no (such) video stream, or none of its
            frames can be decoded.
    """
    with local_file(source) as path, media_errors(path), open_video(path, stream) as (container, video):
        first = next(read_frames(container, video, with_vectors=True), None)
        if first is None:
            raise no_frame_error(path)
        width, height = displayed_size(first.picture, first.orientation, video)
        context = video.codec_context
        rate = Fraction(video.average_rate) if video.average_rate else None
        if has_no_timestamps(video):
            rate = 1 / nominal_frame_interval(video)
        return MediaInfo(
            codec=context.codec.canonical_name,
            width=width,
            height=height,
            rotation_degrees=first.orientation.rotation_degrees,
            duration_seconds=duration_from_header(container, video),
            average_fps=rate if rate is not None and rate <= MAX_FPS else None,
            pixel_format=first.picture.format.name,
            has_native_vectors=has_native_vectors(first, video),
            is_interlaced=is_interlaced(first),
            is_mirrored=first.orientation.is_mirrored,
            is_still_image=is_still_image(container),
        )


def is_still_image(container: InputContainer) -> bool:
    """Return whether a file is a single picture: JPEG, PNG, WebP …"""
    names = set(container.format.name.split(","))
    return "image2" in names or any(name.endswith("_pipe") for name in names)


def no_frame_error(path: str | Path, start_seconds: float = 0.0) -> MediaError:
    """Return the error for a file of which no frame can be decoded."""
    if start_seconds:
        return MediaError(f"cannot read {path}: no frame of its video can be decoded after {start_seconds} s")
    if is_animated_webp(path):
        return MediaError(
            f"cannot read {path}: FFmpeg does not decode animated WebP; convert it to GIF, PNG or a video first"
        )
    return MediaError(f"cannot read {path}: no frame of it can be decoded; the file is damaged or encrypted")


def is_animated_webp(path: str | Path) -> bool:
    """Return whether the header of a file says that it is an animated WebP picture."""
    with Path(path).open("rb") as file:
        header = file.read(21)
    return header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X" and len(header) == 21 and bool(header[20] & 2)


def no_vectors_error(path: str | Path, stream: VideoStream) -> MediaError:
    """Return the error for a stream without vectors that lead from frame to frame."""
    context = stream.codec_context
    kind = "cropped or interlaced" if context.name in NATIVE_CODECS else context.codec.canonical_name
    return MediaError(f"{path}: {kind} video has no usable motion vectors; choose motion source `reencode` or `auto`")


def is_interlaced(frame: SourceFrame) -> bool:
    """Return whether vectors of the frame may lead from field to field instead of from frame to frame."""
    return frame.headers.is_interlaced if frame.headers is not None else frame.picture.interlaced_frame


def has_native_vectors(first: SourceFrame, stream: VideoStream) -> bool:
    """Return whether the stream's own vectors can be used, judged by its first frame."""
    is_shifted = first.headers is not None and first.headers.is_cropped_at_origin
    return stream.codec_context.name in NATIVE_CODECS and not is_shifted and not is_interlaced(first)


def displayed_size(picture: av.VideoFrame, orientation: Orientation, stream: VideoStream) -> tuple[int, int]:
    """Return the picture's (width, height) as displayed: upright, and widened so that its pixels are square."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    if aspect == 1 or not 0.1 < aspect < 10:
        return orientation.upright_size(max(1, picture.width), picture.height)
    return orientation.upright_size(max(1, round(picture.width * aspect)), picture.height)


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


def check_length(
    path: str | Path, spec: ClipSpec, num_frames: int, expected: float | None, is_truncated: bool = True
) -> None:
    """Refuse a file of which packets are missing at the end.

    Args:
        path: the file, for the error message.
        spec: of the clips.
        num_frames: resampled frames that were read.
        expected: seconds, from `expected_seconds`.
        is_truncated: whether packets are missing after the last clip (`Clip.is_truncated`): sound may last longer than
            the pictures, and a header may state a wrong duration.

    Raises:
        MediaError: packets are missing, and `num_frames` fall clearly short of `expected`.
    """
    seconds = float(num_frames / spec.fps)
    if not is_truncated or expected is None or expected - seconds <= max(0.5, 0.05 * expected):
        return
    whole = math.floor(seconds * 100) / 100
    part = f", or encode that part, with a duration of {whole} s" if whole else ""
    raise MediaError(f"{path} is cut short: {seconds:.2f} s of {expected:.2f} s can be read; get a whole copy{part}")
