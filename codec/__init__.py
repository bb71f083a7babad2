"""Video files in, clips out: keyframes and motion fields from the stream's own vectors."""

from codec.atomic import replacing
from codec.errors import MediaError
from codec.types import Clip, ClipSpec, MotionField, MotionSource

__all__ = ["Clip", "ClipSpec", "MediaError", "MotionField", "MotionSource", "replacing"]
