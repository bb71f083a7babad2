"""Headers of H.264 slices (ITU-T H.264, 7.3.3), as far as reference lists and their marking go."""

from dataclasses import dataclass

from codec.h264 import IDR_SLICE, Bits, PictureSet, SequenceSet

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
