"""Videos of known motion for tests: scenes of the virtual camera, encoded in many ways."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from codec import Clip, ClipSpec, VideoWriter
from codec.resample import TOLERANCE_SECONDS
from videotok.virtual_camera import Layer, Pose, Scene, constant_speed, photograph

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
    """Return scenes with one kind of motion each, and one with two layers."""
    coffee = photograph("coffee")
    front = Layer(photograph("chelsea"), constant_speed(pan=(-0.2, 0.05), start=Pose(x=0.2, zoom=0.8)), oval=(0.5, 0.7))
    back = Layer(coffee, constant_speed(pan=(0.12, -0.04)))
    return {
        "pan": Scene(
            (
                Layer(
                    coffee,
                    constant_speed(pan=(0.24, -0.12), start=Pose(x=-0.2, y=0.1)),
                ),
            ),
            size,
        ),
        "zoom": Scene((Layer(coffee, constant_speed(zoom=1.25)),), size),
        "turn": Scene((Layer(coffee, constant_speed(degrees=12)),), size),
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
    """Encode the scene's pictures at `times` and return `path`.

    With `time_base` each picture is shown from its time on (variable frame rate), else at steps of 1 / fps.
    """
    codec, options = ENCODINGS[encoding]
    with VideoWriter(path, fps, scene.size, codec=codec, options=options, time_base=time_base) as writer:
        for time in times:
            picture = scene.frame(float(time))
            writer.write(picture, pts_seconds=time) if time_base else writer.write(picture)
    return path


def even(seconds: float, fps: float | Fraction) -> list[Fraction]:
    """Return the frame times of a video with a constant rate."""
    rate = Fraction(fps)
    return [index / rate for index in range(round(seconds * rate))]


def truth(scene: Scene, clip: Clip, shown: list[float], spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact motion of a clip whose source shows the scene at the times `shown`.

    Returns:
        vectors float32 [num_frames, h, w, 2], and visible bool [num_frames, h, w].
    """
    times = [clip.pts_seconds + float(step / spec.fps) for step in range(-1, clip.num_frames)]
    on_screen = [
        max((time for time in shown if time <= wanted + TOLERANCE_SECONDS), default=shown[0]) for wanted in times
    ]
    steps = [scene.motion(now, before, spec.grid) for before, now in pairwise(on_screen)]
    return np.stack([vectors for vectors, _ in steps]), np.stack([visible for _, visible in steps])


def error_pixels(scene: Scene, clip: Clip, shown: list[float], spec: ClipSpec) -> float:
    """Return the mean end-point error of a clip's valid vectors, in pixels of the scene's frame."""
    vectors, visible = truth(scene, clip, shown, spec)
    counted = visible & clip.motion.valid[: clip.num_frames]
    difference = (clip.motion.vectors[: clip.num_frames] - vectors) * np.array(scene.size)
    return float(np.linalg.norm(difference, axis=-1)[counted].mean())
