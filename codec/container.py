"""Open a video (a path, bytes, or an open file), select its video stream, and demux the packets of that stream."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.container.core import Flags
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.logging import INFO, set_level
from av.stream import Disposition
from av.video.stream import VideoStream

from codec.errors import MediaError, media_errors
from codec.timeline import TimedPacket, Timeline

Source = str | Path | bytes | BinaryIO
"""A path, the content of a file, or a file that is open for reading in binary mode."""


@contextmanager
def local_file(source: Source) -> Iterator[Path]:
    """Give the path of a source that `open_video` reads; what it does not is copied to a temporary file.

    That is bytes and open files, since videos are read by seeking, and HEIF pictures (see `is_heif_picture`).

    Raises:
        MediaError: the open file cannot be read, or holds text; or FFmpeg cannot put a HEIF picture together.
    """
    name = source_name(source)
    if isinstance(source, str | Path):
        with _plain_picture(Path(source), name) as path:
            yield path
        return
    suffix = Path(name).suffix if name.isprintable() else ""
    with tempfile.NamedTemporaryFile(prefix="videotok-", suffix=suffix) as copy:
        try:
            if isinstance(source, bytes | bytearray | memoryview):
                copy.write(source)
            else:
                shutil.copyfileobj(source, copy)
            copy.flush()
        except (OSError, TypeError, ValueError, AttributeError) as error:
            raise MediaError(
                f"cannot read {name}: {error}; give a path, bytes, or a file opened in binary mode"
            ) from error
        with _named_in_errors(copy.name, name), _plain_picture(Path(copy.name), name) as path:
            yield path


@contextmanager
def _plain_picture(path: Path, name: str) -> Iterator[Path]:
    """Give the path of a file, or of a temporary copy without compression if it is a HEIF picture."""
    if not is_heif_picture(path):
        yield path
        return
    import imageio_ffmpeg

    with tempfile.NamedTemporaryFile(prefix="videotok-", suffix=".ppm") as copy:
        # of the library's streams each is a tile, not turned and not cropped; the program puts them together
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "quiet", "-protocol_whitelist", "file"]
        command += ["-i", f"file:{path}", "-frames:v", "1", "-sws_flags", "accurate_rnd+full_chroma_int+area"]
        command += ["-c:v", "ppm", "-f", "image2pipe", "-"]
        done = subprocess.run(command, stdout=copy, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
        if done.returncode or not Path(copy.name).stat().st_size:
            raise MediaError(
                f"cannot read {name}: FFmpeg cannot decode this HEIF picture; is it whole? Convert it to JPEG first"
            )
        with _named_in_errors(copy.name, name):
            yield Path(copy.name)


@contextmanager
def _named_in_errors(path: str, name: str) -> Iterator[None]:
    """Name in errors the source instead of its temporary copy."""
    try:
        yield
    except MediaError as error:
        raise MediaError(str(error).replace(path, name)) from error


def is_heif_picture(path: str | Path) -> bool:
    """Return whether the header of a file says that it is a still picture in HEIF: HEIC of phones and cameras, AVIF.

    Such a picture is often made of tiles, which FFmpeg's library gives as streams of one frame each.
    """
    try:
        with Path(path).open("rb") as file:
            header = file.read(12)
    except (OSError, ValueError):  # `open_video` says what is wrong
        return False
    return header[4:8] == b"ftyp" and header[8:] in HEIF_BRANDS


def source_name(source: Source) -> str:
    """Return how a source is named in messages."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<open file>"


NATIVE_CODECS = (
    *("h264", "mpeg4", "mpeg2video", "mpeg1video"),
    *("h263", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
)
"""FFmpeg's names of the decoders that export motion vectors; `msmpeg4` is version 3 (DivX 3), `flv` Sorenson H.263."""

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif"}
"""Major brands of HEIF files with a still picture; those of picture sequences (`msf1`, `hevc`, `avis`) are videos."""

NON_VIDEO_FORMATS = {"tty", "hls", "concat", "dash", "sdp"}
"""FFmpeg's names of formats that are text or lists of other files."""

ENCRYPTED_TAGS = {"encv", "drmi"}
"""Codec tags of streams that only a player with the key can decode."""

MAX_SIDE = 16384
"""Largest width or height in pixels. A larger picture is taken for damage or an attack."""

MAX_FPS = 10_000
"""A header that states more frames per second is wrong: it gives the unit of its timestamps instead."""

MAX_REORDERED_FRAMES = 16
"""A frame is decoded at most this many frames before one that is shown earlier (an H.264 buffer has 16 pictures)."""


@contextmanager
def open_video(path: str | Path, stream: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and select a video stream.

    Args:
        path: a file. It is never taken for an address or a pattern of names.
        stream: the stream's index in the file; None: the default stream, or the one with the largest pictures if there
            is none or more than one.

    Raises:
        MediaError: there is no such file, it is not a video, or it has no such video stream.
    """
    # no log level at all: with one, FFmpeg's threads call back into Python and can deadlock
    set_level(None)
    source = Path(path)
    _check_file(source)
    with media_errors(source):
        # a media file must not make us open other files or addresses, nor its name; its texts may be in any encoding
        container = av.open(
            "file:" + os.fspath(source),
            options={"protocol_whitelist": "file", "pattern_type": "none"},
            metadata_errors="replace",
        )
    with container:
        # PyAV has FFmpeg guess missing presentation times from decoding times: wrong with B frames
        container.flags = int(container.flags) & ~Flags.gen_pts.value
        yield container, _select_stream(container, source, stream)


def _check_file(source: Path) -> None:
    try:
        if source.is_dir():
            raise MediaError(f"cannot read {source}: it is a directory; give the path of a video file")
        if not source.exists():
            raise MediaError(f"cannot read {source}: no such file; give the path of a video file")
        if not source.is_file():
            raise MediaError(f"cannot read {source}: it is no regular file; write what it gives to a file first")
        if source.stat().st_size == 0:
            raise MediaError(f"cannot read {source}: the file is empty (0 bytes)")
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot read {source}: {error}; give the path of a video file") from error


def _select_stream(container: InputContainer, source: Path, index: int | None) -> VideoStream:
    if NON_VIDEO_FORMATS & set(container.format.name.split(",")):
        raise MediaError(f"cannot read {source}: it is text, not a video; give the path of a video file")
    streams = [video for video in container.streams.video if not video.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"cannot read {source}: there is no video stream in it")
    if index is not None:
        streams = [video for video in streams if video.index == index]
        if not streams:
            raise MediaError(f"cannot read {source}: its stream {index} is no video; {_list_streams(container)}")
    readable = [video for video in streams if video.codec_context is not None]
    if not readable:
        label = _codec_label(container, streams[0])
        if any(tag in label for tag in ENCRYPTED_TAGS):
            raise encrypted_error(source)
        raise MediaError(
            f"cannot read {source}: FFmpeg has no decoder for its video, {label or 'whose codec it does not know'}; "
            "re-encode it as H.264 first"
        )
    stream = max(readable, key=_preference)
    if "enc_key_id" in stream.metadata or _codec_tag(stream) in ENCRYPTED_TAGS:
        raise encrypted_error(source)
    width, height = stream.codec_context.width or 0, stream.codec_context.height or 0
    if max(width, height) > MAX_SIDE:
        raise MediaError(f"cannot read {source}: its pictures are {width}x{height} pixels; at most {MAX_SIDE} a side")
    return stream


def _preference(video: VideoStream) -> tuple[bool, bool, int]:
    """Return how well a stream suits: as FFmpeg chooses, but a stream marked as default goes first."""
    is_still = bool(video.disposition & (Disposition.timed_thumbnails | Disposition.still_image))
    area = (video.codec_context.width or 0) * (video.codec_context.height or 0)
    return not is_still, bool(video.disposition & Disposition.default), area


def _list_streams(container: InputContainer) -> str:
    found = [
        f"{video.index} ({video.codec_context.name} {video.codec_context.width}x{video.codec_context.height})"
        for video in container.streams.video
        if video.codec_context is not None and not video.disposition & Disposition.attached_pic
    ]
    return f"video streams are {', '.join(found)}" if found else "it has no video stream"


def _codec_tag(stream: VideoStream) -> str:
    try:
        return stream.codec_context.codec_tag
    except UnicodeError:
        return ""


def _codec_label(container: InputContainer, stream: VideoStream) -> str:
    """Return FFmpeg's name of a codec without a decoder, with its tag: `none (zzzz / 0x7A7A7A7A)`; empty if unknown."""
    set_level(INFO)
    try:
        lines = cast(Any, container).dumps_format().splitlines()
    finally:
        set_level(None)
    for line in lines:
        head, _, text = line.partition(": Video: ")
        if f"#0:{stream.index}" in head:
            return text.split(",")[0].strip()
    return ""


def encrypted_error(name: object) -> MediaError:
    """Return the error for a stream that cannot be decoded without a key."""
    return MediaError(f"cannot read {name}: its video is encrypted (DRM); get a copy without encryption")


def nominal_frame_interval(stream: VideoStream) -> Fraction:
    """Return the header's time between two frames in seconds; 1/25 if the header gives none that makes sense.

    For a raw stream, whose timestamps FFmpeg makes up, it is what the bitstream states.
    """
    coded_rate = stream.codec_context.framerate if has_no_timestamps(stream) else None
    rate = coded_rate or stream.average_rate or stream.base_rate or Fraction(25)
    return 1 / rate if 0 < rate <= 1000 else Fraction(1, 25)


def has_no_timestamps(stream: VideoStream) -> bool:
    """Return whether the file is a raw stream: one picture after another without times."""
    return bool(int(stream.container.format.flags) & FormatFlags.no_timestamps.value)


def guesses_presentation_times(stream: VideoStream) -> bool:
    """Return whether FFmpeg guesses when pictures are shown.

    AVI files, and many MXF files with H.264, only say in which order pictures are decoded.
    """
    context, name = stream.codec_context, stream.container.format.name
    return bool(context.has_b_frames) and (name == "avi" or (name == "mxf" and context.name == "h264"))


def may_be_joined(stream: VideoStream) -> bool:
    """Return whether timestamps may begin anew in files of this format (transport and program streams)."""
    return bool(int(stream.container.format.flags) & FormatFlags.ts_discont.value)


def duration_from_header(container: InputContainer, stream: VideoStream) -> float | None:
    """Return the duration in seconds that the header states; None if it states none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None


def end_from_header(container: InputContainer, stream: VideoStream) -> float | None:
    """Return when the video ends by its header, in seconds as its timestamps count; None if it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if container.duration is None:
        return None
    return ((container.start_time or 0) + container.duration) / av.time_base


def is_cut_off(container: InputContainer, stream: VideoStream) -> bool | None:
    """Return whether the end of the file is missing, by what its own structure says; None if that does not tell.

    Files of the MP4 family without fragments list every packet; Matroska and AVI files state how many bytes they have.
    """
    if "mov" in container.format.name:
        if not stream.frames or len(stream.index_entries) < stream.frames:
            return None
        size = container.size
        return any(entry.pos + entry.size > size for entry in stream.index_entries)
    stated_size = {"avi": _riff_size, "matroska,webm": _matroska_size}.get(container.format.name)
    if stated_size is None:
        return None
    with Path(container.name.removeprefix("file:")).open("rb") as file:
        size = stated_size(file)
    return None if size is None else size > container.size


def _riff_size(file: BinaryIO) -> int | None:
    """Return the bytes of an AVI file by its RIFF headers; large files have several."""
    size = 0
    while (header := file.read(8))[:4] == b"RIFF" and len(header) == 8:
        length = int.from_bytes(header[4:], "little")
        if length in (0, 0xFFFFFFFF):
            return None  # the recorder was stopped before it wrote the size
        size += 8 + length + length % 2
        file.seek(size)
    return size or None


def _matroska_size(file: BinaryIO) -> int | None:
    """Return the bytes of a Matroska file by the size of its segment; None for live recordings."""
    beginning = file.read(4096)
    segment = beginning.find(bytes.fromhex("18538067"))
    if segment < 0 or segment + 5 > len(beginning):
        return None
    position = segment + 4
    length = 9 - beginning[position].bit_length()  # leading zeros tell the length of the number
    if length > 8 or position + length > len(beginning):
        return None
    bits = 7 * length
    value = int.from_bytes(beginning[position : position + length], "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else position + length + value


@dataclass(frozen=True)
class DemuxedPacket:
    """One packet of the video stream, or the end of the stream."""

    packet: av.Packet | None
    """None at the end of what can be read."""
    next_pts: int | None
    """The next larger pts in the stream, when another frame replaces this one on screen. In the stream's time base;
    None if not known."""
    is_truncated: bool = False
    """The file could not be read any further."""
    pts: int | None = None
    """Presentation time in the stream's time base, counted on where the stream's own timestamps begin anew; None if not
    known."""
    dts: int | None = None
    """Decoding time, in the same way."""
    is_corrupt: bool = False
    """Some data before the packet or in it was lost."""


@dataclass
class Demuxer:
    """Reads the packets of a video stream from the container's current position on.

    Args:
        container, stream: as opened by `open_video`.
    """

    container: InputContainer
    stream: VideoStream
    end_seconds: float = field(default=float("-inf"), init=False)
    """When the last packet of any stream ends, as its own timestamps count."""
    last_frame_seconds: float = field(default=float("-inf"), init=False)
    """When the frame in the video's packets that is shown last begins."""

    def __post_init__(self) -> None:
        self._seconds_per_unit = float(self.stream.time_base or 0)

    def packets(self) -> Iterator[DemuxedPacket]:
        """Yield the packets in decoding order, then the end.

        Raises:
            MediaError: the stream is encrypted.
        """
        timeline = Timeline(self.stream, may_be_joined(self.stream), nominal_frame_interval(self.stream))
        source, end = self._video_packets(), None
        while end is None or len(timeline):
            if end is None:
                try:
                    timeline.add(next(source))
                except StopIteration:
                    end = DemuxedPacket(None, None)
                except (FFmpegError, OSError):
                    end = DemuxedPacket(None, None, is_truncated=True)
            if len(timeline) > (MAX_REORDERED_FRAMES if end is None else 0):
                timed = timeline.pop()
                self._note_time(timed)
                yield DemuxedPacket(
                    timed.packet, timed.next_pts, pts=timed.pts, dts=timed.dts, is_corrupt=timed.is_corrupt
                )
        yield end

    def _video_packets(self) -> Iterator[av.Packet]:
        """Yield the video's packets; note when those of other streams end."""
        has_no_times = has_no_timestamps(self.stream)
        has_no_pts = has_no_times or guesses_presentation_times(self.stream)
        own_index = self.stream.index
        # arithmetic with fractions would take longer than demuxing
        seconds_per_unit = {other.index: float(other.time_base or 0) for other in self.container.streams}
        for packet in self.container.demux():
            index = packet.stream_index
            if index != own_index:
                time = packet.pts if packet.pts is not None else packet.dts
                if time is not None and packet.size:
                    end = (time + (packet.duration or 0)) * seconds_per_unit.get(index, 0.0)
                    self.end_seconds = max(self.end_seconds, end)
                continue
            if not packet.size:
                continue
            # `packet.has_sidedata` looks its name up in a list: longer than demuxing takes
            if any(one.data_type == "encryption_info" for one in packet.iter_sidedata()):
                raise encrypted_error(self.container.name.removeprefix("file:"))
            if has_no_pts:
                packet.pts = None
            if has_no_times:
                packet.dts = None
            yield packet

    def _note_time(self, timed: TimedPacket) -> None:
        if timed.pts is None or timed.packet.pts is None or not self._seconds_per_unit:
            return
        self.last_frame_seconds = max(self.last_frame_seconds, timed.pts * self._seconds_per_unit)
        # the header counts as the stream's own timestamps do
        end = (timed.packet.pts + (timed.packet.duration or 0)) * self._seconds_per_unit
        self.end_seconds = max(self.end_seconds, end)
