"""H.264 streams of headers alone, written bit by bit: what an encoder rarely writes can be tested exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from codec.h264 import IDR_SLICE, PPS, SLICE, SPS
from codec.reference_lists import PictureHeaders, ReferenceListBuilder

SLICE_TYPES = {"P": 0, "B": 1, "I": 2}


class BitWriter:
    """Writes fixed-length and exp-Golomb codes, most significant bit first."""

    def __init__(self) -> None:
        self._bits = ""

    def u(self, value: int, count: int = 1) -> None:
        """Write an unsigned number of `count` bits."""
        self._bits += format(value, f"0{count}b")

    def ue(self, value: int) -> None:
        """Write an unsigned exp-Golomb code (9.1)."""
        code = format(value + 1, "b")
        self._bits += "0" * (len(code) - 1) + code

    def se(self, value: int) -> None:
        """Write a signed exp-Golomb code (9.1.1)."""
        self.ue(2 * value - 1 if value > 0 else -2 * value)

    def nal_unit(self, unit_type: int, ref_idc: int) -> bytes:
        """Return the bits as a NAL unit, with stop bit and emulation prevention bytes."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        escaped, zeros = bytearray(), 0
        for byte in payload:
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes([ref_idc << 5 | unit_type]) + bytes(escaped)


@dataclass
class HeaderStream:
    """A stream of frames without macroblocks, read by a ReferenceListBuilder as it is written."""

    poc_type: int = 0
    num_reference_frames: int = 4
    gaps_allowed: bool = False
    offset_non_reference: int = 0
    reference_offsets: tuple[int, ...] = ()
    frame_num_bits: int = 4
    poc_lsb_bits: int = 4
    num_frames: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._builder = ReferenceListBuilder()
        self._parameter_sets = b"".join(b"\0\0\0\1" + unit for unit in (self._sequence_set(), self._picture_set()))

    def _sequence_set(self) -> bytes:
        bits = BitWriter()
        for value in (77, 0, 30):  # profile, constraints, level
            bits.u(value, 8)
        bits.ue(0)
        bits.ue(self.frame_num_bits - 4)
        bits.ue(self.poc_type)
        if self.poc_type == 0:
            bits.ue(self.poc_lsb_bits - 4)
        elif self.poc_type == 1:
            bits.u(0)  # deltas are written
            bits.se(self.offset_non_reference)
            bits.se(0)
            bits.ue(len(self.reference_offsets))
            for offset in self.reference_offsets:
                bits.se(offset)
        bits.ue(self.num_reference_frames)
        bits.u(self.gaps_allowed)
        bits.ue(9)  # 160 x 96 pixels
        bits.ue(5)
        bits.u(1)  # frames only
        for flag in (1, 0, 0):  # direct 8x8, cropping, VUI
            bits.u(flag)
        return bits.nal_unit(SPS, 3)

    def _picture_set(self) -> bytes:
        bits = BitWriter()
        bits.ue(0)
        bits.ue(0)
        bits.u(0, 2)  # CAVLC, no bottom field order
        for code in (0, 0, 0):  # one slice group, one reference in each list
            bits.ue(code)
        bits.u(0, 3)  # no prediction weights
        for code in (0, 0, 0):
            bits.se(code)
        bits.u(0, 3)
        return bits.nal_unit(PPS, 3)

    def frame(
        self,
        kind: str,
        frame_num: int,
        poc: int = 0,
        *,
        idr: bool = False,
        reference: bool = True,
        num_active: tuple[int, int] = (4, 4),
        modifications: tuple[tuple[int, int], ...] = (),
        marking: tuple[tuple[int, ...], ...] | None = None,
        long_term_idr: bool = False,
        further_slices: Sequence[tuple[int, int] | None] = (),
    ) -> PictureHeaders:
        """Write a frame and return what the builder reads.

        Args:
            kind: P, B or I.
            frame_num: reduced to its bits when written.
            poc: order count for POC type 0, reduced to its bits; `delta_pic_order_cnt[0]` for POC type 1.
            idr: an IDR picture.
            reference: other frames may refer to this one.
            num_active: references in list 0 and list 1.
            modifications: (operation, value) of list 0.
            marking: memory management operations with their values; None for the sliding window.
            long_term_idr: `long_term_reference_flag` of an IDR picture.
            further_slices: `num_active` of each slice after the first; None for one that is damaged.
        """
        units = [
            b"\x01" if active is None  # it ends after its first byte
            else self._slice(kind, frame_num, poc, idr, reference, active, modifications, marking, long_term_idr)
            for active in (num_active, *further_slices)
        ]  # fmt: skip
        parameter_sets = self._parameter_sets if not self.num_frames else b""
        self.num_frames += 1
        headers = self._builder.add_packet(
            parameter_sets + b"".join(b"\0\0\0\1" + unit for unit in units), self.num_frames
        )
        assert headers is not None
        return headers

    def _slice(
        self,
        kind: str,
        frame_num: int,
        poc: int,
        idr: bool,
        reference: bool,
        num_active: tuple[int, int],
        modifications: tuple[tuple[int, int], ...],
        marking: tuple[tuple[int, ...], ...] | None,
        long_term_idr: bool,
    ) -> bytes:
        """Return the header of a slice as a NAL unit; arguments as for `frame`."""
        bits = BitWriter()
        bits.ue(0)
        bits.ue(SLICE_TYPES[kind])
        bits.ue(0)
        bits.u(frame_num % (1 << self.frame_num_bits), self.frame_num_bits)
        if idr:
            bits.ue(0)
        if self.poc_type == 0:
            bits.u(poc % (1 << self.poc_lsb_bits), self.poc_lsb_bits)
        elif self.poc_type == 1:
            bits.se(poc)
        if kind == "B":
            bits.u(1)  # direct_spatial_mv_pred_flag
        if kind != "I":
            bits.u(1)
            for count in num_active[: 2 if kind == "B" else 1]:
                bits.ue(count - 1)
            bits.u(bool(modifications))
            for operation, value in modifications:
                bits.ue(operation)
                bits.ue(value)
            if modifications:
                bits.ue(3)
        if kind == "B":
            bits.u(0)  # list 1 is not modified
        if idr:
            bits.u(0)
            bits.u(long_term_idr)
        elif reference:
            bits.u(marking is not None)
            for operation in marking or ():
                for code in operation:
                    bits.ue(code)
            if marking is not None:
                bits.ue(0)
        return bits.nal_unit(IDR_SLICE if idr else SLICE, 3 if reference else 0)

    def idr(self, **options: bool) -> PictureHeaders:
        """Write an IDR frame."""
        return self.frame("I", 0, 0, idr=True, **options)
