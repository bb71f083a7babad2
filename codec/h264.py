"""Parse the headers of an H.264 stream as far as reference lists need them.

Sections of ITU-T H.264: 7.3.1 NAL units, 7.3.2.1 sequence parameter sets, 7.3.2.2 picture parameter sets, 7.3.3 slice
headers. Syntax elements that reference lists do not need are read and discarded.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8
"""NAL unit types that are parsed here."""

CHROMA_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""Profiles whose sequence parameter set states a chroma format."""

MAX_HEADER_BYTES = 512
"""A slice header is shorter than this, even with prediction weights of 32 references."""

USUAL_HEADER_BYTES = 64
"""Most slice headers are shorter than this. Reading bits of a short unit takes half the time."""

MAX_REFERENCES = 32
"""References in one list, at most."""

MAX_LEADING_ZEROS = 32
"""Zeros before the first one of an exp-Golomb code, at most."""

MAX_OPERATIONS = 66
"""List modifications or memory management operations of one slice, at most."""


class BitReader:
    """Reads bits of a NAL unit, most significant first, without emulation prevention bytes."""

    def __init__(self, unit: bytes) -> None:
        payload = unit.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def read(self, count: int) -> int:
        """Return the next `count` bits. Raises ValueError at the end of the unit."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the unit ends inside its header")
        return (self._value >> self._left) & ((1 << count) - 1)

    def flag(self) -> bool:
        """Return the next bit. Raises ValueError at the end of the unit."""
        return bool(self.read(1))

    def ue(self) -> int:
        """Return an unsigned exp-Golomb code (9.1). Raises ValueError if there is none."""
        # all leading zeros are counted at once: bit by bit takes most of the time of parsing a header
        size = min(self._left, MAX_LEADING_ZEROS + 1)
        window = (self._value >> (self._left - size)) & ((1 << size) - 1)
        if not window:
            raise ValueError("not an exp-Golomb code, or the unit ends inside its header")
        zeros = size - window.bit_length()
        return self.read(2 * zeros + 1) - 1

    def se(self) -> int:
        """Return a signed exp-Golomb code (9.1.1). Raises ValueError if there is none."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def skip_codes(self, count: int) -> None:
        """Skip `count` exp-Golomb codes, signed or unsigned."""
        for _ in range(count):
            self.ue()


def nal_unit_type(unit: bytes) -> int:
    """Return `nal_unit_type`, from the unit's first byte."""
    return unit[0] & 0x1F


def length_prefix_size(extradata: bytes | None) -> int:
    """Return the bytes of the length before each NAL unit (MP4, MKV); 0 if start codes separate them (Annex B)."""
    if extradata and len(extradata) > 6 and extradata[0] == 1:
        return (extradata[4] & 3) + 1
    return 0


def nal_units(packet: bytes, prefix_size: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet, header byte first, with emulation prevention bytes.

    Args:
        packet: as demuxed.
        prefix_size: as returned by `length_prefix_size`.
    """
    if not prefix_size:
        start = packet.find(b"\0\0\1")
        while start >= 0:
            end = packet.find(b"\0\0\1", start + 3)
            yield packet[start + 3 : end if end >= 0 else None]
            start = end
        return
    position = 0
    while position + prefix_size < len(packet):
        length = int.from_bytes(packet[position : position + prefix_size], "big")
        yield packet[position + prefix_size : position + prefix_size + length]
        position += prefix_size + length


def parameter_set_units(extradata: bytes | None) -> Iterator[bytes]:
    """Yield the SPS and PPS units in a container's header (avcC) or in Annex B extradata."""
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


@dataclass(frozen=True)
class SequenceParameterSet:
    """Fields of a sequence parameter set (7.4.2.1)."""

    set_id: int
    max_frame_num: int
    poc_type: int
    """`pic_order_cnt_type`: 0, 1 or 2."""
    poc_lsb_bits: int
    """Bits of `pic_order_cnt_lsb`, for POC type 0."""
    delta_always_zero: bool
    """`delta_pic_order_always_zero_flag`, for POC type 1."""
    offset_non_reference: int
    """`offset_for_non_ref_pic`, for POC type 1."""
    reference_offsets: tuple[int, ...]
    """`offset_for_ref_frame`, for POC type 1."""
    num_reference_frames: int
    """`max_num_ref_frames`."""
    gaps_allowed: bool
    """`gaps_in_frame_num_value_allowed_flag`: frame numbers may be left out on purpose."""
    frames_only: bool
    """`frame_mbs_only_flag`: no field pictures and no field macroblocks."""
    is_mbaff: bool
    """`mb_adaptive_frame_field_flag`: macroblocks of a frame may be coded as fields."""
    separate_planes: bool
    """`separate_colour_plane_flag`."""
    has_chroma: bool
    """Slices have prediction weights for chroma."""
    is_cropped_at_origin: bool = False
    """Columns at the left or rows at the top are not shown (`frame_crop_left_offset`, `frame_crop_top_offset`)."""


@dataclass(frozen=True)
class PictureParameterSet:
    """Fields of a picture parameter set (7.4.2.2)."""

    set_id: int
    sequence_id: int
    has_bottom_field_order: bool
    """`bottom_field_pic_order_in_frame_present_flag`."""
    num_active: tuple[int, int]
    """Default number of references in list 0 and list 1."""
    is_weighted_p: bool
    is_weighted_b: bool
    """Prediction weights are explicit (`weighted_bipred_idc` is 1)."""
    has_redundant_count: bool
    """`redundant_pic_cnt_present_flag`."""


@dataclass(frozen=True)
class SliceHeader:
    """Fields of a slice header (7.4.3)."""

    sequence: SequenceParameterSet
    slice_type: str
    """P (also SP), B or I (also SI)."""
    frame_num: int
    is_idr: bool
    is_reference: bool
    is_field: bool
    poc_lsb: int
    """`pic_order_cnt_lsb`."""
    poc_deltas: tuple[int, int]
    """`delta_pic_order_cnt`; for POC type 0 `delta_pic_order_cnt_bottom` and 0."""
    num_active: tuple[int, int]
    """Number of references in list 0 and list 1."""
    modifications: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]
    """(operation, value) of list 0 and list 1 (7.3.3.1)."""
    marking: tuple[tuple[int, int, int], ...] | None
    """Memory management operations (operation, first value, second value) (7.3.3.3); None for the sliding window."""
    is_long_term_idr: bool
    """`long_term_reference_flag` of an IDR picture."""


def parse_sequence_parameter_set(unit: bytes) -> SequenceParameterSet:
    """Parse an SPS (7.3.2.1.1). Raises ValueError if it is damaged."""
    bits = BitReader(unit[1:])
    profile = bits.read(8)
    bits.read(16)
    set_id = bits.ue()
    chroma_format, separate_planes = 1, False
    if profile in CHROMA_PROFILES:
        chroma_format = bits.ue()
        separate_planes = chroma_format == 3 and bits.flag()
        bits.skip_codes(2)
        bits.read(1)
        if bits.flag():
            for which in range(12 if chroma_format == 3 else 8):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if which < 6 else 64)
    max_frame_num = 1 << (bits.ue() + 4)
    poc_type, poc_lsb_bits, always_zero, non_reference, offsets = bits.ue(), 0, False, 0, ()
    if poc_type == 0:
        poc_lsb_bits = bits.ue() + 4
    elif poc_type == 1:
        always_zero = bits.flag()
        non_reference, _ = bits.se(), bits.se()
        offsets = tuple(bits.se() for _ in range(min(bits.ue(), 255)))
    num_reference_frames, gaps_allowed = bits.ue(), bits.flag()
    bits.skip_codes(2)
    frames_only = bits.flag()
    is_mbaff = not frames_only and bits.flag()
    return SequenceParameterSet(
        set_id=set_id,
        max_frame_num=max_frame_num,
        poc_type=poc_type,
        poc_lsb_bits=poc_lsb_bits,
        delta_always_zero=always_zero,
        offset_non_reference=non_reference,
        reference_offsets=offsets,
        num_reference_frames=num_reference_frames,
        gaps_allowed=gaps_allowed,
        frames_only=frames_only,
        is_mbaff=is_mbaff,
        separate_planes=separate_planes,
        has_chroma=chroma_format != 0 and not separate_planes,
        is_cropped_at_origin=_is_cropped_at_origin(bits),
    )


def _is_cropped_at_origin(bits: BitReader) -> bool:
    """Read an SPS from `direct_8x8_inference_flag` to its cropping; a damaged end crops nothing."""
    try:
        bits.flag()
        if not bits.flag():
            return False
        left, _, top, _ = (bits.ue() for _ in range(4))
    except ValueError:
        return False
    return left > 0 or top > 0


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def parse_picture_parameter_set(unit: bytes) -> PictureParameterSet:
    """Parse a PPS (7.3.2.2). Raises ValueError if it is damaged."""
    bits = BitReader(unit[1:])
    set_id, sequence_id = bits.ue(), bits.ue()
    bits.read(1)
    has_bottom_field_order = bits.flag()
    num_slice_groups = bits.ue() + 1
    if num_slice_groups > 1:
        _skip_slice_groups(bits, num_slice_groups)
    num_active = bits.ue() + 1, bits.ue() + 1
    is_weighted_p, is_weighted_b = bits.flag(), bits.read(2) == 1
    bits.skip_codes(3)
    bits.read(2)
    return PictureParameterSet(
        set_id=set_id,
        sequence_id=sequence_id,
        has_bottom_field_order=has_bottom_field_order,
        num_active=num_active,
        is_weighted_p=is_weighted_p,
        is_weighted_b=is_weighted_b,
        has_redundant_count=bits.flag(),
    )


def _skip_slice_groups(bits: BitReader, num_groups: int) -> None:
    map_type = bits.ue()
    if map_type == 0:
        bits.skip_codes(num_groups)
    elif map_type == 2:
        bits.skip_codes(2 * (num_groups - 1))
    elif map_type in (3, 4, 5):
        bits.read(1)
        bits.ue()
    elif map_type == 6:
        for _ in range(bits.ue() + 1):
            bits.read((num_groups - 1).bit_length())


@dataclass(frozen=True)
class _SliceBeginning:
    """Fields of a slice header up to the number of references, by which slices of one picture may differ."""

    bits: BitReader
    """The rest of the header."""
    picture: PictureParameterSet
    sequence: SequenceParameterSet
    slice_type: str
    frame_num: int
    is_field: bool
    poc_lsb: int
    poc_deltas: tuple[int, int]
    num_active: tuple[int, int]


def parse_slice_header(
    unit: bytes, pictures: dict[int, PictureParameterSet], sequences: dict[int, SequenceParameterSet]
) -> SliceHeader:
    """Parse the header of a slice (7.3.3).

    Args:
        unit: a NAL unit of type SLICE or IDR_SLICE.
        pictures, sequences: the parameter sets known so far, by their ids.

    Raises:
        ValueError: the header is damaged, or its parameter sets are missing.
    """
    try:
        return _parse_slice_header(unit, USUAL_HEADER_BYTES, pictures, sequences)
    except ValueError:
        return _parse_slice_header(unit, MAX_HEADER_BYTES, pictures, sequences)


def parse_num_active(
    unit: bytes, pictures: dict[int, PictureParameterSet], sequences: dict[int, SequenceParameterSet]
) -> tuple[int, int]:
    """Return the number of references in list 0 and list 1 of a slice; arguments as for `parse_slice_header`.

    Raises:
        ValueError: the header is damaged before that number, or its parameter sets are missing.
    """
    return _parse_beginning(unit, USUAL_HEADER_BYTES, pictures, sequences).num_active


def _parse_beginning(
    unit: bytes,
    max_bytes: int,
    pictures: dict[int, PictureParameterSet],
    sequences: dict[int, SequenceParameterSet],
) -> _SliceBeginning:
    """Parse the beginning of a slice header of at most `max_bytes`."""
    bits = BitReader(unit[1:max_bytes])
    bits.ue()
    slice_type = "PBIPI"[bits.ue() % 5]
    try:
        picture = pictures[bits.ue()]
        sequence = sequences[picture.sequence_id]
    except KeyError as error:
        raise ValueError("the slice's parameter sets are missing") from error
    if sequence.separate_planes:
        bits.read(2)
    frame_num = bits.read(sequence.max_frame_num.bit_length() - 1)
    is_field = not sequence.frames_only and bits.flag()
    if is_field:
        bits.read(1)
    if nal_unit_type(unit) == IDR_SLICE:
        bits.ue()
    poc_lsb, poc_deltas = _parse_picture_order(bits, sequence, picture.has_bottom_field_order and not is_field)
    if picture.has_redundant_count:
        bits.ue()
    num_active = _parse_num_active(bits, slice_type, picture)
    return _SliceBeginning(bits, picture, sequence, slice_type, frame_num, is_field, poc_lsb, poc_deltas, num_active)


def _parse_slice_header(
    unit: bytes,
    max_bytes: int,
    pictures: dict[int, PictureParameterSet],
    sequences: dict[int, SequenceParameterSet],
) -> SliceHeader:
    """Parse a slice header of at most `max_bytes`."""
    beginning = _parse_beginning(unit, max_bytes, pictures, sequences)
    bits, picture, slice_type = beginning.bits, beginning.picture, beginning.slice_type
    is_idr, is_reference = nal_unit_type(unit) == IDR_SLICE, unit[0] & 0x60 != 0
    list_modifications = (
        _parse_modifications(bits) if slice_type != "I" else (),
        _parse_modifications(bits) if slice_type == "B" else (),
    )
    if (picture.is_weighted_p and slice_type == "P") or (picture.is_weighted_b and slice_type == "B"):
        _skip_weights(bits, sum(beginning.num_active), beginning.sequence.has_chroma)
    marking, is_long_term_idr = None, False
    if is_reference and is_idr:
        bits.read(1)
        is_long_term_idr = bits.flag()
    elif is_reference:
        marking = _parse_marking(bits)
    return SliceHeader(
        sequence=beginning.sequence,
        slice_type=slice_type,
        frame_num=beginning.frame_num,
        is_idr=is_idr,
        is_reference=is_reference,
        is_field=beginning.is_field,
        poc_lsb=beginning.poc_lsb,
        poc_deltas=beginning.poc_deltas,
        num_active=beginning.num_active,
        modifications=list_modifications,
        marking=marking,
        is_long_term_idr=is_long_term_idr,
    )


def _parse_picture_order(
    bits: BitReader, sequence: SequenceParameterSet, has_both_fields: bool
) -> tuple[int, tuple[int, int]]:
    """Return `pic_order_cnt_lsb` and the two order count deltas."""
    if sequence.poc_type == 0:
        lsb = bits.read(sequence.poc_lsb_bits)
        return lsb, (bits.se() if has_both_fields else 0, 0)
    if sequence.poc_type == 1 and not sequence.delta_always_zero:
        first = bits.se()
        return 0, (first, bits.se() if has_both_fields else 0)
    return 0, (0, 0)


def _parse_num_active(bits: BitReader, slice_type: str, picture: PictureParameterSet) -> tuple[int, int]:
    """Return the number of references in list 0 and list 1."""
    if slice_type == "I":
        return 0, 0
    if slice_type == "B":
        bits.read(1)
    first, second = picture.num_active
    if bits.flag():
        first = bits.ue() + 1
        if slice_type == "B":
            second = bits.ue() + 1
    if slice_type == "P":
        second = 0
    if max(first, second) > MAX_REFERENCES:
        raise ValueError(f"more than {MAX_REFERENCES} references")
    return first, second


def _parse_modifications(bits: BitReader) -> tuple[tuple[int, int], ...]:
    """Return the modifications of one list (7.3.3.1)."""
    operations = []
    if bits.flag():
        while (operation := bits.ue()) != 3:
            operations.append((operation, bits.ue()))
            if len(operations) > MAX_OPERATIONS:
                raise ValueError("the list modification has no end")
    return tuple(operations)


def _skip_weights(bits: BitReader, num_references: int, has_chroma: bool) -> None:
    bits.ue()
    if has_chroma:
        bits.ue()
    for _ in range(num_references):
        if bits.flag():
            bits.skip_codes(2)
        if has_chroma and bits.flag():
            bits.skip_codes(4)


def _parse_marking(bits: BitReader) -> tuple[tuple[int, int, int], ...] | None:
    """Return the memory management operations of a picture that is not IDR (7.3.3.3)."""
    if not bits.flag():
        return None
    operations = []
    while operation := bits.ue():
        first = bits.ue() if operation in (1, 2, 3, 4, 6) else 0
        operations.append((operation, first, bits.ue() if operation == 3 else 0))
        if len(operations) > MAX_OPERATIONS:
            raise ValueError("the marking has no end")
    return tuple(operations)
