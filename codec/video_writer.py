"""Frames in, a playable video file out."""

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from codec.atomic_files import atomic_path
from codec.errors import MediaError

REPRODUCIBLE = {"threads": "1", "x264-params": "mbtree=0"}
"""Options of libx264 that give one file from one video; without them its output was seen to differ from run to run."""
FASTSTART_SUFFIXES = {".mp4", ".mov", ".m4v"}


class VideoWriter:
    """Writes RGB frames to a video file that appears whole at `path` when the `with` block ends well, else not at all.

        with VideoWriter("out.mp4", fps=12, size=(256, 144)) as writer:
            writer.write(frame)  # uint8 [144, 256, 3] RGB

    Args:
        path: the file to write; its suffix names the container.
        fps: frames per second, any rational; frame k stands at k / fps unless `write` is told otherwise.
        size: (width, height) of the frames. With yuv420p an odd side is made even by repeating its last row or column:
            4:2:0 has no half chroma samples.
        codec: an FFmpeg encoder: libx264, mpeg4, mpeg2video, libx265 …
        options: the encoder's own options, {"preset": "veryslow", "crf": "18"}. `g`, `bf` and `refs` go here as well.
        pixel_format: yuv420p plays everywhere; yuv444p keeps odd sizes.
        time_base: tick of the clock for frames written with their own time (variable frame rate), 1/60000 for instance;
            1 / fps where not given.

    Raises:
        MediaError: no such container or encoder, an option the encoder refuses, an output that cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction | float,
        size: tuple[int, int],
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        *,
        pixel_format: str = "yuv420p",
        time_base: Fraction | None = None,
    ) -> None:
        self.path = Path(path)
        self.fps = Fraction(fps).limit_denominator(100_000)
        self.size = size
        if self.fps <= 0 or min(size) < 1:
            raise ValueError(f"`fps` (={fps}) and `size` (={size}) must be positive")
        self.codec = codec
        self.options = dict(options or {})
        self.pixel_format = pixel_format
        self.time_base = time_base or 1 / self.fps
        self.num_frames = 0
        self._last_pts = -1
        self._padding = (size[0] % 2, size[1] % 2) if pixel_format == "yuv420p" else (0, 0)

    def __enter__(self) -> "VideoWriter":
        self._cleanup = ExitStack()
        with ExitStack() as opening:  # undone as a whole when any step of it fails
            temporary = opening.enter_context(atomic_path(self.path))
            faststart = {"movflags": "+faststart"} if self.path.suffix.lower() in FASTSTART_SUFFIXES else {}
            try:
                self._container = av.open(str(temporary), "w", container_options=faststart)
                opening.callback(self._container.close)
                stream = self._container.add_stream(self.codec, rate=self.fps, options=self.options)
                self._stream = cast(av.VideoStream, stream)
                self._configure(self._stream.codec_context)
            except (FFmpegError, ValueError) as error:
                raise MediaError(
                    f"cannot write {self.path} with encoder {self.codec}: {error}; "
                    "choose a suffix such as .mp4 and an encoder such as libx264"
                ) from error
            self._cleanup = opening.pop_all()
        return self

    def _configure(self, context: av.VideoCodecContext) -> None:
        context.width, context.height = (side + extra for side, extra in zip(self.size, self._padding, strict=True))
        context.pix_fmt = self.pixel_format
        context.time_base = self.time_base
        # said in the file, so that no player guesses by the picture's size
        context.colorspace = Colorspace.SMPTE170M
        context.color_range = ColorRange.MPEG

    def write(self, frame: np.ndarray, pts_seconds: Fraction | float | None = None) -> None:
        """Adds one frame.

        Args:
            frame: uint8 [H, W, 3] RGB, of the writer's size.
            pts_seconds: when it is shown, rounded to the time base and later than the frame before;
                one 1 / fps after another where None.

        Raises:
            ValueError: a frame of another shape or type, or a time that does not rise.
            MediaError: the encoder or the disk refuses.
        """
        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"`frame` must be uint8 [{height}, {width}, 3], got {frame.dtype} {list(frame.shape)}")
        seconds = self.num_frames / self.fps if pts_seconds is None else Fraction(pts_seconds)
        pts = round(seconds / self.time_base)
        if pts <= self._last_pts:
            raise ValueError(f"`pts_seconds` (={float(seconds)}) must be later than the frame before")
        right, bottom = self._padding
        if right or bottom:
            frame = np.pad(frame, ((0, bottom), (0, right), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # the default, bilinear, blurs chroma
        picture = picture.reformat(format=self.pixel_format, interpolation=Interpolation.BICUBIC)
        picture.pts, picture.time_base = pts, self.time_base
        self._encode(picture)
        self._last_pts = pts
        self.num_frames += 1

    def _encode(self, picture: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(picture):
                # some encoders leave the duration out, and the file would end at its last frame's beginning
                if not packet.duration and packet.time_base:
                    packet.duration = round(1 / self.fps / packet.time_base)
                self._container.mux(packet)
        except (FFmpegError, OSError) as error:
            raise MediaError(
                f"cannot write {self.path}: {error}; is the disk full, or an encoder option wrong?"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._cleanup as cleanup:
            if kind is None:
                self._encode(None)
            else:  # hands the error to `atomic_path`, which removes the half file
                cleanup.__exit__(kind, error, traceback)
