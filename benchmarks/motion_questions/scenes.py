"""Clips whose motion is known, and what can be asked of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from videotok.virtual_camera import Layer, Pose, Scene, steady, wandering

SIZE, FPS, NUM_FRAMES = (256, 144), 12, 30
"""Two and a half seconds: one whole clip of 24 frames, and the beginning of a second one."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "which way does the camera move": ("left", "right", "up", "down"),
    "does the camera come closer or go away": ("closer", "away"),
    "does it get faster or slower": ("faster", "slower"),
    "does the object go left or right": ("left", "right"),
    "how many objects move": ("0", "1", "2", "3"),
    "does time run forwards or backwards": ("forwards", "backwards"),
}
"""Every question and its answers, each as frequent as the others: chance is one over their number."""
CAMERA, ZOOM, SPEED, OBJECT, COUNT, TIME = ANSWERS

Kind = Literal["pan", "zoom", "object", "count", "time"]
Picture = Callable[[float], np.ndarray]
"""What fills a layer at a time in seconds: a photograph is the same at any time, footage is not."""


@dataclass(frozen=True)
class Example:
    """A clip that has yet to be drawn, and its questions."""

    frames: Callable[[], Iterator[np.ndarray]]
    """Called once: uint8 [144, 256, 3] RGB at 12 frames a second."""
    answers: dict[str, str]
    """Question -> answer."""


def changing(before: float, after: float, at: float) -> Callable[[float], float]:
    """Way covered at a time: `before` a second until `at` seconds, `after` a second from then on."""
    return lambda seconds: before * min(seconds, at) + after * max(seconds - at, 0.0)


def speeds(rng: np.random.Generator, slow: tuple[float, float]) -> tuple[Callable[[float], float], str]:
    """A way whose speed changes by a factor of 1.8 to 3 around the middle of the first clip, and which way it did."""
    low = rng.uniform(*slow)
    high = low * rng.uniform(1.8, 3.0)
    faster = bool(rng.integers(2))
    way = changing(*((low, high) if faster else (high, low)), at=rng.uniform(0.8, 1.3))
    return way, "faster" if faster else "slower"


def pan(rng: np.random.Generator, picture: Picture) -> Example:
    """The camera moves in one of four directions, a little askew, and changes its speed."""
    way, change = speeds(rng, (0.05, 0.12))
    answer = ANSWERS[CAMERA][rng.integers(4)]
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[answer]
    askew = rng.uniform(-0.2, 0.2)
    start = Pose(*rng.uniform(-0.1, 0.1, 2), zoom=rng.uniform(1.0, 1.4), degrees=rng.uniform(-5, 5))

    def path(seconds: float) -> Pose:
        d = way(seconds)
        # poses count in frame heights downwards: the same speed in pixels either way
        across, down = x * d + askew * abs(y) * d, (y * d + askew * abs(x) * d) * SIZE[0] / SIZE[1]
        return replace(start, x=start.x + across, y=start.y + down)

    return Example(_drawn([(picture, path, None)]), {CAMERA: answer, SPEED: change})


def zoom(rng: np.random.Generator, picture: Picture) -> Example:
    """The camera comes closer or goes away, and changes its speed."""
    way, change = speeds(rng, (0.08, 0.18))
    answer = ANSWERS[ZOOM][rng.integers(2)]
    sign = 1 if answer == "closer" else -1
    drift = rng.uniform(-0.02, 0.02, 2)
    start = Pose(*rng.uniform(-0.1, 0.1, 2), zoom=rng.uniform(1.0, 1.4))

    def path(seconds: float) -> Pose:
        x, y = start.x + drift[0] * seconds, start.y + drift[1] * seconds
        return Pose(x, y, start.zoom * math.exp(sign * way(seconds)))

    return Example(_drawn([(picture, path, None)]), {ZOOM: answer, SPEED: change})


def one_object(rng: np.random.Generator, picture: Picture, cut_out: Picture) -> Example:
    """A photograph's oval cut-out goes left or right before another one, and changes its speed."""
    way, change = speeds(rng, (0.07, 0.12))
    answer = ANSWERS[OBJECT][rng.integers(2)]
    # a layer's path is the camera's: content goes the other way
    sign = 1 if answer == "left" else -1
    start = Pose(*rng.uniform(-0.12, 0.12, 2))
    sink = rng.uniform(-0.03, 0.03)

    def path(seconds: float) -> Pose:
        return Pose(start.x + sign * way(seconds), start.y + sink * seconds)

    held = wandering(int(rng.integers(1 << 30)), strength=float(rng.uniform(0.0, 0.15)))
    oval = (rng.uniform(0.25, 0.35), rng.uniform(0.45, 0.65))
    return Example(_drawn([(picture, held, None), (cut_out, path, oval)]), {OBJECT: answer, SPEED: change})


def counted(rng: np.random.Generator, picture: Picture, cut_outs: Sequence[Picture]) -> Example:
    """Of three cut-outs before a still photograph none, one, two or all move, each its own way."""
    number = int(rng.integers(4))
    moving = rng.permutation(3) < number
    layers: list[tuple[Picture, Callable[[float], Pose], tuple[float, float] | None]] = [(picture, steady(), None)]
    for place, (cut_out, moves) in enumerate(zip(cut_outs, moving, strict=True)):
        start = Pose(0.31 * (1 - place) + rng.uniform(-0.03, 0.03), rng.uniform(-0.1, 0.1))
        angle, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.06, 0.09)
        across, down = 0.7 * speed * math.cos(angle), speed * math.sin(angle) * SIZE[0] / SIZE[1]
        path = steady((across, down) if moves else (0.0, 0.0), start=start)
        layers.append((cut_out, path, (rng.uniform(0.2, 0.26), rng.uniform(0.4, 0.5))))
    return Example(_drawn(layers), {COUNT: str(number)})


def in_time(rng: np.random.Generator, frames: np.ndarray) -> Example:
    """Footage, uint8 [n, 144, 256, 3], as it was filmed or from its end to its beginning."""
    answer = ANSWERS[TIME][rng.integers(2)]
    return Example(lambda: iter(frames if answer == "forwards" else frames[::-1]), {TIME: answer})


def _drawn(
    layers: Sequence[tuple[Picture, Callable[[float], Pose], tuple[float, float] | None]],
) -> Callable[[], Iterator[np.ndarray]]:
    def frames() -> Iterator[np.ndarray]:
        for index in range(NUM_FRAMES):
            seconds = index / FPS
            shown = [Layer(picture(seconds), path, oval) for picture, path, oval in layers]
            yield Scene(shown, SIZE).frame(seconds)

    return frames
