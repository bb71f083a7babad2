"""Motion as pictures: colours of direction and speed and their legend, arrows, hatching where a vector is missing."""

import cv2
import numpy as np

SATURATED_SPEED = 1.0
"""Frame widths a second at which colours are strongest."""
RINGS = (1 / 16, 1 / 4, 1.0)
"""Speeds that the legend marks, in frame widths a second."""
ARROW_SECONDS = 1 / 6
"""An arrow ends where its content would be after this time."""
ARROW_SPACING = 22
"""Pixels between arrows, at least."""
HATCH_STEP, HATCH_COLOUR, HATCH_OPACITY = 10, (255, 92, 170), 0.8
KEYFRAME_COLOUR, CUT_COLOUR = (255, 202, 58), (255, 64, 64)
FRACTION_BITS = 4
"""Bits of a pixel's fraction in OpenCV's coordinates, for smooth lines."""
LEGEND_OVERSAMPLING = 4
"""The legend is drawn larger by this factor and reduced, for smooth edges."""


def flow_strength(speed: np.ndarray) -> np.ndarray:
    """Return the strength 0 to 1 of colours for speeds in frame widths a second: the square root, so that slow motion
    is visible too."""
    return np.sqrt(np.clip(speed / SATURATED_SPEED, 0, 1)).astype(np.float32)


def direction_colours(velocity: np.ndarray) -> np.ndarray:
    """Return full colours of directions: right is red, down yellow-green, left cyan, up violet.

    Args:
        velocity: float32 [..., 2], where the content moves to: x to the right, y downward, in units of equal length.

    Returns:
        uint8 [..., 3] RGB.
    """
    degrees = np.degrees(np.arctan2(velocity[..., 1], velocity[..., 0])) % 360
    hsv = np.full((*degrees.shape, 3), 255, np.uint8)
    hsv[..., 0] = (degrees / 2).astype(np.uint8) % 180
    hsv[..., 1] = 225
    rgb = cv2.cvtColor(hsv.reshape(1, -1, 3), cv2.COLOR_HSV2RGB)
    return np.asarray(rgb, np.uint8).reshape(hsv.shape)


def flow_legend(side: int, background: tuple[int, int, int]) -> np.ndarray:
    """Return the legend of flow colours, a disc: colours as strong as their speed, and a ring for each of `RINGS`.

    Returns:
        uint8 [side, side, 3] RGB.
    """
    fine = LEGEND_OVERSAMPLING * side
    middle, radius = (fine - 1) / 2, fine / 2 - 4
    y, x = np.mgrid[:fine, :fine].astype(np.float32)
    offset = np.stack([x - middle, y - middle], -1) / radius
    distance = np.linalg.norm(offset, axis=-1)
    # the distance from the middle is the strength of the colour, not the speed
    weight = np.where(distance <= 1, distance, 0)[..., None]
    image = (np.array(background) * (1 - weight) + direction_colours(offset) * weight).astype(np.uint8)
    centre = (int(middle), int(middle))
    for ring in RINGS:
        cv2.circle(image, centre, int(radius * np.sqrt(ring / SATURATED_SPEED)), (205, 208, 214), 3, cv2.LINE_AA)
    for angle in np.radians(np.arange(0, 360, 90)):
        direction = np.array([np.cos(angle), np.sin(angle)]) * radius
        begin, end = (direction * share + middle for share in (0.6, 0.93))
        ends = ((int(begin[0]), int(begin[1])), (int(end[0]), int(end[1])))
        cv2.arrowedLine(image, *ends, (255, 255, 255), 9, cv2.LINE_AA, tipLength=0.4)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


class MotionPainter:
    """Paints motion fields over pictures of one size.

    Args:
        size: (width, height) of the pictures.
        fps: fields a second.
    """

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self._size, self._fps = size, fps
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        self._hatch = (x + y) % HATCH_STEP < 2

    def paint(self, picture: np.ndarray, vectors: np.ndarray, valid: np.ndarray, *, hatched: bool = True) -> np.ndarray:
        """Return a picture with a motion field drawn over it.

        Args:
            picture: uint8 [H, W, 3] RGB.
            vectors: float32 [h, w, 2], one step of a MotionField: from the content back to where it was, in fractions
                of the frame.
            valid: bool [h, w].
            hatched: hatch the cells that are not valid.

        Returns:
            uint8 [H, W, 3] RGB.
        """
        # vectors point back in time, arrows and colours show where the content goes
        velocity = -vectors * np.array(self._size, np.float32) * self._fps
        image = self._coloured(picture, velocity)
        if hatched and not valid.all():
            self._hatch_cells(image, ~valid)
        self._draw_arrows(image, velocity)
        return image

    def _coloured(self, picture: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return the picture with less colour and contrast, under the colours of its motion."""
        grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[..., None]
        pale = 0.85 * (0.5 * picture + 0.5 * grey)
        smooth = np.asarray(cv2.resize(velocity, self._size, interpolation=cv2.INTER_LINEAR))
        weight = 0.65 * flow_strength(np.linalg.norm(smooth, axis=-1) / self._size[0])[..., None]
        return (pale * (1 - weight) + direction_colours(smooth) * weight).astype(np.uint8)

    def _hatch_cells(self, image: np.ndarray, cells: np.ndarray) -> None:
        enlarged = cv2.resize(cells.astype(np.uint8), self._size, interpolation=cv2.INTER_NEAREST)
        lines = self._hatch & (np.asarray(enlarged) > 0)
        mixed = (1 - HATCH_OPACITY) * image[lines] + HATCH_OPACITY * np.array(HATCH_COLOUR)
        image[lines] = mixed.astype(np.uint8)

    def _draw_arrows(self, image: np.ndarray, velocity: np.ndarray) -> None:
        begin, offset = self._arrows(velocity)
        length = np.linalg.norm(offset, axis=-1)
        moving = length > 2
        for dot in _fixed_point(begin[~moving]):
            cv2.circle(image, tuple(dot.tolist()), 14, (205, 205, 205), -1, cv2.LINE_AA, FRACTION_BITS)
        begin, offset, length = begin[moving], offset[moving], length[moving]
        end = begin + offset
        along = offset / length[:, None]
        across = along[:, ::-1] * [-1, 1]
        head = np.clip(0.6 * length, 2.5, 8)[:, None]
        tips = np.stack([end, end - along * head + across * head * 0.45, end - along * head - across * head * 0.45], 1)
        shafts = np.stack([begin, end - along * head * 0.7], 1)
        lines, heads = list(_fixed_point(shafts)), list(_fixed_point(tips))
        for colour, thickness in (((16, 18, 22), 3), ((255, 255, 255), 1)):
            cv2.polylines(image, lines, False, colour, thickness, cv2.LINE_AA, FRACTION_BITS)
            cv2.polylines(image, heads, True, colour, thickness, cv2.LINE_AA, FRACTION_BITS)
        for tip in heads:
            cv2.fillConvexPoly(image, tip, (255, 255, 255), cv2.LINE_AA, FRACTION_BITS)

    def _arrows(self, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where arrows begin and how far they reach, both float [n, 2] in pixels."""
        height, width = velocity.shape[:2]
        columns = min(width, max(1, round(self._size[0] / ARROW_SPACING)))
        rows = min(height, max(1, round(self._size[1] / ARROW_SPACING)))
        sparse = np.asarray(cv2.resize(velocity, (columns, rows), interpolation=cv2.INTER_AREA)).reshape(-1, 2)
        x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
        return np.stack([x, y], -1).reshape(-1, 2) * self._size, sparse * ARROW_SECONDS


def draw_border(image: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw a frame along the border of a picture uint8 [H, W, 3], in place."""
    height, width = image.shape[:2]
    thick = max(3, round(width / 160))
    cv2.rectangle(image, (thick // 2, thick // 2), (width - 1 - thick // 2, height - 1 - thick // 2), colour, thick)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Return points in pixels as OpenCV takes them: whole numbers with `FRACTION_BITS` bits of fraction."""
    return np.round(points * (1 << FRACTION_BITS)).astype(np.int32)
