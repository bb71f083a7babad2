"""Clips of known motion: scenes of the virtual camera, written by every kind of encoder."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from codec import Clip, ClipSpec, VideoWriter
from codec.resample import TOLERANCE
from videotok.virtual_camera import Layer, Pose, Scene, photograph, steady

ENCODINGS: dict[str, tuple[str, dict[str, str]]] = {
    "ultrafast": ("libx264", {"preset": "ultrafast"}),
    "medium": ("libx264", {"preset": "medium"}),
    "veryslow": ("libx264", {"preset": "veryslow", "x264-params": "ref=8:bframes=8:b-pyramid=normal"}),
    "zerolatency": ("libx264", {"preset": "medium", "tune": "zerolatency"}),
    "mpeg4": ("mpeg4", {"b": "4M", "bf": "0"}),
    "mpeg4-b": ("mpeg4", {"b": "4M", "bf": "2"}),
    "mpeg2-b": ("mpeg2video", {"b": "4M", "bf": "2"}),
}
"""Encoder and its options."""


def scenes(size: tuple[int, int]) -> dict[str, Scene]:
    """Scenes with one kind of motion each, and one with two layers."""
    coffee = photograph("coffee")
    front = Layer(photograph("chelsea"), steady(pan=(-0.2, 0.05), start=Pose(x=0.2, zoom=0.8)), oval=(0.5, 0.7))
    back = Layer(coffee, steady(pan=(0.12, -0.04)))
    return {
        "pan": Scene(
            (
                Layer(
                    coffee,
                    steady(pan=(0.24, -0.12), start=Pose(x=-0.2, y=0.1)),
                ),
            ),
            size,
        ),
        "zoom": Scene((Layer(coffee, steady(zoom=1.25)),), size),
        "turn": Scene((Layer(coffee, steady(degrees=12)),), size),
        "layers": Scene((back, front), size),
    }


def write(
    path: Path,
    scene: Scene,
    times: Iterable[float | Fraction],
    encoding: str = "medium",
    fps: float | Fraction = 30,
    time_base: Fraction | None = None,
) -> Path:
    """Encodes the scene's pictures at these times; each is shown from its time on where `time_base` is given, else at
    even steps of 1 / fps."""
    codec, options = ENCODINGS[encoding]
    with VideoWriter(path, fps, scene.size, codec=codec, options=options, time_base=time_base) as writer:
        for time in times:
            picture = scene.frame(float(time))
            writer.write(picture, pts_seconds=time) if time_base else writer.write(picture)
    return path


def even(seconds: float, fps: float | Fraction) -> list[Fraction]:
    """Times of a video of constant rate."""
    rate = Fraction(fps)
    return [index / rate for index in range(round(seconds * rate))]


def truth(scene: Scene, clip: Clip, shown: list[float], spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
    """The exact motion of a clip whose source shows the scene at the times `shown`.

    Returns vectors float32 [num_frames, h, w, 2], visible bool [num_frames, h, w].
    """
    times = [clip.pts_seconds + float(step / spec.fps) for step in range(-1, clip.num_frames)]
    seen = [max((time for time in shown if time <= wanted + TOLERANCE), default=shown[0]) for wanted in times]
    steps = [scene.motion(now, before, spec.grid) for before, now in pairwise(seen)]
    return np.stack([vectors for vectors, _ in steps]), np.stack([visible for _, visible in steps])


def error_pixels(scene: Scene, clip: Clip, shown: list[float], spec: ClipSpec) -> float:
    """Mean end-point error of a clip's valid vectors, in pixels of the scene's frame."""
    vectors, visible = truth(scene, clip, shown, spec)
    counted = visible & clip.motion.valid[: clip.num_frames]
    difference = (clip.motion.vectors[: clip.num_frames] - vectors) * np.array(scene.size)
    return float(np.linalg.norm(difference, axis=-1)[counted].mean())
