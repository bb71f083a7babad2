"""Units and parameter sets of an H.264 stream (ITU-T H.264, 7.3.1 NAL units, 7.3.2.1 SPS, 7.3.2.2 PPS).

Only what reference lists need is kept; everything before it has to be read to get there.

Headers of H.264 slices (ITU-T H.264, 7.3.3), as far as reference lists and their marking go.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8
"""Kinds of NAL units read here."""

CHROMA_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""Profiles whose SPS names a chroma format."""


class Bits:
    """Bits of a NAL unit, most significant first, emulation prevention bytes taken out."""

    def __init__(self, unit: bytes) -> None:
        payload = unit.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def read(self, count: int) -> int:
        """The next `count` bits. Raises ValueError at the end."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the unit ends inside its header")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """Unsigned exp-Golomb code (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("not an exp-Golomb code")
        return (1 << zeros) - 1 + self.read(zeros)

    def se(self) -> int:
        """Signed exp-Golomb code (9.1.1)."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def skip_codes(self, count: int) -> None:
        """Passes over exp-Golomb codes, signed or not."""
        for _ in range(count):
            self.ue()


@dataclass(frozen=True)
class SequenceSet:
    """Sequence parameter set."""

    max_frame_num: int
    poc_type: int
    poc_lsb_bits: int
    delta_always_zero: bool
    offset_non_reference: int
    offsets: tuple[int, ...]
    num_reference_frames: int
    gaps_allowed: bool
    """Frame numbers may be left out on purpose."""
    frames_only: bool
    """No field pictures and no field macroblocks."""
    mixes_fields: bool
    """Macroblocks of a frame may be coded as fields (MBAFF)."""
    separate_planes: bool
    has_chroma: bool


@dataclass(frozen=True)
class PictureSet:
    """Picture parameter set."""

    sequence_id: int
    bottom_field_order: bool
    active: tuple[int, int]
    """Default number of references in list 0 and list 1."""
    weighted_p: bool
    weighted_b: bool
    redundant_count: bool


def length_prefix_size(extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit (MP4, MKV), or 0 where start codes separate them (Annex B)."""
    if extradata and len(extradata) > 6 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    return 0


def nal_units(packet: bytes, prefix: int) -> Iterator[bytes]:
    """NAL units of a packet, header byte first, emulation bytes still in."""
    if not prefix:
        start = packet.find(b"\0\0\1")
        while start >= 0:
            end = packet.find(b"\0\0\1", start + 3)
            yield packet[start + 3 : end if end >= 0 else None]
            start = end
        return
    position = 0
    while position + prefix < len(packet):
        length = int.from_bytes(packet[position : position + prefix], "big")
        yield packet[position + prefix : position + prefix + length]
        position += prefix + length


def parameter_units(extradata: bytes | None) -> Iterator[bytes]:
    """SPS and PPS units in a container's header (avcC), or in Annex B extradata."""
    if not extradata:
        return
    if not length_prefix_size(extradata):
        yield from nal_units(extradata, 0)
        return
    position = 6
    for count in (extradata[5] & 0x1F, None):
        if count is None:
            if position >= len(extradata):
                return
            count, position = extradata[position], position + 1
        for _ in range(count):
            length = int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : position + 2 + length]
            position += 2 + length


def read_sequence_set(unit: bytes) -> tuple[int, SequenceSet]:
    """An SPS and its number. Raises ValueError where it is damaged."""
    bits = Bits(unit[1:])
    profile = bits.read(8)
    bits.read(16)
    number = bits.ue()
    chroma, separate = 1, False
    if profile in CHROMA_PROFILES:
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.read(1))
        bits.skip_codes(2)
        bits.read(1)
        if bits.read(1):
            for which in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if which < 6 else 64)
    max_frame_num = 1 << (bits.ue() + 4)
    poc_type, lsb_bits, always_zero, non_reference, offsets = bits.ue(), 0, False, 0, ()
    if poc_type == 0:
        lsb_bits = bits.ue() + 4
    elif poc_type == 1:
        always_zero = bool(bits.read(1))
        non_reference, _ = bits.se(), bits.se()
        offsets = tuple(bits.se() for _ in range(min(bits.ue(), 255)))
    references, gaps_allowed = bits.ue(), bool(bits.read(1))
    bits.skip_codes(2)
    frames_only = bool(bits.read(1))
    mixes_fields = not frames_only and bool(bits.read(1))
    return number, SequenceSet(
        max_frame_num,
        poc_type,
        lsb_bits,
        always_zero,
        non_reference,
        offsets,
        references,
        gaps_allowed,
        frames_only,
        mixes_fields,
        separate,
        chroma != 0 and not separate,
    )


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def read_picture_set(unit: bytes) -> tuple[int, PictureSet]:
    """A PPS and its number. Raises ValueError where it is damaged, or uses slice group maps that nobody writes."""
    bits = Bits(unit[1:])
    number, sequence = bits.ue(), bits.ue()
    bits.read(1)
    bottom = bool(bits.read(1))
    groups = bits.ue() + 1
    if groups > 1:
        _skip_slice_groups(bits, groups)
    active = bits.ue() + 1, bits.ue() + 1
    weighted_p, weighted_b = bool(bits.read(1)), bits.read(2) == 1
    bits.skip_codes(3)
    bits.read(2)
    return number, PictureSet(sequence, bottom, active, weighted_p, weighted_b, bool(bits.read(1)))


def _skip_slice_groups(bits: Bits, groups: int) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.skip_codes(groups)
    elif kind == 2:
        bits.skip_codes(2 * (groups - 1))
    elif kind in (3, 4, 5):
        bits.read(1)
        bits.ue()
    elif kind == 6:
        for _ in range(bits.ue() + 1):
            bits.read((groups - 1).bit_length())


HEADER_BYTES = 512
"""A slice header is shorter than this, weights of 32 references included."""


@dataclass(frozen=True)
class SliceHeader:
    """Slice header, as far as reference lists and their marking go."""

    sequence: SequenceSet
    kind: str
    """P, B or I."""
    frame_num: int
    is_idr: bool
    is_reference: bool
    is_field: bool
    poc_lsb: int
    deltas: tuple[int, int]
    active: tuple[int, int]
    modifications: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]
    """(operation, value) for each list (7.3.3.1)."""
    marking: tuple[tuple[int, int, int], ...] | None
    """Memory operations (operation, first, second) (7.3.3.3); None for a sliding window."""
    long_term_idr: bool


def read_slice_header(unit: bytes, pictures: dict[int, PictureSet], sequences: dict[int, SequenceSet]) -> SliceHeader:
    """A slice's header. Raises ValueError where it is damaged or its parameter sets are missing."""
    bits = Bits(unit[1:HEADER_BYTES])
    kind_of_unit, is_reference = unit[0] & 0x1F, unit[0] & 0x60 != 0
    is_idr = kind_of_unit == IDR_SLICE
    bits.ue()
    kind = "PBIPI"[bits.ue() % 5]
    try:
        picture = pictures[bits.ue()]
        sequence = sequences[picture.sequence_id]
    except KeyError as error:
        raise ValueError("the slice's parameter sets are missing") from error
    if sequence.separate_planes:
        bits.read(2)
    frame_num = bits.read(sequence.max_frame_num.bit_length() - 1)
    is_field = not sequence.frames_only and bool(bits.read(1))
    if is_field:
        bits.read(1)
    if is_idr:
        bits.ue()
    lsb, deltas = _read_order(bits, sequence, picture.bottom_field_order and not is_field)
    if picture.redundant_count:
        bits.ue()
    active, modifications = _read_lists(bits, kind, picture)
    if (picture.weighted_p and kind == "P") or (picture.weighted_b and kind == "B"):
        _skip_weights(bits, active, sequence.has_chroma)
    marking, long_term_idr = _read_marking(bits, is_idr) if is_reference else (None, False)
    return SliceHeader(
        sequence,
        kind,
        frame_num,
        is_idr,
        is_reference,
        is_field,
        lsb,
        deltas,
        active,
        modifications,
        marking,
        long_term_idr,
    )


def _read_order(bits: Bits, sequence: SequenceSet, both_fields: bool) -> tuple[int, tuple[int, int]]:
    if sequence.poc_type == 0:
        lsb = bits.read(sequence.poc_lsb_bits)
        return lsb, (bits.se() if both_fields else 0, 0)
    if sequence.poc_type == 1 and not sequence.delta_always_zero:
        first = bits.se()
        return 0, (first, bits.se() if both_fields else 0)
    return 0, (0, 0)


def _read_lists(bits: Bits, kind: str, picture: PictureSet) -> tuple[tuple[int, int], tuple]:
    if kind == "I":
        return (0, 0), ((), ())
    if kind == "B":
        bits.read(1)
    first, second = picture.active
    if bits.read(1):
        first = bits.ue() + 1
        if kind == "B":
            second = bits.ue() + 1
    if kind == "P":
        second = 0
    if max(first, second) > 32:
        raise ValueError("more than 32 references")
    return (first, second), (_read_modifications(bits), _read_modifications(bits) if kind == "B" else ())


def _read_modifications(bits: Bits) -> tuple[tuple[int, int], ...]:
    found = []
    if bits.read(1):
        while (operation := bits.ue()) != 3:
            found.append((operation, bits.ue()))
            if len(found) > 66:
                raise ValueError("the list modification has no end")
    return tuple(found)


def _skip_weights(bits: Bits, active: tuple[int, int], has_chroma: bool) -> None:
    bits.ue()
    if has_chroma:
        bits.ue()
    for _ in range(sum(active)):
        if bits.read(1):
            bits.skip_codes(2)
        if has_chroma and bits.read(1):
            bits.skip_codes(4)


def _read_marking(bits: Bits, is_idr: bool) -> tuple[tuple[tuple[int, int, int], ...] | None, bool]:
    if is_idr:
        bits.read(1)
        return None, bool(bits.read(1))
    if not bits.read(1):
        return None, False
    found = []
    while operation := bits.ue():
        first = bits.ue() if operation in (1, 2, 3, 4, 6) else 0
        found.append((operation, first, bits.ue() if operation == 3 else 0))
        if len(found) > 66:
            raise ValueError("the marking has no end")
    return tuple(found), False
