"""Which pictures a picture's vectors may point to: reference lists after ITU-T H.264, 8.2, from headers alone."""

from dataclasses import dataclass, field

from codec.h264 import (
    IDR_SLICE,
    PPS,
    SLICE,
    SPS,
    PictureSet,
    SequenceSet,
    SliceHeader,
    length_prefix_size,
    nal_units,
    parameter_units,
    read_picture_set,
    read_sequence_set,
    read_slice_header,
)


@dataclass(frozen=True)
class Picture:
    """What the headers say about one coded picture."""

    is_reference: bool
    lists: tuple[tuple[int, ...], tuple[int, ...]]
    """Places in the stream of the pictures in list 0 and list 1, by reference index; -1 for one that never came."""
    is_interlaced: bool
    """A field, or a frame that may hold field macroblocks."""
    follows_loss: bool
    """Pictures that it counts on never came."""
    num_references: int
    """Pictures the stream keeps for others to point to, at most."""


@dataclass
class _Kept:
    """A picture in the decoded picture buffer."""

    index: int
    frame_num: int
    order: int
    long_term: int | None = None


@dataclass
class ReferenceLists:
    """Follows a stream packet by packet."""

    extradata: bytes | None = None
    _sequences: dict[int, SequenceSet] = field(default_factory=dict)
    _pictures: dict[int, PictureSet] = field(default_factory=dict)
    _kept: list[_Kept] = field(default_factory=list)
    _previous: tuple[int, int] = (0, 0)
    """Most significant part of the last reference's order count, and its least significant part."""
    _frame_offset: tuple[int, int] = (0, 0)
    """Frame number of the last picture, and what all wraps before it add up to."""
    _reference_num: int = 0

    def __post_init__(self) -> None:
        self._prefix = length_prefix_size(self.extradata)
        for unit in parameter_units(self.extradata):
            self._learn(unit)

    def feed(self, packet: bytes, index: int) -> Picture | None:
        """Reads one packet.

        Args:
            packet: one coded picture, as demuxed.
            index: its place in the stream, by which later pictures will name it.

        Returns:
            None where the packet holds no picture, or one whose header cannot be read.
        """
        headers: list[SliceHeader] = []
        for unit in nal_units(packet, self._prefix):
            if not unit:
                continue
            kind = unit[0] & 0x1F
            if kind in (SPS, PPS):
                self._learn(unit)
            elif kind in (SLICE, IDR_SLICE) and len(headers) < 64:
                try:
                    headers.append(read_slice_header(unit, self._pictures, self._sequences))
                except ValueError:
                    continue
        if not headers:
            return None
        first = headers[0]
        order = self._order(first)
        if first.is_idr:
            self._kept.clear()
        follows_loss = not first.is_idr and self._bridge(first)
        # slices of one picture may differ in length, hardly ever in order
        first_list = max((self._list(header, order, 0) for header in headers), key=len)
        second_list = max((self._list(header, order, 1) for header in headers), key=len)
        if first.is_reference:
            self._mark(first, index, order)
        return Picture(
            first.is_reference,
            (first_list, second_list),
            first.is_field or first.sequence.mixes_fields,
            follows_loss,
            first.sequence.num_reference_frames,
        )

    def _learn(self, unit: bytes) -> None:
        try:
            if unit[0] & 0x1F == SPS:
                number, found = read_sequence_set(unit)
                self._sequences[number] = found
            elif unit[0] & 0x1F == PPS:
                number, found = read_picture_set(unit)
                self._pictures[number] = found
        except (ValueError, IndexError):
            # a damaged set: the one before it, if any, still stands
            return

    def _order(self, header: SliceHeader) -> int:
        """Picture order count (8.2.1), of the frame or its first field."""
        sequence = header.sequence
        if sequence.poc_type == 0:
            half = 1 << (sequence.poc_lsb_bits - 1)
            high, low = (0, 0) if header.is_idr else self._previous
            if header.poc_lsb < low and low - header.poc_lsb >= half:
                high += 2 * half
            elif header.poc_lsb > low and header.poc_lsb - low > half:
                high -= 2 * half
            if header.is_reference:
                self._previous = high, header.poc_lsb
            return high + header.poc_lsb
        number, offset = self._frame_offset
        offset = 0 if header.is_idr else offset + (sequence.max_frame_num if number > header.frame_num else 0)
        self._frame_offset = header.frame_num, offset
        counted = offset + header.frame_num
        if sequence.poc_type == 2:
            return 2 * counted - (not header.is_reference)
        cycle = len(sequence.offsets)
        counted = counted if cycle else 0
        if not header.is_reference and counted:
            counted -= 1
        expected = 0
        if counted:
            whole, part = divmod(counted - 1, cycle)
            expected = whole * sum(sequence.offsets) + sum(sequence.offsets[: part + 1])
        return expected + header.deltas[0] + (0 if header.is_reference else sequence.offset_non_reference)

    def _bridge(self, header: SliceHeader) -> bool:
        """Frame numbers that were left out push old pictures out all the same (8.2.5.2).

        Returns whether they should not have been left out.
        """
        if not self._kept:
            return False
        limit = header.sequence.max_frame_num
        gap = (header.frame_num - self._reference_num) % limit
        for missing in range(1, min(gap, header.sequence.num_reference_frames + 1)):
            self._slide(header.sequence)
            number = (header.frame_num - min(gap, header.sequence.num_reference_frames + 1) + missing) % limit
            self._kept.append(_Kept(-1, number, -(1 << 30)))
        return gap > 1 and not header.sequence.gaps_allowed

    def _list(self, header: SliceHeader, order: int, which: int) -> tuple[int, ...]:
        """Reference list of a slice (8.2.4.2 and 8.2.4.3)."""
        size = header.active[which]
        if not size:
            return ()
        limit = header.sequence.max_frame_num
        number = {id(kept): kept.frame_num - limit * (kept.frame_num > header.frame_num) for kept in self._kept}
        short = [kept for kept in self._kept if kept.long_term is None]
        long = sorted((kept for kept in self._kept if kept.long_term is not None), key=lambda kept: kept.long_term or 0)
        if header.kind == "P":
            entries = sorted(short, key=lambda kept: -number[id(kept)]) + long
        else:
            short = [kept for kept in short if kept.index >= 0]
            before = sorted((kept for kept in short if kept.order < order), key=lambda kept: -kept.order)
            after = sorted((kept for kept in short if kept.order >= order), key=lambda kept: kept.order)
            first, second = before + after + long, after + before + long
            if len(second) > 1 and first == second:
                second = [second[1], second[0], *second[2:]]
            entries = second if which else first
        entries = entries[:size]
        predicted = header.frame_num
        for place, (operation, value) in enumerate(header.modifications[which]):
            if operation < 2:
                predicted = (predicted + (value + 1 if operation else -value - 1)) % limit
                wanted = predicted - limit * (predicted > header.frame_num)
                chosen = next((kept for kept in short if number[id(kept)] == wanted), None)
            else:
                chosen = next((kept for kept in long if kept.long_term == value), None)
            if chosen is not None:
                rest = [kept for kept in entries[place:] if kept is not chosen]
                entries = [*entries[:place], chosen, *rest][:size]
        return tuple(kept.index for kept in entries)

    def _mark(self, header: SliceHeader, index: int, order: int) -> None:
        """Takes the picture into the buffer and old ones out of it (8.2.5)."""
        current = _Kept(index, header.frame_num, order, 0 if header.long_term_idr else None)
        self._reference_num = header.frame_num
        if header.marking is None:
            if not header.is_idr:
                self._slide(header.sequence)
        else:
            for operation, first, second in header.marking:
                self._apply(operation, first, second, current, header)
        self._kept.append(current)
        # a damaged stream must not make the buffer grow
        del self._kept[: -max(header.sequence.num_reference_frames, 1) - 1]

    def _slide(self, sequence: SequenceSet) -> None:
        if len(self._kept) >= max(sequence.num_reference_frames, 1):
            oldest = next((kept for kept in self._kept if kept.long_term is None), None)
            if oldest is not None:
                self._kept.remove(oldest)

    def _apply(self, operation: int, first: int, second: int, current: _Kept, header: SliceHeader) -> None:
        """One memory management operation (8.2.5.4)."""
        limit = header.sequence.max_frame_num
        wanted = (header.frame_num - first - 1) % limit
        if operation == 1:
            self._kept = [kept for kept in self._kept if kept.long_term is not None or kept.frame_num != wanted]
        elif operation == 2:
            self._kept = [kept for kept in self._kept if kept.long_term != first]
        elif operation == 3:
            self._kept = [kept for kept in self._kept if kept.long_term != second]
            for kept in self._kept:
                if kept.long_term is None and kept.frame_num == wanted:
                    kept.long_term = second
        elif operation == 4:
            self._kept = [kept for kept in self._kept if kept.long_term is None or kept.long_term < first]
        elif operation == 5:
            self._kept.clear()
            current.frame_num = current.order = 0
            self._reference_num = 0
            self._previous = self._frame_offset = (0, 0)
        elif operation == 6:
            self._kept = [kept for kept in self._kept if kept.long_term != first]
            current.long_term = first
