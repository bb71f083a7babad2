"""Scenes of known motion under a virtual camera, and the questions about them with their answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from videotok.virtual_camera import Layer, Pose, Scene, constant_speed, hand_held_path

SIZE, FPS, NUM_FRAMES = (256, 144), 12, 30
"""Two and a half seconds: one complete clip of 24 frames, and the beginning of a second one."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "which way does the camera move": ("left", "right", "up", "down"),
    "does the camera come closer or go away": ("closer", "away"),
    "does it get faster or slower": ("faster", "slower"),
    "does the object go left or right": ("left", "right"),
    "how many objects move": ("0", "1", "2", "3"),
    "does time run forwards or backwards": ("forwards", "backwards"),
}
"""Every question and its answers, all equally frequent: chance is one over their number."""
CAMERA, ZOOM, SPEED, OBJECT, COUNT, TIME = ANSWERS

SceneKind = Literal["pan", "zoom", "object", "count", "time"]
ImageAtTime = Callable[[float], np.ndarray]
"""Seconds -> the image of a layer, uint8 [H, W, 3] RGB: always the same for a photograph, changing for footage."""
Path = Callable[[float], Pose]
"""Seconds -> the pose of a layer's camera."""
LayerParts = tuple[ImageAtTime, Path, tuple[float, float] | None]
"""Image, path, and the size of the oval it is cut out to (None: the whole image)."""


@dataclass(frozen=True)
class Example:
    """A scene that is rendered on demand, and its answers."""

    frames: Callable[[], Iterator[np.ndarray]]
    """Yields uint8 [144, 256, 3] RGB at 12 frames a second; to be called once."""
    answers: dict[str, str]
    """Question -> answer."""


def pan_example(rng: np.random.Generator, image: ImageAtTime) -> Example:
    """Return a camera that moves in one of four directions, slightly askew, and changes its speed."""
    distance, change = _random_speed_change(rng, (0.05, 0.12))
    answer = ANSWERS[CAMERA][rng.integers(4)]
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[answer]
    askew = rng.uniform(-0.2, 0.2)
    start = Pose(*rng.uniform(-0.1, 0.1, 2), zoom=rng.uniform(1.0, 1.4), degrees=rng.uniform(-5, 5))

    def path(seconds: float) -> Pose:
        d = distance(seconds)
        # poses count downwards in frame heights: the factor gives the same speed in pixels in both directions
        dx, dy = x * d + askew * abs(y) * d, (y * d + askew * abs(x) * d) * SIZE[0] / SIZE[1]
        return replace(start, x=start.x + dx, y=start.y + dy)

    return Example(_render([(image, path, None)]), {CAMERA: answer, SPEED: change})


def zoom_example(rng: np.random.Generator, image: ImageAtTime) -> Example:
    """Return a camera that comes closer or goes away, and changes its speed."""
    distance, change = _random_speed_change(rng, (0.08, 0.18))
    answer = ANSWERS[ZOOM][rng.integers(2)]
    sign = 1 if answer == "closer" else -1
    drift = rng.uniform(-0.02, 0.02, 2)
    start = Pose(*rng.uniform(-0.1, 0.1, 2), zoom=rng.uniform(1.0, 1.4))

    def path(seconds: float) -> Pose:
        x, y = start.x + drift[0] * seconds, start.y + drift[1] * seconds
        return Pose(x, y, start.zoom * math.exp(sign * distance(seconds)))

    return Example(_render([(image, path, None)]), {ZOOM: answer, SPEED: change})


def object_example(rng: np.random.Generator, background: ImageAtTime, cut_out: ImageAtTime) -> Example:
    """Return an oval cut-out that goes left or right before a background, and changes its speed."""
    distance, change = _random_speed_change(rng, (0.07, 0.12))
    answer = ANSWERS[OBJECT][rng.integers(2)]
    # a layer's path is that of its camera: the content moves the other way
    sign = 1 if answer == "left" else -1
    start = Pose(*rng.uniform(-0.12, 0.12, 2))
    sink = rng.uniform(-0.03, 0.03)

    def path(seconds: float) -> Pose:
        return Pose(start.x + sign * distance(seconds), start.y + sink * seconds)

    hand_held = hand_held_path(int(rng.integers(1 << 30)), strength=float(rng.uniform(0.0, 0.15)))
    oval = (rng.uniform(0.25, 0.35), rng.uniform(0.45, 0.65))
    layers = [(background, hand_held, None), (cut_out, path, oval)]
    return Example(_render(layers), {OBJECT: answer, SPEED: change})


def count_example(rng: np.random.Generator, background: ImageAtTime, cut_outs: Sequence[ImageAtTime]) -> Example:
    """Return three cut-outs before a still background, of which none, one, two or all move, each its own way."""
    number = int(rng.integers(4))
    moving = rng.permutation(3) < number
    layers: list[LayerParts] = [(background, constant_speed(), None)]
    for column, (cut_out, moves) in enumerate(zip(cut_outs, moving, strict=True)):
        start = Pose(0.31 * (1 - column) + rng.uniform(-0.03, 0.03), rng.uniform(-0.1, 0.1))
        angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.06, 0.09)
        dx, dy = 0.7 * speed * math.cos(angle), speed * math.sin(angle) * SIZE[0] / SIZE[1]
        path = constant_speed((dx, dy) if moves else (0.0, 0.0), start=start)
        layers.append((cut_out, path, (rng.uniform(0.2, 0.26), rng.uniform(0.4, 0.5))))
    return Example(_render(layers), {COUNT: str(number)})


def time_example(rng: np.random.Generator, frames: np.ndarray) -> Example:
    """Return footage, uint8 [n, 144, 256, 3], forwards or backwards."""
    answer = ANSWERS[TIME][rng.integers(2)]
    return Example(lambda: iter(frames if answer == "forwards" else frames[::-1]), {TIME: answer})


def _random_speed_change(rng: np.random.Generator, slow: tuple[float, float]) -> tuple[Callable[[float], float], str]:
    """Return the distance covered at a time, and `faster` or `slower`.

    The speed changes by a factor of 1.8 to 3 around the middle of the first clip; the lower speed is in `slow`.
    """
    low = rng.uniform(*slow)
    high = low * rng.uniform(1.8, 3.0)
    is_faster = bool(rng.integers(2))
    before, after = (low, high) if is_faster else (high, low)
    change_time = rng.uniform(0.8, 1.3)

    def distance(seconds: float) -> float:
        return before * min(seconds, change_time) + after * max(seconds - change_time, 0.0)

    return distance, "faster" if is_faster else "slower"


def _render(layers: Sequence[LayerParts]) -> Callable[[], Iterator[np.ndarray]]:
    def frames() -> Iterator[np.ndarray]:
        for index in range(NUM_FRAMES):
            seconds = index / FPS
            parts = [Layer(image(seconds), path, oval) for image, path, oval in layers]
            yield Scene(parts, SIZE).frame(seconds)

    return frames
