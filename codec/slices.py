"""What the H.264 bitstream says about a picture, without decoding it."""

from collections.abc import Iterator


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


def is_reference(packet: bytes, prefix: int) -> bool | None:
    """Whether other pictures may point to this one (nal_ref_idc of its first slice); None without a slice."""
    for unit in nal_units(packet, prefix):
        if unit and unit[0] & 0x1F in (1, 5):
            return unit[0] & 0x60 != 0
    return None
