"""Pages that stand alone: one HTML file with its styles, pictures and videos inside."""

import base64
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from codec import REPRODUCIBLE, VideoWriter, replacing

_VIDEO = {"preset": "medium", "crf": "18", **REPRODUCIBLE}


def write_page(path: Path, template: str, **values: object) -> None:
    """Renders a template of `videotok/report/templates`, beside its place and renamed into it.

    Raises:
        OSError: the place cannot be written to.
    """
    text = _environment().get_template(template).render(**values)
    with replacing(path) as temporary:
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
