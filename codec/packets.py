"""Packets of a stream, in decoding order, each with the time at which another frame takes its place on screen."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

REORDERED = 16
"""A frame is decoded at most this many frames before one shown earlier (H.264 keeps 16 pictures at most)."""


@dataclass(frozen=True)
class Sent:
    """One packet, or the end."""

    packet: av.Packet | None
    """None at the end of what can be read."""
    next_pts: int | None
    """Earliest time after the packet's own at which another frame is shown, in the stream's time base; None where this
    is not known."""
    is_cut_off: bool = False
    """The file cannot be read on from here."""


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Sent]:
    """Packets of `stream` from where `container` stands, and the end."""
    waiting: deque[av.Packet] = deque()
    around: deque[int | None] = deque(maxlen=2 * REORDERED + 1)
    source, end = container.demux(stream), None
    while end is None or waiting:
        if end is None:
            try:
                packet = next(source)
                if packet.size:
                    waiting.append(packet)
                    around.append(packet.pts)
            except StopIteration:
                end = Sent(None, None)
            except (FFmpegError, OSError):
                end = Sent(None, None, is_cut_off=True)
        if waiting and (end is not None or len(waiting) > REORDERED):
            packet = waiting.popleft()
            yield Sent(packet, _following(packet.pts, around))
    yield end


def _following(pts: int | None, around: deque[int | None]) -> int | None:
    if pts is None:
        return None
    return min((other for other in around if other is not None and other > pts), default=None)
