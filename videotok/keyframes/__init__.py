"""Keyframe tokenizers: images to codebook ids, few for plain images and more for detailed ones, and back."""

from videotok.keyframes.protocol import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.keyframes.train import KeyframeTraining
from videotok.keyframes.vqmodel import VQModelTokenizer

__all__ = ["KeyframeTokenizer", "KeyframeTokenizerProtocol", "KeyframeTokens", "KeyframeTraining", "VQModelTokenizer"]
