"""Which frames each frame's motion vectors may point to: H.264 reference lists, computed from headers alone.

FFmpeg exports for a vector only whether it belongs to list 0 or list 1. This module follows the decoded picture buffer
by ITU-T H.264, 8.2 (picture order count, list construction, reference marking), so that both lists are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from codec.h264 import (
    IDR_SLICE,
    PPS,
    SLICE,
    SPS,
    PictureParameterSet,
    SequenceParameterSet,
    SliceHeader,
    length_prefix_size,
    nal_unit_type,
    nal_units,
    parameter_set_units,
    parse_num_active,
    parse_picture_parameter_set,
    parse_sequence_parameter_set,
    parse_slice_header,
)

MISSING = -1
"""Index of a picture that is not in the stream: its frame number was left out."""

MAX_SLICES = 64
"""Slices of a picture whose headers are read."""


@dataclass(frozen=True)
class PictureHeaders:
    """What the headers say about one coded picture."""

    is_reference: bool
    lists: tuple[tuple[int, ...], tuple[int, ...]]
    """Indices (positions in the stream) of the pictures in list 0 and list 1, by reference index; MISSING for a picture
    that is not in the stream."""
    is_interlaced: bool
    """A field, or a frame that may have field macroblocks."""
    follows_loss: bool
    """Pictures that should precede this one are missing."""
    num_references: int
    """The largest number of pictures that the stream keeps as references."""
    is_cropped_at_origin: bool = False
    """Columns at the left or rows at the top of the coded picture are not shown, but vectors count from its corner."""


@dataclass
class _BufferedPicture:
    """A reference picture in the decoded picture buffer."""

    index: int
    frame_num: int
    order: int
    """Picture order count."""
    long_term: int | None = None
    """`LongTermFrameIdx`; None for a short-term reference."""


class ReferenceListBuilder:
    """Computes the reference lists of an H.264 stream packet by packet.

    Args:
        extradata: the codec's extradata, which may hold parameter sets and says how NAL units are separated.
    """

    def __init__(self, extradata: bytes | None = None) -> None:
        self._prefix_size = length_prefix_size(extradata)
        self._sequences: dict[int, SequenceParameterSet] = {}
        self._pictures: dict[int, PictureParameterSet] = {}
        self._buffer: list[_BufferedPicture] = []
        self._last_reference_poc = (0, 0)
        """`prevPicOrderCntMsb` and `prevPicOrderCntLsb`."""
        self._last_frame_num = 0
        """`prevFrameNum`."""
        self._frame_num_offset = 0
        """`FrameNumOffset`: the sum of all wraps of the frame number so far."""
        self._last_reference_frame_num = 0
        """`PrevRefFrameNum`."""
        for unit in parameter_set_units(extradata):
            self._add_parameter_set(unit)

    def add_packet(self, packet: bytes, index: int) -> PictureHeaders | None:
        """Read the headers of the next packet.

        Args:
            packet: one coded picture, as demuxed.
            index: its position in the stream, by which the lists of later pictures name it.

        Returns:
            What the headers say; None if the packet has no picture or its headers cannot be read.
        """
        first, order, follows_loss, num_slices = None, 0, False, 0
        lists: list[tuple[int, ...]] = [(), ()]
        for unit in nal_units(packet, self._prefix_size):
            if not unit:
                continue
            unit_type = nal_unit_type(unit)
            if unit_type in (SPS, PPS):
                self._add_parameter_set(unit)
            elif unit_type in (SLICE, IDR_SLICE) and num_slices < MAX_SLICES:
                num_slices += 1
                header = self._slice_header(unit, lists if first else None)
                if header is None:
                    continue
                if first is None:
                    first, order = header, self._picture_order_count(header)
                    if header.is_idr:
                        self._buffer.clear()
                    follows_loss = not header.is_idr and self._fill_frame_num_gap(header)
                for which in (0, 1):
                    lists[which] = max(lists[which], self._build_list(header, order, which), key=len)
        if first is None:
            return None
        if first.is_reference:
            self._mark_references(first, index, order)
        return PictureHeaders(
            is_reference=first.is_reference,
            lists=(lists[0], lists[1]),
            is_interlaced=first.is_field or first.sequence.is_mbaff,
            follows_loss=follows_loss,
            num_references=first.sequence.num_reference_frames,
            is_cropped_at_origin=first.sequence.is_cropped_at_origin,
        )

    def _slice_header(self, unit: bytes, lists: Sequence[tuple[int, ...]] | None) -> SliceHeader | None:
        """Return the header of a slice; None if it is damaged, or if the slice adds nothing.

        Slices of a picture may have lists of different lengths, hardly ever in another order: so a slice adds nothing
        if the `lists` of those before it, None for the first slice, are as long as its own can be.
        """
        try:
            if lists is not None:
                num_active = parse_num_active(unit, self._pictures, self._sequences)
                if all(size <= len(longest) for size, longest in zip(num_active, lists, strict=True)):
                    return None
            return parse_slice_header(unit, self._pictures, self._sequences)
        except ValueError:
            return None

    def _add_parameter_set(self, unit: bytes) -> None:
        try:
            if nal_unit_type(unit) == SPS:
                sequence = parse_sequence_parameter_set(unit)
                self._sequences[sequence.set_id] = sequence
            elif nal_unit_type(unit) == PPS:
                picture = parse_picture_parameter_set(unit)
                self._pictures[picture.set_id] = picture
        except (ValueError, IndexError):
            # it is damaged: the set before it, if there is one, stays in force
            return

    def _picture_order_count(self, header: SliceHeader) -> int:
        """Return the picture order count (8.2.1) of a frame's top field, or of a field."""
        if header.sequence.poc_type == 0:
            return self._order_from_lsb(header)
        if header.is_idr:
            self._frame_num_offset = 0
        elif self._last_frame_num > header.frame_num:
            self._frame_num_offset += header.sequence.max_frame_num
        self._last_frame_num = header.frame_num
        if header.sequence.poc_type == 2:  # 8.2.1.3: output order is decoding order
            return 2 * (self._frame_num_offset + header.frame_num) - (not header.is_reference)
        return self._order_from_offsets(header)

    def _order_from_lsb(self, header: SliceHeader) -> int:
        """Return the order count of POC type 0 (8.2.1.1)."""
        wrap = 1 << header.sequence.poc_lsb_bits
        msb, last_lsb = (0, 0) if header.is_idr else self._last_reference_poc
        if header.poc_lsb < last_lsb and last_lsb - header.poc_lsb >= wrap // 2:
            msb += wrap
        elif header.poc_lsb > last_lsb and header.poc_lsb - last_lsb > wrap // 2:
            msb -= wrap
        if header.is_reference:
            self._last_reference_poc = msb, header.poc_lsb
        return msb + header.poc_lsb

    def _order_from_offsets(self, header: SliceHeader) -> int:
        """Return the order count of POC type 1 (8.2.1.2)."""
        offsets = header.sequence.reference_offsets
        frame_number = self._frame_num_offset + header.frame_num if offsets else 0
        if not header.is_reference and frame_number:
            frame_number -= 1
        expected = 0
        if frame_number:
            cycles, position = divmod(frame_number - 1, len(offsets))
            expected = cycles * sum(offsets) + sum(offsets[: position + 1])
        if not header.is_reference:
            expected += header.sequence.offset_non_reference
        return expected + header.poc_deltas[0]

    def _fill_frame_num_gap(self, header: SliceHeader) -> bool:
        """Insert missing pictures for frame numbers that were left out: they displace old references (8.2.5.2).

        Returns:
            Whether the stream does not allow gaps, so that pictures were lost.
        """
        if not self._buffer:
            return False
        limit = header.sequence.max_frame_num
        gap = (header.frame_num - self._last_reference_frame_num) % limit
        num_missing = min(gap - 1, header.sequence.num_reference_frames)
        for number in range(num_missing, 0, -1):
            self._slide_window(header.sequence)
            self._buffer.append(_BufferedPicture(MISSING, (header.frame_num - number) % limit, -(1 << 30)))
        if gap > 1 and header.sequence.gaps_allowed:
            # the next frame may not be a reference: the gap must not be filled again after it
            self._last_reference_frame_num = (header.frame_num - 1) % limit
        return gap > 1 and not header.sequence.gaps_allowed

    def _build_list(self, header: SliceHeader, order: int, which: int) -> tuple[int, ...]:
        """Return reference list `which` of a slice: initialised (8.2.4.2), then modified (8.2.4.3)."""
        size = header.num_active[which]
        if not size:
            return ()
        short = [picture for picture in self._buffer if picture.long_term is None]
        long = sorted(
            (picture for picture in self._buffer if picture.long_term is not None),
            key=lambda picture: picture.long_term or 0,
        )
        if header.slice_type == "P":
            entries = sorted(short, key=lambda picture: -_picture_number(picture, header)) + long
        else:
            # a missing picture has no order count, so that B slices cannot refer to it
            short = [picture for picture in short if picture.index != MISSING]
            entries = _initial_b_list(short, long, order, which)
        entries = _modified(entries[:size], short, long, header, which)
        return tuple(picture.index for picture in entries)

    def _mark_references(self, header: SliceHeader, index: int, order: int) -> None:
        """Add a reference picture to the buffer and remove old ones (8.2.5)."""
        current = _BufferedPicture(index, header.frame_num, order, 0 if header.is_long_term_idr else None)
        self._last_reference_frame_num = header.frame_num
        if header.marking is not None:
            for operation, first, second in header.marking:
                self._apply_memory_operation(operation, first, second, current, header)
        elif not header.is_idr:
            self._slide_window(header.sequence)
        self._buffer.append(current)
        # a damaged stream must not make the buffer grow
        del self._buffer[: -max(header.sequence.num_reference_frames, 1) - 1]

    def _slide_window(self, sequence: SequenceParameterSet) -> None:
        """Remove the oldest short-term reference if the buffer is full (8.2.5.3)."""
        if len(self._buffer) >= max(sequence.num_reference_frames, 1):
            oldest = next((picture for picture in self._buffer if picture.long_term is None), None)
            if oldest is not None:
                self._buffer.remove(oldest)

    def _apply_memory_operation(
        self, operation: int, first: int, second: int, current: _BufferedPicture, header: SliceHeader
    ) -> None:
        """Apply one memory management control operation (8.2.5.4)."""
        frame_num = (header.frame_num - first - 1) % header.sequence.max_frame_num
        if operation == 1:  # remove a short-term reference
            self._buffer = [one for one in self._buffer if one.long_term is not None or one.frame_num != frame_num]
        elif operation == 2:  # remove a long-term reference
            self._buffer = [one for one in self._buffer if one.long_term != first]
        elif operation == 3:  # turn a short-term reference into a long-term one
            self._buffer = [one for one in self._buffer if one.long_term != second]
            for picture in self._buffer:
                if picture.long_term is None and picture.frame_num == frame_num:
                    picture.long_term = second
        elif operation == 4:  # limit the number of long-term references
            self._buffer = [one for one in self._buffer if one.long_term is None or one.long_term < first]
        elif operation == 5:  # remove all references, and number pictures from 0 again
            self._buffer.clear()
            current.frame_num = current.order = 0
            self._last_reference_frame_num = self._last_frame_num = self._frame_num_offset = 0
            self._last_reference_poc = (0, 0)
        elif operation == 6:  # make the current picture a long-term reference
            self._buffer = [one for one in self._buffer if one.long_term != first]
            current.long_term = first


def _picture_number(picture: _BufferedPicture, header: SliceHeader) -> int:
    """Return `PicNum` of a short-term reference: its frame number, less the range of frame numbers if it
    was counted before the last wrap (8.2.4.1)."""
    return picture.frame_num - header.sequence.max_frame_num * (picture.frame_num > header.frame_num)


def _initial_b_list(
    short: list[_BufferedPicture], long: list[_BufferedPicture], order: int, which: int
) -> list[_BufferedPicture]:
    """Return the initial list 0 or list 1 of a B slice with picture order count `order` (8.2.4.2.3)."""
    before = sorted((picture for picture in short if picture.order < order), key=lambda picture: -picture.order)
    after = sorted((picture for picture in short if picture.order >= order), key=lambda picture: picture.order)
    first, second = before + after + long, after + before + long
    if len(second) > 1 and first == second:
        second = [second[1], second[0], *second[2:]]
    return second if which else first


def _modified(
    entries: list[_BufferedPicture],
    short: Sequence[_BufferedPicture],
    long: Sequence[_BufferedPicture],
    header: SliceHeader,
    which: int,
) -> list[_BufferedPicture]:
    """Return a list after the slice's modifications (8.2.4.3)."""
    size, limit = header.num_active[which], header.sequence.max_frame_num
    predicted = header.frame_num
    for position, (operation, value) in enumerate(header.modifications[which]):
        if operation < 2:  # a short-term reference, by the difference of picture numbers
            predicted = (predicted + (value + 1 if operation else -value - 1)) % limit
            wanted = predicted - limit * (predicted > header.frame_num)
            chosen = next((picture for picture in short if _picture_number(picture, header) == wanted), None)
        else:  # a long-term reference, by its index
            chosen = next((picture for picture in long if picture.long_term == value), None)
        if chosen is not None:
            rest = [picture for picture in entries[position:] if picture is not chosen]
            entries = [*entries[:position], chosen, *rest][:size]
    return entries
