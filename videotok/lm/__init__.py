"""Language models that read video beside text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videotok.lm.model import VideoLanguageModel
    from videotok.lm.tokenizer_extension import Codebooks, extend

__all__ = ["Codebooks", "VideoLanguageModel", "extend"]


def __getattr__(name: str) -> object:
    # transformers takes seconds to import, and the command line must start fast
    if name == "VideoLanguageModel":
        from videotok.lm.model import VideoLanguageModel

        return VideoLanguageModel
    if name in ("Codebooks", "extend"):
        from videotok.lm import tokenizer_extension

        return getattr(tokenizer_extension, name)
    raise AttributeError(f"module 'videotok.lm' has no attribute {name!r}")
