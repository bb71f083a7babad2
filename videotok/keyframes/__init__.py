"""Keyframe tokenizers: images to codebook ids, few for plain images and more for detailed ones, and back."""

from importlib import import_module
from typing import TYPE_CHECKING

from videotok.keyframes.protocol import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.tokenizer import KeyframeTokenizer

if TYPE_CHECKING:
    from videotok.keyframes.train import KeyframeTraining
    from videotok.keyframes.vqmodel import VQModelTokenizer

__all__ = ["KeyframeTokenizer", "KeyframeTokenizerProtocol", "KeyframeTokens", "KeyframeTraining", "VQModelTokenizer"]

_MODULES = {"KeyframeTraining": "train", "VQModelTokenizer": "vqmodel"}


def __getattr__(name: str) -> object:
    # diffusers' model zoo takes seconds to import, and only its VQModel needs it
    if name in _MODULES:
        return getattr(import_module(f"videotok.keyframes.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'videotok.keyframes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
