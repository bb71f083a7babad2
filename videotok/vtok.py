"""The .vtok file: safetensors whose metadata have one entry, JSON that says what the arrays mean (docs/format.md).

Type and range of every header field, type and shape of every array are checked from the file's header alone, so that a
forged file costs neither memory nor time. Contradictions between arrays, and values of ids, are checked by
`VideoTokens`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from codec import MediaError, atomic_path, probe
from videotok.errors import TokensError, one_line, shorten

FORMAT = 4
"""The newest format. Raised whenever an older reader would misread a file."""
HEADER = "videotok"
"""Key of the JSON in the safetensors metadata. One key only: the order of several is not fixed."""
ARRAYS = (
    "damaged",
    "global_motion_ids",
    "keep_mask",
    "motion_ids",
    "motion_quantizers",
    "num_frames",
    "picture_offsets",
    "pictures",
    "pts_seconds",
    "skip_mask",
    "visual_ids",
    "visual_offsets",
)
SINCE_2 = ("skip_mask", "picture_offsets", "pictures")
"""Arrays that format 1 did not have."""
NAMES_BEFORE_3 = {"global_motion_ids": "camera_ids", "skip_mask": "carry_mask", "global_motion": "camera"}
"""Name of an array or codebook today -> its name in formats 1 and 2."""
SINCE_4 = ("motion_quantizers",)
"""Arrays that only format 4 has; in it `motion_ids` is [sum of them, ids per quantizer]."""
MAX_CODEBOOK = 2**31 - 1
"""Ids are int32."""
MAX_SECONDS = 1e12
MAX_SIDE = 2**18
"""Pixels: 16384, the decoder's limit, widened by a pixel shape of up to 10."""
MAX_PATCHES = 2**20
MAX_DEPTH = 8
"""Levels of lists and objects in a header."""
MAX_HEADER = 2**20
"""Characters of a header."""
RATE_TEXT = re.compile(r"[0-9]{1,20}(/(?P<denominator>[0-9]{1,20}))?")
"""An exact fraction, as `str(Fraction)` writes it."""


def is_vtok(path: str | Path) -> bool:
    """Return whether a file begins as a .vtok file does, whatever its name: with the header of a safetensors file."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    return brace == b"{" and 2 <= length <= path.stat().st_size - 8


def vtok_format(path: str | Path) -> int:
    """Return the format number of a .vtok file.

    Raises:
        TokensError: not a .vtok file, or a newer format.
    """
    with _open_vtok(Path(path)) as file:
        return file.version


@dataclass(frozen=True)
class VtokContents:
    """Header and arrays of a .vtok file."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]
    """By today's names, in the types in which they are stored."""


def write_contents(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .vtok file, whole or not at all. Equal contents give equal bytes.

    Args:
        path: the file; replaced where it exists.
        header: all fields but `sha256`.
        arrays: those of the format that `header` names, in the types in which they are stored.

    Raises:
        MediaError: the place cannot be written to.
    """
    complete = {**header, "sha256": digest(header, arrays)}
    data = to_bytes(dict(arrays), {HEADER: json.dumps(complete, sort_keys=True, ensure_ascii=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def open_contents(path: Path, codebooks: Sequence[str], models: Sequence[str]) -> Iterator[VtokContents]:
    """Read a .vtok file of any format so far: its header is checked first, then its hash.

    A ValueError in the block becomes a TokensError that calls the file damaged.

    Args:
        path: the file.
        codebooks: names of the codebooks.
        models: names of the models.

    Raises:
        TokensError: not a .vtok file, a newer format, or a damaged one.
    """
    with _open_vtok(path) as file:
        header, stored = file.header, _names(file.version)
        if sorted(file.arrays) != sorted(stored.values()):
            raise ValueError(
                f"it holds {shorten(sorted(file.arrays), 200)}, "
                f"a .vtok file of format {file.version} {sorted(stored.values())}"
            )
        check_header(header, [_name_in_file(name, file.version) for name in codebooks], models)
        check_arrays({name: file.arrays[there] for name, there in stored.items()}, header["patches"], file.version)
        arrays = {name: file.load(name) for name in file.arrays}
        found, promised = digest(header, arrays), header["sha256"]
        if found != promised:
            raise ValueError(f"its contents hash to {found[:12]}, its header says {shorten(promised[:12])}")
        yield VtokContents(header, {name: arrays[there] for name, there in stored.items()})


def current_codebooks(codebooks: Mapping[str, int]) -> dict[str, int]:
    """Return codebook sizes under today's names, for records written before format 3."""
    renamed = {old: new for new, old in NAMES_BEFORE_3.items()}
    return {renamed.get(name, name): size for name, size in codebooks.items()}


def digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of the header (without its entry `sha256`) and of the arrays in order of their stored names."""
    text = json.dumps({name: value for name, value in header.items() if name != "sha256"}, sort_keys=True)
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _names(version: int) -> dict[str, str]:
    """Return the arrays of a format: name today -> name in the file."""
    later = [*(SINCE_2 if version < 2 else ()), *(SINCE_4 if version < 4 else ())]
    names = [name for name in ARRAYS if name not in later]
    return {name: _name_in_file(name, version) for name in names}


def _name_in_file(name: str, version: int) -> str:
    """Return what a format calls an array or codebook."""
    return NAMES_BEFORE_3.get(name, name) if version < 3 else name


@dataclass(frozen=True)
class StoredArray:
    """Type and shape of an array, as a safetensors file states them."""

    dtype: str
    """As safetensors names it, such as `U16`."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _VtokFile:
    """A .vtok file whose header has been read."""

    version: int
    header: dict[str, Any]
    arrays: dict[str, StoredArray]
    """By the names in the file."""
    load: Callable[[str], np.ndarray]
    """Reads an array."""


@contextmanager
def _open_vtok(path: Path) -> Iterator[_VtokFile]:
    """Open a .vtok file; a ValueError in the block becomes a TokensError that calls the file damaged.

    Raises:
        TokensError: not a .vtok file, a newer format, or a header that is not JSON.
    """
    if not path.is_file():
        problem = "it is a folder" if path.is_dir() else "it is not a regular file" if path.exists() else "no such file"
        raise TokensError(f"cannot read {path}: {problem}; `videotok encode` makes a .vtok file")
    try:
        opened = safe_open(path, framework="numpy")
    except (SafetensorError, OSError, ValueError) as error:
        raise TokensError(_not_vtok_message(path, error)) from error
    with opened as file:
        text = (file.metadata() or {}).get(HEADER)
        if text is None:
            raise TokensError(f"{path} is a safetensors file, but not a .vtok: its header has no entry {HEADER!r}")
        try:
            header = parse_header(text)
            version = header.get("format")
            if type(version) is not int or not 1 <= version <= FORMAT:
                raise TokensError(
                    f"{path} has format {shorten(version)}, this videotok reads formats 1 to {FORMAT}; "
                    "update videotok, or encode the video again"
                )
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            arrays = {name: StoredArray(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            yield _VtokFile(version, header, arrays, file.get_tensor)
        except (ValueError, SafetensorError) as error:
            raise TokensError(
                f"{path} is damaged: {one_line(error)}; copy it again, or encode the video again"
            ) from error


def _not_vtok_message(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that is not in safetensors form: it may be a video."""
    try:
        info = probe(path)
    except MediaError:
        return f"{path} is not a .vtok file, or it is cut short or damaged ({one_line(error)}); encode the video again"
    return f"{path} is a video ({info.codec}, {info.width}x{info.height}), not a .vtok file; encode it first"


Check = Callable[[str, Any], None]
"""Takes the name and the value of a header field; raises ValueError."""


def parse_header(text: str) -> dict[str, Any]:
    """Return the JSON object of a header.

    Raises:
        ValueError: it is no JSON object, too long, or nested too deeply.
    """
    if len(text) > MAX_HEADER:
        raise ValueError(f"its header has {len(text)} characters; at most {MAX_HEADER} are allowed")
    try:
        header = json.loads(text)
    except RecursionError:
        header = None
    if header is None or _is_deeper(header, MAX_DEPTH):
        raise ValueError(f"its header is empty, or nested more than {MAX_DEPTH} levels deep")
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than `depth` levels deep."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (depth == 0 or any(_is_deeper(entry, depth - 1) for entry in inner))


def check_header(header: Mapping[str, Any], codebooks: Sequence[str], models: Sequence[str]) -> None:
    """Check the fields of a header; fields of other names are not looked at.

    Args:
        header: from `parse_header`.
        codebooks: names of the codebooks, as the file's format has them.
        models: names of the models.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    model = _object({"name": _text(1024), "sha256": _text(128)})
    fields = {
        "motion_source": _choice("native", "reencode", "mpeg4"),
        "start_seconds": _number(0, MAX_SECONDS),
        "patches": _integer(1, MAX_PATCHES),
        "sha256": _text(64),
        "spec": _object({"frames": _integer(2, 65536), "fps": _rate(1e-6, 1e6), "grid": _integers(2, 1, 4096)}),
        "source": _object(SOURCE_FIELDS),
        "codebooks": _object(dict.fromkeys(codebooks, _integer(1, MAX_CODEBOOK)), is_complete=True),
        "models": _object(dict.fromkeys(models, model), is_complete=True),
    }
    if header["format"] >= 3:
        fields["config"] = _optional(_object({}))
    _object(fields)("header", header)


def check_arrays(arrays: Mapping[str, StoredArray], patches: int, version: int) -> None:
    """Check types and shapes of arrays under today's names against each other.

    Args:
        arrays: by name; earlier formats have fewer of them.
        patches: of a keyframe.
        version: format of the file.

    Raises:
        ValueError: names the array, its type and shape, and what is allowed.
    """
    num_frames = arrays.get("num_frames")
    clips = num_frames.shape[0] if num_frames and num_frames.shape else 0
    mask = (clips, math.ceil(patches / 8))
    ids = ("U16", "U32")
    wanted: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {
        "damaged": (("U8",), (clips,)),
        "global_motion_ids": (ids, (clips, None)),
        "keep_mask": (("U8",), mask),
        "motion_ids": (ids, (None, None) if version >= 4 else (clips, None, None)),
        "motion_quantizers": (("U8",), (clips,)),
        "num_frames": (("U32",), (clips,)),
        "picture_offsets": (("U64",), (None,)),
        "pictures": (("U8",), (None,)),
        "pts_seconds": (("F64",), (clips,)),
        "skip_mask": (("U8",), mask),
        "visual_ids": (ids, (None,)),
        "visual_offsets": (("U32",), (clips + 1,)),
    }
    for name, array in arrays.items():
        dtypes, shape = wanted[name]
        if array.dtype not in dtypes or not _fits(array.shape, shape):
            sides = ", ".join("any" if side is None else str(side) for side in shape)
            raise ValueError(
                f"`{name}` is {array.dtype} {shorten(list(array.shape))}, it must be {' or '.join(dtypes)} [{sides}]"
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Return whether a shape is the wanted one; a side that may be any is at most 2^31 (arrays of no bytes)."""
    return len(shape) == len(wanted) and all(
        side == want if want is not None else side < 2**31 for side, want in zip(shape, wanted, strict=True)
    )


def _refuse(name: str, value: Any, allowed: str) -> None:
    raise ValueError(f"`{name}` (={shorten(value)}) must be {allowed}")


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            _refuse(name, value, f"a whole number from {low} to {high}")

    return check


def _integers(count: int, low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) != count:
            _refuse(name, value, f"a list of {count} whole numbers")
        for entry in value:
            _integer(low, high)(name, entry)

    return check


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            _refuse(name, value, f"a number from {low:g} to {high:g}")

    return check


def _text(length: int) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or len(value) > length:
            _refuse(name, value, f"text of at most {length} characters")

    return check


def _choice(*allowed: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            _refuse(name, value, ", ".join(allowed[:-1]) + f" or {allowed[-1]}")

    return check


def _rate(low: float, high: float) -> Check:
    """Return a check of a rate in text; its digits are counted before it is parsed."""

    def check(name: str, value: Any) -> None:
        parts = RATE_TEXT.fullmatch(value) if isinstance(value, str) else None
        if parts is None or not int(parts["denominator"] or 1) or not low <= Fraction(value) <= high:
            _refuse(name, value, f"a rate in text from {low:g} to {high:g}, such as 12 or 30000/1001")

    return check


def _optional(check: Check) -> Check:
    def check_unless_none(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return check_unless_none


def _object(fields: Mapping[str, Check], *, is_complete: bool = False) -> Check:
    """Return a check of an object that has at least these fields; no others if they are complete."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            _refuse(name, value, "a JSON object")
        found = set(value)
        if not set(fields) <= found or (is_complete and found != set(fields)):
            raise ValueError(f"`{name}` has {shorten(sorted(found), 200)}, it must have {', '.join(sorted(fields))}")
        for entry, check_entry in fields.items():
            check_entry(entry if name == "header" else f"{name}.{entry}", value[entry])

    return check


SOURCE_FIELDS: Mapping[str, Check] = {
    "file": _text(4096),
    "size_bytes": _integer(0, 2**63 - 1),
    "codec": _text(128),
    "width": _integer(1, MAX_SIDE),
    "height": _integer(1, MAX_SIDE),
    "rotation_degrees": _integer(-360, 360),
    "duration_seconds": _optional(_number(0, MAX_SECONDS)),
    "average_fps": _optional(_rate(1e-20, 1e20)),
}
