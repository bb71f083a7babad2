"""Words beneath a picture: where it is, and what is known of its motion.

`videotok inspect`: motion drawn over the frames, as a film or as a sheet of pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codec import REPRODUCIBLE, Clip, ClipSpec, MediaInfo, VectorShares, VideoWriter, atomic_path
from videotok.report.flow_vis import (
    AHEAD_SECONDS,
    CUT_COLOUR,
    HATCH_COLOUR,
    KEYFRAME_COLOUR,
    RINGS,
    MotionPainter,
    boxed,
    wheel,
)

BACKGROUND, TEXT, FAINT = (17, 20, 24), (232, 234, 237), (154, 160, 166)
KNOWN = {"exact": (61, 200, 140), "inferred": (255, 179, 71), "missing": (104, 110, 120)}
"""Colour of each share, in its order."""


@dataclass(frozen=True)
class Label:
    """Text with a colour of its own."""

    text: str
    colour: tuple[int, int, int] = TEXT


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


class Panel:
    """A dark strip to write on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def write(self, place: tuple[int, int], labels: list[Label], size: int) -> int:
        """Writes labels one after another; gives the place where they end."""
        x, y = place
        for label in labels:
            self._draw.text((x, y), label.text, label.colour, font(size), anchor="lm")
            x += round(self._draw.textlength(label.text, font(size)))
        return x

    def bar(self, box: tuple[int, int, int, int], shares: VectorShares) -> None:
        """The shares, one beside the other, in a box (left, top, right, bottom)."""
        left, top, right, bottom = box
        edge = float(left)
        for name, colour in KNOWN.items():
            end = edge + getattr(shares, name) * (right - left)
            if round(end) > round(edge):
                self._draw.rectangle((round(edge), top, round(end) - 1, bottom), colour)
            edge = end

    def swatch(self, box: tuple[int, int, int, int], colour: tuple[int, int, int], kind: str) -> None:
        """A sample of a mark: `hatch` or `frame`."""
        left, top, right, bottom = box
        if kind == "frame":
            self._draw.rectangle(box, outline=colour, width=3)
            return
        self._draw.rectangle(box, (44, 48, 54))
        for offset in range(0, right - left + bottom - top, 6):
            begin = min(left + offset, right), top + max(0, left + offset - right)
            end = left + max(0, offset - (bottom - top)), min(top + offset, bottom)
            self._draw.line((*begin, *end), colour, 2)

    def paste(self, picture: np.ndarray, place: tuple[int, int]) -> None:
        self.image.paste(Image.fromarray(picture), place)

    @property
    def array(self) -> np.ndarray:
        """uint8 [height, width, 3] RGB."""
        return np.asarray(self.image)


def clock(seconds: float) -> str:
    """`1:02.083`"""
    thousandths = round(seconds * 1000)
    return f"{thousandths // 60_000}:{thousandths // 1000 % 60:02d}.{thousandths % 1000:03d}"


def shares_labels(clip: Clip) -> list[Label]:
    """`native vectors  70 % exact  29 % inferred  1 % missing`"""
    source = "the stream's vectors" if clip.motion_source == "native" else "vectors of a re-encoding"
    labels = [Label(f"{source}   ", FAINT)]
    for name, colour in KNOWN.items():
        labels += [Label(f"{getattr(clip.shares, name):.0%} ", colour), Label(f"{name}   ", FAINT)]
    return labels


def legend(width: int, height: int) -> np.ndarray:
    """What colours and marks mean, uint8 [height, width, 3] RGB: the wheel, and lines beside it."""
    panel = Panel(width, height)
    side = height - 12
    panel.paste(wheel(side, BACKGROUND), (6, 6))
    small, left = 13, side + 20
    speeds = ", ".join(f"{ring:.0%}" for ring in RINGS)
    rows = height // 4
    middle = rows // 2
    panel.write(
        (left, middle),
        [
            Label("where to; arrows: ", FAINT),
            Label(f"{Fraction(AHEAD_SECONDS).limit_denominator(100)} s"),
            Label(" of motion", FAINT),
        ],
        small,
    )
    panel.write(
        (left, rows + middle), [Label("rings: ", FAINT), Label(speeds), Label(" of the width a second", FAINT)], small
    )
    y = 2 * rows + middle
    panel.swatch((left, y - 7, left + 22, y + 7), HATCH_COLOUR, "hatch")
    panel.write((left + 30, y), [Label("no vector: measured or filled in", FAINT)], small)
    y += rows
    panel.swatch((left, y - 7, left + 22, y + 7), KEYFRAME_COLOUR, "frame")
    end = panel.write((left + 30, y), [Label("keyframe", FAINT)], small)
    panel.swatch((end + 14, y - 7, end + 36, y + 7), CUT_COLOUR, "frame")
    panel.write((end + 44, y), [Label("new scene", FAINT)], small)
    return panel.array


FILM_SIDE, TILE_SIDE = 960, 420
"""Pixels of a picture's long side."""

CAPTION, LEGEND_WIDTH, TILES, SHEET_CLIPS = 96, 400, 5, 4
"""Height of a film's caption, and width of the legend in it; pictures a clip, and clips, of a sheet."""

FILM_QUALITY = {"preset": "medium", "crf": "20", **REPRODUCIBLE}

Progress = Callable[[Clip], None]


def fitted(info: MediaInfo, long_side: int) -> tuple[int, int]:
    """(width, height), even, with the shape of the video and this long side."""
    scale = long_side / max(info.width, info.height)
    return max(2, round(info.width * scale / 2) * 2), max(2, round(info.height * scale / 2) * 2)


def write_film(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, place: Path) -> int:
    """Writes every frame of `clips`, whose pictures are `size` (width, height), with its motion and a caption.

    Returns the number of clips. Memory does not grow with their number.
    """
    painter = MotionPainter(size, float(spec.fps))
    width = max(size[0], 640)
    explained = legend(LEGEND_WIDTH, CAPTION) if width >= LEGEND_WIDTH + 440 else None
    left = (width - size[0]) // 2
    number = 0
    with VideoWriter(place, spec.fps, (width, size[1] + CAPTION), options=FILM_QUALITY) as writer:
        for clip in clips:
            number += 1
            for step in range(clip.num_frames):
                image = np.zeros((size[1] + CAPTION, width, 3), np.uint8)
                image[: size[1], left : left + size[0]] = painted(painter, clip, step)
                image[size[1] :] = _caption(width, name, clip, number, step, spec, explained)
                writer.write(image)
    return number


def painted(painter: MotionPainter, clip: Clip, step: int) -> np.ndarray:
    """A frame of the clip with its motion; keyframes and the first frames of scenes in a box."""
    if clip.frames is None:
        raise ValueError("`clip.frames` is None: ask iter_clips for frames=True")
    valid = clip.motion.valid[step]
    # a video's first frame comes from nowhere: nothing is missing there
    image = painter.paint(clip.frames[step], clip.motion.vectors[step], valid, hatched=step > 0 or bool(valid.any()))
    if step == 0:
        boxed(image, KEYFRAME_COLOUR)
    elif step in clip.cuts:
        boxed(image, CUT_COLOUR)
    return image


def _caption(
    width: int, name: str, clip: Clip, number: int, step: int, spec: ClipSpec, explained: np.ndarray | None
) -> np.ndarray:
    panel = Panel(width, CAPTION)
    room = width - 32 - (explained.shape[1] if explained is not None else 0)
    kind = Label("   keyframe", KEYFRAME_COLOUR) if step == 0 else Label("")
    if step in clip.cuts:
        kind = Label(f"{kind.text}   new scene", CUT_COLOUR)
    time = clock(clip.pts_seconds + float(step / spec.fps))
    panel.write((16, 20), [Label(name if len(name) < 64 else f"{name[:60]}…", FAINT)], 13)
    panel.write(
        (16, 44), [Label(time), Label(f"   clip {number}, frame {step + 1} of {clip.num_frames}", FAINT), kind], 18
    )
    panel.write((16, 68), shares_labels(clip), 13)
    panel.bar((16, 82, 16 + min(room, 420), 88), clip.shares)
    if explained is not None:
        panel.paste(explained, (width - explained.shape[1], 0))
    return panel.array


def write_sheet(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, place: Path) -> int:
    """Writes a picture with a row for each of `clips`: TILES of its frames. Returns the number of clips."""
    painter = MotionPainter(size, float(spec.fps))
    gap = 6
    width = TILES * (size[0] + gap) + gap
    rows = [_head(width, name)]
    number = 0
    for clip in clips:
        number += 1
        panel = Panel(width, size[1] + gap + 34)
        begin = [Label(f"{clock(clip.pts_seconds)} "), Label(f"  clip {number}, {clip.num_frames} frames   ", FAINT)]
        new = [Label(f"   new scene at frame {', '.join(str(cut + 1) for cut in clip.cuts)}", CUT_COLOUR)]
        end = panel.write((gap + 4, 18), [*begin, *shares_labels(clip), *(new if clip.cuts else [])], 15)
        panel.bar((end + 12, 15, end + 12 + 200, 21), clip.shares)
        steps = np.unique(np.linspace(0, clip.num_frames - 1, TILES).round().astype(int)).tolist()
        for place_in_row, step in enumerate(steps):
            panel.paste(painted(painter, clip, step), (gap + place_in_row * (size[0] + gap), 34))
        rows.append(panel.array)
    with atomic_path(place) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    return number


def _head(width: int, name: str) -> np.ndarray:
    panel = Panel(width, CAPTION + 6)
    panel.write((16, 34), [Label(name)], 22)
    panel.write((16, 66), [Label("motion vectors, five frames of each clip", FAINT)], 15)
    explained = legend(LEGEND_WIDTH, CAPTION)
    panel.paste(explained, (width - explained.shape[1], 3))
    return panel.array
