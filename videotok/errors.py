"""Errors that a user can cause, and text that is safe in them.

Each message is one line: what came, what is allowed, what to try. Names of files and values of users may hold terminal
escapes or line breaks, so they are printed escaped.
"""

import json
import os
from typing import Any


class TokensError(Exception):
    """Tokens that cannot be read, or that do not fit the model, video or request."""


class ModelError(Exception):
    """Weights or a device that cannot be found or used."""


class CorpusError(Exception):
    """A corpus that cannot be read, written or continued."""


def printable(text: str) -> str:
    """Return text on one line, with control characters and other characters that are not shown as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def utf8_name(name: str) -> str:
    """Return the name of a file as text that can be stored; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(name).decode(errors="replace")


def is_utf8(text: str) -> bool:
    """Return whether text can be written in UTF-8; arguments of a command that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shorten(value: Any, length: int = 60) -> str:
    """Return a value as a message shows it: on one line, without control characters, cut after `length` characters."""
    try:
        text = repr(value[: 2 * length] if isinstance(value, str) else value)
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        text = "a number of many digits"
    text = printable(" ".join(text[: 4 * length].split()))
    return text if len(text) <= length else text[:length] + "…"


def one_line(error: BaseException) -> str:
    """Return the message of an exception on one line; its type where it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, since libraries go on with advice; or its type."""
    return printable(next(iter(str(error).strip().splitlines()), "")) or type(error).__name__


def to_json(value: Any) -> str:
    """Return plain values as indented JSON in which no character is a terminal escape."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
