"""Language models that read video beside text."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videotok.lm.model import VideoLanguageModel
    from videotok.lm.sampling import SamplingConfig
    from videotok.lm.tokenizer_extension import Codebooks, extend
    from videotok.lm.video_generation import VideoGenerator, VideoPrompt, generate_video

__all__ = [
    "Codebooks",
    "SamplingConfig",
    "VideoGenerator",
    "VideoLanguageModel",
    "VideoPrompt",
    "extend",
    "generate_video",
]
MODULES = {
    "Codebooks": "tokenizer_extension",
    "SamplingConfig": "sampling",
    "VideoGenerator": "video_generation",
    "VideoLanguageModel": "model",
    "VideoPrompt": "video_generation",
    "extend": "tokenizer_extension",
    "generate_video": "video_generation",
}
"""Public name -> module."""


def __getattr__(name: str) -> object:
    # transformers takes seconds to import, and the command line must start fast
    if name not in MODULES:
        raise AttributeError(f"module 'videotok.lm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"videotok.lm.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
