"""One file on several decoders at once: each takes the next part of the stream that begins anew."""

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

from codec.container import DemuxedPacket, opened, packets_of
from codec.decoder import LONGEST_PAUSE_SECONDS, Decoded, decoded
from codec.frame_schedule import FrameSchedule
from codec.h264 import IDR_SLICE, length_prefix_size, nal_units

SWITCH_SECONDS = 1e-4
"""How long Python lets one thread run while a decoder waits to hand on its picture; at Python's own 5 ms decoders wait
longer than they work."""

BYTES_AHEAD = 40 << 20
"""Memory for pictures that are decoded before their turn."""

PATIENCE_SECONDS = 0.1
"""How often a thread that waits looks whether it should end."""

PLACES = 1 << 32
"""Places in the stream between the beginnings of two parts: more than any part has pictures."""


class PartedDecoder:
    """Decodes an H.264 file from its beginning on several threads, picture for picture as one decoder does.

    A part begins at an IDR picture: no picture after it points to one before it. The parts are given in order. Where
    the file has no index, or no IDR picture but the first, one thread decodes while the caller works.

    Args:
        path: the file.
        stream: its video stream, opened elsewhere.
        beat: as for `read_frames`.
        loop_filter: as for `read_frames`.
        decoders: threads.
    """

    def __init__(
        self, path: str | Path, stream: VideoStream, beat: FrameSchedule, loop_filter: bool, decoders: int
    ) -> None:
        self._path, self._beat, self._loop_filter = path, beat, loop_filter
        self._begins = _begins(stream)
        size = max(1, stream.codec_context.width * stream.codec_context.height * 2)
        self._ahead = Semaphore(decoders + 1)
        depth = max(4, BYTES_AHEAD // size // (decoders + 1))
        self._queues: dict[int, Queue[Decoded | Exception | bool]] = {
            number: Queue(depth) for number in range(len(self._begins))
        }
        self._next, self._lock = count(), Lock()
        self._has_begun, self._stops = Event(), Event()
        self._threads = [Thread(target=self._work, name="decoder", daemon=True) for _ in range(decoders)]

    def pictures(self) -> Iterator[Decoded]:
        """All pictures, in display order."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(min(usual, SWITCH_SECONDS))
        for thread in self._threads:
            thread.start()
        try:
            for number in range(len(self._begins)):
                while not isinstance(item := self._queues[number].get(), bool):
                    if isinstance(item, Exception):
                        raise item
                    yield item
                if not item:
                    return
                del self._queues[number]
                self._ahead.release()
        finally:
            self._stops.set()
            for thread in self._threads:
                thread.join()
            sys.setswitchinterval(usual)

    def _work(self) -> None:
        """Decodes one part after another, the next that nobody has begun, until all are done or nobody wants them."""
        number = -1
        try:
            with opened(self._path) as (container, stream):
                while self._may_begin():
                    with self._lock:
                        number = next(self._next)
                    if number >= len(self._begins):
                        return
                    self._decode(container, stream, number)
        except Exception as error:
            self._put(max(number, 0), error)

    def _may_begin(self) -> bool:
        while not self._stops.is_set():
            if self._ahead.acquire(timeout=PATIENCE_SECONDS):
                return True
        return False

    def _decode(self, container: InputContainer, stream: VideoStream, number: int) -> None:
        base = float(stream.time_base or 0)

        def may_show(sent: DemuxedPacket) -> bool:
            if sent.packet is None or sent.packet.pts is None or sent.next_pts is None:
                return True
            return self._beat.may_show(sent.packet.pts * base, sent.next_pts * base)

        if number:
            # which frames can be left out is known once the first one is seen
            while not self._has_begun.wait(PATIENCE_SECONDS):
                if self._stops.is_set():
                    return
            container.seek(self._middle(number), stream=stream, backward=True)
            stream.codec_context.flush_buffers()
        part = _Part(packets_of(container, stream), self._begins, number, stream.codec_context.extradata)
        how = {"with_vectors": True, "threads": "SLICE", "loop_filter": self._loop_filter, "may_show": may_show}
        for item in decoded(container, stream, **how, packets=part.packets()):
            if not number and not self._has_begun.is_set():
                self._beat.begin((item.picture.pts or 0) * base)
                self._has_begun.set()
            if not self._put(number, _placed(item, number)):
                return
        self._has_begun.set()
        self._put(number, not part.is_cut_off)

    def _middle(self, number: int) -> int:
        """A time inside a part: demuxers seek by the time at which a picture is shown, not at which it is decoded."""
        begin, *after = self._begins[number : number + 2]
        return (begin + after[0]) // 2 if after else begin + (begin - self._begins[number - 1]) // 2

    def _put(self, number: int, item: Decoded | Exception | bool) -> bool:
        """Whether anybody still wants it."""
        while not self._stops.is_set():
            try:
                self._queues[number].put(item, timeout=PATIENCE_SECONDS)
                return True
            except Full:
                continue
        return False


class _Part:
    """Packets of one part."""

    def __init__(
        self, source: Iterator[DemuxedPacket], begins: list[int], number: int, extradata: bytes | None
    ) -> None:
        self._source, self._begins, self._number = source, begins, number
        self._prefix = length_prefix_size(extradata)
        self.is_cut_off = False

    def packets(self) -> Iterator[DemuxedPacket]:
        """From the part's beginning to the next, or none where it has no IDR picture: then the part before goes on."""
        inside = not self._number
        for sent in self._source:
            dts = sent.packet.dts if sent.packet is not None else None
            if not inside and dts is not None and dts >= self._begins[self._number]:
                if dts != self._begins[self._number] or not self._is_fresh(sent):
                    return
                inside = True
            elif inside and dts in self._begins[self._number + 1 :] and self._is_fresh(sent):
                yield DemuxedPacket(None, None)
                return
            if inside:
                self.is_cut_off |= sent.is_cut_off
                yield sent

    def _is_fresh(self, sent: DemuxedPacket) -> bool:
        units = nal_units(bytes(sent.packet), self._prefix) if sent.packet is not None else ()
        return any(unit and unit[0] & 0x1F == IDR_SLICE for unit in units)


def _begins(stream: VideoStream) -> list[int]:
    """Decoding times at which parts may begin, from the file's index; one part where there is none to rely on."""
    container = cast(InputContainer, stream.container)
    if "mov" not in container.format.name or stream.codec_context.name != "h264":
        return [0]
    entries = list(stream.index_entries)
    pause = LONGEST_PAUSE_SECONDS / 2 / float(stream.time_base or 1)
    if any(not 0 < after.timestamp - before.timestamp < pause for before, after in pairwise(entries)):
        return [0]
    return [0, *(entry.timestamp for entry in entries[1:] if entry.is_keyframe)]


def _placed(item: Decoded, number: int) -> Decoded:
    """The same, its places in the stream counted on from the parts before."""
    first = number * PLACES
    headers = item.headers
    if headers is not None:
        lists = tuple(tuple(place + first if place >= 0 else place for place in places) for places in headers.lists)
        headers = replace(headers, lists=lists)
    return item._replace(index=item.index + first, headers=headers)
