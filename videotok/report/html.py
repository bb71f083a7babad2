"""Pages that need no other file: HTML with its styles, pictures and videos inside, and charts as inline SVG."""

import base64
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from codec import REPRODUCIBLE, VideoWriter, atomic_path
from videotok.image_utils import encode_jpeg

VIDEO_OPTIONS = {"preset": "medium", "crf": "18", **REPRODUCIBLE}
JPEG_QUALITY = 92
CHART_WIDTH, CHART_HEIGHT = 580, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 176, 14, 40
"""Margins of a chart; the names of the curves stand in the right one."""
NAME_HEIGHT = 14
"""Pixels between the names of two curves, at least."""


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template of `videotok/report/templates` into a file, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    text = render(template, **values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(template: str, **values: object) -> str:
    """Return a template of `videotok/report/templates` as text."""
    return _environment().get_template(template).render(**values)


def picture_uri(picture: np.ndarray) -> str:
    """Return a picture uint8 [H, W, 3] RGB as the `data:` address of a JPEG file."""
    return _data_uri("image/jpeg", encode_jpeg(picture, JPEG_QUALITY))


def video_uri(frames: Iterable[np.ndarray], fps: Fraction | int, size: tuple[int, int]) -> str:
    """Return frames uint8 [H, W, 3] RGB of `size` (width, height) as the `data:` address of an H.264 mp4."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, fps, size, options=VIDEO_OPTIONS) as writer:
            for frame in frames:
                writer.write(frame)
        return _data_uri("video/mp4", path.read_bytes())


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("videotok.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["uri"] = picture_uri
    return environment


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), one or more, in order of x."""
    colour: str
    """The name of a variable of the page's style, without its dashes."""
    dashed: bool = False


@dataclass(frozen=True)
class _Dot:
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class _Line:
    """A curve in pixels, and where its name stands."""

    name: str
    colour: str
    dashed: bool
    dots: Sequence[_Dot]
    name_x: float
    name_y: float


def chart(curves: Sequence[Curve], label: str, x_title: str, *, standalone: bool = False) -> Markup:
    """Draw curves on one pair of axes, each with its name at its end.

    Args:
        label: what the chart shows, for those who do not see it.
        x_title: title of the x axis.
        standalone: with the styles inside, as a file of its own; on a page they are the page's.

    Returns:
        An `<svg>` element; empty where there is no curve.
    """
    if not curves:
        return Markup("")
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    x_axis = _Axis(min(xs), max(xs), LEFT, CHART_WIDTH - RIGHT)
    y_axis = _Axis(*_rounded_range(min(ys), max(ys)), CHART_HEIGHT - BOTTOM, TOP)
    heights = _spread([y_axis(curve.points[-1][1]) for curve in curves])
    lines = [_line(curve, x_axis, y_axis, height) for curve, height in zip(curves, heights, strict=True)]
    return Markup(
        render(
            "chart.svg",
            width=CHART_WIDTH,
            height=CHART_HEIGHT,
            left=LEFT,
            right=CHART_WIDTH - RIGHT,
            bottom=CHART_HEIGHT - BOTTOM,
            label=label,
            x_title=x_title,
            rows=[(round(y_axis(y), 1), f"{y:g}") for y in y_axis.ticks(5)],
            columns=[(round(x_axis(x), 1), f"{x:g}") for x in x_axis.ticks(6)],
            lines=lines,
            standalone=standalone,
        )
    )


def _line(curve: Curve, x_axis: "_Axis", y_axis: "_Axis", name_height: float) -> _Line:
    return _Line(
        name=curve.name,
        colour=curve.colour,
        dashed=curve.dashed,
        dots=[
            _Dot(round(x_axis(x), 1), round(y_axis(y), 1), f"{curve.name}: {y:.2f} at {x:g}") for x, y in curve.points
        ],
        name_x=round(x_axis(curve.points[-1][0]) + 8, 1),
        name_y=round(name_height + 4, 1),
    )


class _Axis:
    """An axis of a chart: values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, number: int) -> list[float]:
        """Return about `number` round values."""
        step = _round_step((self.high - self.low) / number)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * index, 10) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(step: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … (and 0.5, 0.2, …) that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * (1 - 1e-9))


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    """Return the smallest range around `low` to `high` that ends at round values."""
    step = _round_step((high - low) / 5) if high > low else 1.0
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _spread(heights: list[float]) -> list[float]:
    """Return heights of names, moved so that none covers another: downward first, then upward from the chart's end."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + NAME_HEIGHT)
    lowest = float(CHART_HEIGHT - BOTTOM)
    for index in reversed(order):
        placed[index] = min(placed[index], lowest)
        lowest = placed[index] - NAME_HEIGHT
    return placed
