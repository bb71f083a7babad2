"""Decode one file with several decoders at once: each takes the next segment that begins with an IDR picture."""

import sys
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import cast

from av.container import InputContainer
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, Demuxer, open_video
from codec.decoder import VECTOR_THREADS, DecodedPicture, IsShown, decode_pictures, is_packet_shown
from codec.errors import MediaError
from codec.h264 import IDR_SLICE, length_prefix_size, nal_unit_type, nal_units

SWITCH_SECONDS = 1e-4
"""How long Python lets one thread run while another waits. At Python's default of 5 ms, decoders wait longer to hand on
their pictures than they work."""

MAX_BUFFERED_BYTES = 400 << 20
"""Memory for pictures that one more decoder decodes before their turn: while one segment is decoded and read, the next
has to be kept. 250 pictures of 1280 x 720 fit, x264's default distance of IDR pictures."""

MIN_BUFFERED_PICTURES = 8
"""Pictures of one segment that may be kept in any case."""

MIN_SEGMENT_PACKETS = 48
"""A segment has this many packets at least: seeking takes as long as decoding some pictures."""

POLL_SECONDS = 0.1
"""How often a waiting thread checks whether it should end."""

MAX_GAP_SECONDS = 30.0
"""A file in whose index two decoding times are farther apart is decoded as one segment."""

INDICES_PER_SEGMENT = 1 << 32
"""Difference of picture indices between the beginnings of two segments: more than a segment has pictures."""


class ParallelDecoder:
    """Decodes an H.264 file from its beginning on several threads; the pictures are those of one decoder.

    A segment begins at an IDR picture: no picture after it refers to one before it. If the file has no index, or no IDR
    picture but the first, one thread decodes while the caller works.

    Args:
        path: the file.
        stream: its video stream. Its container belongs to the first thread until `pictures` has ended or is closed;
            opening a file takes as long as decoding some pictures.
        is_shown: as for `read_frames`.
        loop_filter: as for `read_frames`.
        num_threads: number of decoders.
    """

    def __init__(
        self, path: str | Path, stream: VideoStream, is_shown: IsShown, loop_filter: bool, num_threads: int
    ) -> None:
        self._path, self._is_shown, self._loop_filter = path, is_shown, loop_filter
        self._stream = stream
        self._starts = _segment_starts(stream)
        self._start_times = [start.dts for start in self._starts]
        self._buffer = _PictureBuffer(MAX_BUFFERED_BYTES * max(1, num_threads - 1))
        self._next_number, self._lock = count(), Lock()
        self._first_seconds: float | None = None
        self._has_begun, self._stops = Event(), Event()
        works = [self._work_on_stream, *[self._work] * (min(num_threads, len(self._starts)) - 1)]
        self._threads = [Thread(target=work, name="decoder", daemon=True) for work in works]

    def pictures(self) -> Generator[DecodedPicture, None, None]:
        """Yield all pictures in display order."""
        switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_interval, SWITCH_SECONDS))
        for thread in self._threads:
            thread.start()
        try:
            number: int | None = 0
            while number is not None:
                while isinstance(item := self._buffer.take(number), DecodedPicture):
                    yield item
                if isinstance(item, Exception):
                    raise item
                if not item.has_begun:
                    raise MediaError(
                        f"cannot read {self._path}: its index does not lead to the keyframe at "
                        f"{self._starts[number].dts} (decoding time); read it with one decoder"
                    )
                number = item.following
        finally:
            self._stops.set()
            self._buffer.close()
            for thread in self._threads:
                thread.join()
            sys.setswitchinterval(switch_interval)

    def _work(self) -> None:
        """Decode segments from a container of this thread's own."""
        try:
            with open_video(self._path, self._stream.index) as (container, stream):
                self._decode_segments(container, stream)
        except Exception as error:
            self._buffer.put(0, error)

    def _work_on_stream(self) -> None:
        """Decode segments from the caller's container."""
        self._decode_segments(cast(InputContainer, self._stream.container), self._stream)

    def _decode_segments(self, container: InputContainer, stream: VideoStream) -> None:
        """Decode the next segment that no thread has taken, until there is none or the caller has stopped."""
        number = 0
        try:
            while not self._stops.is_set():
                with self._lock:
                    number = next(self._next_number)
                if number >= len(self._starts):
                    return
                self._decode_segment(container, stream, number)
        except Exception as error:
            self._buffer.put(number, error)

    def _decode_segment(self, container: InputContainer, stream: VideoStream, number: int) -> None:
        base = float(stream.time_base or 0)

        def is_needed(demuxed: DemuxedPacket) -> bool:
            return is_packet_shown(demuxed, base, self._is_shown, self._first_seconds)

        if number:
            # which frames are shown depends on the time of the first one
            while not self._has_begun.wait(POLL_SECONDS):
                if self._stops.is_set():
                    return
            container.seek(self._starts[number].seek_target, stream=stream, backward=True)
            stream.codec_context.flush_buffers()
        packets = Demuxer(container, stream).packets()
        segment = _Segment(packets, self._start_times, number, length_prefix_size(stream.codec_context.extradata))
        for decoded in decode_pictures(
            container,
            stream,
            with_vectors=True,
            threads=VECTOR_THREADS,
            loop_filter=self._loop_filter,
            is_needed=is_needed,
            packets=segment.packets(),
            first_index=number * INDICES_PER_SEGMENT + 1,
        ):
            if not number and not self._has_begun.is_set():
                self._first_seconds = (decoded.pts or 0) * base
                self._has_begun.set()
            if not self._buffer.put(number, decoded):
                return
        self._has_begun.set()
        self._buffer.put(number, SegmentEnd(segment.has_begun, None if segment.is_truncated else segment.following))


@dataclass(frozen=True)
class SegmentStart:
    """Where a segment begins, in the stream's time base."""

    dts: int
    """Decoding time of its first packet."""
    seek_target: int
    """A time from which seeking back leads to that packet."""


@dataclass(frozen=True)
class SegmentEnd:
    """What follows the pictures of a segment."""

    has_begun: bool
    """Its first packet was found, and has an IDR picture."""
    following: int | None
    """Number of the segment that begins there; None at the end of the stream, and where it is cut off."""


Item = DecodedPicture | Exception | SegmentEnd


class _PictureBuffer:
    """Pictures of segments that are decoded at the same time, in limited memory.

    The segment with the smallest number is read; it can go on even if others have filled the memory, since some of its
    pictures may be kept in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes, self._is_closed = max_bytes, 0, False
        self._segments: defaultdict[int, deque[Item]] = defaultdict(deque)
        """Pictures of each segment; then its end, or an error."""
        self._changed = Condition()

    def put(self, number: int, item: Item) -> bool:
        """Add an item to a segment as soon as there is memory for it; False if nothing is read any more."""
        size = _num_bytes(item)
        with self._changed:
            segment = self._segments[number]
            while not self._is_closed and self._num_bytes + size > self._max_bytes:
                if len(segment) < MIN_BUFFERED_PICTURES:
                    break
                self._changed.wait()
            segment.append(item)
            self._num_bytes += size
            self._changed.notify_all()
            return not self._is_closed

    def take(self, number: int) -> Item:
        """Return the next item of a segment as soon as there is one."""
        with self._changed:
            segment = self._segments[number]
            while not segment:
                self._changed.wait()
            item = segment.popleft()
            self._num_bytes -= _num_bytes(item)
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_closed = True
            self._segments.clear()
            self._changed.notify_all()


def _num_bytes(item: Item) -> int:
    """Return about how many bytes a picture and its vectors have."""
    return 2 * item.picture.width * item.picture.height if isinstance(item, DecodedPicture) else 0


class _Segment:
    """Selects the packets of segment `number` from those that follow a seek."""

    def __init__(self, source: Iterator[DemuxedPacket], starts: list[int], number: int, prefix_size: int) -> None:
        self._source, self._starts, self._number, self._prefix_size = source, starts, number, prefix_size
        self.is_truncated = False
        self.has_begun = number == 0
        self.following: int | None = None
        """Number of the segment that begins where this one ends."""

    def packets(self) -> Iterator[DemuxedPacket]:
        """Yield the packets up to the next segment; none if this one begins without an IDR picture.

        In that case the segment before it goes on to the next IDR picture.
        """
        for demuxed in self._source:
            dts = demuxed.packet.dts if demuxed.packet is not None else None
            if not self.has_begun and dts is not None and dts >= self._starts[self._number]:
                if dts != self._starts[self._number] or not self._has_idr(demuxed):
                    return
                self.has_begun = True
            elif self.has_begun and dts is not None and (later := self._later_start(dts)) and self._has_idr(demuxed):
                self.following = later
                yield DemuxedPacket(None, None)
                return
            if self.has_begun:
                self.is_truncated |= demuxed.is_truncated
                yield demuxed

    def _later_start(self, dts: int) -> int | None:
        """Return the number of the later segment that begins at a decoding time; None if none does."""
        number = bisect_left(self._starts, dts, self._number + 1)
        return number if number < len(self._starts) and self._starts[number] == dts else None

    def _has_idr(self, demuxed: DemuxedPacket) -> bool:
        units = nal_units(bytes(demuxed.packet), self._prefix_size) if demuxed.packet is not None else ()
        return any(unit and nal_unit_type(unit) == IDR_SLICE for unit in units)


def _segment_starts(stream: VideoStream) -> list[SegmentStart]:
    """Return where segments begin, from the file's index; one segment without a sound index."""
    container, whole = cast(InputContainer, stream.container), [SegmentStart(0, 0)]
    if "mov" not in container.format.name or stream.codec_context.name != "h264":
        return whole
    entries = list(stream.index_entries)
    max_gap = MAX_GAP_SECONDS / float(stream.time_base or 1)
    if any(not 0 < after.timestamp - before.timestamp < max_gap for before, after in pairwise(entries)):
        return whole
    starts, last = whole, 0
    keyframes = [position for position, entry in enumerate(entries) if entry.is_keyframe]
    for position, following in pairwise([*keyframes, len(entries) - 1]):
        if position - last >= MIN_SEGMENT_PACKETS:
            dts = entries[position].timestamp
            # demuxers seek by presentation time, which is later than the decoding time
            starts.append(SegmentStart(dts, (dts + entries[following].timestamp) // 2))
            last = position
    return starts
