"""Videos whose pictures show their own number, so that a test can tell which frame is on screen."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

SIZE = (128, 64)
NUM_BITS = 8
"""Eight blocks in two rows show the bits of the number."""

SOUND_RATE = 48_000


def numbered_picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return uint8 [H, W, 3] that shows `number` (0 to 255)."""
    bits = (number >> np.arange(NUM_BITS)) & 1
    blocks = np.where(bits, 220, 30).astype(np.uint8).reshape(2, NUM_BITS // 2)
    rows, columns = np.arange(size[1]) * 2 // size[1], np.arange(size[0]) * 4 // size[0]
    return np.repeat(blocks[rows][:, columns, None], 3, -1)


def shown_number(picture: np.ndarray) -> int:
    """Return the number that a picture of any size shows."""
    height, width = picture.shape[:2]
    centres = picture[[height // 4, 3 * height // 4]][:, [width * (2 * column + 1) // 8 for column in range(4)]]
    bits = centres.mean(-1).reshape(-1) > 125
    return int((bits << np.arange(NUM_BITS)).sum())


def write_numbered(
    path: Path,
    numbers: Iterable[int],
    codec: str = "libx264",
    *,
    rate: int = 24,
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    pts: Sequence[int] | None = None,
    sound_seconds: float = 0.0,
    sound_codec: str = "aac",
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode numbered pictures and return `path`.

    Args:
        path: the file; its suffix selects the container unless `container_format` does.
        numbers: of the pictures.
        codec: name of an FFmpeg encoder.
        rate: frames per second, and the time base of `pts`.
        options: the encoder's options.
        pixel_format: FFmpeg's name.
        size: (width, height).
        pts: when each picture is shown, in 1 / rate seconds; one after another if None.
        sound_seconds: length of a silent sound track.
        sound_codec: its encoder.
        container_format: FFmpeg's name.
        container_options: of the muxer.
    """
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        video = cast(Any, container.add_stream(codec, rate=rate, options=options or {}))
        video.width, video.height, video.pix_fmt = *size, pixel_format
        video.codec_context.time_base = Fraction(1, rate)
        sound = (
            cast(Any, container.add_stream(sound_codec, rate=SOUND_RATE, layout="stereo")) if sound_seconds else None
        )
        packets: list[av.Packet] = []
        for index, number in enumerate(numbers):
            picture = av.VideoFrame.from_ndarray(numbered_picture(number, size), format="rgb24")
            picture = picture.reformat(format=pixel_format)
            picture.pts, picture.time_base = index if pts is None else pts[index], Fraction(1, rate)
            packets += video.encode(picture)
        packets += video.encode(None)
        if sound is not None:
            packets += _encode_silence(sound, sound_seconds)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        container.mux(packets)
    return path


def _encode_silence(sound: Any, seconds: float) -> list[av.Packet]:
    packets, position = [], 0
    while position < seconds * SOUND_RATE:
        # encoders take other sample formats: PyAV converts
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 960), np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, position, Fraction(1, SOUND_RATE)
        packets += sound.encode(frame)
        position += 960
    return packets + sound.encode(None)
