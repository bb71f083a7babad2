"""H.264 headers and reference lists, from streams written bit by bit and lists worked out by hand from the standard."""

from pathlib import Path

import numpy as np
import pytest

from codec import h264
from codec.container import open_video
from codec.decoder import read_frames
from codec.h264 import BitReader, nal_units
from codec.reference_lists import ReferenceListBuilder
from tests.h264_streams import BitWriter, HeaderStream

EDGE_FILES = Path(__file__).parents[2] / "shared" / "data" / "edge"


def test_unsigned_codes():
    # 1, 010, 011, 00100, 00101: 0 to 4 (table 9-2)
    bits = BitReader(int("101001100100001010000000", 2).to_bytes(3, "big"))
    assert [bits.ue() for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="ends inside"):
        BitReader(b"\xff").read(9)
    with pytest.raises(ValueError, match="exp-Golomb"):
        BitReader(bytes(8)).ue()


def test_signed_codes():
    # 1, 010, 011, 00100, 00101: 0, 1, -1, 2, -2 (table 9-3)
    bits = BitReader(int("101001100100001010000000", 2).to_bytes(3, "big"))
    assert [bits.se() for _ in range(5)] == [0, 1, -1, 2, -2]


def test_codes_are_read_as_they_are_written():
    bits = BitWriter()
    bits.u(0, 24)  # needs an emulation prevention byte
    for value in (-70000, -1, 0, 1, 70000):
        bits.se(value)
    unit = bits.nal_unit(1, 0)
    assert b"\0\0\3" in unit
    reader = BitReader(unit[1:])
    assert reader.read(24) == 0
    assert [reader.se() for _ in range(5)] == [-70000, -1, 0, 1, 70000]


def test_emulation_prevention_bytes_are_removed():
    assert BitReader(bytes([0, 0, 3, 1])).read(24) == 1


def test_nal_units():
    units = [b"\x67abc", b"\x68de", b"\x65" + b"f" * 300]
    assert list(nal_units(b"".join(b"\0\0\1" + unit for unit in units), 0)) == units
    assert list(nal_units(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units), 4)) == units
    assert list(nal_units(b"", 4)) == []


def test_packets_without_a_readable_picture_give_no_headers():
    builder = ReferenceListBuilder()
    assert builder.add_packet(b"", 1) is None
    assert builder.add_packet(b"\0\0\1\x09\xf0", 1) is None  # an access unit delimiter
    assert builder.add_packet(b"\0\0\1\x65\x88\x84", 1) is None  # a slice without its parameter sets


def test_sliding_window():
    stream = HeaderStream(num_reference_frames=2)
    assert stream.idr().lists == ((), ())
    assert stream.frame("P", 1).lists == ((1,), ())
    assert stream.frame("P", 2).lists == ((2, 1), ())
    assert stream.frame("P", 3).lists == ((3, 2), ())
    headers = stream.frame("P", 4, num_active=(1, 1))
    assert headers.lists == ((4,), ())
    assert (headers.is_reference, headers.num_references, headers.is_interlaced) == (True, 2, False)


def test_of_several_slices_the_longest_lists_are_returned():
    stream = HeaderStream(num_reference_frames=4)
    stream.idr()
    for number in (1, 2, 3):
        stream.frame("P", number)
    one, more, fewer, damaged = (1, 1), (3, 1), (2, 1), None
    assert stream.frame("P", 4, num_active=one, further_slices=[damaged, fewer, more, one]).lists == ((4, 3, 2), ())
    assert stream.frame("P", 5, num_active=more, further_slices=[one, damaged, fewer]).lists == ((5, 4, 3), ())


def test_of_several_slices_each_list_counts_by_itself():
    stream = HeaderStream(poc_type=0)
    stream.idr()
    stream.frame("P", 1, 8)
    headers = stream.frame("B", 2, 4, reference=False, num_active=(2, 1), further_slices=[(1, 2)])
    assert headers.lists == ((1, 2), (2, 1))


def test_a_long_header_is_read(monkeypatch):
    """It is longer than what is looked at first, and shorter than what is looked at then."""

    def lists() -> tuple[tuple[int, ...], tuple[int, ...]]:
        stream = HeaderStream(num_reference_frames=4)
        stream.idr()
        for number in (1, 2, 3):
            stream.frame("P", number)
        # picture numbers go up and down by 10,000, coded in 27 bits each, and at last to the oldest picture
        return stream.frame("P", 4, modifications=(*((0, 9999), (1, 9999)) * 20, (0, 3))).lists

    assert lists()[0] == (4, 3, 2, 1)
    monkeypatch.setattr(h264, "USUAL_HEADER_BYTES", h264.MAX_HEADER_BYTES)
    assert lists()[0] == (4, 3, 2, 1)


def test_frames_that_are_no_references_enter_no_list():
    stream = HeaderStream()
    stream.idr()
    assert not stream.frame("P", 1, reference=False).is_reference
    headers = stream.frame("P", 1)
    assert headers.lists == ((1,), ())
    assert not headers.follows_loss


def test_frame_numbers_wrap():
    stream = HeaderStream(num_reference_frames=3)
    stream.idr()
    for number in range(1, 40):
        headers = stream.frame("P", number)
        assert headers.lists[0] == tuple(range(number, max(number - 3, 0), -1))
        assert not headers.follows_loss


def test_an_idr_picture_empties_the_lists():
    stream = HeaderStream()
    stream.idr()
    stream.frame("P", 1)
    stream.idr()
    assert stream.frame("P", 1).lists == ((3,), ())


def test_poc_type_0_wraps():
    stream = HeaderStream(poc_type=0)
    stream.idr()
    stream.frame("P", 1, 8)
    assert stream.frame("B", 2, 4, reference=False).lists == ((1, 2), (2, 1))
    stream.frame("P", 2, 16)  # written as 0
    assert stream.frame("B", 3, 12, reference=False).lists == ((2, 1, 4), (4, 2, 1))


def test_poc_type_0_before_the_idr_picture():
    stream = HeaderStream(poc_type=0)
    stream.idr()
    stream.frame("P", 1, 4)
    # both references are shown later, so the lists would be equal: list 1 swaps its first two entries
    assert stream.frame("B", 2, -2, reference=False).lists == ((1, 2), (2, 1))


def test_poc_type_1():
    stream = HeaderStream(poc_type=1, reference_offsets=(4,), offset_non_reference=-2)
    stream.idr()  # order count 0
    stream.frame("P", 1)  # 4
    assert stream.frame("B", 2, reference=False).lists == ((1, 2), (2, 1))  # 2
    stream.frame("P", 2)  # 8
    assert stream.frame("B", 3, reference=False).lists == ((2, 1, 4), (4, 2, 1))  # 6
    assert stream.frame("B", 3, 5, reference=False).lists == ((4, 2, 1), (2, 4, 1))  # 6 + 5


def test_poc_type_1_with_a_cycle_of_two_offsets():
    stream = HeaderStream(poc_type=1, reference_offsets=(2, 6), offset_non_reference=-5)
    stream.idr()
    for number in (1, 2, 3):  # order counts 2, 8, 10
        stream.frame("P", number)
    assert stream.frame("B", 4, reference=False).lists == ((2, 1, 3, 4), (3, 4, 2, 1))  # 10 - 5


def test_poc_type_1_over_a_wrap_of_frame_numbers():
    stream = HeaderStream(poc_type=1, num_reference_frames=3, reference_offsets=(4,), offset_non_reference=-2)
    stream.idr()
    for number in range(1, 18):
        stream.frame("P", number)
    assert stream.frame("B", 18, reference=False).lists == ((17, 16, 18), (18, 17, 16))


def test_poc_type_2_is_decoding_order():
    stream = HeaderStream(poc_type=2, num_reference_frames=3)
    stream.idr()
    for number in range(1, 18):
        stream.frame("P", number)
    # all references are shown earlier, so the lists would be equal
    assert stream.frame("B", 18, reference=False).lists == ((18, 17, 16), (17, 18, 16))


def test_list_modification_of_short_term_references():
    stream = HeaderStream()
    stream.idr()
    stream.frame("P", 1)
    stream.frame("P", 2)
    assert stream.frame("P", 3, reference=False).lists[0] == (3, 2, 1)
    assert stream.frame("P", 3, reference=False, modifications=((0, 1),)).lists[0] == (2, 3, 1)
    assert stream.frame("P", 3, reference=False, modifications=((0, 2), (1, 0))).lists[0] == (1, 2, 3)
    assert stream.frame("P", 3, reference=False, modifications=((0, 2),), num_active=(2, 1)).lists[0] == (1, 3)
    # a picture number below 0 is the same one modulo the range of frame numbers
    assert stream.frame("P", 3, reference=False, modifications=((1, 14),)).lists[0] == (2 + 1, 2, 1)


def test_list_modification_of_long_term_references():
    stream = HeaderStream()
    stream.idr(long_term_idr=True)
    stream.frame("P", 1)
    assert stream.frame("P", 2, reference=False).lists[0] == (2, 1)
    assert stream.frame("P", 2, reference=False, modifications=((2, 0),)).lists[0] == (1, 2)


def test_a_long_term_idr_picture_stays():
    stream = HeaderStream(num_reference_frames=2)
    stream.idr(long_term_idr=True)
    stream.frame("P", 1)
    assert stream.frame("P", 2).lists[0] == (2, 1)
    assert stream.frame("P", 3).lists[0] == (3, 1)


def test_mmco_1_removes_a_short_term_reference():
    stream = HeaderStream()
    stream.idr()
    stream.frame("P", 1)
    stream.frame("P", 2)
    stream.frame("P", 3, marking=((1, 1),))  # frame number 3 - 2
    assert stream.frame("P", 4).lists[0] == (4, 3, 1)


def test_mmco_1_does_not_remove_a_long_term_reference():
    stream = HeaderStream()
    stream.idr(long_term_idr=True)
    stream.frame("P", 1, marking=((1, 0),))  # frame number 0
    assert stream.frame("P", 2).lists[0] == (2, 1)


def test_an_empty_marking_removes_nothing():
    stream = HeaderStream(num_reference_frames=2)
    stream.idr()
    stream.frame("P", 1, marking=())
    stream.frame("P", 2, marking=((1, 1),))  # frame number 0
    assert stream.frame("P", 3).lists[0] == (3, 2)


def test_mmco_3_makes_a_reference_long_term():
    stream = HeaderStream(num_reference_frames=3)
    stream.idr()
    stream.frame("P", 1)
    stream.frame("P", 2, marking=((4, 1), (3, 0, 0)))  # frame number 1 becomes long-term reference 0
    assert stream.frame("P", 3).lists[0] == (3, 1, 2)
    # the sliding window removes short-term references only
    assert stream.frame("P", 4).lists[0] == (4, 3, 2)
    assert stream.frame("P", 5).lists[0] == (5, 4, 2)


def test_mmco_3_replaces_the_long_term_reference_of_the_same_index():
    stream = HeaderStream()
    stream.idr(long_term_idr=True)
    stream.frame("P", 1)
    stream.frame("P", 2, marking=((3, 0, 0),))
    assert stream.frame("P", 3).lists[0] == (3, 2)


def test_mmco_6_and_2_and_4():
    stream = HeaderStream()
    stream.idr()
    stream.frame("P", 1, marking=((4, 2), (6, 1)))
    stream.frame("P", 2, marking=((6, 0),))
    # short-term references first, then long-term ones by their index
    assert stream.frame("P", 3, reference=False).lists[0] == (1, 3, 2)
    stream.frame("P", 3, marking=((2, 1),))
    assert stream.frame("P", 4, reference=False).lists[0] == (5, 1, 3)
    stream.frame("P", 4, marking=((4, 0),))
    assert stream.frame("P", 5, reference=False).lists[0] == (7, 5, 1)


def test_mmco_6_replaces_the_long_term_reference_of_the_same_index():
    stream = HeaderStream()
    stream.idr(long_term_idr=True)
    stream.frame("P", 1, marking=((6, 0),))
    assert stream.frame("P", 2).lists[0] == (2,)


def test_long_term_references_come_last_in_lists_of_b_frames():
    stream = HeaderStream(poc_type=0)
    stream.idr(long_term_idr=True)
    stream.frame("P", 1, 4)
    stream.frame("P", 2, 8)
    assert stream.frame("B", 3, 6, reference=False).lists == ((2, 3, 1), (3, 2, 1))


def test_mmco_5_begins_anew():
    stream = HeaderStream(poc_type=0)
    stream.idr()
    stream.frame("P", 1, 6)
    stream.frame("P", 2, 10, marking=((5,),))  # from here on frame number 0, order count 0
    headers = stream.frame("P", 1, 8)
    assert headers.lists[0] == (3,)
    assert not headers.follows_loss
    assert stream.frame("B", 2, 4, reference=False).lists == ((3, 4), (4, 3))


def test_mmco_5_resets_the_high_part_of_the_order_count():
    stream = HeaderStream(poc_type=0)
    stream.idr()
    for number in (1, 2, 3):
        stream.frame("P", number, 6 * number)
    stream.frame("P", 4, 22, marking=((5,),))  # order count 0 from here on
    stream.frame("P", 1, 4)
    stream.frame("P", 2, 2)
    # all references are shown later
    assert stream.frame("B", 3, -2, reference=False).lists == ((5, 7, 6), (7, 5, 6))


@pytest.mark.parametrize("poc_type", [1, 2])
def test_mmco_5_with_order_counts_from_frame_numbers(poc_type):
    stream = HeaderStream(poc_type=poc_type, reference_offsets=(4,), offset_non_reference=-2)
    stream.idr()
    for number in range(1, 10):
        stream.frame("P", number)
    stream.frame("P", 10, marking=((5,),))
    stream.frame("P", 1)
    expected = ((11, 12), (12, 11)) if poc_type == 1 else ((12, 11), (11, 12))
    assert stream.frame("B", 2, reference=False).lists == expected


def test_gaps_in_frame_numbers():
    stream = HeaderStream(num_reference_frames=3, gaps_allowed=True)
    stream.idr()
    headers = stream.frame("P", 3)  # 1 and 2 are left out
    assert headers.lists[0] == (-1, -1, 1)
    assert not headers.follows_loss
    assert stream.frame("P", 4).lists[0] == (2, -1, -1)


def test_a_long_gap_displaces_all_references():
    stream = HeaderStream(num_reference_frames=2, gaps_allowed=True)
    stream.idr()
    stream.frame("P", 1)
    assert stream.frame("P", 9).lists[0] == (-1, -1)
    assert stream.frame("P", 10).lists[0] == (3, -1)


def test_a_gap_is_filled_once():
    stream = HeaderStream(num_reference_frames=4, gaps_allowed=True)
    stream.idr()
    stream.frame("P", 1)
    # frame number 2 is left out; a frame that is no reference comes first after it
    assert stream.frame("P", 3, reference=False).lists[0] == (-1, 2, 1)
    assert stream.frame("P", 3).lists[0] == (-1, 2, 1)


def test_a_gap_that_is_not_allowed_is_a_loss():
    stream = HeaderStream(num_reference_frames=3)
    stream.idr()
    assert stream.frame("P", 2).follows_loss
    assert not stream.frame("P", 3).follows_loss


def test_b_frames_do_not_refer_to_missing_frames():
    stream = HeaderStream(poc_type=0, num_reference_frames=4, gaps_allowed=True)
    stream.idr()
    stream.frame("P", 2, 8)
    assert stream.frame("B", 3, 4, reference=False).lists == ((1, 2), (2, 1))


@pytest.mark.slow
@pytest.mark.skipif(not EDGE_FILES.exists(), reason="needs shared/data/edge")
@pytest.mark.parametrize(
    "name",
    [
        "cisco__openh264__MR2_MW_A.264",
        "cisco__openh264__LS_SVA_D.264",
        "cisco__openh264__BA1_FT_C.264",
        "luke-cha__fate-suite__h264_4bf_pyramid_nobsrestriction.mp4",
        "yang-datong__H264Decoder__854x480_60_fps_20_gop.h264",
    ],
)
def test_reference_lists_of_conformance_streams(name):
    """Every vector's list has an entry, and every entry is a frame that was decoded before."""
    with open_video(EDGE_FILES / name) as (container, stream):
        frames = list(read_frames(container, stream, with_vectors=True))
    decoded = {frame.index for frame in frames}
    assert len(frames) > 10
    for frame in frames:
        assert frame.headers is not None
        assert not frame.headers.follows_loss
        for which, indices in enumerate(frame.headers.lists):
            assert all(index in decoded and index < frame.index for index in indices)
            if frame.vectors is not None and indices == ():
                assert not np.any((frame.vectors["source"] > 0) == which)
