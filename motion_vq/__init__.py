"""Motion fields to ids and back: the camera's motion in a few ids, what moves by itself in nested levels."""

from motion_vq.camera import CameraCode
from motion_vq.published import PUBLISHED_CONFIG
from motion_vq.tokenizer import MotionTokenizer
from motion_vq.tokens import MotionTokens
from motion_vq.train import MotionTraining

__all__ = ["PUBLISHED_CONFIG", "CameraCode", "MotionTokenizer", "MotionTokens", "MotionTraining"]
