"""Keyframes as visual words: few for a plain picture, more for a busy one."""

from videotok.keyframes.tokenizer import KeyframeTokenizer, KeyframeTokens
from videotok.keyframes.train import KeyframeTraining

__all__ = ["KeyframeTokenizer", "KeyframeTokens", "KeyframeTraining"]
