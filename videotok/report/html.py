"""Pages that stand alone: one HTML file with its styles, pictures and videos inside.

Curves as inline SVG, with the name of each at its end instead of a legend.
"""

import base64
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from codec import REPRODUCIBLE, VideoWriter, atomic_path

_VIDEO = {"preset": "medium", "crf": "18", **REPRODUCIBLE}


def write_page(path: Path, template: str, **values: object) -> None:
    """Renders a template of `videotok/report/templates`, beside its place and renamed into it.

    Raises:
        OSError: the place cannot be written to.
    """
    text = _environment().get_template(template).render(**values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def picture_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] RGB -> a `data:` address of a PNG."""
    done, packed = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} cannot be written as PNG")
    return _uri("image/png", packed.tobytes())


def video_uri(frames: Iterable[np.ndarray], fps: Fraction | int, size: tuple[int, int]) -> str:
    """Frames uint8 [H, W, 3] RGB of `size` (width, height) -> a `data:` address of an H.264 mp4."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "clip.mp4"
        with VideoWriter(place, fps, size, options=_VIDEO) as writer:
            for frame in frames:
                writer.write(frame)
        return _uri("video/mp4", place.read_bytes())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("videotok.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 108, 14, 40
NAME_HEIGHT = 14

_SVG = Template(
    """<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ label }}">
{% for y, text in rows %}<line class="grid" x1="{{ left }}" x2="{{ right }}" y1="{{ y }}" y2="{{ y }}"/>
<text x="{{ left - 6 }}" y="{{ y + 4 }}" text-anchor="end">{{ text }}</text>
{% endfor %}{% for x, text in columns %}<text x="{{ x }}" y="{{ bottom + 17 }}" text-anchor="middle">{{ text }}</text>
{% endfor %}<text x="{{ (left + right) / 2 }}" y="{{ height - 4 }}" text-anchor="middle">{{ across }}</text>
{% for curve in curves %}<polyline class="curve" style="stroke: var(--{{ curve.colour }})"
{%- if curve.dashed %} stroke-dasharray="5 4"{% endif %} points="{{ curve.points }}"/>
{% for x, y, title in curve.dots %}<circle cx="{{ x }}" cy="{{ y }}" r="3" style="fill: var(--{{ curve.colour }})">
<title>{{ title }}</title></circle>
{% endfor %}<text class="name" style="fill: var(--{{ curve.colour }})" x="{{ curve.x }}" y="{{ curve.y }}">
{{- curve.name }}</text>
{% endfor %}</svg>""",
    autoescape=True,
)


@dataclass(frozen=True)
class Curve:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), in order of x; at least one."""
    colour: str
    """A variable of the page's style, without its dashes."""
    dashed: bool = False


def chart(curves: Sequence[Curve], label: str, across: str) -> Markup:
    """The curves on one pair of axes, as an `<svg>` element; empty where there is no curve.

    Args:
        label: what the picture shows, for those who do not see it.
        across: title of the x axis.
    """
    if not curves:
        return Markup("")
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    across_scale = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up_scale = _Scale(math.floor(min(ys)), math.ceil(max(ys)), HEIGHT - BOTTOM, TOP)
    heights = _apart([up_scale(curve.points[-1][1]) for curve in curves])
    drawn = [
        {
            "name": curve.name,
            "colour": curve.colour,
            "dashed": curve.dashed,
            "points": " ".join(f"{across_scale(x):.1f},{up_scale(y):.1f}" for x, y in curve.points),
            "dots": [
                (round(across_scale(x), 1), round(up_scale(y), 1), f"{curve.name}: {y:.2f} at {x:g}")
                for x, y in curve.points
            ],
            "x": round(across_scale(curve.points[-1][0]) + 8, 1),
            "y": round(height + 4, 1),
        }
        for curve, height in zip(curves, heights, strict=True)
    ]
    rows = [(round(up_scale(y), 1), f"{y:g}") for y in up_scale.ticks(5)]
    columns = [(round(across_scale(x), 1), f"{x:g}") for x in across_scale.ticks(6)]
    return Markup(
        _SVG.render(
            width=WIDTH,
            height=HEIGHT,
            left=LEFT,
            right=WIDTH - RIGHT,
            bottom=HEIGHT - BOTTOM,
            label=label,
            across=across,
            rows=rows,
            columns=columns,
            curves=drawn,
        )
    )


class _Scale:
    """Values to places on the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, number: int) -> list[float]:
        """About `number` round values within."""
        raw = (self.high - self.low) / number
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)
        first = math.ceil(self.low / step)
        return [step * index for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _apart(heights: list[float]) -> list[float]:
    """The heights of names, moved so that none lies on another: down first, then up where the picture ends."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + NAME_HEIGHT)
    lowest = float(HEIGHT - BOTTOM)
    for index in reversed(order):
        placed[index] = min(placed[index], lowest)
        lowest = placed[index] - NAME_HEIGHT
    return placed
