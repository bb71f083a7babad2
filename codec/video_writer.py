"""Write RGB frames to a video file."""

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
"""Options of libx264 with which the same frames always give the same file; without them its output was seen to differ
from run to run."""

FASTSTART_SUFFIXES = {".mp4", ".mov", ".m4v"}


class VideoWriter:
    """Writes RGB frames to a video file, which appears at `path` when the `with` block ends without an error.

        with VideoWriter("out.mp4", fps=12, size=(256, 144)) as writer:
            writer.write(frame)  # uint8 [144, 256, 3] RGB

    Args:
        path: the file to write; its suffix selects the container format, MP4 without one. See `atomic_path`.
        fps: frames per second; frame k is shown at k / fps unless `write` is given its time.
        size: (width, height) of the frames. With yuv420p an odd side is made even by repeating its last row or column:
            4:2:0 has no half chroma samples.
        codec: name of an FFmpeg encoder: libx264, mpeg4, mpeg2video, libx265 …
        options: the encoder's options, such as {"preset": "veryslow", "crf": "18"}; `g`, `bf` and `refs` as well.
        pixel_format: FFmpeg's name. yuv420p plays everywhere; yuv444p keeps odd sizes.
        time_base: unit of timestamps in seconds, for frames that are written with their own time (variable frame rate),
            1/60000 for instance; 1 / fps if None.

    Raises:
        ValueError: `fps` or `size` is not positive.
        MediaError: there is no such container format or encoder, the encoder refuses an option, or the output cannot be
            written.
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
        with ExitStack() as opening:  # undoes all steps if one fails
            temporary = opening.enter_context(atomic_path(self.path))
            faststart = {"movflags": "+faststart"} if self.path.suffix.lower() in FASTSTART_SUFFIXES else {}
            try:
                file_format = None if self.path.suffix else "mp4"
                self._container = av.open(str(temporary), "w", format=file_format, container_options=faststart)
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
        # stated in the file, so that players do not guess it from the picture's size
        context.colorspace = Colorspace.SMPTE170M
        context.color_range = ColorRange.MPEG

    def write(self, frame: np.ndarray, pts_seconds: Fraction | float | None = None) -> None:
        """Write one frame.

        Args:
            frame: uint8 [H, W, 3] RGB, of the writer's size.
            pts_seconds: when it is shown, rounded to the time base, later than the frame before; its number / fps if
                None.

        Raises:
            ValueError: the frame has another shape or dtype, or its time is not later than that of the frame before.
            MediaError: the frame cannot be encoded or written.
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
                # some encoders leave the duration out, and the file would end when its last frame begins
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
            else:  # passes the error to `atomic_path`, which removes the temporary file
                cleanup.__exit__(kind, error, traceback)
