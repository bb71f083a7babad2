"""Rows of a corpus as VideoTokens again.

A corpus in other people's layouts: WebDataset tar shards, and a folder that Hugging Face `datasets` knows.

A corpus as batches of a language model: documents packed into rows of one length, with a loss mask.

    row   | document 0: <bos> clip clip caption <eos> | document 1: <bos> clip … | padding |
    loss_mask  0 at <bos> and padding, 1 elsewhere          position_ids  from 0 in each document

A video is one document where it fits into a row; else it is cut between clips into documents that fit.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from codec import ClipSpec
from videotok.corpus import storage as durable
from videotok.corpus.storage import VERSION, CorpusFolder, held, ordered_rows, ordered_videos
from videotok.corpus.tokenize import path_name
from videotok.errors import CorpusError
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens
from videotok.vocabulary import Vocabulary


def video_tokens(rows: pa.Table, facts: dict[str, Any]) -> VideoTokens:
    """All clips of one video, in order (`ordered.ordered_videos`), as what decoders and vocabularies take.

    Args:
        rows: of one video.
        facts: corpus.json (`CorpusFolder.facts`).

    Raises:
        ValueError: rows that are no whole video.
    """
    spec, weights = facts["fingerprint"]["spec"], facts["fingerprint"]["weights"]
    first = rows.slice(0, 1).to_pylist()[0]
    visual = [np.array(ids, np.int32) for ids in rows["visual_ids"].to_pylist()]
    source = SourceFacts(path_name(first["path"]), 0, first["codec"], first["width"], first["height"], 0, None, None)
    return VideoTokens(
        spec=ClipSpec(spec["frames"], Fraction(spec["fps"]), tuple(spec["grid"])),
        source=source,
        motion_source=first["motion_source"],
        models={part: ModelIdentity(facts["model"], weights[part]) for part in TOKENIZERS},
        codebooks=facts["codebooks"],
        visual_ids=np.concatenate(visual),
        visual_offsets=np.cumsum([0, *map(len, visual)], dtype=np.int64),
        keep_mask=np.array(rows["keep_mask"].to_pylist(), np.bool_),
        motion_ids=np.array(rows["motion_ids"].to_pylist(), np.int32),
        global_motion_ids=np.array(rows["global_motion_ids"].to_pylist(), np.int32),
        num_frames=rows["num_frames"].to_numpy(),
        pts_seconds=rows["start_seconds"].to_numpy(),
        damaged=np.array(rows["damaged"].to_pylist(), np.bool_),
    )


ARRAYS = {"visual_ids": np.int32, "keep_mask": np.bool_, "motion_ids": np.int32, "global_motion_ids": np.int32}
"""Columns that become .npy files, and their types."""


def to_webdataset(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """Tar shards with a sample a clip, its key `<video>-<clip>`: .npy files of the ids, everything else as .json.

    Equal corpora give equal bytes: clips in order of `video_id`, no times and no owners in the archive.

    Raises:
        CorpusError: there is no corpus, nothing in it, or `out` is not empty.
    """
    from webdataset.writer import TarWriter

    paths, numbers = [], _Numbers()
    for number, rows in enumerate(ordered_rows(ready(folder, out), shard_rows)):
        buffer = io.BytesIO()
        with TarWriter(buffer, user="", group="", mtime=0.0, encoder=False) as writer:
            for row in rows.to_pylist():
                key = f"{numbers.of(row['video_id']):08d}-{row['clip']:05d}"
                writer.write({"__key__": key} | _files(row))
        paths.append(out / f"clips-{number:05d}.tar")
        durable.write_bytes(paths[-1], buffer.getvalue())
    return paths


def to_huggingface(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """A folder for `datasets.load_dataset(out)`: Parquet in order of `video_id`, and a card that names the columns.

    Raises:
        CorpusError: there is no corpus, nothing in it, or `out` is not empty.
    """
    place = ready(folder, out)
    total = sum(1 for _ in ordered_rows(place, shard_rows))
    (out / "data").mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(ordered_rows(place, shard_rows)):
        paths.append(out / "data" / f"train-{number:05d}-of-{total:05d}.parquet")
        durable.write_table(paths[-1], rows)
    durable.write_bytes(out / "README.md", _card(folder).encode())
    return paths


def ready(folder: CorpusFolder, out: Path) -> Path:
    """Refuses what would give nothing, or mix with something."""
    folder.facts  # noqa: B018 (refuses what is no corpus)
    found = held(folder.folder)
    if not len(found.whole):
        raise CorpusError(f"{folder.folder} has no clips yet; `videotok corpus encode` makes some")
    if len(found.broken):
        raise CorpusError(f"{folder.folder} is not in order; `videotok corpus verify` says why")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot write {out}: {error.strerror}; choose another place with --out") from error
    if any(out.iterdir()):
        raise CorpusError(f"{out} is not empty; choose another folder with --out")
    return folder.folder


class _Numbers:
    """Videos numbered as they come; only the last one is asked for again."""

    def __init__(self) -> None:
        self._number, self._video = -1, None

    def of(self, video: str) -> int:
        if video != self._video:
            self._number, self._video = self._number + 1, video
        return self._number


def _files(row: dict[str, Any]) -> dict[str, bytes]:
    files = {}
    for name, kind in ARRAYS.items():
        buffer = io.BytesIO()
        np.save(buffer, np.array(row.pop(name), kind), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return files | {"json": json.dumps(row, sort_keys=True, default=str).encode()}


def _card(folder: CorpusFolder) -> str:
    facts, schema = folder.facts, folder.schema
    columns = "\n".join(f"| `{field.name}` | {field.type} |" for field in schema)
    return (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n\n"
        f"Tokens of videos, one row a clip, in order of `video_id` and `clip` (videotok corpus, schema {VERSION}).\n\n"
        f"| column | type |\n|---|---|\n{columns}\n\n"
        f"Ids run from 0 in each codebook: {json.dumps(facts['codebooks'])}. They were made with\n\n"
        f"```json\n{json.dumps(facts['fingerprint'], indent=2)}\n```\n"
    )


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
    motion_quantizers: int | None = None
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
        if layout.motion_quantizers is not None:
            tokens = tokens.first_quantizers(min(layout.motion_quantizers, tokens.num_motion_quantizers))
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
                "choose a greater --length, or fewer --motion-quantizers"
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
