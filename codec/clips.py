"""Read a video as clips: a keyframe and the motion of the frames after it, at a fixed frame rate."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from codec.container import NATIVE_CODECS, open_video
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.motion_composition import FrameWithMotion, compose_motion
from codec.motion_fields import StepField
from codec.mvextractor_backend import read_frames_mvextractor
from codec.parallel_decoder import ParallelDecoder
from codec.probe import displayed_size, has_native_vectors, no_frame_error, quarter_turns
from codec.reencode import add_mpeg4_motion, add_x264_motion
from codec.resample import FrameSchedule, ResampledFrame, Resampler, fine_grid
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares

MotionChoice = Literal["auto", "native", "reencode", "mpeg4"]
"""Which motion vectors to use; see `iter_clips`."""

Backend = Literal["av", "mvextractor"]
"""Which library reads the stream's own vectors: PyAV or motion-vector-extractor."""

EXACT_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without the two flags swscale's pictures are one to two levels too dark, and 2 to 4 dB further from the source."""

SEEK_MARGIN_SECONDS = 1
"""How far before the start reading begins: the frames before the first one are needed for its motion."""


def iter_clips(
    path: str | Path,
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
) -> Iterator[Clip]:
    """Yield the clips of a video, in constant memory.

    Frame k of the resampled video stands at its start + k / spec.fps and shows the source frame that is on screen then;
    its motion is composed over all source frames since frame k - 1. A video of one frame is one clip of one frame.

    Args:
        path: any file that FFmpeg reads.
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

    Raises:
        MediaError: the file cannot be read, has no frame in the requested part that can be decoded, or has no vectors
            of its own although `native` is requested; the backend is missing; or the arguments contradict each other.
    """
    spec = spec or ClipSpec()
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds <= 0):
        raise MediaError(
            f"cannot read {path} from {start_seconds} s for {duration_seconds} s: the start must be 0 or more and the "
            "duration more than 0"
        )
    if frames and not keyframes:
        raise MediaError("frames without keyframes: frames need the deblocking filter; ask for both, or for neither")
    reader = _ClipReader(path, spec, start_seconds, duration_seconds, keyframes, backend, decoders)
    assembler = ClipAssembler(spec, frames, frame_size, split_at_cuts, keyframes)
    is_empty = True
    with closing(reader.clips(motion_source, assembler)) as clips:
        for clip in islice(clips, max_clips):
            is_empty = False
            yield clip
    if is_empty and max_clips != 0:
        where = f" after {start_seconds} s" if start_seconds else ""
        raise MediaError(f"cannot read {path}: no frame of its video can be decoded{where}")


@dataclass(frozen=True)
class _ClipReader:
    """Opens a video and reads its resampled frames; arguments as for `iter_clips`."""

    path: str | Path
    spec: ClipSpec
    start_seconds: float
    duration_seconds: float | None
    keyframes: bool
    backend: Backend
    decoders: int

    def clips(self, motion_source: MotionChoice, assembler: "ClipAssembler") -> Generator[Clip, None, None]:
        """Yield the clips, with the stream's own vectors or those of a re-encoding."""
        if motion_source in ("auto", "native"):
            with open_video(self.path) as (container, stream):
                frames = self._native_frames(container, stream)
                if frames is not None:
                    with closing(frames):
                        yield from assembler.clips(frames, stream, "native")
                    return
                if motion_source == "native":
                    raise self._no_vectors_error(stream)
        made: MotionSource = "mpeg4" if motion_source == "mpeg4" else "reencode"
        with open_video(self.path) as (container, stream):
            schedule = self._schedule(_seek(container, stream, self.start_seconds))
            read = read_frames(container, stream, with_vectors=False, threads="AUTO")
            resampled = Resampler(self.spec, schedule).resample(_without_motion(read, self.spec))
            add_motion = add_mpeg4_motion if made == "mpeg4" else add_x264_motion
            with closing(add_motion(resampled, self.spec)) as frames:
                yield from assembler.clips(frames, stream, made)

    def _schedule(self, origin_seconds: float | None) -> FrameSchedule:
        return FrameSchedule(self.spec.fps, self.start_seconds, self.duration_seconds, origin_seconds)

    def _native_frames(
        self, container: InputContainer, stream: VideoStream
    ) -> Generator[ResampledFrame, None, None] | None:
        """Return resampled frames with the stream's own vectors; None if these cannot be used."""
        if stream.codec_context.name not in NATIVE_CODECS:
            return None
        schedule = self._schedule(_seek(container, stream, self.start_seconds) if self.backend == "av" else None)
        if self.backend == "av":
            decoder = None
            if self.decoders > 1 and self.start_seconds <= SEEK_MARGIN_SECONDS:
                decoder = ParallelDecoder(self.path, stream, schedule.is_shown, self.keyframes, self.decoders)
            read = read_frames(
                container,
                stream,
                with_vectors=True,
                is_shown=schedule.is_shown,
                loop_filter=self.keyframes,
                pictures=decoder.pictures() if decoder else None,
            )
        else:
            read = read_frames_mvextractor(self.path, container, stream)
        first = next(read, None)
        if first is None:
            raise no_frame_error(self.path)
        if not has_native_vectors(first, stream):
            return None
        return Resampler(self.spec, schedule).resample(compose_motion(chain([first], read), fine_grid(self.spec)))

    def _no_vectors_error(self, stream: VideoStream) -> MediaError:
        context = stream.codec_context
        kind = "interlaced" if context.name in NATIVE_CODECS else context.codec.canonical_name
        return MediaError(
            f"{self.path}: {kind} video has no usable motion vectors; choose motion source `reencode` or `auto`"
        )


def _seek(container: InputContainer, stream: VideoStream, start_seconds: float) -> float | None:
    """Seek to the last point before `start_seconds` from which decoding can begin.

    Returns:
        The time of the video's first frame in seconds; None if reading begins at the beginning.
    """
    if start_seconds <= SEEK_MARGIN_SECONDS or stream.start_time is None or stream.time_base is None:
        return None
    target = stream.start_time + int((start_seconds - SEEK_MARGIN_SECONDS) / stream.time_base)
    try:
        container.seek(target, stream=stream, backward=True)
    except FFmpegError:
        return None
    return float(stream.start_time * stream.time_base)


def _without_motion(source: Iterable[SourceFrame], spec: ClipSpec) -> Iterator[FrameWithMotion]:
    """Yield source frames with motion that is zero and not valid."""
    nothing = StepField.zeros(fine_grid(spec), valid=False)
    for frame in source:
        yield FrameWithMotion(frame, nothing)


class RgbConverter:
    """Converts decoded pictures to upright RGB with square pixels. It keeps the scaler, which is slow to set up.

    Args:
        stream: where the pictures come from; it may say that its pixels are not square.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._scaler = VideoReformatter()

    def convert(self, picture: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return uint8 [H, W, 3] RGB of `size` (width, height); of the displayed size if None."""
        turns = quarter_turns(picture)
        width, height = size or displayed_size(picture, self._stream)
        if turns % 2:
            width, height = height, width
        scaled = self._scaler.reformat(picture, width, height, "rgb24", interpolation=EXACT_AREA)
        image = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


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
        is_first = True
        first = next(resampled, None)
        while first is not None and first.picture is not None:
            next_first = None
            # a stream may change its size on the way: all frames of a clip have the first one's
            size = self.frame_size or displayed_size(first.picture, stream)
            group, pictures = [replace(first, picture=None)], []
            if self.frames:
                pictures.append(frame_converter.convert(first.picture, size))
            while len(group) < self.spec.frames and (frame := next(resampled, None)) is not None:
                if self.split_at_cuts and frame.is_cut:
                    next_first = frame
                    break
                if self.frames and frame.picture is not None:
                    pictures.append(frame_converter.convert(frame.picture, size))
                group.append(replace(frame, picture=None))
            keyframe = keyframe_converter.convert(first.picture) if self.keyframes else np.zeros((0, 0, 3), np.uint8)
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
                frames=np.stack(pictures) if self.frames else None,
            )
            is_first = False
            first = next_first or next(resampled, None)


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
