"""Side data of decoded pictures: motion vectors and the display matrix. Other kinds are ignored."""

from collections.abc import Mapping
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type

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


def motion_records(picture: av.VideoFrame) -> np.ndarray | None:
    """Return the picture's motion vectors, MotionRecord [n]; None if it has none."""
    data = _side_data(picture).get("MOTION_VECTORS")
    return None if data is None else np.frombuffer(data, MotionRecord)


def display_matrix(picture: av.VideoFrame) -> np.ndarray | None:
    """Return the picture's display matrix, int64 [3, 3] as FFmpeg stores it; None if it has none."""
    data = _side_data(picture).get("DISPLAYMATRIX")
    if data is None or len(bytes(data)) < DISPLAY_MATRIX_BYTES:
        return None
    return np.frombuffer(bytes(data)[:DISPLAY_MATRIX_BYTES], np.int32).reshape(3, 3).astype(np.int64)


def _side_data(picture: av.VideoFrame) -> Mapping[str, Any]:
    if Type._missing_.__func__ is not _unknown_type:
        # PyAV refuses all side data of a picture if it has no name for one kind (stereo views, EXIF …)
        setattr(Type, "_missing_", classmethod(_unknown_type))  # noqa: B010
    return cast(Mapping[str, Any], picture.side_data)


def _unknown_type(kind: type[Type], value: object) -> Type:
    """Return a member that stands for a kind of side data without a name."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return member
