"""Side data of decoded pictures: motion vectors, and the display matrix that turns and mirrors them for display."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

MotionRecord = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"],
        "formats": ["i4", "u1", "u1", "i2", "i2", "i4", "i4", "u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)
"""FFmpeg's AVMotionVector without src_x and src_y, which are rounded."""

DISPLAY_MATRIX_BYTES = 9 * 4


def motion_records(side_data: Mapping[Type, Any]) -> np.ndarray | None:
    """Return the motion vectors in a picture's side data, MotionRecord [n]; None if it has none."""
    data = side_data.get(Type.MOTION_VECTORS)
    return None if data is None else np.frombuffer(data, MotionRecord)


def display_matrix(picture: av.VideoFrame) -> np.ndarray | None:
    """Return the picture's display matrix, int64 [3, 3] as FFmpeg stores it; None if it has none."""
    return _display_matrix(side_data_of(picture))


def _display_matrix(side_data: Mapping[Type, Any]) -> np.ndarray | None:
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None or len(bytes(data)) < DISPLAY_MATRIX_BYTES:
        return None
    return np.frombuffer(bytes(data)[:DISPLAY_MATRIX_BYTES], np.int32).reshape(3, 3).astype(np.int64)


def side_data_of(picture: av.VideoFrame) -> Mapping[Type, Any]:
    """Return a picture's side data by their kinds."""
    if Type._missing_.__func__ is not _unknown_type:
        # PyAV refuses all side data of a picture if it has no name for one kind (stereo views, EXIF …)
        setattr(Type, "_missing_", classmethod(_unknown_type))  # noqa: B010
    # `picture.side_data` would be kept by the picture that it refers to: a cycle that only the garbage collector frees
    return {one.type: one for one in cast(Any, SideDataContainer)(picture)}


def _unknown_type(kind: type[Type], value: object) -> Type:
    """Return a member that stands for a kind of side data without a name."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member


MIN_DETERMINANT = 1e-3
"""A display matrix whose determinant is smaller, compared with the squares of its elements, shows no picture."""

MAX_ASPECT_DIFFERENCE = 0.1
"""Aspect ratios that differ by less are the same: sizes are rounded to whole blocks."""


@dataclass(frozen=True)
class Orientation:
    """Steps that make a coded picture upright: it is transposed, then mirrored."""

    is_transposed: bool = False
    """Rows become columns."""
    flips_x: bool = False
    """Then left and right are exchanged."""
    flips_y: bool = False
    """Then top and bottom are exchanged."""

    @property
    def is_mirrored(self) -> bool:
        """Whether the steps are not a rotation alone."""
        return self.is_transposed ^ self.flips_x ^ self.flips_y

    @property
    def rotation_degrees(self) -> int:
        """Counter-clockwise rotation, 0, 90, 180 or 270; of the picture mirrored left to right, if it is mirrored."""
        flips_x = self.flips_x
        if self.is_mirrored:
            # the picture is first mirrored left to right, which is the other axis after a transposition
            flips_x, flips_y = flips_x ^ (not self.is_transposed), self.flips_y ^ self.is_transposed
        else:
            flips_y = self.flips_y
        if self.is_transposed:
            return 90 if flips_y else 270
        return 180 if flips_x and flips_y else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the upright picture of an array [H, W, ...]."""
        if self == UPRIGHT:
            return image
        turned = image.swapaxes(0, 1) if self.is_transposed else image
        return np.ascontiguousarray(turned[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])

    def upright_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the upright picture's (width, height)."""
        return (height, width) if self.is_transposed else (width, height)

    def coded_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the (h, w) cells of the coded picture for a grid of the upright one."""
        return (grid[1], grid[0]) if self.is_transposed else grid


UPRIGHT = Orientation()


def orientation_of(side_data: Mapping[Type, Any]) -> Orientation:
    """Return the orientation that the display matrix in a picture's side data states, to the nearest quarter turn."""
    matrix = _display_matrix(side_data)
    return UPRIGHT if matrix is None else orientation_from_matrix(matrix)


def orientation_from_matrix(matrix: np.ndarray) -> Orientation:
    """Return the orientation nearest to a display matrix; none if it maps the picture to a line or a point.

    Args:
        matrix: int64 [3, 3]: (x, y, 1) times the matrix is the displayed position, with y downwards.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(float)
    if abs(a * d - b * c) <= MIN_DETERMINANT * (a * a + b * b + c * c + d * d):
        return UPRIGHT
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, bool(a < 0), bool(d < 0))
    return Orientation(True, bool(c < 0), bool(b < 0))


def has_other_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two (width, height) differ in aspect ratio, and not only in scale or by rounding."""
    one, two = size[0] * other[1], other[0] * size[1]
    return abs(one - two) > MAX_ASPECT_DIFFERENCE * max(one, two)


class OrientationReader:
    """Reads the orientation of one picture after another; the display matrix only where the rotation changes."""

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._orientation = UPRIGHT

    def read(self, picture: av.VideoFrame) -> Orientation:
        """Return the orientation of the next picture."""
        if self._rotation != picture.rotation:
            self._rotation = picture.rotation
            self._orientation = orientation_of(side_data_of(picture))
        return self._orientation
