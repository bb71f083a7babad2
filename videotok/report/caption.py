"""Words beneath a picture: where it is, and what is known of its motion."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codec import Clip, VectorShares
from videotok.report.arrows import AHEAD_SECONDS, CUT_COLOUR, HATCH_COLOUR, KEYFRAME_COLOUR
from videotok.report.wheel import RINGS, wheel

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
