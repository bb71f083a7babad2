"""Language models that read video beside text"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videotok.lm.model import VideoLanguageModel
    from videotok.lm.tokenizer_extension import Codebooks, extend

__all__ = ["Codebooks", "VideoLanguageModel", "extend"]


def __getattr__(name: str) -> object:
    # transformers takes seconds to import, and a command line must not wait for it
    if name == "Codebooks":
        from videotok.lm.tokenizer_extension import Codebooks

        return Codebooks
    if name == "VideoLanguageModel":
        from videotok.lm.model import VideoLanguageModel

        return VideoLanguageModel
    if name == "extend":
        from videotok.lm.tokenizer_extension import extend

        return extend
    raise AttributeError(f"module 'videotok.lm' has no attribute {name!r}")
