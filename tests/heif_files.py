"""HEIF pictures for tests, as phones write them: tiles that are coded one by one, and a grid that lays them out."""

import io
import struct
import subprocess
from typing import cast

import av
import imageio_ffmpeg
import numpy as np


def tiled_heic(picture: np.ndarray, tile: int, quarter_turns: int = 0) -> bytes:
    """Return a HEIC file of a picture, cut into square tiles.

    Args:
        picture: uint8 [H, W, 3] RGB.
        tile: side of a tile in pixels; the tiles at the right and at the bottom are filled up with black.
        quarter_turns: how often a reader must turn the picture counter-clockwise.
    """
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    filled = np.zeros((rows * tile, columns * tile, 3), np.uint8)
    filled[:height, :width] = picture
    coded = [
        _code(filled[row : row + tile, column : column + tile])
        for row in range(0, height, tile)
        for column in range(0, width, tile)
    ]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    items = [data for _, data in coded] + [grid]
    number = len(items)
    infos = b"".join(
        _full_box(b"infe", struct.pack(">HH4sB", index, 0, b"grid" if index == number else b"hvc1", 0), version=2)
        for index in range(1, number + 1)
    )
    properties = [
        _box(b"hvcC", coded[0][0]),
        _full_box(b"ispe", struct.pack(">II", tile, tile)),
        _full_box(b"ispe", struct.pack(">II", width, height)),
        _box(b"irot", bytes([quarter_turns])),
    ]
    associations = struct.pack(">I", number)
    for index in range(1, number):
        associations += struct.pack(">HBBB", index, 2, 0x80 | 1, 2)
    associations += struct.pack(">HBBB", number, 2, 3, 0x80 | 4)
    references = struct.pack(">HH", number, number - 1) + struct.pack(f">{number - 1}H", *range(1, number))
    begin = b"".join(
        (
            _full_box(b"hdlr", struct.pack(">I4s12xB", 0, b"pict", 0)),
            _full_box(b"pitm", struct.pack(">H", number)),
            _full_box(b"iinf", struct.pack(">H", number) + infos),
            _full_box(b"iref", _box(b"dimg", references)),
            _box(b"iprp", _box(b"ipco", b"".join(properties)) + _full_box(b"ipma", associations)),
        )
    )
    header = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    size = len(header) + len(_full_box(b"meta", begin + _locations(items, 0)))
    meta = _full_box(b"meta", begin + _locations(items, size + 8))
    return header + meta + _box(b"mdat", b"".join(items))


def _code(tile: np.ndarray) -> tuple[bytes, bytes]:
    """Return the decoder configuration and the coded picture of a tile."""
    height, width = tile.shape[:2]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    coding = ["-c:v", "libx265", "-crf", "4", "-x265-params", "log-level=none:info=0", "-pix_fmt", "yuv420p"]
    output = ["-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "-"]
    command = [*program, "-s", f"{width}x{height}", "-i", "-", *coding, *output]
    done = subprocess.run(command, input=tile.tobytes(), capture_output=True, check=True)
    with av.open(io.BytesIO(done.stdout), "r") as container:
        packet = next(container.demux(video=0))
        return cast(bytes, container.streams.video[0].codec_context.extradata), bytes(packet)


def _locations(items: list[bytes], begin: int) -> bytes:
    """Return the box that says where each item begins, the first at `begin`."""
    content = struct.pack(">BBH", 0x44, 0, len(items))
    for index, data in enumerate(items, 1):
        content += struct.pack(">HHHII", index, 0, 1, begin, len(data))
        begin += len(data)
    return _full_box(b"iloc", content)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full_box(kind: bytes, content: bytes, version: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24) + content)
