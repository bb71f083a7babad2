""".vtok files: VideoTokens in one safetensors file (docs/format.md)."""

import hashlib
import json
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from codec import ClipSpec, replacing
from videotok.errors import TokensError
from videotok.source import ModelIdentity, SourceFacts, source_facts, spec_facts
from videotok.tokens import VideoTokens

FORMAT = 2
"""Raised whenever an older reader would misread a file."""
HEADER = "videotok"
"""Key of the JSON in the safetensors metadata: one key, because the order of several is not fixed."""
ARRAYS = (
    "camera_ids",
    "carry_mask",
    "damaged",
    "keep_mask",
    "motion_ids",
    "num_frames",
    "picture_offsets",
    "pictures",
    "pts_seconds",
    "visual_ids",
    "visual_offsets",
)
SINCE_2 = {"carry_mask", "picture_offsets", "pictures"}
"""Arrays that format 1 had not."""


def save(tokens: VideoTokens, path: str | Path) -> None:
    """Writes a .vtok file, whole or not at all. Equal tokens give equal bytes.

    Raises:
        MediaError: the place cannot be written to.
    """
    arrays = _packed(tokens)
    header = {
        "format": FORMAT,
        "spec": spec_facts(tokens.spec),
        "source": source_facts(tokens.source),
        "motion_source": tokens.motion_source,
        "start_seconds": tokens.start_seconds,
        "patches": tokens.keep_mask.shape[1],
        "models": {name: vars(model) for name, model in tokens.models.items()},
        "codebooks": dict(tokens.codebooks),
    }
    header["sha256"] = digest(header, arrays)
    data = to_bytes(arrays, {HEADER: json.dumps(header, sort_keys=True, ensure_ascii=False)})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: str | Path) -> VideoTokens:
    """Reads a .vtok file and checks all of it.

    Raises:
        TokensError: not a .vtok file, a newer format, or a damaged one.
    """
    path = Path(path)
    header, arrays = _read(path)
    made = header.get("format")
    if made not in (1, FORMAT):
        raise TokensError(
            f"{path} has format {made}, this videotok reads formats 1 and {FORMAT}; "
            "update videotok, or encode the video again"
        )
    wanted = [name for name in ARRAYS if made == FORMAT or name not in SINCE_2]
    if sorted(arrays) != wanted:
        raise TokensError(f"{path} is damaged: it holds {sorted(arrays)}, a .vtok file of format {made} {wanted}")
    found, promised = digest(header, arrays), str(header.get("sha256"))
    if found != promised:
        raise TokensError(
            f"{path} is damaged: what it holds hashes to {found[:12]}, its header says {promised[:12]}; "
            "copy it again, or encode the video again"
        )
    try:
        return _unpacked(header, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise TokensError(f"{path} is damaged: {error}; copy it again, or encode the video again") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise TokensError(f"cannot read {path}: no such file; `videotok encode` makes one")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
            if text is None:
                raise TokensError(f"{path} is a safetensors file, but not a .vtok: its header has no entry {HEADER!r}")
            header = json.loads(text)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TokensError(
            f"{path} is not a .vtok file, or it is cut short or damaged ({reason}); encode the video again"
        ) from error
    if not isinstance(header, dict):
        raise TokensError(f"{path} is damaged: its header is not a JSON object")
    return header, arrays


def _packed(tokens: VideoTokens) -> dict[str, np.ndarray]:
    """The arrays as they lie in the file: ids as small as their codebook allows, one bit a patch."""
    id_types = {name: np.uint16 if size <= 1 << 16 else np.uint32 for name, size in tokens.codebooks.items()}
    return {
        "camera_ids": tokens.camera_ids.astype(id_types["camera"]),
        "carry_mask": np.packbits(tokens.carry_mask, axis=1),
        "damaged": tokens.damaged.astype(np.uint8),
        "keep_mask": np.packbits(tokens.keep_mask, axis=1),
        "motion_ids": tokens.motion_ids.astype(id_types["motion"]),
        "num_frames": tokens.num_frames.astype(np.uint32),
        "picture_offsets": np.cumsum([0, *map(len, tokens.pictures)], dtype=np.uint64),
        "pictures": np.frombuffer(b"".join(tokens.pictures), np.uint8),
        "pts_seconds": tokens.pts_seconds,
        "visual_ids": tokens.visual_ids.astype(id_types["visual"]),
        "visual_offsets": tokens.visual_offsets.astype(np.uint32),
    }


def _unpacked(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> VideoTokens:
    spec, source = header["spec"], dict(header["source"])
    if source["average_fps"] is not None:
        source["average_fps"] = Fraction(source["average_fps"])
    known = {entry.name for entry in fields(SourceFacts)}
    rest: dict[str, Any] = {
        name: arrays[name].astype(np.int32) for name in ("visual_ids", "motion_ids", "camera_ids", "num_frames")
    }
    rest |= _since_2(header, arrays)
    return VideoTokens(
        spec=ClipSpec(frames=spec["frames"], fps=Fraction(spec["fps"]), grid=tuple(spec["grid"])),
        source=SourceFacts(**{name: value for name, value in source.items() if name in known}),
        motion_source=header["motion_source"],
        models={name: ModelIdentity(**model) for name, model in header["models"].items()},
        codebooks=header["codebooks"],
        visual_offsets=arrays["visual_offsets"].astype(np.int64),
        keep_mask=np.unpackbits(arrays["keep_mask"], axis=1, count=header["patches"]).astype(bool),
        pts_seconds=arrays["pts_seconds"],
        damaged=arrays["damaged"].astype(bool),
        start_seconds=header["start_seconds"],
        **rest,
    )


def _since_2(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fields of VideoTokens that format 1 had not."""
    if header["format"] == 1:
        return {}
    ends = arrays["picture_offsets"].astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(arrays["pictures"]) or (np.diff(ends) <= 0).any():
        raise ValueError("`picture_offsets` must rise from 0 to the length of `pictures`")
    data = arrays["pictures"].tobytes()
    return {
        "carry_mask": np.unpackbits(arrays["carry_mask"], axis=1, count=header["patches"]).astype(bool),
        "pictures": tuple(data[start:end] for start, end in pairwise(ends)),
    }


def digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """sha256 over the header (its own entry `sha256` left out) and the arrays in order of name."""
    text = json.dumps({name: value for name, value in header.items() if name != "sha256"}, sort_keys=True)
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()
