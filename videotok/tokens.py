"""What tokens were made from: a video, and weights.

VideoTokens: a video as integers.

.vtok files: VideoTokens in one safetensors file (docs/format.md).
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from codec import ClipSpec, MediaInfo, MotionSource, atomic_path
from videotok.errors import TokensError


@dataclass(frozen=True)
class SourceFacts:
    """What the video said about itself when it was encoded."""

    file: str
    """Name, without its folder."""
    size_bytes: int
    codec: str
    width: int
    """As displayed: rotation applied, square pixels."""
    height: int
    rotation_degrees: int
    duration_seconds: float | None
    """None where the file does not say."""
    average_fps: Fraction | None

    @classmethod
    def of(cls, path: Path, info: MediaInfo) -> "SourceFacts":
        """The facts of a file that was just probed."""
        return cls(
            file=path.name,
            size_bytes=path.stat().st_size,
            codec=info.codec,
            width=info.width,
            height=info.height,
            rotation_degrees=info.rotation_degrees,
            duration_seconds=info.duration_seconds,
            average_fps=info.average_fps,
        )


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights gave the ids."""

    name: str
    """Where the user found them: `shipped`, a folder's name or a hub id. For people; not compared."""
    sha256: str
    """Of the weight file: what decides whether ids can be decoded."""


def spec_facts(spec: ClipSpec) -> dict[str, Any]:
    """A ClipSpec as plain values; rates as exact fractions in text, `30000/1001`."""
    return {"frames": spec.frames, "fps": str(spec.fps), "grid": list(spec.grid)}


def source_facts(source: SourceFacts) -> dict[str, Any]:
    """SourceFacts as plain values."""
    return vars(source) | {"average_fps": None if source.average_fps is None else str(source.average_fps)}


TOKENIZERS = ("keyframes", "motion")
"""The models that give ids their meaning. The detokenizer may be exchanged freely: it only reads what they decode."""
CODEBOOKS = ("visual", "motion", "camera")


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """A video as visual ids a keyframe and motion ids a clip, with everything that is needed to decode them.

        visual_ids    |--- clip 0 ---|-- clip 1 --|---- clip 2 ----|   visual_offsets = [0, 95, 182, 290]
        motion_ids    [clips, levels, 135], the first n levels are a coarser motion
        global_motion_ids    [clips, K], the motion of the camera, before any level
        keep_mask     where the visual ids stand; skip_mask: what is not said again, but moved on from the clip before

    Checks itself.

    Raises:
        ValueError: arrays whose shapes, types or ranges contradict each other or the models' codebooks.
    """

    spec: ClipSpec
    source: SourceFacts
    motion_source: MotionSource
    models: Mapping[str, ModelIdentity]
    """`keyframes` and `motion`."""
    codebooks: Mapping[str, int]
    """Words of each codebook, `visual`, `motion` and `camera`: ids are integers from 0 below these."""
    visual_ids: np.ndarray = field(repr=False)
    """int32 [sum of n_i]: ids of all keyframes, one keyframe after another, patches in reading order."""
    visual_offsets: np.ndarray = field(repr=False)
    """int64 [clips + 1]: clip i's visual ids are visual_ids[visual_offsets[i] : visual_offsets[i + 1]]."""
    keep_mask: np.ndarray = field(repr=False)
    """bool [clips, patches]: where on the patch grid, in reading order, the visual ids stand."""
    motion_ids: np.ndarray = field(repr=False)
    """int32 [clips, levels, ids a level]."""
    global_motion_ids: np.ndarray = field(repr=False)
    """int32 [clips, K]; K may be 0."""
    num_frames: np.ndarray = field(repr=False)
    """int32 [clips]: true frames of each clip; less than spec.frames where the video ends."""
    pts_seconds: np.ndarray = field(repr=False)
    """float64 [clips]: time of each keyframe in the source."""
    damaged: np.ndarray = field(repr=False)
    """bool [clips]: where frames of the source could not be decoded."""
    start_seconds: float = 0.0
    """Where encoding began, counted from the video's first frame."""
    skip_mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.bool_), repr=False)
    """bool [clips, patches]: patches that show the clip before's keyframe, moved along its motion. Never those of
    `keep_mask`, never in clip 0. A clip without any is independent. Not given, all are."""
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    """The keyframes as JPEG files, one a clip, or none at all."""

    def __post_init__(self) -> None:
        clips = len(self.num_frames)
        if self.skip_mask.size == 0:
            object.__setattr__(self, "skip_mask", np.zeros_like(self.keep_mask))
        _check_array("visual_ids", self.visual_ids, np.int32, (None,))
        _check_array("visual_offsets", self.visual_offsets, np.int64, (clips + 1,))
        _check_array("keep_mask", self.keep_mask, np.bool_, (clips, None))
        _check_array("skip_mask", self.skip_mask, np.bool_, self.keep_mask.shape)
        _check_array("motion_ids", self.motion_ids, np.int32, (clips, None, None))
        _check_array("global_motion_ids", self.global_motion_ids, np.int32, (clips, None))
        _check_array("num_frames", self.num_frames, np.int32, (clips,))
        _check_array("pts_seconds", self.pts_seconds, np.float64, (clips,))
        _check_array("damaged", self.damaged, np.bool_, (clips,))
        if clips == 0:
            raise ValueError("`num_frames` is empty: there must be at least one clip")
        if self.motion_source not in ("native", "reencode", "mpeg4"):
            raise ValueError(f"`motion_source` (={self.motion_source!r}) must be native, reencode or mpeg4")
        for name, given, wanted in (("models", self.models, TOKENIZERS), ("codebooks", self.codebooks, CODEBOOKS)):
            if set(given) != set(wanted):
                raise ValueError(f"`{name}` (={sorted(given)}) must name {', '.join(wanted)}")
        if self.num_frames.min() < 1 or self.num_frames.max() > self.spec.frames:
            raise ValueError(f"`num_frames` must be between 1 and {self.spec.frames}, the frames of a clip")
        if not np.isfinite(self.pts_seconds).all() or (np.diff(self.pts_seconds) <= 0).any():
            raise ValueError("`pts_seconds` must be finite and rise from clip to clip")
        if self.visual_offsets[0] != 0 or self.visual_offsets[-1] != len(self.visual_ids):
            raise ValueError(f"`visual_offsets` must run from 0 to the number of visual ids (={len(self.visual_ids)})")
        if not np.array_equal(np.diff(self.visual_offsets), self.keep_mask.sum(axis=1)):
            raise ValueError("`visual_offsets` must give each clip as many ids as `keep_mask` keeps patches")
        if self.skip_mask[0].any() or (self.skip_mask & self.keep_mask).any():
            raise ValueError("`skip_mask` must be empty in clip 0, and never name a patch that `keep_mask` keeps")
        if len(self.pictures) not in (0, clips):
            raise ValueError(f"`pictures` (={len(self.pictures)}) must be none, or one a clip (={clips})")
        for name, ids in (("visual", self.visual_ids), ("motion", self.motion_ids), ("camera", self.global_motion_ids)):
            if ids.size and not 0 <= ids.min() <= ids.max() < self.codebooks[name]:
                raise ValueError(
                    f"`{name}_ids` run from {ids.min()} to {ids.max()}, "
                    f"their codebook from 0 to {self.codebooks[name] - 1}"
                )

    @property
    def num_clips(self) -> int:
        return len(self.num_frames)

    @property
    def num_motion_quantizers(self) -> int:
        return self.motion_ids.shape[1]

    @property
    def visual_counts(self) -> np.ndarray:
        """int64 [clips]: visual ids of each keyframe."""
        return np.diff(self.visual_offsets)

    @property
    def motion_tokens_per_clip(self) -> int:
        """Camera ids and the ids of all levels."""
        return self.global_motion_ids.shape[1] + self.motion_ids[0].size

    @property
    def num_tokens(self) -> int:
        """Visual, motion and camera ids together."""
        return len(self.visual_ids) + self.num_clips * self.motion_tokens_per_clip

    @property
    def duration_seconds(self) -> float:
        """Of the encoded part, on the spec's clock."""
        return float(int(self.num_frames.sum()) / self.spec.fps)

    @property
    def tokens_per_second(self) -> float:
        """Per second of video."""
        return self.num_tokens / self.duration_seconds

    @property
    def independent(self) -> np.ndarray:
        """bool [clips]: clips whose keyframe is decoded without the clip before; the first one always is."""
        return np.logical_not(self.skip_mask.any(axis=1))

    def visual_ids_of(self, clip: int) -> np.ndarray:
        """int32 [n]: the visual ids of one clip's keyframe."""
        return self.visual_ids[self.visual_offsets[clip] : self.visual_offsets[clip + 1]]

    def first_quantizers(self, levels: int) -> "VideoTokens":
        """The same video with coarser motion: camera ids and the first `levels` levels.

        Raises:
            ValueError: more levels than there are, or a negative number.
        """
        if not 0 <= levels <= self.num_motion_quantizers:
            raise ValueError(
                f"`levels` (={levels}) must be between 0 and {self.num_motion_quantizers}, the levels here"
            )
        return replace(self, motion_ids=np.ascontiguousarray(self.motion_ids[:, :levels]))

    def part(self, first: int, stop: int) -> "VideoTokens":
        """The clips from `first` up to `stop` (not included), on their own.

        Raises:
            ValueError: there are no such clips, or the first is not independent: its keyframe needs the one before.
        """
        if not 0 <= first < stop <= self.num_clips:
            raise ValueError(f"`first` (={first}) and `stop` (={stop}) must span clips of 0..{self.num_clips}")
        if not self.independent[first]:
            before = int(np.flatnonzero(self.independent[:first])[-1])
            raise ValueError(f"`first` (={first}) is not independent; begin at clip {before}, or encode without delta")
        ids = slice(self.visual_offsets[first], self.visual_offsets[stop])
        names = ("keep_mask", "skip_mask", "motion_ids", "global_motion_ids", "num_frames", "pts_seconds", "damaged")
        return replace(
            self,
            visual_ids=self.visual_ids[ids],
            visual_offsets=self.visual_offsets[first : stop + 1] - self.visual_offsets[first],
            pictures=self.pictures[first:stop],
            start_seconds=self.start_seconds + float(int(self.num_frames[:first].sum()) / self.spec.fps),
            **{name: getattr(self, name)[first:stop] for name in names},
        )

    def save(self, path: str | Path) -> None:
        """Writes a .vtok file; see `videotok.tokens.save`."""
        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "VideoTokens":
        """Reads a .vtok file; see `videotok.tokens.load`."""
        return load(path)

    def __repr__(self) -> str:
        return (
            f"VideoTokens({self.source.file}, clips={self.num_clips}, visual={len(self.visual_ids)}, "
            f"motion={self.num_clips}x{self.motion_tokens_per_clip}, {self.duration_seconds:.2f} s)"
        )

    def bits_per_second(self) -> dict[str, float]:
        """What each part takes a second of video: `visual` (ids, and a bit a patch for each mask that is used),
        `motion` (camera ids included), and `pictures` where keyframes are kept as such. Ids count as the logarithm of
        their codebook, uncompressed."""
        bits = {name: math.log2(size) for name, size in self.codebooks.items()}
        masks = self.keep_mask.size * (not self.keep_mask.all()) + self.skip_mask.size * bool(self.skip_mask.any())
        totals = {
            "visual": len(self.visual_ids) * bits["visual"] + masks,
            "motion": self.motion_ids.size * bits["motion"] + self.global_motion_ids.size * bits["camera"],
        }
        if self.pictures:
            totals["pictures"] = 8 * sum(map(len, self.pictures))
        return {name: total / self.duration_seconds for name, total in totals.items()}

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, and the counts, as plain values: what `videotok info --json` prints."""
        counts = self.visual_counts
        return {
            "clips": self.num_clips,
            "damaged_clips": int(self.damaged.sum()),
            "frames": int(self.num_frames.sum()),
            "duration_seconds": self.duration_seconds,
            "start_seconds": self.start_seconds,
            "tokens": self.num_tokens,
            "tokens_per_second": self.tokens_per_second,
            "visual_tokens": len(self.visual_ids),
            "visual_tokens_per_keyframe": {
                "min": int(counts.min()),
                "mean": float(counts.mean()),
                "max": int(counts.max()),
            },
            "patches_per_keyframe": self.keep_mask.shape[1],
            "carried_patches_per_keyframe": float(self.skip_mask.sum(axis=1).mean()),
            "independent_clips": int(self.independent.sum()),
            "bits_per_second": self.bits_per_second(),
            "motion_tokens_per_clip": self.motion_tokens_per_clip,
            "motion_quantizers": self.num_motion_quantizers,
            "motion_ids_per_level": self.motion_ids.shape[2],
            "camera_ids_per_clip": self.global_motion_ids.shape[1],
            "motion_source": self.motion_source,
            "spec": spec_facts(self.spec),
            "source": source_facts(self.source),
            "models": {name: vars(model) for name, model in self.models.items()},
            "codebooks": dict(self.codebooks),
        }


def _check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"`{name}` must be {np.dtype(dtype)} [{wanted}], got {array.dtype} {list(array.shape)}")


FORMAT = 2
"""Raised whenever an older reader would misread a file."""
HEADER = "videotok"
"""Key of the JSON in the safetensors metadata: one key, because the order of several is not fixed."""
ARRAYS = (
    "global_motion_ids",
    "skip_mask",
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
SINCE_2 = {"skip_mask", "picture_offsets", "pictures"}
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
    with atomic_path(path) as temporary:
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
        "global_motion_ids": tokens.global_motion_ids.astype(id_types["camera"]),
        "skip_mask": np.packbits(tokens.skip_mask, axis=1),
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
        name: arrays[name].astype(np.int32) for name in ("visual_ids", "motion_ids", "global_motion_ids", "num_frames")
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
        "skip_mask": np.unpackbits(arrays["skip_mask"], axis=1, count=header["patches"]).astype(bool),
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
