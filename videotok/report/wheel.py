"""Colours of motion: hue says where to, strength how fast; and the wheel that explains them."""

import cv2
import numpy as np

FASTEST = 1.0
"""Frame widths a second at which colours are strongest."""

RINGS = (1 / 16, 1 / 4, 1.0)
"""Speeds that the wheel marks, in frame widths a second."""


def strength(speed: np.ndarray) -> np.ndarray:
    """0 to 1 for speeds in frame widths a second; the square root, so that slow motion is seen as well."""
    return np.sqrt(np.clip(speed / FASTEST, 0, 1)).astype(np.float32)


def colours(velocity: np.ndarray) -> np.ndarray:
    """Full colours of directions.

    Args:
        velocity: float32 [..., 2], where the content moves to: x to the right, y downward, in units of equal length.

    Returns:
        uint8 [..., 3] RGB: right is red, down yellow-green, left cyan, up violet.
    """
    turn = np.degrees(np.arctan2(velocity[..., 1], velocity[..., 0])) % 360
    hsv = np.full((*turn.shape, 3), 255, np.uint8)
    hsv[..., 0] = (turn / 2).astype(np.uint8) % 180
    hsv[..., 1] = 225
    flat = cv2.cvtColor(hsv.reshape(1, -1, 3), cv2.COLOR_HSV2RGB)
    return np.asarray(flat, np.uint8).reshape(hsv.shape)


def wheel(side: int, background: tuple[int, int, int]) -> np.ndarray:
    """The legend: uint8 [side, side, 3] RGB, colours as strong as their speed, a ring for each of RINGS."""
    fine = 4 * side
    middle, radius = (fine - 1) / 2, fine / 2 - 4
    y, x = np.mgrid[:fine, :fine].astype(np.float32)
    offset = np.stack([x - middle, y - middle], -1) / radius
    reach = np.linalg.norm(offset, axis=-1)
    # on the wheel the way from the middle is the strength itself
    weight = np.where(reach <= 1, reach, 0)[..., None]
    image = (np.array(background) * (1 - weight) + colours(offset) * weight).astype(np.uint8)
    centre = (int(middle), int(middle))
    for ring in RINGS:
        cv2.circle(image, centre, int(radius * np.sqrt(ring / FASTEST)), (205, 208, 214), 3, cv2.LINE_AA)
    for angle in np.radians(np.arange(0, 360, 90)):
        end = np.array([np.cos(angle), np.sin(angle)]) * radius * 0.93 + middle
        begin = np.array([np.cos(angle), np.sin(angle)]) * radius * 0.6 + middle
        to = (int(end[0]), int(end[1]))
        cv2.arrowedLine(image, (int(begin[0]), int(begin[1])), to, (255, 255, 255), 9, cv2.LINE_AA, tipLength=0.4)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
