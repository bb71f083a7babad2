"""Motion vectors of our own making: the pictures encoded again with x264, one reference and no B frames.

Motion as Video-LaVIT reads it: pictures encoded with MPEG-4 Part 2, one vector a macroblock.

The published weights were trained on this: at the clips' rate and the picture's own size, 8 Mbit/s, groups of twelve
frames (one I, eleven P), one reference, no B frames. Blocks without a vector count as still. A clip is two groups: its
keyframe has no motion, the I frame in its middle takes the mean of its neighbours'. The field is resized bicubically.
"""

import subprocess
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
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

from codec.container import video_in
from codec.decoder import SourceFrame, read_frames
from codec.errors import MediaError
from codec.motion_composition import motion_of
from codec.motion_fields import pooled, turned
from codec.probe import quarter_turns
from codec.resample import FINER, ResampledFrame, fine_grid
from codec.types import ClipSpec

LONG_SIDE = 640
"""Pictures are made no larger than this before they are encoded: the grid is coarse."""

X264_PARAMS = "ref=1:bframes=0:scenecut=0:keyint=infinite:weightp=0:threads=1"
"""Each frame points to the one before; one thread, so that the result is always the same."""

X264: dict[str, Any] = {
    "format": "h264",
    "vcodec": "libx264",
    "preset": "medium",
    "tune": "zerolatency",
    "crf": 20,
    "x264-params": X264_PARAMS,
}
"""Options of FFmpeg's output; the format is also the one that is read back."""

PROBING = {"fpsprobesize": "0", "probesize": "65536"}
"""What the stream holds is known: no need to read far ahead before it begins."""


def with_motion(ticks: Generator[ResampledFrame, None, None], spec: ClipSpec) -> Generator[ResampledFrame, None, None]:
    """Ticks, each with the motion that x264 finds between its picture and the one before."""
    waiting: deque[ResampledFrame] = deque()

    def pictures() -> Iterator[av.VideoFrame]:
        for tick in ticks:
            if tick.picture is not None:
                waiting.append(tick)
                yield tick.picture

    with closing(ticks), closing(reencoded(pictures(), spec.fps)) as frames:
        for moved in motion_of(frames, fine_grid(spec)):
            tick = waiting.popleft()
            turns = quarter_turns(tick.picture) if tick.picture is not None else 0
            vectors, valid = pooled(*turned(moved.vectors, moved.valid, turns), FINER)
            yield replace(tick, vectors=vectors, valid=valid, shares=(moved.shares,), cut=moved.cut)


def reencoded(
    pictures: Iterable[av.VideoFrame],
    fps: Fraction,
    options: Mapping[str, Any] = X264,
    long_side: int | None = LONG_SIDE,
) -> Generator[SourceFrame, None, None]:
    """Sends pictures through an FFmpeg process and gives them back, one for one, with the encoder's vectors.

    Args:
        pictures: of one size.
        fps: their rate.
        options: of FFmpeg's output.
        long_side: pictures are made no larger than this; None: they keep their size.

    Raises:
        MediaError: FFmpeg gave fewer pictures back than it got.
    """
    source = iter(pictures)
    first = next(source, None)
    if first is None:
        return
    size = (first.width, first.height) if long_side is None else encoded_size(first.width, first.height)
    process = _started(size, fps, options)
    feeder = _Feeder(process, source, first, size)
    feeder.start()
    number = 0
    try:
        with cast(InputContainer, av.open(process.stdout, format=options["format"], options=PROBING)) as container:
            for frame in read_frames(container, video_in(container), with_vectors=True):
                yield replace(frame, pts_seconds=float(number / fps), duration_seconds=float(1 / fps), damaged=False)
                number += 1
    finally:
        # ends a feeder that waits for the pipe, too
        process.kill()
        feeder.join()
        cast(Any, process.stdout).close()
        process.wait()
    if feeder.error is not None:
        raise feeder.error
    if number != feeder.sent:
        raise MediaError(
            f"re-encoding gave {number} of {feeder.sent} frames back; is FFmpeg's {options['vcodec']} missing?"
        )


class _Feeder(Thread):
    """Writes pictures into FFmpeg while its output is read elsewhere: neither waits for the other for ever."""

    def __init__(
        self, process: subprocess.Popen, source: Iterator[av.VideoFrame], first: av.VideoFrame, size: tuple[int, int]
    ) -> None:
        super().__init__(name="feeder", daemon=True)
        self.sent = 0
        self.error: Exception | None = None
        self._pipe, self._source, self._first, self._size = cast(Any, process.stdin), source, first, size
        self._scaler = VideoReformatter()

    def run(self) -> None:
        try:
            self._send(self._first)
            for picture in self._source:
                self._send(picture)
        except BrokenPipeError:
            pass  # nobody reads any more
        except Exception as error:
            self.error = error
        finally:
            _quietly(self._pipe.close)

    def _send(self, picture: av.VideoFrame) -> None:
        small = self._scaler.reformat(picture, *self._size, "yuv420p", interpolation=Interpolation.AREA)
        self._pipe.write(small.to_ndarray().tobytes())
        self.sent += 1


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except BrokenPipeError:
        return


def encoded_size(width: int, height: int) -> tuple[int, int]:
    """Even size with the same shape whose long side is at most LONG_SIDE."""
    scale = min(1, LONG_SIDE / max(width, height))
    return max(16, round(width * scale / 2) * 2), max(16, round(height * scale / 2) * 2)


def _started(size: tuple[int, int], fps: Fraction, options: Mapping[str, Any]) -> subprocess.Popen:
    raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="yuv420p", video_size=size, framerate=str(fps))
    encoded = raw.output("pipe:", flush_packets=1, **options)
    command = encoded.global_args("-loglevel", "quiet")
    return command.run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stdout=True)


GROUP = 12
"""Frames from one I frame to the next."""

MACROBLOCK = 16

MPEG4: dict[str, Any] = {
    "format": "m4v",
    "vcodec": "mpeg4",
    "b:v": "8000k",
    "g": GROUP,
    "bf": 0,
    "threads": 1,
    # a cut would begin a group of its own, and all groups after it would stand askew to the clips
    "sc_threshold": 1_000_000_000,
}


@dataclass(frozen=True)
class Step:
    """A tick and the motion that the encoder found, or None at an I frame."""

    tick: ResampledFrame
    vectors: np.ndarray | None
    known: np.ndarray


def with_mpeg4(ticks: Generator[ResampledFrame, None, None], spec: ClipSpec) -> Generator[ResampledFrame, None, None]:
    """Ticks, each with the motion between its picture and the one before; held back by one."""
    last: Step | None = None
    held: Step | None = None
    for number, step in enumerate(_steps(ticks, spec)):
        if number % spec.frames == 0:
            # motion into a keyframe was never seen by these weights
            step = replace(step, vectors=np.zeros((*spec.grid, 2), np.float32), known=np.zeros(spec.grid, bool))
        if held is not None:
            done = _between(held, last, step)
            yield _moved(done)
            last = done
        held = step
    if held is not None:
        yield _moved(_between(held, last, None))


def _between(step: Step, before: Step | None, after: Step | None) -> Step:
    """An I frame with the mean motion of its neighbours; what is not there counts as still."""
    if step.vectors is not None:
        return step
    total = np.zeros((*step.known.shape, 2), np.float32)
    for other in (before, after):
        if other is not None and other.vectors is not None:
            total += other.vectors
    return replace(step, vectors=total / 2)


def _moved(step: Step) -> ResampledFrame:
    return replace(step.tick, vectors=step.vectors, valid=step.known)


def _steps(ticks: Generator[ResampledFrame, None, None], spec: ClipSpec) -> Iterator[Step]:
    waiting: deque[ResampledFrame] = deque()

    def pictures() -> Iterator[av.VideoFrame]:
        for tick in ticks:
            if tick.picture is not None:
                waiting.append(tick)
                yield tick.picture

    with closing(ticks), closing(reencoded(pictures(), spec.fps, MPEG4, long_side=None)) as frames:
        for frame in frames:
            tick = waiting.popleft()
            turns = quarter_turns(tick.picture) if tick.picture is not None else 0
            grid = (spec.grid[1], spec.grid[0]) if turns % 2 else spec.grid
            if frame.picture.pict_type == PictureType.I:
                yield Step(tick, None, np.zeros(spec.grid, bool))
                continue
            vectors, known = turned(*macroblock_field(frame, grid), turns)
            yield Step(tick, np.ascontiguousarray(vectors), np.ascontiguousarray(known))


def macroblock_field(frame: SourceFrame, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A P frame's vectors on the grid.

    Returns:
        vectors float32 [h, w, 2] in fractions of the frame, and bool [h, w]: cells half of which or more has vectors.
    """
    width, height = frame.picture.width, frame.picture.height
    rows, columns = -(-height // MACROBLOCK), -(-width // MACROBLOCK)
    blocks, known = np.zeros((rows, columns, 2), np.float32), np.zeros((rows, columns), np.float32)
    records = frame.vectors
    if records is not None and len(records):
        x = np.clip(records["dst_x"], 0, width - 1) // MACROBLOCK
        y = np.clip(records["dst_y"], 0, height - 1) // MACROBLOCK
        motion = np.stack([records["motion_x"], records["motion_y"]], -1) / records["motion_scale"][:, None]
        blocks[y, x] = motion / np.array([width, height])
        known[y, x] = 1
    size = grid[::-1]
    # both cubics have the coefficient -0.75, the one of torch and so of the published code
    vectors = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC).reshape(*grid, 2)
    return vectors, cv2.resize(known, size, interpolation=cv2.INTER_AREA).reshape(grid) >= 0.5
