"""A corpus in other layouts: WebDataset, Hugging Face, Lance, packed ids for a language model; or as VideoTokens.

Rows of packed ids:

    row        | document 0: <bos> clip clip caption <eos> | document 1: <bos> clip … | padding |
    loss_mask    0 at <bos> and padding, 1 elsewhere         position_ids  from 0 in each document

A video is one document if it fits into a row; otherwise it is cut between clips into documents that fit.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from videotok.corpus.schema import VERSION
from videotok.corpus.settings import Fingerprint
from videotok.corpus.storage import (
    CorpusFolder,
    find_stored_videos,
    ordered_rows,
    ordered_videos,
    write_bytes,
    write_table,
)
from videotok.corpus.tokenize import file_name
from videotok.errors import CorpusError
from videotok.io_utils import write_json
from videotok.packing import first_fit
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens, pad_motion_ids
from videotok.vocabulary import Vocabulary

ARRAY_DTYPES = {"visual_ids": np.int32, "keep_mask": np.bool_, "motion_ids": np.int32, "global_motion_ids": np.int32}
"""Columns that become .npy files in WebDataset, and their types."""

PACKED_COLUMNS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("position_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("document", pa.list_(pa.int32()), nullable=False),
    ]
)
"""`document` numbers the documents of a row from 0; padding is -1."""


def video_tokens(rows: pa.Table, facts: dict[str, Any]) -> VideoTokens:
    """Return the clips of one video as VideoTokens.

    Args:
        rows: all clips of a video, in order (`storage.ordered_videos`).
        facts: corpus.json (`CorpusFolder.facts`).

    Raises:
        ValueError: the rows are not a complete video.
    """
    fingerprint = Fingerprint(facts["fingerprint"])
    first = rows.slice(0, 1).to_pylist()[0]
    visual = [np.array(ids, np.int32) for ids in rows["visual_ids"].to_pylist()]
    source = SourceFacts(file_name(first["path"]), 0, first["codec"], first["width"], first["height"], 0, None, None)
    weights = fingerprint.facts["weights"]
    motion = pad_motion_ids([np.array(ids, np.int32) for ids in rows["motion_ids"].to_pylist()])
    return VideoTokens(
        spec=fingerprint.spec,
        source=source,
        motion_source=first["motion_source"],
        models={part: ModelIdentity(facts["model"], weights[part]) for part in TOKENIZERS},
        codebooks=facts["codebooks"],
        visual_ids=np.concatenate(visual),
        visual_offsets=np.cumsum([0, *map(len, visual)], dtype=np.int64),
        keep_mask=np.array(rows["keep_mask"].to_pylist(), np.bool_),
        motion_ids=motion["motion_ids"],
        motion_quantizers=motion["motion_quantizers"],
        global_motion_ids=np.array(rows["global_motion_ids"].to_pylist(), np.int32),
        num_frames=rows["num_frames"].to_numpy(),
        pts_seconds=rows["start_seconds"].to_numpy(),
        damaged=np.array(rows["damaged"].to_pylist(), np.bool_),
        config=fingerprint.config,
    )


def to_webdataset(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """Write tar shards with one sample per clip, key `<video>-<clip>`: ids as .npy files, everything else as .json.

    Equal corpora give equal bytes: clips are in order of `video_id`, and the archive has no times and owners.

    Raises:
        CorpusError: there is no corpus, it has no clips, or `out` is not empty.
    """
    from webdataset.writer import TarWriter

    paths, video_number, last_video = [], -1, None
    for shard, rows in enumerate(ordered_rows(_check_export(folder, out), shard_rows)):
        buffer = io.BytesIO()
        with TarWriter(buffer, user="", group="", mtime=0.0, encoder=False) as writer:
            for row in rows.to_pylist():
                video_number += row["video_id"] != last_video
                last_video = row["video_id"]
                writer.write({"__key__": f"{video_number:08d}-{row['clip']:05d}"} | _sample_files(row))
        paths.append(out / f"clips-{shard:05d}.tar")
        write_bytes(paths[-1], buffer.getvalue())
    return paths


def to_huggingface(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """Write a folder for `datasets.load_dataset`: Parquet in order of `video_id`, and a card that lists the columns.

    Raises:
        CorpusError: there is no corpus, it has no clips, or `out` is not empty.
    """
    place = _check_export(folder, out)
    num_shards = sum(1 for _ in ordered_rows(place, shard_rows))
    (out / "data").mkdir(exist_ok=True)
    paths = []
    for shard, rows in enumerate(ordered_rows(place, shard_rows)):
        paths.append(out / "data" / f"train-{shard:05d}-of-{num_shards:05d}.parquet")
        write_table(paths[-1], rows)
    write_bytes(out / "README.md", _data_card(folder).encode())
    return paths


def to_lance(folder: CorpusFolder, out: Path, shard_rows: int = 2048) -> list[Path]:
    """Write `clips.lance`, a Lance data set with the columns of the corpus in order of `video_id`, for random access.

    Equal corpora give equal rows; names of files inside it are Lance's own, and new each time.

    Raises:
        CorpusError: there is no corpus, it has no clips, or `out` is not empty.
    """
    import lance

    batches = (batch for rows in ordered_rows(_check_export(folder, out), shard_rows) for batch in rows.to_batches())
    first = next(batches)
    path = out / "clips.lance"
    lance.write_dataset(chain([first], batches), path, schema=first.schema)
    return sorted(file for file in path.rglob("*") if file.is_file())


class TextTokenizer(Protocol):
    """What is needed of a `transformers` tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def __len__(self) -> int: ...

    def __call__(self, text: str, **options: Any) -> Any: ...


@dataclass(frozen=True)
class PackingOptions:
    """How ids are laid out in rows."""

    row_length: int = 4096
    """Ids in a row."""
    text_size: int = 32_000
    """Ids below this are text; with a text tokenizer its size counts."""
    motion_quantizers: int | None = None
    """Motion quantizers to write; all of the corpus if None."""
    interleaved: bool = False
    """Order motion ids by position, then quantizer, instead of by quantizer, then position."""


def to_packed_ids(
    folder: CorpusFolder,
    out: Path,
    options: PackingOptions | None = None,
    tokenizer: TextTokenizer | None = None,
    shard_rows: int = 2048,
) -> list[Path]:
    """Write Parquet shards of packed rows (`PACKED_COLUMNS`), and vocabulary.json, which says what the ids mean.

    Args:
        folder: the corpus.
        out: an empty folder.
        options: lengths and sizes.
        tokenizer: of the language model's text; without one, captions, <bos> and <eos> are left out.
        shard_rows: rows in a file.

    Raises:
        CorpusError: there is no corpus, it has no clips, `out` is not empty, or a single clip is longer than a row.
    """
    options, place = options or PackingOptions(), _check_export(folder, out)
    facts, videos = folder.facts, ordered_videos(place)
    first = next(videos)
    text_size = options.text_size if tokenizer is None else len(tokenizer)
    tokens = _read_tokens(first, facts, options)
    vocabulary = Vocabulary.of(tokens, text_size, interleaved=options.interleaved)
    documents = (
        document
        for rows in chain([first], videos)
        for document in _video_documents(rows, _read_tokens(rows, facts, options), vocabulary, options, tokenizer)
    )
    rows = (_packed_row(row, options, tokenizer) for row in first_fit(documents, options.row_length))
    paths = []
    while part := list(islice(rows, shard_rows)):
        paths.append(out / f"sequences-{len(paths):05d}.parquet")
        write_table(paths[-1], pa.Table.from_pylist(part, PACKED_COLUMNS))
    about = {"vocabulary": vocabulary.to_dict(), "length": options.row_length, "fingerprint": facts["fingerprint"]}
    write_json(out / "vocabulary.json", about, durable=True)
    return paths


def _check_export(folder: CorpusFolder, out: Path) -> Path:
    """Check that a corpus can be exported to a folder, make that, and return the folder of the corpus.

    Raises:
        CorpusError: there is no corpus, it has no clips or is not in order, or `out` is not empty.
    """
    folder.facts  # noqa: B018 (refuses what is no corpus)
    stored = find_stored_videos(folder.folder)
    if not len(stored.complete):
        raise CorpusError(f"{folder.folder} has no clips yet; `videotok corpus encode` makes some")
    if len(stored.incomplete):
        raise CorpusError(f"{folder.folder} is not in order; `videotok corpus verify` says why")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"cannot write {out}: {error.strerror}; choose another place") from error
    if any(out.iterdir()):
        raise CorpusError(f"{out} is not empty; choose another folder")
    return folder.folder


def _sample_files(row: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of a WebDataset sample: suffix -> content."""
    files = {}
    for name, dtype in ARRAY_DTYPES.items():
        buffer = io.BytesIO()
        np.save(buffer, np.array(row.pop(name), dtype), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    return files | {"json": json.dumps(row, sort_keys=True, default=str).encode()}


def _data_card(folder: CorpusFolder) -> str:
    facts, schema = folder.facts, folder.schema
    columns = "\n".join(f"| `{column.name}` | {column.type} |" for column in schema)
    return (
        "---\ntags:\n- videotok\n- video\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/*.parquet\n---\n\n"
        "Tokens of videos, one row per clip, in order of `video_id` and `clip` (videotok corpus, schema "
        f"{VERSION}).\n\n"
        f"| column | type |\n|---|---|\n{columns}\n\n"
        f"Ids run from 0 in each codebook: {json.dumps(facts['codebooks'])}. They were made with\n\n"
        f"```json\n{json.dumps(facts['fingerprint'], indent=2)}\n```\n"
    )


@dataclass(frozen=True)
class _Document:
    ids: np.ndarray
    """int64 [n]."""
    num_context: int
    """Ids at its beginning that are not trained on."""

    def __len__(self) -> int:
        return len(self.ids)


def _read_tokens(rows: pa.Table, facts: dict[str, Any], options: PackingOptions) -> VideoTokens:
    """Return a video's tokens with no more motion quantizers than wanted."""
    tokens = video_tokens(rows, facts)
    if options.motion_quantizers is None:
        return tokens
    return tokens.first_quantizers(min(options.motion_quantizers, tokens.num_motion_quantizers))


def _video_documents(
    rows: pa.Table,
    tokens: VideoTokens,
    vocabulary: Vocabulary,
    options: PackingOptions,
    tokenizer: TextTokenizer | None,
) -> Iterator[_Document]:
    """Yield a video as documents, each with as many clips as a row holds, and the caption at the end.

    Raises:
        CorpusError: a single clip is longer than a row.
    """
    clips = [vocabulary.ids(tokens, [clip]) for clip in range(tokens.num_clips)]
    before, after = _text_ids(tokenizer, rows["caption"][0].as_py())
    available, chosen = options.row_length - len(before) - len(after), []
    for clip in clips:
        if len(clip) > available:
            raise CorpusError(
                f"a clip of {rows['video_id'][0].as_py()} has {len(clip)} ids and {len(before) + len(after)} of text, "
                f"a row has {options.row_length}; choose longer rows, or fewer motion quantizers"
            )
        if sum(map(len, chosen)) + len(clip) > available:
            yield _Document(np.concatenate([before, *chosen, after]), len(before))
            chosen = []
        chosen.append(clip)
    yield _Document(np.concatenate([before, *chosen, after]), len(before))


def _text_ids(tokenizer: TextTokenizer | None, caption: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids before a video, which are not trained on, and those after it, which are."""
    if tokenizer is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # a caption is plain text: nothing in it becomes a special token
    text = tokenizer(caption, add_special_tokens=False, split_special_tokens=True)["input_ids"] if caption else []
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return np.array(begin, np.int64), np.array([*text, *end], np.int64)


def _packed_row(
    documents: Sequence[_Document], options: PackingOptions, tokenizer: TextTokenizer | None
) -> dict[str, np.ndarray]:
    """Return documents as one row, with the columns of `PACKED_COLUMNS`."""
    length = options.row_length
    columns = {
        "input_ids": np.full(length, _padding_id(tokenizer), np.int32),
        "loss_mask": np.zeros(length, np.bool_),
        "position_ids": np.zeros(length, np.int32),
        "document": np.full(length, -1, np.int32),
    }
    start = 0
    for number, document in enumerate(documents):
        span = slice(start, start + len(document))
        columns["input_ids"][span], columns["document"][span] = document.ids, number
        columns["position_ids"][span] = np.arange(len(document))
        columns["loss_mask"][start + document.num_context : span.stop] = True
        start = span.stop
    return columns


def _padding_id(tokenizer: TextTokenizer | None) -> int:
    if tokenizer is None:
        return 0
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in candidates if token is not None)
