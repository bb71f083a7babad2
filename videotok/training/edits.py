"""What editors do to footage: cuts, dissolves, fades. Motion says nothing of them, or the wrong thing."""

from collections.abc import Callable

import numpy as np

Shot = Callable[[float], np.ndarray]
"""What is shown at a time in seconds, uint8 [H, W, 3] RGB."""


def dissolve(first: Shot, second: Shot, begin: float, seconds: float) -> Shot:
    """One shot into another, evenly from `begin` on; 0 seconds are a cut."""

    def shot(now: float) -> np.ndarray:
        share = float(now >= begin) if seconds == 0 else float(np.clip((now - begin) / seconds, 0, 1))
        if share in (0, 1):
            return second(now) if share else first(now)
        return np.rint((1 - share) * first(now) + share * second(now).astype(np.float32)).astype(np.uint8)

    return shot


def plain(like: Shot, brightness: int) -> Shot:
    """Nothing but black (0), white (255) or a grey between them."""
    return lambda now: np.full_like(like(now), brightness)


def edited(first: Shot, second: Shot, length: float, rng: np.random.Generator) -> Shot:
    """`length` seconds of two shots with a cut or a dissolve between them, or of one that fades in or out."""
    kind = rng.choice(("cut", "dissolve", "fade in", "fade out"))
    begin, seconds = float(rng.uniform(0.0, 0.7) * length), float(rng.uniform(0.3, 0.5 * length))
    if kind == "cut":
        return dissolve(first, second, max(begin, 0.1 * length), 0)
    if kind == "dissolve":
        return dissolve(first, second, begin, seconds)
    ground = plain(first, int(rng.choice((0, 0, 255))))
    return dissolve(ground, first, begin, seconds) if kind == "fade in" else dissolve(first, ground, begin, seconds)
