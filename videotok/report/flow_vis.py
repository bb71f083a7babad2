"""Colours of motion: hue says where to, strength how fast; and the wheel that explains them.

A motion field drawn over its picture: colours, arrows, and hatching where the stream says nothing.
"""

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


AHEAD_SECONDS = 1 / 6
"""Arrows end where the content would be after this time."""

ARROW_SPACING = 22
"""Pixels from arrow to arrow, at least."""

HATCH, HATCH_COLOUR, HATCH_OPACITY = 10, (255, 92, 170), 0.8
KEYFRAME_COLOUR, CUT_COLOUR = (255, 202, 58), (255, 64, 64)
FRACTION = 4
"""Bits of a pixel's fraction, for smooth lines."""


class MotionPainter:
    """Paints fields over pictures of one size.

    Args:
        size: (width, height) of the pictures.
        fps: fields a second.
    """

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self._size, self._fps = size, fps
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        self._hatch = (x + y) % HATCH < 2

    def paint(self, picture: np.ndarray, vectors: np.ndarray, valid: np.ndarray, *, hatched: bool = True) -> np.ndarray:
        """uint8 [H, W, 3] RGB.

        Args:
            picture: uint8 [H, W, 3] RGB.
            vectors: float32 [h, w, 2], one step of a MotionField: back to where the content stood, in fractions.
            valid: bool [h, w].
            hatched: mark cells that are not valid.
        """
        # what a step's vectors point back from is where the content went
        velocity = -vectors * np.array(self._size, np.float32) * self._fps
        image = self._washed(picture, velocity)
        if hatched and not valid.all():
            self._mark(image, ~valid)
        self._draw_arrows(image, velocity)
        return image

    def _washed(self, picture: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """The picture, paled, with the colours of its motion over it."""
        gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[..., None]
        pale = 0.85 * (0.5 * picture + 0.5 * gray)
        smooth = np.asarray(cv2.resize(velocity, self._size, interpolation=cv2.INTER_LINEAR))
        weight = 0.65 * strength(np.linalg.norm(smooth, axis=-1) / self._size[0])[..., None]
        return (pale * (1 - weight) + colours(smooth) * weight).astype(np.uint8)

    def _mark(self, image: np.ndarray, cells: np.ndarray) -> None:
        whole = cv2.resize(cells.astype(np.uint8), self._size, interpolation=cv2.INTER_NEAREST)
        here = self._hatch & (np.asarray(whole) > 0)
        mixed = (1 - HATCH_OPACITY) * image[here] + HATCH_OPACITY * np.array(HATCH_COLOUR)
        image[here] = mixed.astype(np.uint8)

    def _draw_arrows(self, image: np.ndarray, velocity: np.ndarray) -> None:
        height, width = velocity.shape[:2]
        columns = min(width, max(1, round(self._size[0] / ARROW_SPACING)))
        rows = min(height, max(1, round(self._size[1] / ARROW_SPACING)))
        sparse = np.asarray(cv2.resize(velocity, (columns, rows), interpolation=cv2.INTER_AREA)).reshape(-1, 2)
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        begin = np.stack([x, y], -1).reshape(-1, 2) * self._size
        ahead = sparse * AHEAD_SECONDS
        length = np.linalg.norm(ahead, axis=-1)
        moving = length > 2
        still = np.round(begin[~moving] * (1 << FRACTION)).astype(int)
        for dot in still:
            cv2.circle(image, tuple(dot.tolist()), 14, (205, 205, 205), -1, cv2.LINE_AA, FRACTION)
        begin, ahead, length = begin[moving], ahead[moving], length[moving]
        end = begin + ahead
        along = ahead / length[:, None]
        across = along[:, ::-1] * [-1, 1]
        head = np.clip(0.6 * length, 2.5, 8)[:, None]
        tips = np.stack([end, end - along * head + across * head * 0.45, end - along * head - across * head * 0.45], 1)
        shafts = np.stack([begin, end - along * head * 0.7], 1)
        for colour, thickness in (((16, 18, 22), 3), ((255, 255, 255), 1)):
            lines = list(_fixed(shafts))
            heads = list(_fixed(tips))
            cv2.polylines(image, lines, False, colour, thickness, cv2.LINE_AA, FRACTION)
            cv2.polylines(image, heads, True, colour, thickness, cv2.LINE_AA, FRACTION)
        for tip in _fixed(tips):
            cv2.fillConvexPoly(image, tip, (255, 255, 255), cv2.LINE_AA, FRACTION)


def boxed(image: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draws a frame along the picture's border."""
    height, width = image.shape[:2]
    thick = max(3, round(width / 160))
    cv2.rectangle(image, (thick // 2, thick // 2), (width - 1 - thick // 2, height - 1 - thick // 2), colour, thick)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << FRACTION)).astype(np.int32)
