"""Video as a short sequence of discrete tokens, and back."""

from typing import TYPE_CHECKING

from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import ModelError, TokensError

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer
    from videotok.tokens import VideoTokens

__all__ = ["DecodeConfig", "EncodeConfig", "ModelError", "TokensError", "VideoTokenizer", "VideoTokens"]


def __getattr__(name: str) -> object:
    # torch takes seconds to import, and `videotok --help` must not wait for it
    if name == "VideoTokenizer":
        from videotok.pipeline import VideoTokenizer

        return VideoTokenizer
    if name == "VideoTokens":
        from videotok.tokens import VideoTokens

        return VideoTokens
    raise AttributeError(f"module 'videotok' has no attribute {name!r}")
