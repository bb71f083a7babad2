"""Times of packets and frames: timestamps that begin anew, that are missing, or that jump.

Packets are looked at in decoding order, where decoding times must rise: a step back is where two recordings were
joined. Frames are looked at in display order, where presentation times must rise.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import av
from av.video.stream import VideoStream

MAX_RESET_SECONDS = 1.0
"""In formats whose timestamps should not begin anew, decoding times that go back by less are taken for errors."""

MAX_GLITCH_SECONDS = 60.0
"""A jump in timestamps up to this, also back, is no clock that was set."""

MAX_UNSTATED_PAUSE_SECONDS = 3600.0
"""A frame is shown at most this long beyond the end that the header states: that may not count a pause at the end."""

MAX_PAUSE_SECONDS = 24 * 3600.0
"""A frame is shown at most this long; a longer jump is a clock that was set."""

NUM_CUT_OFF = 3
"""Packets before a join that FFmpeg may call corrupt because the counters of the next recording do not follow on."""

NUM_NEIGHBOURS = 16
"""Packets before and after one among which the next on screen is looked for."""


@dataclass(frozen=True)
class TimedPacket:
    """A packet and its times in the stream's time base, on one timeline; None if not known."""

    packet: av.Packet
    pts: int | None
    dts: int | None
    next_pts: int | None
    """The next larger pts."""
    is_corrupt: bool
    """Data was lost, and not only because another recording begins after the packet."""


@dataclass
class _Waiting:
    """A packet whose times are not decided yet."""

    packet: av.Packet
    pts: int | None
    """Of the packet, which is asked once: it takes longer than all else here."""
    begins_anew: bool = False
    """Timestamps begin anew with this packet."""


class Timeline:
    """Joins the stretches of a stream whose timestamps begin anew: each follows on where the one before ends.

    Args:
        stream: the video stream.
        may_be_joined: whether the format allows that (MPEG transport and program streams).
        interval: nominal seconds from one frame to the next.
    """

    def __init__(self, stream: VideoStream, may_be_joined: bool, interval: Fraction) -> None:
        unit = stream.time_base or Fraction(1)
        self._may_be_joined = may_be_joined
        self._step = max(1, round(interval / unit))
        self._max_reset = self._step / 2 if may_be_joined else MAX_RESET_SECONDS / float(unit)
        self._shift = 0
        self._waiting: deque[_Waiting] = deque()
        self._last: av.Packet | None = None
        """The last packet that was compared with the one before it."""
        self._are_corrupt: deque[bool] = deque(maxlen=NUM_CUT_OFF)
        """Whether the last packets that were compared are corrupt."""
        self._end: int | None = None
        """When the frame shown last so far ends."""
        self._delay: int | None = None
        """Presentation time less decoding time of the first packet of the stretch."""
        self._recent: deque[int | None] = deque(maxlen=NUM_NEIGHBOURS)

    def __len__(self) -> int:
        """Return how many packets wait."""
        return len(self._waiting)

    def add(self, packet: av.Packet) -> None:
        """Add the next packet in decoding order."""
        if self._waiting:
            self._compare(self._waiting[-1], packet.dts)
        self._waiting.append(_Waiting(packet, packet.pts))

    def pop(self) -> TimedPacket:
        """Return the packet that has waited longest; its times are known best when some packets follow it."""
        if len(self._waiting) == 1:
            self._compare(self._waiting[0], None)
        first = self._waiting.popleft()
        packet = first.packet
        if first.pts is None and not self._recent:
            first.pts = self._first_pts(packet)
        later, is_cut_off = [first.pts], False
        for other in self._waiting:
            if other.begins_anew:
                is_cut_off = True
                break
            later.append(other.pts)
        if first.begins_anew and self._end is not None:
            known = [time for time in later if time is not None]
            self._shift = self._end - min(known) if known else self._shift
            self._recent.clear()
        pts, dts = (None if time is None else time + self._shift for time in (first.pts, packet.dts))
        self._recent.append(pts)
        self._note_end(packet, first.begins_anew)
        is_join = (is_cut_off and len(later) <= NUM_CUT_OFF) or (first.begins_anew and self._may_be_joined)
        return TimedPacket(
            packet,
            pts,
            dts,
            next_pts=None if pts is None or is_cut_off else self._next_pts(pts, later),
            is_corrupt=packet.is_corrupt and not is_join,
        )

    def _first_pts(self, packet: av.Packet) -> int | None:
        """Return the pts of a stream's first packet, which states none; None if it cannot be told from those that wait.

        A broadcast that begins within a picture is such a stream. FFmpeg gives the decoding time, if any, which is
        earlier.
        """
        others = [other.pts for other in self._waiting if other.pts is not None]
        if not others or len(others) < len(self._waiting):
            return None
        step, following = self._step, self._waiting[0].packet.dts
        if packet.dts is not None and following is not None and following > packet.dts:
            step = following - packet.dts
        return min(others) - step

    def _note_end(self, packet: av.Packet, begins_anew: bool) -> None:
        """Note when the frame in a packet ends, if that is later than all before."""
        if self._delay is None or begins_anew:
            self._delay = packet.pts - packet.dts if packet.pts is not None and packet.dts is not None else None
        begin = packet.pts
        if begin is None and packet.dts is not None and self._delay is not None:
            begin = packet.dts + self._delay  # of all frames up to here, the one shown last is shown then
        if begin is not None:
            end = begin + self._shift + min(packet.duration or self._step, self._step)
            self._end = end if self._end is None else max(self._end, end)

    def _next_pts(self, pts: int, later: list[int | None]) -> int | None:
        """Return the next larger pts than `pts`, of packets before and after; those in `later` are not shifted yet."""
        following = [time for time in self._recent if time is not None and time > pts]
        unshifted = pts - self._shift
        nearest = min([time for time in later if time is not None and time > unshifted], default=None)
        if nearest is not None:
            following.append(nearest + self._shift)
        return min(following, default=None)

    def _compare(self, waiting: _Waiting, following_dts: int | None) -> None:
        """Decide whether timestamps begin anew with a packet; `following_dts` is of the one after it."""
        last, packet = self._last, waiting.packet
        if last is not None and last.dts is not None and packet.dts is not None:
            if following_dts is not None and last.dts <= following_dts < packet.dts - 4 * self._step:
                return  # a single wrong timestamp
            waiting.begins_anew = self._begins_anew(packet, packet.dts - last.dts, following_dts)
        self._last = packet
        self._are_corrupt.append(packet.is_corrupt)

    def _begins_anew(self, packet: av.Packet, step: int, following_dts: int | None) -> bool:
        """Return whether timestamps begin anew with `packet`, which is decoded `step` after the one before."""
        following_step = self._step if following_dts is None or packet.dts is None else following_dts - packet.dts
        if step < -self._max_reset:
            # a single wrong timestamp would be followed by a return
            return following_step <= -step / 2 + 1.5 * self._step
        if not self._may_be_joined or step <= 2 * self._step:
            return False
        # a jump ahead is a join only where data is cut off and a new recording can begin; else it is a pause
        is_cut_off = packet.is_corrupt or any(self._are_corrupt)
        return is_cut_off and packet.is_keyframe and following_step > 0


class PictureTimes:
    """Presentation times, in the stream's time base, of pictures of which some packets state none (AVI).

    The picture shown next takes the earliest decoding time that no picture has had.

    Args:
        packed_step: for MPEG-4, the time from one frame to the next. Where two frames are packed into one packet, AVI
            files have an empty packet wherever the encoder's delay grows: such single empty packets take no time.
    """

    def __init__(self, packed_step: int | None = None) -> None:
        self._packed_step = packed_step
        self._waiting: list[int] = []
        self._offset = 0
        """Presentation time less decoding time of the last picture for which both are known."""
        self._last: int | None = None

    def add_packet(self, dts: int | None) -> None:
        """Note the decoding time of a packet that is decoded."""
        if dts is not None:
            heapq.heappush(self._waiting, dts)
            if len(self._waiting) > 4 * NUM_NEIGHBOURS:
                heapq.heappop(self._waiting)

    def remove_packet(self, dts: int | None) -> None:
        """Forget a packet that could not be decoded."""
        if dts in self._waiting:
            self._waiting.remove(dts)
            heapq.heapify(self._waiting)

    def next_pts(self, pts: int | None) -> int | None:
        """Return the time of the next picture in display order, which states `pts`."""
        dts = heapq.heappop(self._waiting) if self._waiting else None
        if pts is not None:
            self._offset = pts - dts if dts is not None else 0
        elif dts is not None:
            pts = dts + self._offset
            if self._packed_step and self._last is not None and pts == self._last + 2 * self._packed_step:
                self._offset -= self._packed_step
                pts -= self._packed_step
        self._last = pts
        return pts


class FrameTimes:
    """Turns the pts of frames in display order into strictly increasing seconds.

    Args:
        time_base: seconds per unit of pts.
        step: nominal seconds from one frame to the next.
        end: when the video ends by its header, in seconds; None if it does not say.
    """

    def __init__(self, time_base: float, step: float, end: float | None = None) -> None:
        self.time_base, self.step = time_base, step
        self.first: float | None = None
        """Time of the first frame."""
        self.shift = 0.0
        """Seconds added to all times since a clock reset."""
        self._end = end
        self._last: float | None = None

    def begin(self, pts: int | None) -> None:
        """Note the time of the first frame, as soon as it is decoded."""
        if self.first is None:
            self.first = pts * self.time_base if pts is not None else 0.0

    def next_seconds(self, pts: int | None, following_pts: int | None) -> float:
        """Return the time of the next frame, which states `pts`; the frame after it states `following_pts`."""
        self.begin(pts)
        if self._last is None:
            self._last = self.first or 0.0
            return self._last
        seconds = pts * self.time_base + self.shift if pts is not None else None
        expected = self._last + self.step
        if seconds is None or (pts is not None and self._is_glitch(seconds, expected, pts, following_pts)):
            seconds = expected
        elif not self._is_pause(seconds, expected):
            self.shift, seconds = self.shift + expected - seconds, expected
        elif seconds <= self._last:
            seconds = self._last + self.step / 20
        self._last = seconds
        return seconds

    def duration_seconds(self, duration: int | None, seconds: float) -> float:
        """Return how long a frame at `seconds` is shown that states `duration`, in units of pts."""
        stated = duration * self.time_base if duration else self.step
        if stated <= MAX_GLITCH_SECONDS:
            return stated
        longest = MAX_PAUSE_SECONDS if self._end is None else self._end + self.shift - seconds
        return max(MAX_GLITCH_SECONDS, min(stated, longest, MAX_PAUSE_SECONDS))

    def _is_glitch(self, seconds: float, expected: float, pts: int, following_pts: int | None) -> bool:
        """Return whether one frame alone has a timestamp far ahead."""
        return seconds - expected > MAX_GLITCH_SECONDS and following_pts is not None and following_pts < pts

    def _is_pause(self, seconds: float, expected: float) -> bool:
        """Return whether the time can be right: the frame before is shown until then."""
        gap = seconds - expected
        if abs(gap) <= MAX_GLITCH_SECONDS:
            return True
        is_in_header = self._end is None or seconds <= self._end + MAX_GLITCH_SECONDS
        return 0 < gap <= (MAX_PAUSE_SECONDS if is_in_header else MAX_UNSTATED_PAUSE_SECONDS)
