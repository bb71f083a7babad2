"""The error that this package raises for files it cannot read or write, and what other errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import av
import cv2
from av.error import FFmpegError

FILE_ERRORS = (FFmpegError, cv2.error, OSError, UnicodeError, MemoryError, RecursionError)
"""Exceptions that the content of a file causes, wherever they are raised."""

LIBRARY_ERRORS = (ValueError, LookupError, ArithmeticError, RuntimeError, AssertionError)
"""Exceptions that the content of a file causes if PyAV raises them; elsewhere they are faults of this package."""

PYAV_FOLDER = Path(av.__file__).parent
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""In the text of RuntimeErrors for want of memory: of CUDA and Apple's GPUs, of torch on a CPU, of cuBLAS and cuDNN."""


class MediaError(Exception):
    """A media file cannot be read, or an output cannot be written.

    The message is one line that says what is wrong, what is allowed and what to try.
    """


@contextmanager
def media_errors(name: object) -> Iterator[None]:
    """Turn exceptions that the content of a file causes in FFmpeg, PyAV or OpenCV into MediaError.

    Faults of this package (TypeError, AttributeError, a ValueError of its own …) pass unchanged.

    Args:
        name: the file, as it is named in the message.
    """
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"cannot read {name}: its pictures need more memory than there is") from error
    except Exception as error:
        if not is_caused_by_file(error):
            raise
        raise MediaError(f"cannot read {name}: {error_text(error)}; is it a video file, and whole?") from error


def is_caused_by_file(error: BaseException) -> bool:
    """Return whether the content of a file caused an exception, and not a fault of this package."""
    if isinstance(error, FILE_ERRORS):
        return True
    return isinstance(error, LIBRARY_ERRORS) and _is_raised_by_pyav(error.__traceback__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was wanting, of this machine or of a GPU."""
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in NO_MEMORY)
    return isinstance(error, MemoryError)


def _is_raised_by_pyav(traceback: TracebackType | None) -> bool:
    """Return whether PyAV raised an exception; its compiled modules name their files av/stream.py and so on."""
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return file.startswith("av/") or Path(file).is_relative_to(PYAV_FOLDER)


def error_text(error: BaseException) -> str:
    """Return a library's error text in one line, without its number and path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".").lower()
