"""Which videos: a folder, a glob, a file, or a manifest in text, CSV or Parquet; local, or any fsspec URL."""

# pyright: reportAttributeAccessIssue=false
# (functions of pyarrow.compute are made when it is imported)

from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from videotok.corpus.storage import INPUTS, TOKENS
from videotok.errors import CorpusError
from videotok.training.prepare import VIDEO_SUFFIXES

MANIFESTS = (".csv", ".parquet", ".txt")
RESERVED = {"fingerprint", *TOKENS.names}
"""Columns that a manifest may not bring, because the corpus writes them."""


def read_inputs(videos: str) -> pa.Table:
    """The videos a user means, one row each, in order of `video_id`.

    Args:
        videos: a folder (all videos below it), a glob, a video file, or a manifest: `.txt` with a path a line, `.csv`
            or `.parquet` with a column `path` and, where wanted, `start` and `duration` (seconds), `caption`, `id`,
            and any other columns, which are kept. Paths in a manifest may be relative to it. Any of these may be a
            URL that fsspec understands, and so may the paths in a manifest.

    Returns:
        Columns of `schema.INPUTS`, then the other ones of the manifest. `video_id` is the path below the folder or in
        the manifest, followed by `#t=start,end` where a part is asked for, or the manifest's `id`.

    Raises:
        CorpusError: there is nothing, no video in it, a manifest without `path`, or two rows with one id.
    """
    try:
        filesystem, place = url_to_fs(videos)
        if filesystem.isdir(place):
            return _listed(filesystem, place, filesystem.find(place))
        if any(letter in place for letter in "*?["):
            return _listed(filesystem, _fixed_part(place), filesystem.glob(place))
        if not filesystem.exists(place):
            raise CorpusError(f"{videos} does not exist; give a folder, a glob, or a manifest ({', '.join(MANIFESTS)})")
        suffix = PurePosixPath(place).suffix.lower()
        if suffix in MANIFESTS:
            with filesystem.open(place, "rb") as file:
                return _from_manifest(_table(file, suffix), videos)
        return _inputs([PurePosixPath(place).name], [_location(filesystem, place)])
    except (OSError, ValueError, ImportError) as error:
        raise CorpusError(f"cannot read {videos}: {' '.join(str(error).split())}") from error


def _listed(filesystem: fsspec.AbstractFileSystem, root: str, files: list[str]) -> pa.Table:
    """Videos among the files below a folder; everything else there is left alone."""
    found = sorted(file for file in files if PurePosixPath(file).suffix.lower() in VIDEO_SUFFIXES)
    if not found:
        raise CorpusError(
            f"no video in {root}: {len(files)} files, none ends in {', '.join(sorted(VIDEO_SUFFIXES))}; "
            "name others in a manifest"
        )
    names = [file.removeprefix(root).lstrip("/") for file in found]
    return _inputs(names, [_location(filesystem, file) for file in found])


def _fixed_part(pattern: str) -> str:
    """Folders of a glob before its first special letter."""
    first = min(pattern.index(letter) for letter in "*?[" if letter in pattern)
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _location(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """How a worker opens it: a plain path where it is local, else a URL."""
    return path if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(path)


def _inputs(names: list[str], locations: list[str]) -> pa.Table:
    nothing = pa.nulls(len(names))
    columns = [names, locations, nothing.cast(pa.float64()), nothing.cast(pa.float64()), nothing.cast(pa.string())]
    return pa.table(columns, schema=INPUTS)


def _table(file, suffix: str) -> pa.Table:
    if suffix == ".parquet":
        return pq.read_table(file)
    if suffix == ".csv":
        return pyarrow.csv.read_csv(file)
    lines = [line.strip() for line in file.read().decode().splitlines()]
    return pa.table({"path": pa.array([line for line in lines if line and not line.startswith("#")], pa.string())})


def _from_manifest(table: pa.Table, manifest: str) -> pa.Table:
    if "path" not in table.column_names or table.num_rows == 0:
        raise CorpusError(
            f"{manifest} has {table.num_rows} rows with the columns {', '.join(table.column_names)}; "
            "there must be a row at least, and a column `path`"
        )
    if taken := RESERVED.intersection(table.column_names):
        raise CorpusError(f"{manifest} has a column `{min(taken)}`, which the corpus writes itself; rename it")
    paths = table["path"].cast(pa.string()).to_pylist()
    columns = {name: _column(table, name, manifest) for name in ("start", "duration", "caption")}
    names = _names(paths, columns, table)
    fixed = pa.table([names, [_resolved(path, manifest) for path in paths], *columns.values()], schema=INPUTS)
    for name in table.column_names:
        if name not in ("path", "start", "duration", "caption", "id"):
            fixed = fixed.append_column(name, table[name])
    _refuse_doubles(fixed, manifest)
    return fixed.sort_by("video_id")


def _column(table: pa.Table, name: str, manifest: str) -> pa.ChunkedArray:
    wanted = INPUTS.field(name).type
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, wanted)])
    try:
        return table[name].cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CorpusError(f"{manifest}: column `{name}` must be {wanted}; {error}") from error


def _names(paths: list[str], columns: dict[str, pa.ChunkedArray], table: pa.Table) -> list[str]:
    if "id" in table.column_names:
        return table["id"].cast(pa.string()).to_pylist()
    parts = zip(columns["start"].to_pylist(), columns["duration"].to_pylist(), strict=True)
    return [f"{path}{_fragment(start, duration)}" for path, (start, duration) in zip(paths, parts, strict=True)]


def _fragment(start: float | None, duration: float | None) -> str:
    """The part asked for, written as in W3C Media Fragments: `#t=start,end`."""
    if start is None and duration is None:
        return ""
    begin = start or 0.0
    return f"#t={begin:g}" + ("" if duration is None else f",{begin + duration:g}")


def _resolved(path: str, manifest: str) -> str:
    """A path of a manifest as a worker opens it: relative ones start at the manifest."""
    if "://" in path or path.startswith("/"):
        return path
    filesystem, place = url_to_fs(manifest)
    return _location(filesystem, str(PurePosixPath(place).parent / path))


def _refuse_doubles(inputs: pa.Table, manifest: str) -> None:
    counts = pc.value_counts(inputs["video_id"])
    double = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(double):
        raise CorpusError(
            f"{manifest} names {double.field('values')[0].as_py()} {double.field('counts')[0].as_py()} times; "
            "name it once, or give every row an `id` of its own"
        )
