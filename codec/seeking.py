"""Find where decoding must begin so that frames from a given time on are those of a pass from the beginning.

Demuxers seek to where they believe a keyframe to be. They may land too late (transport streams), in front of pictures
that cannot be decoded alone (open groups of pictures), or where only a part of the picture is coded anew (gradual
refresh). So each place is tried: the first clean picture there must be shown early enough, else an earlier place is
taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, Demuxer, has_no_timestamps, may_be_joined, open_video
from codec.decoder import DecodedPicture, decode_pictures

SEEK_MARGIN_SECONDS = 1
"""How far before the start reading begins: the frames before the first one are needed for its motion."""

MARGIN_FACTOR = 4
"""How much farther before the start the next place is looked for."""

NUM_TRIES = 6
"""Places that are tried; then reading begins at the beginning."""


@dataclass(frozen=True)
class StartPoint:
    """Where decoding begins; by default at the beginning of the file."""

    origin_seconds: float | None = None
    """Time of the video's first frame; None where reading begins with it."""
    seek_pts: int | None = None
    """Where to seek, in the stream's time base; None: nowhere."""
    num_skipped: int = 0
    """Packets of the stream that are then read but not decoded."""
    first_pts: int | None = None
    """Time of the first picture that does not refer to pictures before the start point."""

    def go(self, container: InputContainer, stream: VideoStream) -> None:
        """Move a container that was just opened to the start point."""
        if self.seek_pts is not None:
            container.seek(self.seek_pts, stream=stream, backward=True)


BEGINNING = StartPoint()


def find_start(path: str | Path, stream_index: int | None, start_seconds: float, fps: Fraction) -> StartPoint:
    """Return where to begin, so that the frame before `start_seconds` at `fps` is decoded as from the beginning.

    Args:
        path: the file.
        stream_index: as for `open_video`.
        start_seconds: counted from the video's first frame.
        fps: frames per second after resampling.
    """
    margin = max(float(SEEK_MARGIN_SECONDS), float(1 / fps))
    if start_seconds <= margin:
        return BEGINNING
    with open_video(path, stream_index) as (container, stream):
        packets = Demuxer(container, stream).packets()
        head = next(packets)
        if has_no_timestamps(stream) or head.pts is None or stream.time_base is None:
            return BEGINNING  # times are counted from the beginning
        first = next(_decode(container, stream, chain([head], packets)), None)
        is_joined, unit = may_be_joined(stream), float(stream.time_base)
    if first is None or first.pts is None:
        return BEGINNING
    needed_pts = first.pts + int((start_seconds - float(1 / fps)) / unit)
    tries = [start_seconds - margin * MARGIN_FACTOR**number for number in range(NUM_TRIES)]
    targets = [first.pts + int(seconds / unit) for seconds in tries if seconds > 0]
    places = _keyframes_at(path, stream_index, targets) if is_joined else [StartPoint(seek_pts=pts) for pts in targets]
    for place in places:
        first_pts = _first_clean_pts(path, stream_index, place, needed_pts)
        if first_pts is not None:
            return StartPoint(first.pts * unit, place.seek_pts, place.num_skipped, first_pts)
    return BEGINNING


def _decode(
    container: InputContainer, stream: VideoStream, packets: Iterator[DemuxedPacket]
) -> Iterator[DecodedPicture]:
    return decode_pictures(
        container,
        stream,
        with_vectors=False,
        threads="SLICE",
        loop_filter=True,
        is_needed=lambda _: True,
        packets=packets,
    )


def _first_clean_pts(path: str | Path, stream_index: int | None, place: StartPoint, needed_pts: int) -> int | None:
    """Return the time of the keyframe at a place; None if its pictures are not clean by `needed_pts`."""
    with open_video(path, stream_index) as (container, stream):
        try:
            place.go(container, stream)
        except FFmpegError:
            return None
        passed: list[DemuxedPacket] = []
        packets = islice(Demuxer(container, stream).packets(), place.num_skipped, None)
        for demuxed in packets:
            passed.append(demuxed)
            if demuxed.packet is None or (demuxed.dts is not None and demuxed.dts > needed_pts):
                return None
            if demuxed.packet.is_keyframe and demuxed.pts is not None:
                break
        first_pts = passed[-1].pts
        if first_pts is None or first_pts > needed_pts:
            return None
        for decoded in _decode(container, stream, chain(passed, packets)):
            if decoded.pts is not None and decoded.pts >= first_pts:
                return first_pts if decoded.pts <= needed_pts else None
    return None


def _keyframes_at(path: str | Path, stream_index: int | None, targets: list[int]) -> Iterator[StartPoint]:
    """Yield the last keyframe before each target, found by reading all packets from the beginning.

    In files that may be joined of several recordings, seeking by time may land in the wrong one.
    """
    if not targets:
        return
    found: dict[int, StartPoint] = {}
    with open_video(path, stream_index) as (container, stream):
        for number, demuxed in enumerate(Demuxer(container, stream).packets()):
            if demuxed.packet is None or (demuxed.dts is not None and demuxed.dts > max(targets)):
                break
            if demuxed.packet.is_keyframe and demuxed.pts is not None:
                found.update({pts: StartPoint(num_skipped=number) for pts in targets if demuxed.pts <= pts})
    yield from (found[pts] for pts in targets if pts in found)
