"""First-fit packing of documents into rows of one length, for language models."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

MAX_OPEN_ROWS = 8
"""Rows that are filled at the same time: more leave less padding, and mix documents over a longer stretch."""


def first_fit(documents: Iterable[T], length: int, *, size: Callable[[Any], int] = len) -> Iterator[list[T]]:
    """Yield rows of documents, none longer than `length`; each document joins the first open row that it fits into.

    When a document fits into none of `MAX_OPEN_ROWS` rows, the fullest row is yielded and a new one begun.

    Args:
        documents: in the order in which they are packed; read as rows are asked for.
        length: of a row.
        size: of a document.

    Raises:
        ValueError: a document is longer than a row.
    """
    rows: list[tuple[int, list[T]]] = []  # (length used, documents) of the rows that still have room
    for number, document in enumerate(documents):
        needed = size(document)
        if needed > length:
            raise ValueError(f"document {number} has {needed} tokens, a row has {length}; cut it, or take longer rows")
        fitting = next((index for index, (used, _) in enumerate(rows) if used + needed <= length), None)
        if fitting is not None:
            used, row = rows[fitting]
            rows[fitting] = (used + needed, [*row, document])
            continue
        if len(rows) == MAX_OPEN_ROWS:
            rows.sort(key=lambda row: -row[0])
            yield rows.pop(0)[1]
        rows.append((needed, [document]))
    for _, row in sorted(rows, key=lambda row: -row[0]):
        yield row
