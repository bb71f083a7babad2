"""Motion vectors from a re-encoding by FFmpeg, for streams without usable vectors of their own.

`add_x264_motion` encodes with x264, one reference and no B frames.

`add_mpeg4_motion` reads motion as Video-LaVIT does, whose published weights were trained on it: MPEG-4 Part 2 at the
clips' frame rate and the picture's own size, 8 Mbit/s, groups of twelve frames (one I frame, eleven P frames), one
reference, one vector per macroblock, no motion for blocks without a vector. A clip is two groups: its keyframe has no
motion, the I frame in its middle takes the mean motion of its neighbours. The field is resized bicubically.
"""

import subprocess
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from threading import Thread
from typing import Any, cast

import av
import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.motion_composition import compose_motion
from codec.motion_fields import MIN_VALID_SHARE, StepField, orient, pool
from codec.resample import FINE_FACTOR, ResampledFrame, fine_grid
from codec.types import ClipSpec

MAX_SIDE = 640
"""Pictures are made no larger than this for x264: the motion grid is coarse."""

X264_OPTIONS: dict[str, Any] = {
    "format": "h264",
    "vcodec": "libx264",
    "preset": "medium",
    "tune": "zerolatency",
    "crf": 20,
    # each frame refers to the one before; one thread, so that the result is always the same
    "x264-params": "ref=1:bframes=0:scenecut=0:keyint=infinite:weightp=0:threads=1",
}
"""Options of FFmpeg's output; the format is also the one that is read back."""

MPEG4_OPTIONS: dict[str, Any] = {
    "format": "m4v",
    "vcodec": "mpeg4",
    "b:v": "8000k",
    "g": 12,
    "bf": 0,
    "threads": 1,
    # an I frame at a cut would shift all groups after it against the clips
    "sc_threshold": 1_000_000_000,
}

INPUT_OPTIONS = {"fpsprobesize": "0", "probesize": "65536"}
"""The stream's properties are known, so reading can begin before much of it has been encoded."""

MACROBLOCK_PIXELS = 16


def add_x264_motion(
    frames: Generator[ResampledFrame, None, None], spec: ClipSpec
) -> Generator[ResampledFrame, None, None]:
    """Yield resampled frames with the motion that x264 finds between each picture and the one before."""
    originals: deque[ResampledFrame] = deque()
    pictures = _pictures(frames, originals)
    with closing(frames), closing(reencode(pictures, spec.fps, X264_OPTIONS, MAX_SIDE)) as encoded:
        first = next(encoded, None)
        if first is None:
            return
        grid = originals[0].orientation.coded_grid(fine_grid(spec))
        for moved in compose_motion(chain([first], encoded), grid):
            frame = originals.popleft()
            motion = moved.motion
            if frame.orientation.coded_grid(fine_grid(spec)) == grid:
                motion = pool(orient(motion, frame.orientation), FINE_FACTOR)
            else:  # the stream turns its pictures on the way
                motion = StepField.zeros(spec.grid, valid=False)
            yield replace(frame, motion=motion, shares=(moved.shares,), is_cut=moved.is_cut)


def add_mpeg4_motion(
    frames: Generator[ResampledFrame, None, None], spec: ClipSpec
) -> Generator[ResampledFrame, None, None]:
    """Yield resampled frames with the motion that Video-LaVIT reads between each picture and the one before."""
    before: _Mpeg4Step | None = None
    current: _Mpeg4Step | None = None
    for number, step in enumerate(_mpeg4_steps(frames, spec)):
        if number % spec.frames == 0:
            # these weights never saw motion into a keyframe
            step = replace(step, motion=StepField.zeros(spec.grid, valid=False))
        if current is not None:
            before = replace(current, motion=_interpolated(current, before, step, spec.grid))
            yield replace(before.frame, motion=before.motion)
        current = step
    if current is not None:
        yield replace(current.frame, motion=_interpolated(current, before, None, spec.grid))


@dataclass(frozen=True)
class _Mpeg4Step:
    """A resampled frame and the motion that the encoder found."""

    frame: ResampledFrame
    motion: StepField | None
    """None for an I frame."""


def _mpeg4_steps(frames: Generator[ResampledFrame, None, None], spec: ClipSpec) -> Iterator[_Mpeg4Step]:
    originals: deque[ResampledFrame] = deque()
    pictures = _pictures(frames, originals)
    with closing(frames), closing(reencode(pictures, spec.fps, MPEG4_OPTIONS)) as encoded:
        for source in encoded:
            frame = originals.popleft()
            if source.picture.pict_type == PictureType.I:
                yield _Mpeg4Step(frame, None)
                continue
            motion = orient(macroblock_field(source, frame.orientation.coded_grid(spec.grid)), frame.orientation)
            vectors, valid = np.ascontiguousarray(motion.vectors), np.ascontiguousarray(motion.valid)
            yield _Mpeg4Step(frame, StepField(vectors, valid))


def _interpolated(
    step: _Mpeg4Step, before: _Mpeg4Step | None, after: _Mpeg4Step | None, grid: tuple[int, int]
) -> StepField:
    """Return a step's motion; for an I frame the mean of its neighbours' motion, where a missing one counts as zero."""
    if step.motion is not None:
        return step.motion
    total = np.zeros((*grid, 2), np.float32)
    for neighbour in (before, after):
        if neighbour is not None and neighbour.motion is not None:
            total += neighbour.motion.vectors
    return StepField(total / 2, np.zeros(grid, bool))


def _pictures(frames: Iterable[ResampledFrame], originals: deque[ResampledFrame]) -> Iterator[av.VideoFrame]:
    """Yield the pictures of frames, and append each frame to `originals`."""
    for frame in frames:
        if frame.picture is not None:
            originals.append(frame)
            yield frame.picture


def macroblock_field(frame: SourceFrame, grid: tuple[int, int]) -> StepField:
    """Return a P frame's macroblock vectors resized bicubically to a (h, w) grid.

    Cells are valid where half of their area or more has vectors.
    """
    width, height = frame.picture.width, frame.picture.height
    rows, columns = -(-height // MACROBLOCK_PIXELS), -(-width // MACROBLOCK_PIXELS)
    blocks, known = np.zeros((rows, columns, 2), np.float32), np.zeros((rows, columns), np.float32)
    records = frame.vectors
    if records is not None and len(records):
        x = np.clip(records["dst_x"], 0, width - 1) // MACROBLOCK_PIXELS
        y = np.clip(records["dst_y"], 0, height - 1) // MACROBLOCK_PIXELS
        motion = np.stack([records["motion_x"], records["motion_y"]], -1) / records["motion_scale"][:, None]
        blocks[y, x] = motion / np.array([width, height])
        known[y, x] = 1
    size = grid[::-1]
    # OpenCV's cubic has the coefficient -0.75, as torch's has, which the published code uses
    vectors = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC).reshape(*grid, 2)
    covered = cv2.resize(known, size, interpolation=cv2.INTER_AREA).reshape(grid)
    return StepField(vectors, covered >= MIN_VALID_SHARE)


def reencode(
    pictures: Iterable[av.VideoFrame], fps: Fraction, options: Mapping[str, Any], max_side: int | None = None
) -> Generator[SourceFrame, None, None]:
    """Encode pictures in an FFmpeg process and yield one frame for each, with the encoder's vectors.

    Args:
        pictures: all of one size.
        fps: their frame rate.
        options: of FFmpeg's output.
        max_side: pictures are scaled down so that no side is longer; None: they keep their size.

    Raises:
        MediaError: FFmpeg returns fewer pictures than it was given.
    """
    source = iter(pictures)
    first = next(source, None)
    if first is None:
        return
    size = (first.width, first.height) if max_side is None else scaled_size(first.width, first.height, max_side)
    process = _start_ffmpeg(size, fps, options)
    feeder = _Feeder(process, source, first, size)
    feeder.start()
    number = 0
    try:
        with cast(
            InputContainer, av.open(process.stdout, format=options["format"], options=INPUT_OPTIONS)
        ) as container:
            for frame in read_frames(container, container.streams.video[0], with_vectors=True):
                yield replace(frame, pts_seconds=float(number / fps), duration_seconds=float(1 / fps), damaged=False)
                number += 1
    finally:
        # this also ends a feeder that waits for the pipe
        process.kill()
        feeder.join()
        cast(Any, process.stdout).close()
        process.wait()
    if feeder.error is not None:
        raise feeder.error
    if number != feeder.num_sent:
        raise MediaError(
            f"re-encoding returned {number} of {feeder.num_sent} frames; does FFmpeg have {options['vcodec']}?"
        )


def scaled_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Return an even size of about the same shape whose longer side is at most `max_side`."""
    scale = min(1, max_side / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def _start_ffmpeg(size: tuple[int, int], fps: Fraction, options: Mapping[str, Any]) -> subprocess.Popen:
    raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="yuv420p", video_size=size, framerate=str(fps))
    command = raw.output("pipe:", flush_packets=1, **options).global_args("-loglevel", "quiet")
    return command.run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stdout=True)


class _Feeder(Thread):
    """Writes pictures to FFmpeg while another thread reads its output: one thread doing both could block for ever."""

    def __init__(
        self, process: subprocess.Popen, source: Iterator[av.VideoFrame], first: av.VideoFrame, size: tuple[int, int]
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.num_sent = 0
        self.error: Exception | None = None
        self._pipe, self._source, self._first, self._size = cast(Any, process.stdin), source, first, size
        self._scaler = VideoReformatter()

    def run(self) -> None:
        try:
            self._send(self._first)
            for picture in self._source:
                self._send(picture)
        except BrokenPipeError:
            pass  # the output is no longer read
        except Exception as error:
            self.error = error
        finally:
            with suppress(BrokenPipeError):
                self._pipe.close()

    def _send(self, picture: av.VideoFrame) -> None:
        scaled = self._scaler.reformat(picture, *self._size, "yuv420p", interpolation=Interpolation.AREA)
        self._pipe.write(scaled.to_ndarray().tobytes())
        self.num_sent += 1
