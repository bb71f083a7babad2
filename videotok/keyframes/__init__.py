"""Keyframes as visual words: few for a plain picture, more for a busy one."""

from videotok.keyframes.protocol import KeyframeTokenizerProtocol
from videotok.keyframes.tokenizer import KeyframeTokenizer, KeyframeTokens
from videotok.keyframes.train import KeyframeTraining
from videotok.keyframes.vqmodel import VQModelTokenizer

__all__ = ["KeyframeTokenizer", "KeyframeTokenizerProtocol", "KeyframeTokens", "KeyframeTraining", "VQModelTokenizer"]
