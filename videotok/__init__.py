"""Video as a short sequence of discrete tokens, and back."""

from importlib import import_module
from typing import TYPE_CHECKING

from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import CorpusError, ModelError, TokensError

if TYPE_CHECKING:
    from codec.errors import MediaError
    from videotok.pipeline import VideoTokenizer
    from videotok.tokens import VideoTokens

__all__ = [
    "CorpusError",
    "DecodeConfig",
    "EncodeConfig",
    "MediaError",
    "ModelError",
    "TokensError",
    "VideoTokenizer",
    "VideoTokens",
]

_MODULES = {"MediaError": "codec.errors", "VideoTokenizer": "videotok.pipeline", "VideoTokens": "videotok.tokens"}


def __getattr__(name: str) -> object:
    # torch takes seconds to import, and `videotok --help` must not wait for it
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'videotok' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
