"""Read a video as clips: a keyframe and the motion of the frames after it, at a fixed frame rate."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from codec.container import NATIVE_CODECS, Source, local_file, open_video, source_name
from codec.decoder import DecodedPicture, SourceFrame, read_frames
from codec.errors import MediaError, media_errors
from codec.motion_composition import FrameWithMotion, compose_motion
from codec.motion_fields import StepField
from codec.mvextractor_backend import read_frames_mvextractor
from codec.parallel_decoder import ParallelDecoder
from codec.probe import displayed_size, has_native_vectors, no_frame_error, no_vectors_error
from codec.reencode import add_mpeg4_motion, add_x264_motion
from codec.resample import FrameSchedule, ResampledFrame, Resampler, fine_grid
from codec.seeking import BEGINNING, StartPoint, find_start
from codec.side_data import Orientation, has_other_shape
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares

MotionChoice = Literal["auto", "native", "reencode", "mpeg4"]
"""Which motion vectors to use; see `iter_clips`."""

Backend = Literal["av", "mvextractor"]
"""Which library reads the stream's own vectors: PyAV or motion-vector-extractor."""

EXACT_AREA = 0x20 | 0x40000 | 0x2000
"""SWS_AREA, SWS_ACCURATE_RND and SWS_FULL_CHR_H_INT of FFmpeg's swscale.h; PyAV names the last two from 18 on. Without
them swscale's pictures are one to two levels too dark, and 2 to 4 dB further from the source."""


def iter_clips(
    source: Source,
    spec: ClipSpec | None = None,
    *,
    frames: bool = False,
    frame_size: tuple[int, int] | None = None,
    motion_source: MotionChoice = "auto",
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    max_clips: int | None = None,
    split_at_cuts: bool = False,
    keyframes: bool = True,
    backend: Backend = "av",
    decoders: int = 1,
    stream: int | None = None,
) -> Iterator[Clip]:
    """Yield the clips of a video, in constant memory.

    Frame k of the resampled video stands at its start + k / spec.fps and shows the source frame that is on screen then;
    its motion is composed over all source frames since frame k - 1. A video of one frame is one clip of one frame.
    Where the pictures change their aspect ratio a new clip begins; its pictures are scaled to the video's first shape.

    Args:
        source: the path of any file that FFmpeg reads, its content as bytes, or a file opened in binary mode (bytes and
            open files are copied to a temporary file).
        spec: frames, frame rate and grid of a clip; 24 frames at 12 fps on 20 x 36 cells if None.
        frames: return the clips' pictures as well.
        frame_size: (width, height) of those pictures; the size of the clip's keyframe if None.
        motion_source: `native`, the stream's own vectors; `reencode`, those of an x264 re-encoding; `auto`, the first
            where there are any; `mpeg4`, those that the published Video-LaVIT weights expect (see codec.reencode).
        start_seconds: where to begin, counted from the video's first frame.
        duration_seconds: how much to read; to the end if None.
        max_clips: how many clips to read at most.
        split_at_cuts: begin a new clip with every new scene, so that its keyframe shows it; the clip before is short.
        keyframes: return keyframes. Without, they are empty, uint8 [0, 0, 3], and pictures are decoded without the
            deblocking filter, which is faster: the stream's vectors are the same, but the motion measured between
            pictures, where vectors are missing, differs a little.
        backend: `av`, or `mvextractor` for motion-vector-extractor (extra [peers]), which always begins at the file's
            beginning, does not rotate pictures and does not notice damage.
        decoders: number of threads that decode parts of the file in parallel, with the same result. Only for the
            stream's own vectors and from the file's beginning. 1: no additional thread.
        stream: index of the video stream in the file; the default stream if None.

    Raises:
        MediaError: the file cannot be read, is encrypted, has no frame in the requested part that can be decoded, or
            has no vectors of its own although `native` is requested; the backend is missing; or the arguments
            contradict each other.
        ValueError: there is no such motion source or backend, or a number is out of range.
    """
    spec = spec or ClipSpec()
    name = source_name(source)
    _check_choices(motion_source, backend, max_clips, decoders)
    if not 0 <= start_seconds < math.inf or (duration_seconds is not None and not 0 < duration_seconds < math.inf):
        raise MediaError(
            f"cannot read {name} from {start_seconds} s for {duration_seconds} s: the start must be 0 or more and the "
            "duration more than 0"
        )
    if frames and not keyframes:
        raise MediaError("frames without keyframes: frames need the deblocking filter; ask for both, or for neither")
    assembler = ClipAssembler(spec, frames, frame_size, split_at_cuts, keyframes)
    is_empty = True
    with local_file(source) as path, media_errors(path):
        reader = _ClipReader(path, spec, start_seconds, duration_seconds, keyframes, backend, decoders, stream)
        with closing(reader.clips(motion_source, assembler)) as clips:
            for clip in islice(clips, max_clips):
                is_empty = False
                yield clip
        if is_empty and max_clips != 0:
            raise no_frame_error(path, start_seconds)


def _check_choices(motion_source: str, backend: str, max_clips: int | None, decoders: int) -> None:
    for name, value, allowed in (
        ("motion_source", motion_source, get_args(MotionChoice)),
        ("backend", backend, get_args(Backend)),
    ):
        if value not in allowed:
            raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(allowed)}")
    if max_clips is not None and max_clips < 0:
        raise ValueError(f"`max_clips` (={max_clips}) must be 0 or more")
    if decoders < 1:
        raise ValueError(f"`decoders` (={decoders}) must be at least 1")


@dataclass(frozen=True)
class _ClipReader:
    """Opens a video and reads its resampled frames; arguments as for `iter_clips`."""

    path: Path
    spec: ClipSpec
    start_seconds: float
    duration_seconds: float | None
    keyframes: bool
    backend: Backend
    decoders: int
    stream: int | None

    def clips(self, motion_source: MotionChoice, assembler: "ClipAssembler") -> Generator[Clip, None, None]:
        """Yield the clips, with the stream's own vectors or those of a re-encoding."""
        start = BEGINNING
        if self.backend == "av" or motion_source in ("reencode", "mpeg4"):
            start = find_start(self.path, self.stream, self.start_seconds, self.spec.fps)
        if motion_source in ("auto", "native"):
            with open_video(self.path, self.stream) as (container, stream):
                frames = self._native_frames(container, stream, start)
                if frames is not None:
                    with closing(frames):
                        yield from assembler.clips(frames, stream, "native")
                    return
                if motion_source == "native":
                    raise no_vectors_error(self.path, stream)
        made: MotionSource = "mpeg4" if motion_source == "mpeg4" else "reencode"
        with open_video(self.path, self.stream) as (container, stream):
            start.go(container, stream)
            read = read_frames(
                container,
                stream,
                with_vectors=False,
                threads="AUTO",
                num_skipped=start.num_skipped,
                first_pts=start.first_pts,
            )
            resampled = Resampler(self.spec, self._schedule(start)).resample(_without_motion(read, self.spec))
            add_motion = add_mpeg4_motion if made == "mpeg4" else add_x264_motion
            with closing(add_motion(resampled, self.spec)) as frames:
                yield from assembler.clips(frames, stream, made)

    def _schedule(self, start: StartPoint) -> FrameSchedule:
        return FrameSchedule(self.spec.fps, self.start_seconds, self.duration_seconds, start.origin_seconds)

    def _native_frames(
        self, container: InputContainer, stream: VideoStream, start: StartPoint
    ) -> Generator[ResampledFrame, None, None] | None:
        """Return resampled frames with the stream's own vectors; None if these cannot be used."""
        if stream.codec_context.name not in NATIVE_CODECS:
            return None
        schedule, pictures = self._schedule(start), None
        if self.backend == "av":
            start.go(container, stream)
            if self.decoders > 1 and start == BEGINNING:
                decoder = ParallelDecoder(self.path, stream, schedule.is_shown, self.keyframes, self.decoders)
                pictures = decoder.pictures()
            read = read_frames(
                container,
                stream,
                with_vectors=True,
                is_shown=schedule.is_shown,
                loop_filter=self.keyframes,
                pictures=pictures,
                num_skipped=start.num_skipped,
                first_pts=start.first_pts,
            )
        else:
            read = read_frames_mvextractor(self.path, container, stream)
        first = next(read, None)
        if first is None:
            raise no_frame_error(self.path, self.start_seconds)
        if not has_native_vectors(first, stream):
            if pictures is not None:
                pictures.close()
            return None
        resampled = Resampler(self.spec, schedule).resample(compose_motion(chain([first], read), fine_grid(self.spec)))
        return resampled if pictures is None else _closing_pictures(resampled, pictures)


def _closing_pictures(
    frames: Generator[ResampledFrame, None, None], pictures: Generator[DecodedPicture, None, None]
) -> Generator[ResampledFrame, None, None]:
    """Yield frames, and end the threads that decode their pictures before the container is closed."""
    try:
        yield from frames
    finally:
        pictures.close()


def _without_motion(source: Iterable[SourceFrame], spec: ClipSpec) -> Iterator[FrameWithMotion]:
    """Yield source frames with motion that is zero and not valid."""
    nothing = StepField.zeros(fine_grid(spec), valid=False)
    for frame in source:
        yield FrameWithMotion(frame, nothing)


PLANAR_SOURCES = {"yuv420p", "yuvj420p"}
"""Pixel formats whose conversion to planar RGB gives the same values as to packed RGB, if an even number of rows is not
scaled. swscale has vector instructions for planar RGB only: 2 ms for 1280 x 720 pixels instead of 4."""


class RgbConverter:
    """Converts decoded pictures to upright RGB with square pixels. It keeps the scaler, which is slow to set up.

    Args:
        stream: where the pictures come from; it may say that its pixels are not square.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._scaler = VideoReformatter()

    def convert(
        self, picture: av.VideoFrame, orientation: Orientation, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Return uint8 [H, W, 3] RGB of `size` (width, height); of the displayed size if None."""
        width, height = orientation.upright_size(*(size or displayed_size(picture, orientation, self._stream)))
        is_planar = picture.format.name in PLANAR_SOURCES and height == picture.height and height % 2 == 0
        pixel_format = "gbrp" if is_planar else "rgb24"
        scaled = self._scaler.reformat(picture, width, height, pixel_format, interpolation=EXACT_AREA)
        return orientation.apply(_interleaved(scaled) if is_planar else scaled.to_ndarray())


def _interleaved(picture: av.VideoFrame) -> np.ndarray:
    """Return a picture whose planes are green, blue and red as uint8 [H, W, 3] RGB."""
    green, blue, red = (
        np.frombuffer(cast(Any, plane), np.uint8).reshape(picture.height, plane.line_size)[:, : picture.width]
        for plane in picture.planes
    )
    # PyAV's own conversion of planes to an array takes longer than the scaling
    return np.asarray(cv2.merge([red, green, blue])).reshape(picture.height, picture.width, 3)


@dataclass(frozen=True)
class ClipAssembler:
    """Assembles resampled frames to clips; arguments as for `iter_clips`."""

    spec: ClipSpec
    frames: bool = False
    frame_size: tuple[int, int] | None = None
    split_at_cuts: bool = False
    keyframes: bool = True

    def clips(
        self, resampled: Iterator[ResampledFrame], stream: VideoStream, motion_source: MotionSource
    ) -> Iterator[Clip]:
        """Yield clips of `spec.frames` frames; the last one, and one before a cut, may be shorter."""
        keyframe_converter, frame_converter = RgbConverter(stream), RgbConverter(stream)
        shaped = self._new_shapes_marked(resampled, stream)
        is_first = True
        first, first_size = next(shaped, None), None
        while first is not None and first.picture is not None:
            next_first = None
            # a stream may change its size on the way: all frames of a clip have the first one's
            size = displayed_size(first.picture, first.orientation, stream)
            first_size = first_size or size
            if has_other_shape(size, first_size):
                size = first_size
            group, pictures, keyframe = [first.without_picture()], [], np.zeros((0, 0, 3), np.uint8)
            if self.keyframes:
                # at once, while the picture is in the processor's cache: later it takes half as long again
                keyframe = keyframe_converter.convert(first.picture, first.orientation, size)
            if self.frames:
                pictures.append(frame_converter.convert(first.picture, first.orientation, self.frame_size or size))
            while len(group) < self.spec.frames and (frame := next(shaped, None)) is not None:
                if frame.is_new_shape or (self.split_at_cuts and frame.is_cut):
                    next_first = frame
                    break
                if self.frames and frame.picture is not None:
                    pictures.append(frame_converter.convert(frame.picture, frame.orientation, self.frame_size or size))
                group.append(frame.without_picture())
            # mpeg4 motion into a keyframe is zero by definition, not unknown
            estimates_first = is_first and motion_source != "mpeg4"
            yield Clip(
                keyframe=keyframe,
                motion=_stack_motion(group, self.spec, estimates_first),
                pts_seconds=first.pts_seconds,
                num_frames=len(group),
                motion_source=motion_source,
                shares=VectorShares.mean(shares for frame in group[1:] for shares in frame.shares),
                cuts=tuple(step for step, frame in enumerate(group) if frame.is_cut),
                damaged=any(frame.damaged for frame in group),
                is_truncated=group[-1].is_truncated,
                frames=np.stack(pictures) if self.frames else None,
            )
            is_first = False
            first = next_first or next(shaped, None)

    def _new_shapes_marked(self, resampled: Iterator[ResampledFrame], stream: VideoStream) -> Iterator[ResampledFrame]:
        """Yield frames; the first with another aspect ratio begins a scene, and has no motion since the one before."""
        last_size: tuple[int, int] | None = None
        for frame in resampled:
            if frame.picture is not None:
                size = displayed_size(frame.picture, frame.orientation, stream)
                if last_size is not None and has_other_shape(size, last_size):
                    motion = StepField.zeros(self.spec.grid, valid=False)
                    frame = replace(frame, motion=motion, is_cut=True, is_new_shape=True)
                last_size = size
            yield frame


def _stack_motion(group: list[ResampledFrame], spec: ClipSpec, estimates_first: bool) -> MotionField:
    """Return the motion of a clip's frames, padded with zeros.

    With `estimates_first`, unknown motion into the first frame is estimated by that into the second: no frame was shown
    before a video's first.
    """
    vectors = np.zeros((spec.frames, *spec.grid, 2), np.float32)
    valid = np.zeros((spec.frames, *spec.grid), bool)
    for step, frame in enumerate(group):
        vectors[step], valid[step] = frame.motion.vectors, frame.motion.valid
    if estimates_first and not valid[0].any() and len(group) > 1:
        vectors[0] = vectors[1]
    return MotionField(vectors, valid)
