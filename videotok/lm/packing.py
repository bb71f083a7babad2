"""Documents packed into rows of one length: each sees only itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videotok.lm.documents import Document, span_of, within
from videotok.vocabulary import Vocabulary

IGNORED = -100
"""Label of a token that is not learned."""


@dataclass(frozen=True)
class Packed:
    """A batch of rows."""

    ids: Tensor
    """int64 [B, L]."""
    position_ids: Tensor
    """int64 [B, L]: places within each document."""
    document: Tensor
    """int64 [B, L]: which document of the row a token belongs to; -1 is padding."""
    labels: Tensor
    """int64 [B, L]: the id itself where it is learned, else -100. Not shifted."""
    features: dict[str, tuple[Tensor, Tensor]]
    """Kind -> (int64 [m] places in the flattened batch, float [m, dim] vectors)."""

    def to(self, device: torch.device) -> "Packed":
        moved = {kind: (place.to(device), values.to(device)) for kind, (place, values) in self.features.items()}
        rows = (row.to(device) for row in (self.ids, self.position_ids, self.document, self.labels))
        return Packed(*rows, features=moved)

    def mask(self) -> Tensor:
        """bool [B, 1, L, L]: who sees whom: what came before in one's own document, and oneself."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return (same & torch.ones_like(same[0]).tril())[:, None]


def pack(rows: Sequence[Sequence[Document]], vocabulary: Vocabulary, padding: int) -> Packed:
    """Rows of documents as one batch, as long as its longest row."""
    length = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), length)
    ids, places = torch.full(shape, padding), torch.zeros(shape, dtype=torch.long)
    document, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for number, row in enumerate(rows):
        start = 0
        for index, item in enumerate(row):
            span = slice(start, start + len(item))
            ids[number, span], document[number, span] = item.ids, index
            places[number, span] = torch.arange(len(item))
            labels[number, span] = torch.where(item.is_target, item.ids, IGNORED)
            for kind, values in item.features.items():
                where = within(item.ids, span_of(vocabulary, kind)).nonzero()[:, 0] + number * length + start
                found.setdefault(kind, []).append((where, values.float()))
            start += len(item)
    features = {kind: (torch.cat([w for w, _ in v]), torch.cat([x for _, x in v])) for kind, v in found.items()}
    return Packed(ids, places, document, labels, features)


def first_fit(documents: Sequence[Document], order: Sequence[int], length: int) -> Iterator[list[int]]:
    """Rows of documents, in `order`, none longer than `length`; a document goes to the first row that has room.

    A row is given out when eight are open and a document fits none of them; the fullest goes first.

    Raises:
        ValueError: a document is longer than a row.
    """
    rows: list[tuple[int, list[int]]] = []
    for index in order:
        size = len(documents[index])
        if size > length:
            raise ValueError(f"document {index} has {size} tokens, a row has {length}; cut it, or take longer rows")
        place = next((i for i, (used, _) in enumerate(rows) if used + size <= length), None)
        if place is None:
            if len(rows) == 8:
                rows.sort(key=lambda row: -row[0])
                yield rows.pop(0)[1]
            rows.append((size, [index]))
        else:
            rows[place] = (rows[place][0] + size, [*rows[place][1], index])
    for _, row in sorted(rows, key=lambda row: -row[0]):
        yield row
