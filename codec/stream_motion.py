"""Motion at a stream's own rate, without pictures: the stream's vectors as they are, or as motion fields.

Pictures are decoded only as far as vectors need it: without the deblocking filter, and none is converted or kept.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from codec.acceleration import CHOOSER
from codec.container import NATIVE_CODECS, Source, local_file, open_video
from codec.decoder import SourceFrame, read_frames
from codec.errors import media_errors
from codec.motion_composition import compose_motion
from codec.motion_vectors import VectorLattice, vectors_to_lattice
from codec.parallel_decoder import ParallelDecoder
from codec.probe import has_native_vectors, no_frame_error, no_vectors_error
from codec.resample import FINE_FACTOR
from codec.side_data import MotionRecord, Orientation
from codec.types import MotionField, VectorShares


@dataclass(frozen=True)
class FrameVectors:
    """The motion vectors of one frame, as the stream has them."""

    records: np.ndarray
    """MotionRecord [n], FFmpeg's AVMotionVector: a block of w x h pixels around (dst_x, dst_y) stands at a displacement
    of (motion_x, motion_y) / motion_scale pixels in a frame of list 0 (`source` < 0) or list 1 (`source` > 0). Empty in
    I frames."""
    width: int
    """Of the coded picture, in pixels."""
    height: int
    """Of the coded picture, in pixels."""
    frame_type: str
    """`I`, `P` or `B`; other letters for what hardly any stream has (`S`, `SI`, `SP`, `BI`)."""
    pts_seconds: float
    """Presentation time."""
    index: int
    """Position of the frame in the stream, in decoding order from 1."""
    references: tuple[tuple[int, ...], tuple[int, ...]] | None
    """`index` of the frames in list 0 and list 1, by reference index (-1: not in the stream), as the slice headers of
    H.264 state them. FFmpeg does not export which one of a list a vector points to. None for other codecs, where it is
    the nearest I or P frame before (list 0) or after (list 1)."""
    orientation: Orientation
    """How the coded picture, and its vectors, are turned and mirrored for display."""
    damaged: bool
    """Some data was lost in this frame or since the one before."""

    def dense(self) -> VectorLattice:
        """Return the vectors on a dense map of 8 x 8 pixels, and where there is a vector, for list 0 and list 1."""
        return vectors_to_lattice(self.records, self.width, self.height)


@dataclass(frozen=True)
class FrameMotion:
    """The motion from one frame to the frame shown before it, upright."""

    vectors: np.ndarray
    """float32 [h, w, 2], (dx, dy) in fractions of the frame: the content of a cell at (x, y) stood at (x + dx, y + dy)
    in the frame before. Zero in the first frame."""
    valid: np.ndarray
    """bool [h, w]: at least half of the cell has vectors. Elsewhere `vectors` is filled in from the cells around, or
    zero if the frame has no vectors."""
    frame_type: str
    """As in `FrameVectors`."""
    pts_seconds: float
    """Presentation time."""
    shares: VectorShares
    """How well it is known which frames the vectors point to."""
    damaged: bool
    """Some data was lost in this frame or since the one before."""


@dataclass(frozen=True)
class StreamMotion:
    """The motion of a whole video at its own rate."""

    motion: MotionField
    """[T, h, w]: from each frame to the one before, upright. `vectors[0]` is zero and not valid."""
    pts_seconds: np.ndarray
    """float64 [T]: presentation times."""
    frame_types: np.ndarray
    """str [T]: `I`, `P` or `B`."""
    shares: tuple[VectorShares, ...]
    """T shares: how well it is known which frames the vectors point to."""
    damaged: np.ndarray
    """bool [T]: some data was lost in the frame or since the one before."""


def iter_vectors(source: Source, *, stream: int | None = None) -> Iterator[FrameVectors]:
    """Yield the vectors of every frame in display order, as the stream has them.

    Args:
        source: as for `iter_clips`.
        stream: index of the video stream in the file; the default stream if None.

    Raises:
        MediaError: the file cannot be read, or FFmpeg exports no vectors of its codec.
    """
    nothing = np.zeros(0, MotionRecord)
    with _open(source, stream) as (path, container, video):
        if video.codec_context.name not in NATIVE_CODECS:
            raise no_vectors_error(path, video)
        frame = None
        for frame in read_frames(container, video, with_vectors=True, loop_filter=False):
            yield FrameVectors(
                records=nothing if frame.vectors is None else frame.vectors,
                width=frame.picture.width,
                height=frame.picture.height,
                frame_type=PictureType(frame.picture.pict_type).name,
                pts_seconds=frame.pts_seconds,
                index=frame.index,
                references=frame.headers.lists if frame.headers else None,
                orientation=frame.orientation,
                damaged=frame.damaged,
            )
        if frame is None:
            raise no_frame_error(path)


def iter_motion(
    source: Source, grid: tuple[int, int] = (20, 36), *, decoders: int = 1, stream: int | None = None
) -> Iterator[FrameMotion]:
    """Yield the motion of every frame in display order, in constant memory.

    What a vector spans is worked out as for `iter_clips`. Without pictures, motion is not measured where vectors are
    missing, and scene cuts are not found.

    Args:
        source: as for `iter_clips`.
        grid: (h, w) cells of the upright picture.
        decoders: number of threads that decode parts of an MP4 file in parallel. 1: no additional thread.
        stream: index of the video stream in the file; the default stream if None.

    Raises:
        MediaError: the file cannot be read, or has no vectors that lead from frame to frame.
        ValueError: the grid is not two positive numbers, or fewer than one decoder is asked for.
    """
    if len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"`grid` (={grid}) must be two positive numbers of cells, (height, width)")
    if decoders < 1:
        raise ValueError(f"`decoders` (={decoders}) must be at least 1")
    with _open(source, stream) as (path, container, video), closing(_frames(path, container, video, decoders)) as read:
        first = next(read, None)
        if first is None:
            raise no_frame_error(path)
        if not has_native_vectors(first, video):
            raise no_vectors_error(path, video)
        fine = grid[0] * FINE_FACTOR, grid[1] * FINE_FACTOR
        for moved in compose_motion(chain([first], read), fine, measures_missing=False):
            motion = CHOOSER.current(moved.motion.valid.shape).pool(moved.motion, FINE_FACTOR)
            yield FrameMotion(
                vectors=motion.vectors,
                valid=motion.valid,
                frame_type=PictureType(moved.frame.picture.pict_type).name,
                pts_seconds=moved.frame.pts_seconds,
                shares=moved.shares,
                damaged=moved.frame.damaged,
            )


def read_motion(
    source: Source, grid: tuple[int, int] = (20, 36), *, decoders: int = 1, stream: int | None = None
) -> StreamMotion:
    """Return the motion of a whole video at its own rate: 9 bytes for each frame and cell. Arguments as `iter_motion`.

    Raises:
        MediaError, ValueError: as `iter_motion`.
    """
    frames = list(iter_motion(source, grid, decoders=decoders, stream=stream))
    return StreamMotion(
        motion=MotionField(np.stack([one.vectors for one in frames]), np.stack([one.valid for one in frames])),
        pts_seconds=np.array([one.pts_seconds for one in frames]),
        frame_types=np.array([one.frame_type for one in frames]),
        shares=tuple(one.shares for one in frames),
        damaged=np.array([one.damaged for one in frames]),
    )


@contextmanager
def _open(source: Source, stream: int | None) -> Iterator[tuple[Path, InputContainer, VideoStream]]:
    with local_file(source) as path, media_errors(path), open_video(path, stream) as (container, video):
        yield path, container, video


def _frames(
    path: Path, container: InputContainer, video: VideoStream, decoders: int
) -> Generator[SourceFrame, None, None]:
    pictures = None
    if decoders > 1 and video.codec_context.name == "h264":
        pictures = ParallelDecoder(path, video, lambda *_: True, False, decoders).pictures()
    try:
        yield from read_frames(container, video, with_vectors=True, loop_filter=False, pictures=pictures)
    finally:
        if pictures is not None:
            pictures.close()  # its threads use the container
