"""The videos of a corpus: a folder, a glob, a file, or a manifest in text, CSV or Parquet; local or any fsspec URL."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from videotok.corpus.schema import CLIP_COLUMNS, INPUTS
from videotok.errors import CorpusError, utf8_name
from videotok.inputs import VIDEO_SUFFIXES, is_url, left_out_message, path_exists

MANIFESTS = (".csv", ".parquet", ".txt")
RESERVED_COLUMNS = {"fingerprint", *CLIP_COLUMNS.names}
"""Columns that a manifest may not have, because the corpus writes them."""


def read_inputs(videos: str, on_left_out: Callable[[str], None] = lambda message: None) -> pa.Table:
    """Return the videos that a user means, one row each, in order of `video_id`.

    Args:
        videos: a folder (all videos below it), a glob, a video file, or a manifest: `.txt` with a path a line, `.csv`
            or `.parquet` with a column `path` and, where wanted, `start` and `duration` (seconds), `caption`, `id`,
            and any other columns, which are kept. Paths in a manifest may be relative to it. All of these may be URLs
            that fsspec understands. What exists on this machine is never taken for a glob or a URL.
        on_left_out: called with one line on the files of a folder or glob that are no videos by their names.

    Returns:
        Columns of `schema.INPUTS`, then further ones of the manifest. `video_id` is the manifest's `id`; without one,
        the path below the folder or in the manifest, followed by `#t=start,end` if only a part is asked for.

    Raises:
        CorpusError: nothing is there, no video in it, a manifest without `path`, or two rows with one id.
    """
    try:
        filesystem, place = _find(videos)
        if filesystem.isdir(place):
            return _inputs_from_files(filesystem, place, [str(file) for file in filesystem.find(place)], on_left_out)
        if not filesystem.exists(place) and any(character in place for character in "*?["):
            files = [str(file) for file in filesystem.glob(place) if not filesystem.isdir(str(file))]
            return _inputs_from_files(filesystem, _glob_root(place), files, on_left_out)
        if not filesystem.exists(place):
            raise CorpusError(f"{videos} does not exist; give a folder, a glob, or a manifest ({', '.join(MANIFESTS)})")
        suffix = PurePosixPath(place).suffix.lower()
        if suffix in MANIFESTS:
            return _inputs_from_manifest(_read_manifest(cast(bytes, filesystem.cat_file(place)), suffix), videos)
        return _inputs_table([PurePosixPath(place).name], [_location(filesystem, place)])
    except (OSError, ValueError, ImportError) as error:
        raise CorpusError(f"cannot read {videos}: {' '.join(str(error).split())}") from error


def _find(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URL, and its place there."""
    if path_exists(path):
        return LocalFileSystem(), str(Path(path).absolute())
    return url_to_fs(path)


def _inputs_from_files(
    filesystem: fsspec.AbstractFileSystem, root: str, files: list[str], on_left_out: Callable[[str], None]
) -> pa.Table:
    """Return the videos among the files below a folder; other files are ignored, which `on_left_out` is told."""
    found, left_out = [], Counter[str]()
    for file in sorted(files):
        suffix = PurePosixPath(file).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            left_out[suffix] += 1
        elif utf8_name(file) != file:
            left_out["with a name that is not UTF-8"] += 1
        else:
            found.append(file)
    if not found:
        raise CorpusError(
            f"no video in {root}: {len(files)} files, no name ends as those of videos (.mp4, .mkv, .webm …); "
            "name others in a manifest"
        )
    if left_out:
        on_left_out(left_out_message(left_out))
    names = [file.removeprefix(root).lstrip("/") for file in found]
    return _inputs_table(names, [_location(filesystem, file) for file in found])


def _glob_root(pattern: str) -> str:
    """Return the folders of a glob before its first special character."""
    first = min(pattern.index(character) for character in "*?[" if character in pattern)
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _location(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Return what a worker opens: a plain path of a local file, else a URL."""
    return path if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(path)


def _inputs_table(names: list[str], locations: list[str]) -> pa.Table:
    nulls = pa.nulls(len(names))
    columns = [names, locations, nulls.cast(pa.float64()), nulls.cast(pa.float64()), nulls.cast(pa.string())]
    return pa.table(columns, schema=INPUTS)


def _read_manifest(data: bytes, suffix: str) -> pa.Table:
    """Return the rows of a manifest; text stays as it stands.

    Raises:
        ValueError: it is not UTF-8, or no table.
    """
    if suffix == ".parquet":
        return pq.read_table(pa.BufferReader(data))
    text = data.decode("utf-8-sig")
    if suffix == ".csv":
        return _read_csv(text.encode())
    # not `splitlines`, for which U+0085 and others end a line as well
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return pa.table({"path": pa.array([line for line in lines if line.strip() and line[0] != "#"], pa.string())})


def _read_csv(data: bytes) -> pa.Table:
    """Return a CSV table; columns of whole numbers that are not written as numbers are, such as 007, stay text."""
    texts: dict[str, pa.DataType] = dict.fromkeys(("id", "path", "caption"), pa.string())
    table = pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=pyarrow.csv.ConvertOptions(column_types=texts))
    columns = [column for column in table.schema if column.name not in ("start", "duration")]
    numbers = dict.fromkeys((column.name for column in columns if pa.types.is_integer(column.type)), pa.string())
    options = pyarrow.csv.ConvertOptions(column_types=numbers, include_columns=list(numbers), strings_can_be_null=True)
    written = pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=options)
    for name in numbers:
        if not written[name].equals(table[name].cast(pa.string())):
            table = table.set_column(table.column_names.index(name), name, written[name])
    return table


def _inputs_from_manifest(table: pa.Table, manifest: str) -> pa.Table:
    if "path" not in table.column_names or table.num_rows == 0:
        raise CorpusError(
            f"{manifest} has {table.num_rows} rows with the columns {', '.join(table.column_names)}; "
            "it needs at least one row, and a column `path`"
        )
    if taken := RESERVED_COLUMNS.intersection(table.column_names):
        raise CorpusError(f"{manifest} has a column `{min(taken)}`, which the corpus writes itself; rename it")
    if repeated := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise CorpusError(f"{manifest} has {repeated[0]!r} as the name of several columns; rename them")
    paths = table["path"].cast(pa.string()).to_pylist()
    if not all(paths):
        raise CorpusError(f"{manifest}: row {[bool(path) for path in paths].index(False) + 1} has no path")
    columns = {name: _column(table, name, manifest) for name in ("start", "duration", "caption")}
    _refuse_times(columns, manifest)
    ids = _video_ids(paths, columns, table)
    inputs = pa.table([ids, [_resolve(path, manifest) for path in paths], *columns.values()], schema=INPUTS)
    for name in table.column_names:
        if name not in ("path", "start", "duration", "caption", "id"):
            inputs = inputs.append_column(name, table[name])
    _refuse_duplicates(inputs, manifest)
    return inputs.sort_by("video_id")


def _column(table: pa.Table, name: str, manifest: str) -> pa.ChunkedArray:
    """Return a column in the type of the inputs; nulls if the manifest has none."""
    wanted = INPUTS.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, wanted)])
    try:
        column = table[name].cast(wanted)
        # programs write a missing number as not a number
        return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(wanted) else column
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(f"{manifest}: column `{name}` must be {wanted}; {error}") from error


def _refuse_times(columns: dict[str, pa.ChunkedArray], manifest: str) -> None:
    """Refuse starts below 0 and durations of 0 or less; empty ones are allowed.

    Raises:
        CorpusError: names the row.
    """
    for name in ("start", "duration"):
        for row, value in enumerate(columns[name].to_pylist(), 1):
            if value is not None and not (0 <= value < math.inf and (value > 0 or name == "start")):
                limits = "0 or more" if name == "start" else "above 0"
                raise CorpusError(f"{manifest}: `{name}` (={value}) of row {row} must be {limits}, and finite")


def _video_ids(paths: list[str], columns: dict[str, pa.ChunkedArray], table: pa.Table) -> list[str]:
    if "id" in table.column_names:
        return table["id"].cast(pa.string()).to_pylist()
    parts = zip(columns["start"].to_pylist(), columns["duration"].to_pylist(), strict=True)
    return [f"{path}{_fragment(start, duration)}" for path, (start, duration) in zip(paths, parts, strict=True)]


def _fragment(start: float | None, duration: float | None) -> str:
    """Return a part of a video as W3C Media Fragments writes it: `#t=start,end`."""
    if start is None and duration is None:
        return ""
    since = start or 0.0
    return f"#t={since:g}" + ("" if duration is None else f",{since + duration:g}")


def _resolve(path: str, manifest: str) -> str:
    """Return a path of a manifest as a worker opens it; relative paths start at the manifest."""
    if is_url(path) or path.startswith("/"):
        return path
    filesystem, place = _find(manifest)
    return _location(filesystem, str(PurePosixPath(place).parent / path))


def _refuse_duplicates(inputs: pa.Table, manifest: str) -> None:
    counts = pc.value_counts(inputs["video_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise CorpusError(
            f"{manifest} names {repeated.field('values')[0].as_py()} {repeated.field('counts')[0].as_py()} times; "
            "name it once, or give every row an `id` of its own"
        )
