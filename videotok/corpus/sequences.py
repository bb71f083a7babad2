"""A corpus as batches of a language model: documents packed into rows of one length, with a loss mask.

    row   | document 0: <bos> clip clip caption <eos> | document 1: <bos> clip … | padding |
    loss_mask  0 at <bos> and padding, 1 elsewhere          position_ids  from 0 in each document

A video is one document where it fits into a row; else it is cut between clips into documents that fit.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from videotok.corpus import durable
from videotok.corpus.export import ready
from videotok.corpus.folder import CorpusFolder
from videotok.corpus.ordered import ordered_videos
from videotok.corpus.videos import video_tokens
from videotok.errors import CorpusError
from videotok.vocabulary import Vocabulary

COLUMNS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("position_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("document", pa.list_(pa.int32()), nullable=False),
    ]
)
"""`document` numbers the documents of a row from 0; padding is -1."""
OPEN_ROWS = 8
"""Rows that are filled at the same time: more leave less padding and mix documents over a longer way."""


class TextTokenizer(Protocol):
    """What is needed of a `transformers` tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def __len__(self) -> int: ...

    def __call__(self, text: str, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Layout:
    """How sequences are laid out."""

    length: int = 4096
    """Ids of a row."""
    text_size: int = 32_000
    """Ids below are text; the tokenizer's size where there is one."""
    motion_levels: int | None = None
    """How many levels are told; all of the corpus where not given."""
    interleaved: bool = False
    """Motion place after place instead of level after level."""


def to_ids(
    folder: CorpusFolder,
    out: Path,
    layout: Layout | None = None,
    tokenizer: TextTokenizer | None = None,
    shard_rows: int = 2048,
) -> list[Path]:
    """Parquet shards with a packed row a row (`COLUMNS`), and vocabulary.json, which says what the ids mean.

    Args:
        folder: the corpus.
        out: an empty folder.
        layout: lengths and sizes.
        tokenizer: of the language model's text; without one, captions, <bos> and <eos> are left out.
        shard_rows: rows a file.

    Raises:
        CorpusError: there is no corpus, nothing in it, `out` is not empty, or a single clip is longer than a row.
    """
    layout, place = layout or Layout(), ready(folder, out)
    facts, vocabulary = folder.facts, None
    writer = _Writer(out, shard_rows, layout.length, _padding(tokenizer))
    for rows in ordered_videos(place):
        tokens = video_tokens(rows, facts)
        if layout.motion_levels is not None:
            tokens = tokens.first_levels(min(layout.motion_levels, tokens.num_motion_levels))
        if vocabulary is None:
            size = layout.text_size if tokenizer is None else len(tokenizer)
            vocabulary = Vocabulary.of(tokens, size, interleaved=layout.interleaved)
        clips = [vocabulary.ids(tokens, [clip]) for clip in range(tokens.num_clips)]
        before, after = _around(tokenizer, rows["caption"][0].as_py())
        for document in _documents(clips, before, after, layout.length, rows["video_id"][0].as_py()):
            writer.add(document, len(before))
    writer.close()
    meaning = vocabulary.facts() if vocabulary else {}
    about = {"vocabulary": meaning, "length": layout.length, "fingerprint": facts["fingerprint"]}
    durable.write_bytes(out / "vocabulary.json", (json.dumps(about, indent=2) + "\n").encode())
    return writer.paths


def _padding(tokenizer: TextTokenizer | None) -> int:
    if tokenizer is None:
        return 0
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def _around(tokenizer: TextTokenizer | None, caption: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Ids before a video, which are given, and after it, which are learned."""
    if tokenizer is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # a caption is text whatever stands in it: it never becomes a mark
    text = tokenizer(caption, add_special_tokens=False, split_special_tokens=True)["input_ids"] if caption else []
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return np.array(begin, np.int64), np.array([*text, *end], np.int64)


def _documents(
    clips: Sequence[np.ndarray], before: np.ndarray, after: np.ndarray, length: int, video: str
) -> Iterator[np.ndarray]:
    """Clips in a row, as many as fit between `before` and `after`."""
    room, part = length - len(before) - len(after), []
    for clip in clips:
        if len(clip) > room:
            raise CorpusError(
                f"a clip of {video} has {len(clip)} ids and {length - room} of text, a row has {length}; "
                "choose a greater --length, or fewer --motion-levels"
            )
        if sum(map(len, part)) + len(clip) > room:
            yield np.concatenate([before, *part, after])
            part = []
        part.append(clip)
    yield np.concatenate([before, *part, after])


class _Writer:
    """Packs documents: each goes into the first open row that has room."""

    def __init__(self, out: Path, shard_rows: int, length: int, padding: int) -> None:
        self.paths: list[Path] = []
        self._out, self._shard_rows, self._length, self._padding = out, shard_rows, length, padding
        self._open: list[list[tuple[np.ndarray, int]]] = []
        self._rows: list[dict[str, np.ndarray]] = []

    def add(self, document: np.ndarray, given: int) -> None:
        """A document, the first `given` ids of which are not learned."""
        row = next((row for row in self._open if _size(row) + len(document) <= self._length), None)
        if row is None:
            if len(self._open) == OPEN_ROWS:
                fullest = max(range(OPEN_ROWS), key=lambda number: _size(self._open[number]))
                self._finish(self._open.pop(fullest))
            self._open.append(row := [])
        row.append((document, given))

    def close(self) -> None:
        for row in self._open:
            self._finish(row)
        if self._rows:
            self._write()

    def _finish(self, row: list[tuple[np.ndarray, int]]) -> None:
        columns = {
            "input_ids": np.full(self._length, self._padding, np.int32),
            "loss_mask": np.zeros(self._length, np.bool_),
            "position_ids": np.zeros(self._length, np.int32),
            "document": np.full(self._length, -1, np.int32),
        }
        start = 0
        for number, (ids, given) in enumerate(row):
            place = slice(start, start + len(ids))
            columns["input_ids"][place], columns["document"][place] = ids, number
            columns["position_ids"][place] = np.arange(len(ids))
            columns["loss_mask"][start + given : place.stop] = True
            start = place.stop
        self._rows.append(columns)
        if len(self._rows) == self._shard_rows:
            self._write()

    def _write(self) -> None:
        self.paths.append(self._out / f"sequences-{len(self.paths):05d}.parquet")
        durable.write_table(self.paths[-1], pa.Table.from_pylist(self._rows, COLUMNS))
        self._rows = []


def _size(row: list[tuple[np.ndarray, int]]) -> int:
    return sum(len(ids) for ids, _ in row)
