"""Decode one file with several decoders at once: each takes the next segment that begins with an IDR picture."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from queue import Full, Queue
from threading import Event, Lock, Semaphore, Thread
from typing import cast

from av.container import InputContainer
from av.video.stream import VideoStream

from codec.container import DemuxedPacket, Demuxer, open_video
from codec.decoder import DecodedPicture, IsShown, decode_pictures, is_packet_shown
from codec.h264 import IDR_SLICE, length_prefix_size, nal_unit_type, nal_units

SWITCH_SECONDS = 1e-4
"""How long Python lets one thread run while another waits. At Python's default of 5 ms, decoders wait longer to hand on
their pictures than they work."""

MAX_QUEUED_BYTES = 40 << 20
"""Memory for pictures that are decoded before their turn."""

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
        stream: its video stream, from another open container.
        is_shown: as for `read_frames`.
        loop_filter: as for `read_frames`.
        num_threads: number of decoders.
    """

    def __init__(
        self, path: str | Path, stream: VideoStream, is_shown: IsShown, loop_filter: bool, num_threads: int
    ) -> None:
        self._path, self._is_shown, self._loop_filter = path, is_shown, loop_filter
        self._stream_index = stream.index
        self._starts = _segment_starts(stream)
        picture_bytes = max(1, stream.codec_context.width * stream.codec_context.height * 2)
        self._free_segments = Semaphore(num_threads + 1)
        depth = max(4, MAX_QUEUED_BYTES // picture_bytes // (num_threads + 1))
        self._queues: dict[int, Queue[DecodedPicture | Exception | bool]] = {
            number: Queue(depth) for number in range(len(self._starts))
        }
        """Pictures of each segment; at its end an error, or whether another segment may follow."""
        self._next_number, self._lock = count(), Lock()
        self._first_seconds: float | None = None
        self._has_begun, self._stops = Event(), Event()
        self._threads = [Thread(target=self._work, name="decoder", daemon=True) for _ in range(num_threads)]

    def pictures(self) -> Iterator[DecodedPicture]:
        """Yield all pictures in display order."""
        switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_interval, SWITCH_SECONDS))
        for thread in self._threads:
            thread.start()
        try:
            for number in range(len(self._starts)):
                while not isinstance(item := self._queues[number].get(), bool):
                    if isinstance(item, Exception):
                        raise item
                    yield item
                if not item:
                    return
                del self._queues[number]
                self._free_segments.release()
        finally:
            self._stops.set()
            for thread in self._threads:
                thread.join()
            sys.setswitchinterval(switch_interval)

    def _work(self) -> None:
        """Decode the next segment that no thread has taken, until there is none or the caller has stopped."""
        number = -1
        try:
            with open_video(self._path, self._stream_index) as (container, stream):
                while self._acquire_segment():
                    with self._lock:
                        number = next(self._next_number)
                    if number >= len(self._starts):
                        return
                    self._decode_segment(container, stream, number)
        except Exception as error:
            self._put(max(number, 0), error)

    def _acquire_segment(self) -> bool:
        """Wait until another segment may be decoded; False if the caller has stopped."""
        while not self._stops.is_set():
            if self._free_segments.acquire(timeout=POLL_SECONDS):
                return True
        return False

    def _decode_segment(self, container: InputContainer, stream: VideoStream, number: int) -> None:
        base = float(stream.time_base or 0)

        def is_needed(demuxed: DemuxedPacket) -> bool:
            return is_packet_shown(demuxed, base, self._is_shown, self._first_seconds)

        if number:
            # which frames are shown depends on the time of the first one
            while not self._has_begun.wait(POLL_SECONDS):
                if self._stops.is_set():
                    return
            container.seek(self._seek_target(number), stream=stream, backward=True)
            stream.codec_context.flush_buffers()
        packets = Demuxer(container, stream).packets()
        segment = _Segment(packets, self._starts, number, length_prefix_size(stream.codec_context.extradata))
        for decoded in decode_pictures(
            container,
            stream,
            with_vectors=True,
            threads="SLICE",
            loop_filter=self._loop_filter,
            is_needed=is_needed,
            packets=segment.packets(),
        ):
            if not number and not self._has_begun.is_set():
                self._first_seconds = (decoded.pts or 0) * base
                self._has_begun.set()
            if not self._put(number, _with_offset(decoded, number * INDICES_PER_SEGMENT)):
                return
        self._has_begun.set()
        self._put(number, not segment.is_truncated)

    def _seek_target(self, number: int) -> int:
        """Return a time inside a segment: demuxers seek by presentation time, segments begin at decoding times."""
        start, *following = self._starts[number : number + 2]
        return (start + following[0]) // 2 if following else start + (start - self._starts[number - 1]) // 2

    def _put(self, number: int, item: DecodedPicture | Exception | bool) -> bool:
        """Queue an item of a segment; False if the caller has stopped."""
        while not self._stops.is_set():
            try:
                self._queues[number].put(item, timeout=POLL_SECONDS)
                return True
            except Full:
                continue
        return False


class _Segment:
    """Selects the packets of segment `number` from those that follow a seek."""

    def __init__(self, source: Iterator[DemuxedPacket], starts: list[int], number: int, prefix_size: int) -> None:
        self._source, self._starts, self._number, self._prefix_size = source, starts, number, prefix_size
        self.is_truncated = False

    def packets(self) -> Iterator[DemuxedPacket]:
        """Yield the packets up to the next segment; none if this one begins without an IDR picture.

        In that case the segment before it goes on to the next IDR picture.
        """
        is_inside = not self._number
        for demuxed in self._source:
            dts = demuxed.packet.dts if demuxed.packet is not None else None
            if not is_inside and dts is not None and dts >= self._starts[self._number]:
                if dts != self._starts[self._number] or not self._has_idr(demuxed):
                    return
                is_inside = True
            elif is_inside and dts in self._starts[self._number + 1 :] and self._has_idr(demuxed):
                yield DemuxedPacket(None, None)
                return
            if is_inside:
                self.is_truncated |= demuxed.is_truncated
                yield demuxed

    def _has_idr(self, demuxed: DemuxedPacket) -> bool:
        units = nal_units(bytes(demuxed.packet), self._prefix_size) if demuxed.packet is not None else ()
        return any(unit and nal_unit_type(unit) == IDR_SLICE for unit in units)


def _segment_starts(stream: VideoStream) -> list[int]:
    """Return the decoding times at which segments begin, from the file's index; one segment without a sound index."""
    container = cast(InputContainer, stream.container)
    if "mov" not in container.format.name or stream.codec_context.name != "h264":
        return [0]
    entries = list(stream.index_entries)
    max_gap = MAX_GAP_SECONDS / float(stream.time_base or 1)
    if any(not 0 < after.timestamp - before.timestamp < max_gap for before, after in pairwise(entries)):
        return [0]
    return [0, *(entry.timestamp for entry in entries[1:] if entry.is_keyframe)]


def _with_offset(decoded: DecodedPicture, offset: int) -> DecodedPicture:
    """Return the picture with `offset` added to its index and to those in its reference lists."""
    headers = decoded.headers
    if headers is not None:
        first, second = (
            tuple(index + offset if index >= 0 else index for index in indices) for indices in headers.lists
        )
        headers = replace(headers, lists=(first, second))
    return replace(decoded, index=decoded.index + offset, headers=headers)
