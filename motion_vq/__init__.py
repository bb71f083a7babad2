"""Motion fields to ids and back: the camera's motion in a few ids, what moves by itself in nested levels."""

from motion_vq.global_motion import GlobalMotionCodec
from motion_vq.tokenizer import PUBLISHED_CONFIG, MotionTokenizer, MotionTokens
from motion_vq.train import MotionTraining

__all__ = ["PUBLISHED_CONFIG", "GlobalMotionCodec", "MotionTokenizer", "MotionTokens", "MotionTraining"]
