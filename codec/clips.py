"""Decoded pictures as people see them.

Ticks of the clock, gathered into clips.

A video as clips: one keyframe and the motion of the frames after it, on a clock of its own.
"""

from collections.abc import Iterable, Iterator
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

from codec.container import NATIVE_CODECS, opened
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.frame_schedule import FrameSchedule
from codec.motion_composition import MovedFrame, motion_of
from codec.mvextractor_backend import read_frames_mvextractor
from codec.parallel_decoder import PartedDecoder
from codec.probe import displayed_size, has_native_vectors, quarter_turns
from codec.reencode import with_motion, with_mpeg4
from codec.resample import ResampledFrame, Resampler, fine_grid
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares

EXACT_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without the two flags swscale's pictures are one to two levels too dark, and 2 to 4 dB further from the source."""


class Painter:
    """Turns decoded pictures into upright RGB with square pixels; keeps the scaler, which is dear to set up.

    Args:
        stream: where the pictures come from; its pixels may not be square.
        size: (width, height) to give; the size of each picture itself where not given.
    """

    def __init__(self, stream: VideoStream, size: tuple[int, int] | None = None) -> None:
        self._stream, self._size = stream, size
        self._scaler = VideoReformatter()

    def __call__(self, picture: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
        """uint8 [H, W, 3] RGB at `size`, else at the painter's own, else at the size the picture is shown at."""
        turns = quarter_turns(picture)
        width, height = size or self._size or displayed_size(picture, self._stream)
        if turns % 2:
            width, height = height, width
        scaled = self._scaler.reformat(picture, width, height, "rgb24", interpolation=EXACT_AREA)
        image = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


@dataclass(frozen=True)
class ClipAssembler:
    """Makes clips as `iter_clips` was asked to."""

    spec: ClipSpec
    frames: bool = False
    frame_size: tuple[int, int] | None = None
    split_at_cuts: bool = False
    keyframes: bool = True

    def clips(self, ticks: Iterator[ResampledFrame], stream: VideoStream, source: MotionSource) -> Iterator[Clip]:
        """Clips of `spec.frames` ticks; the last one, and one before a cut, may be shorter."""
        paint, paint_frames = Painter(stream), Painter(stream, self.frame_size)
        is_first = True
        first = next(ticks, None)
        while first is not None and first.picture is not None:
            following = None
            # a stream may change its size on the way: all frames of a clip have the first one's
            size = self.frame_size or displayed_size(first.picture, stream)
            group, pictures = [replace(first, picture=None)], []
            if self.frames:
                pictures.append(paint_frames(first.picture, size))
            while len(group) < self.spec.frames and (tick := next(ticks, None)) is not None:
                if self.split_at_cuts and tick.cut:
                    following = tick
                    break
                if self.frames and tick.picture is not None:
                    pictures.append(paint_frames(tick.picture, size))
                group.append(replace(tick, picture=None))
            yield Clip(
                keyframe=paint(first.picture) if self.keyframes else np.zeros((0, 0, 3), np.uint8),
                motion=_field(group, self.spec, is_first and source != "mpeg4"),
                pts_seconds=first.pts_seconds,
                num_frames=len(group),
                motion_source=source,
                shares=VectorShares.mean(shares for tick in group[1:] for shares in tick.shares),
                cuts=tuple(step for step, tick in enumerate(group) if tick.cut),
                damaged=any(tick.damaged for tick in group),
                frames=np.stack(pictures) if self.frames else None,
            )
            is_first = False
            first = following or next(ticks, None)


def _field(group: list[ResampledFrame], spec: ClipSpec, is_first: bool) -> MotionField:
    vectors = np.zeros((spec.frames, *spec.grid, 2), np.float32)
    valid = np.zeros((spec.frames, *spec.grid), bool)
    for step, tick in enumerate(group):
        vectors[step], valid[step] = tick.vectors, tick.valid
    if is_first and not valid[0].any() and len(group) > 1:
        # nothing was shown before the first frame: its step is a guess, the one after it
        vectors[0] = vectors[1]
    return MotionField(vectors, valid)


MotionChoice = Literal["auto", "native", "reencode", "mpeg4"]

Backend = Literal["av", "mvextractor"]


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
    """Cuts a video into clips, in constant memory.

    Frame k of the video stands at its start + k / spec.fps and shows the source frame that is on screen then; its
    motion is composed over all source frames passed since frame k - 1. A video of one frame is one clip of one frame.

    Args:
        path: any file FFmpeg reads.
        spec: frames, rate and grid of a clip; 24 frames at 12 fps on 20 x 36 where not given.
        frames: give each clip its pictures too.
        frame_size: (width, height) of those pictures; the size the clip's keyframe has where not given.
        motion_source: `auto` takes the stream's own vectors where they can be had, else those of a re-encoding;
            `mpeg4` those that the published Video-LaVIT weights were trained on (codec.reencode).
        start_seconds: where to begin, counted from the video's first frame.
        duration_seconds: how much to read; to the end where not given.
        max_clips: how many clips at most.
        split_at_cuts: begin a new clip with every new scene, so that its keyframe shows it; the clip before is short.
        keyframes: give each clip its keyframe. Without, it is empty, uint8 [0, 0, 3], and pictures are decoded without
            the loop filter, which is faster: the stream's vectors are the same, but the motion measured between
            pictures where vectors are missing differs a little.
        backend: who reads vectors that the stream has: PyAV, or motion-vector-extractor (extra [peers]), which begins
            at the file's beginning, does not turn pictures and does not notice damage.
        decoders: threads that decode parts of the file at the same time, with the same result; for the stream's own
            vectors, and from the file's beginning. 1: no thread at all.

    Raises:
        MediaError: the file cannot be read, holds no frame that can be decoded in the part asked for, or has no
            vectors of its own although `native` was asked for; or the backend is missing.
    """
    spec = spec or ClipSpec()
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds <= 0):
        raise MediaError(
            f"cannot read {path} from {start_seconds} s for {duration_seconds} s: the start must be 0 or more and the "
            "duration more than 0"
        )
    if frames and not keyframes:
        raise MediaError("frames without keyframes: the loop filter cannot be left out; ask for both, or for neither")
    beginning = start_seconds, duration_seconds
    cutter = ClipAssembler(spec, frames, frame_size, split_at_cuts, keyframes)
    with opened(path) as (container, stream):
        beat = FrameSchedule(
            spec.fps, *beginning, _sought(container, stream, start_seconds) if backend == "av" else None
        )
        native = None
        if motion_source in ("auto", "native") and stream.codec_context.name in NATIVE_CODECS:
            native = _native(path, container, stream, beat, keyframes, backend, decoders if start_seconds <= 1 else 1)
        if native is not None:
            with closing(Resampler(spec, beat).ticks(motion_of(native, fine_grid(spec)))) as ticks:
                yield from _some(cutter.clips(ticks, stream, "native"), max_clips, path, start_seconds)
            return
        if motion_source == "native":
            name = stream.codec_context.name
            why = "interlaced" if name in NATIVE_CODECS else stream.codec_context.codec.canonical_name
            raise MediaError(
                f"{path}: {why} video has no usable motion vectors; choose motion source `reencode` or `auto`"
            )
    with opened(path) as (container, stream):
        beat = FrameSchedule(spec.fps, *beginning, _sought(container, stream, start_seconds))
        read = read_frames(container, stream, with_vectors=False, threads="AUTO")
        ticks = Resampler(spec, beat).ticks(_unmoved(read, spec))
        made = "mpeg4" if motion_source == "mpeg4" else "reencode"
        with closing(with_mpeg4(ticks, spec) if made == "mpeg4" else with_motion(ticks, spec)) as ticks:
            yield from _some(cutter.clips(ticks, stream, made), max_clips, path, start_seconds)


def _some(clips: Iterator[Clip], most: int | None, path: str | Path, start_seconds: float) -> Iterator[Clip]:
    """At most so many; that there are none at all is an error."""
    found = False
    for clip in islice(clips, most):
        found = True
        yield clip
    if not found and most != 0:
        where = f" after {start_seconds} s" if start_seconds else ""
        raise MediaError(f"cannot read {path}: no frame of its video can be decoded{where}")


def _native(
    path: str | Path,
    container: InputContainer,
    stream: VideoStream,
    beat: FrameSchedule,
    keyframes: bool,
    backend: Backend,
    decoders: int,
) -> Iterator[SourceFrame] | None:
    """Frames with the stream's own vectors; None where these cannot be used."""
    if backend == "av":
        parted = PartedDecoder(path, stream, beat, keyframes, decoders).pictures() if decoders > 1 else None
        read = read_frames(container, stream, with_vectors=True, beat=beat, loop_filter=keyframes, pictures=parted)
    else:
        read = read_frames_mvextractor(path, container, stream)
    first = next(read, None)
    if first is None:
        raise MediaError(f"cannot read {path}: no frame of it can be decoded; the file is damaged or encrypted")
    return chain([first], read) if has_native_vectors(first, stream) else None


def _sought(container: InputContainer, stream: VideoStream, start_seconds: float) -> float | None:
    """Goes to the last place before `start_seconds` where decoding can begin; gives the time of the video's start,
    None where the file does not say and everything has to be read."""
    if start_seconds <= 1 or stream.start_time is None or stream.time_base is None:
        return None
    # a second earlier: the frames before the first one tell how it moved
    target = stream.start_time + int((start_seconds - 1) / stream.time_base)
    try:
        container.seek(target, stream=stream, backward=True)
    except FFmpegError:
        return None
    return float(stream.start_time * stream.time_base)


def _unmoved(source: Iterable[SourceFrame], spec: ClipSpec) -> Iterator[MovedFrame]:
    grid = fine_grid(spec)
    nothing = np.zeros((*grid, 2), np.float32), np.zeros(grid, bool)
    for frame in source:
        yield MovedFrame(frame, *nothing)
