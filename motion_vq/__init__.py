"""Motion tokenizer: motion fields to discrete ids and back. Also the torch layers that every model here shares."""

from motion_vq.global_motion import GlobalMotionCodec
from motion_vq.tokenizer import PUBLISHED_CONFIG, MotionTokenizer, MotionTokens
from motion_vq.train import MotionTraining

__all__ = ["PUBLISHED_CONFIG", "GlobalMotionCodec", "MotionTokenizer", "MotionTokens", "MotionTraining"]
