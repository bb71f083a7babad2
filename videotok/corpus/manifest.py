"""The videos of a corpus: a folder, a glob, a file, or a manifest in text, CSV or Parquet; local or any fsspec URL."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

from pathlib import PurePosixPath
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from videotok.corpus.schema import CLIP_COLUMNS, INPUTS
from videotok.errors import CorpusError
from videotok.footage import VIDEO_SUFFIXES

MANIFESTS = (".csv", ".parquet", ".txt")
RESERVED_COLUMNS = {"fingerprint", *CLIP_COLUMNS.names}
"""Columns that a manifest may not have, because the corpus writes them."""


def read_inputs(videos: str) -> pa.Table:
    """Return the videos that a user means, one row each, in order of `video_id`.

    Args:
        videos: a folder (all videos below it), a glob, a video file, or a manifest: `.txt` with a path a line, `.csv`
            or `.parquet` with a column `path` and, where wanted, `start` and `duration` (seconds), `caption`, `id`,
            and any other columns, which are kept. Paths in a manifest may be relative to it. All of these may be URLs
            that fsspec understands.

    Returns:
        Columns of `schema.INPUTS`, then further ones of the manifest. `video_id` is the manifest's `id`; without one,
        the path below the folder or in the manifest, followed by `#t=start,end` if only a part is asked for.

    Raises:
        CorpusError: nothing is there, no video in it, a manifest without `path`, or two rows with one id.
    """
    try:
        filesystem, place = url_to_fs(videos)
        if filesystem.isdir(place):
            return _inputs_from_files(filesystem, place, filesystem.find(place))
        if any(character in place for character in "*?["):
            return _inputs_from_files(filesystem, _glob_root(place), filesystem.glob(place))
        if not filesystem.exists(place):
            raise CorpusError(f"{videos} does not exist; give a folder, a glob, or a manifest ({', '.join(MANIFESTS)})")
        suffix = PurePosixPath(place).suffix.lower()
        if suffix in MANIFESTS:
            with filesystem.open(place, "rb") as file:
                return _inputs_from_manifest(_read_manifest(file, suffix), videos)
        return _inputs_table([PurePosixPath(place).name], [_location(filesystem, place)])
    except (OSError, ValueError, ImportError) as error:
        raise CorpusError(f"cannot read {videos}: {' '.join(str(error).split())}") from error


def _inputs_from_files(filesystem: fsspec.AbstractFileSystem, root: str, files: list[str]) -> pa.Table:
    """Return the videos among the files below a folder; other files are ignored."""
    found = sorted(file for file in files if PurePosixPath(file).suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise CorpusError(
            f"no video in {root}: {len(files)} files, none ends in {', '.join(sorted(VIDEO_SUFFIXES))}; "
            "name others in a manifest"
        )
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


def _read_manifest(file: BinaryIO, suffix: str) -> pa.Table:
    if suffix == ".parquet":
        return pq.read_table(file)
    if suffix == ".csv":
        return pyarrow.csv.read_csv(file)
    lines = [line.strip() for line in file.read().decode().splitlines()]
    return pa.table({"path": pa.array([line for line in lines if line and not line.startswith("#")], pa.string())})


def _inputs_from_manifest(table: pa.Table, manifest: str) -> pa.Table:
    if "path" not in table.column_names or table.num_rows == 0:
        raise CorpusError(
            f"{manifest} has {table.num_rows} rows with the columns {', '.join(table.column_names)}; "
            "it needs at least one row, and a column `path`"
        )
    if taken := RESERVED_COLUMNS.intersection(table.column_names):
        raise CorpusError(f"{manifest} has a column `{min(taken)}`, which the corpus writes itself; rename it")
    paths = table["path"].cast(pa.string()).to_pylist()
    columns = {name: _column(table, name, manifest) for name in ("start", "duration", "caption")}
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
        return table[name].cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(f"{manifest}: column `{name}` must be {wanted}; {error}") from error


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
    if "://" in path or path.startswith("/"):
        return path
    filesystem, place = url_to_fs(manifest)
    return _location(filesystem, str(PurePosixPath(place).parent / path))


def _refuse_duplicates(inputs: pa.Table, manifest: str) -> None:
    counts = pc.value_counts(inputs["video_id"])
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise CorpusError(
            f"{manifest} names {repeated.field('values')[0].as_py()} {repeated.field('counts')[0].as_py()} times; "
            "name it once, or give every row an `id` of its own"
        )
