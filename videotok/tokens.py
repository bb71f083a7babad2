"""VideoTokens: a video as integers, with all that decoding needs; and how it is stored as a .vtok file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from codec import ClipSpec, MediaInfo, MotionSource
from videotok.config import EncodeConfig
from videotok.errors import printable, utf8_name
from videotok.vtok import FORMAT, MAX_SECONDS, current_codebooks, open_contents, write_contents


@dataclass(frozen=True)
class SourceFacts:
    """Facts about the video file that was encoded."""

    file: str
    """File name, without its folder."""
    size_bytes: int
    codec: str
    width: int
    """As displayed: rotation applied, square pixels."""
    height: int
    rotation_degrees: int
    duration_seconds: float | None
    """None where the file does not state it."""
    average_fps: Fraction | None

    @classmethod
    def of(cls, path: Path, info: MediaInfo) -> "SourceFacts":
        """Collect the facts of a file that was just probed."""
        seconds = info.duration_seconds
        return cls(
            file=utf8_name(path.name),
            size_bytes=path.stat().st_size,
            codec=info.codec,
            width=info.width,
            height=info.height,
            rotation_degrees=info.rotation_degrees,
            duration_seconds=None if seconds is None or not 0 <= seconds <= MAX_SECONDS else seconds,
            average_fps=info.average_fps,
        )


@dataclass(frozen=True)
class ModelIdentity:
    """The weights that produced the ids."""

    name: str
    """`shipped`, a folder's name or a hub id. For people; not compared."""
    sha256: str
    """sha256 of the weight file. Ids can only be decoded with the same weights."""


def spec_facts(spec: ClipSpec) -> dict[str, Any]:
    """Return a ClipSpec as plain values; the rate is an exact fraction in text, such as `30000/1001`."""
    return {"frames": spec.frames, "fps": str(spec.fps), "grid": list(spec.grid)}


def source_facts(source: SourceFacts) -> dict[str, Any]:
    """Return SourceFacts as plain values."""
    return vars(source) | {"average_fps": None if source.average_fps is None else str(source.average_fps)}


TOKENIZERS = ("keyframes", "motion")
"""The models that define the ids. The video detokenizer is not one of them: it reads what these two decode."""
CODEBOOKS = ("visual", "motion", "global_motion")


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """A video as visual ids of keyframes and motion ids of clips, with all that decoding needs.

        visual_ids         |--- clip 0 ---|-- clip 1 --|---- clip 2 ----|   visual_offsets = [0, 95, 182, 290]
        keep_mask          [clips, patches], the patches that visual ids stand for
        skip_mask          [clips, patches], the patches that are predicted from the clip before
        motion_ids         [clips, quantizers, 135], the first n quantizers give a coarser motion
        motion_quantizers  [clips], how many of these quantizers each clip has
        global_motion_ids  [clips, K], the motion of the whole picture

    Raises:
        ValueError: arrays whose shapes, types or ranges contradict each other or the codebooks.
    """

    spec: ClipSpec
    source: SourceFacts
    motion_source: MotionSource
    models: Mapping[str, ModelIdentity]
    """Identities of the weights, `keyframes` and `motion`."""
    codebooks: Mapping[str, int]
    """Sizes of the codebooks, `visual`, `motion` and `global_motion`: ids are integers from 0 below these."""
    visual_ids: np.ndarray = field(repr=False)
    """int32 [sum of n_i]: ids of all keyframes, one keyframe after another, patches in raster order."""
    visual_offsets: np.ndarray = field(repr=False)
    """int64 [clips + 1]: clip i's visual ids are visual_ids[visual_offsets[i] : visual_offsets[i + 1]]."""
    keep_mask: np.ndarray = field(repr=False)
    """bool [clips, patches]: the patches, in raster order, that have a visual id."""
    motion_ids: np.ndarray = field(repr=False)
    """int32 [clips, quantizers, ids per quantizer]; 0 past the quantizers that a clip has, see `motion_quantizers`."""
    global_motion_ids: np.ndarray = field(repr=False)
    """int32 [clips, K]; K may be 0."""
    num_frames: np.ndarray = field(repr=False)
    """int32 [clips]: frames of each clip; fewer than spec.frames where the video ends or a cut splits the clip."""
    pts_seconds: np.ndarray = field(repr=False)
    """float64 [clips]: time of each keyframe in the source, in seconds."""
    damaged: np.ndarray = field(repr=False)
    """bool [clips]: True where frames of the source could not be decoded."""
    start_seconds: float = 0.0
    """Where encoding began, in seconds from the video's first frame."""
    skip_mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.bool_), repr=False)
    """bool [clips, patches]: patches that show the decoded keyframe before, warped along its motion. None of them is in
    `keep_mask`, and clip 0 has none. A clip without any is independent. Left out, no patch is skipped."""
    pictures: tuple[bytes, ...] = field(default=(), repr=False)
    """The keyframes as JPEG files, one per clip, or none at all."""
    motion_quantizers: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)
    """int32 [clips]: the quantizers that each clip has. Left out, every clip has all of `motion_ids`."""
    config: EncodeConfig | None = field(default=None, repr=False)
    """The options that the video was encoded with, as a record. None where they are not known."""

    def __post_init__(self) -> None:
        clips = len(self.num_frames)
        if self.skip_mask.size == 0:
            object.__setattr__(self, "skip_mask", np.zeros_like(self.keep_mask))
        if self.motion_quantizers.size == 0 and self.motion_ids.ndim == 3:
            object.__setattr__(self, "motion_quantizers", np.full(clips, self.motion_ids.shape[1], np.int32))
        _check_array("visual_ids", self.visual_ids, np.int32, (None,))
        _check_array("visual_offsets", self.visual_offsets, np.int64, (clips + 1,))
        _check_array("keep_mask", self.keep_mask, np.bool_, (clips, None))
        _check_array("skip_mask", self.skip_mask, np.bool_, self.keep_mask.shape)
        _check_array("motion_ids", self.motion_ids, np.int32, (clips, None, None))
        _check_array("global_motion_ids", self.global_motion_ids, np.int32, (clips, None))
        _check_array("motion_quantizers", self.motion_quantizers, np.int32, (clips,))
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
        self._check_motion_quantizers()
        if len(self.pictures) not in (0, clips):
            raise ValueError(f"`pictures` (={len(self.pictures)}) must be none, or one per clip (={clips})")
        for name in CODEBOOKS:
            ids = getattr(self, f"{name}_ids")
            if ids.size and not 0 <= ids.min() <= ids.max() < self.codebooks[name]:
                raise ValueError(
                    f"`{name}_ids` run from {ids.min()} to {ids.max()}, "
                    f"their codebook from 0 to {self.codebooks[name] - 1}"
                )

    def _check_motion_quantizers(self) -> None:
        counts, most = self.motion_quantizers, self.motion_ids.shape[1]
        if counts.min() < 0 or counts.max() != most:
            raise ValueError(
                f"`motion_quantizers` run from {counts.min()} to {counts.max()}; they must be 0 or more, and the most "
                f"must be the {most} quantizers of `motion_ids`"
            )
        if self.motion_ids[np.arange(most) >= counts[:, None]].any():
            raise ValueError("`motion_ids` must be 0 past the quantizers that a clip has")

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(self.num_frames)

    @property
    def is_picture(self) -> bool:
        """Whether this is a single picture: one keyframe, and nothing after it."""
        return self.num_clips == 1 and int(self.num_frames[0]) == 1

    @property
    def num_motion_quantizers(self) -> int:
        """Residual quantizers of the motion ids; the most that a clip has, see `motion_quantizers`."""
        return self.motion_ids.shape[1]

    @property
    def visual_counts(self) -> np.ndarray:
        """int64 [clips]: number of visual ids of each keyframe."""
        return np.diff(self.visual_offsets)

    @property
    def motion_counts(self) -> np.ndarray:
        """int64 [clips]: number of global-motion ids and motion ids of each clip."""
        return self.global_motion_ids.shape[1] + self.motion_quantizers.astype(np.int64) * self.motion_ids.shape[2]

    @property
    def num_tokens(self) -> int:
        """Visual, motion and global-motion ids together."""
        return len(self.visual_ids) + int(self.motion_counts.sum())

    @property
    def duration_seconds(self) -> float:
        """Length of the encoded part in seconds: frames over `spec.fps`."""
        return float(int(self.num_frames.sum()) / self.spec.fps)

    @property
    def tokens_per_second(self) -> float:
        """Ids per second of video."""
        return self.num_tokens / self.duration_seconds

    @property
    def independent(self) -> np.ndarray:
        """bool [clips]: True where the keyframe is decoded without the clip before; the first one always is."""
        return np.logical_not(self.skip_mask.any(axis=1))

    def visual_ids_of(self, clip: int) -> np.ndarray:
        """Return the visual ids of one clip's keyframe, int32 [n]."""
        return self.visual_ids[self.visual_offsets[clip] : self.visual_offsets[clip + 1]]

    def motion_ids_of(self, clip: int) -> np.ndarray:
        """Return the motion ids of one clip, int32 [its quantizers, ids per quantizer]."""
        return self.motion_ids[clip, : self.motion_quantizers[clip]]

    def first_quantizers(self, num_quantizers: int) -> "VideoTokens":
        """Return the same video with coarser motion: no more than the first `num_quantizers` quantizers of each clip.

        Raises:
            ValueError: more quantizers than there are, or a negative number.
        """
        if not 0 <= num_quantizers <= self.num_motion_quantizers:
            raise ValueError(
                f"`num_quantizers` (={num_quantizers}) must be between 0 and {self.num_motion_quantizers}, "
                "the quantizers of these tokens"
            )
        return replace(
            self,
            motion_ids=np.ascontiguousarray(self.motion_ids[:, :num_quantizers]),
            motion_quantizers=np.minimum(self.motion_quantizers, num_quantizers).astype(np.int32),
        )

    def part(self, first: int, stop: int) -> "VideoTokens":
        """Return the clips from `first` up to `stop` (not included).

        Raises:
            ValueError: there are no such clips, or the keyframe of the first one is predicted from the clip before.
        """
        if not 0 <= first < stop <= self.num_clips:
            raise ValueError(f"`first` (={first}) and `stop` (={stop}) must span clips of 0..{self.num_clips}")
        if not self.independent[first]:
            before = int(np.flatnonzero(self.independent[:first])[-1])
            raise ValueError(
                f"`first` (={first}) is not independent; begin at clip {before}, "
                "or encode with `predict_keyframes=False`"
            )
        ids = slice(self.visual_offsets[first], self.visual_offsets[stop])
        names = ("keep_mask", "skip_mask", "global_motion_ids", "num_frames", "pts_seconds", "damaged")
        quantizers = self.motion_quantizers[first:stop]
        return replace(
            self,
            motion_ids=self.motion_ids[first:stop, : quantizers.max()],
            motion_quantizers=quantizers,
            visual_ids=self.visual_ids[ids],
            visual_offsets=self.visual_offsets[first : stop + 1] - self.visual_offsets[first],
            pictures=self.pictures[first:stop],
            start_seconds=self.start_seconds + float(int(self.num_frames[:first].sum()) / self.spec.fps),
            **{name: getattr(self, name)[first:stop] for name in names},
        )

    def save(self, path: str | Path) -> None:
        """Write a .vtok file, whole or not at all. Equal tokens give equal bytes.

        It has format 4 where clips have different numbers of motion quantizers. Else format 3 can hold them, which
        earlier versions of videotok read too.

        Raises:
            MediaError: the place cannot be written to.
        """
        version = FORMAT if (self.motion_quantizers < self.num_motion_quantizers).any() else 3
        header = {
            "format": version,
            "spec": spec_facts(self.spec),
            "source": source_facts(self.source),
            "motion_source": self.motion_source,
            "start_seconds": self.start_seconds,
            "patches": self.keep_mask.shape[1],
            "models": {name: vars(model) for name, model in self.models.items()},
            "codebooks": dict(self.codebooks),
            "config": None if self.config is None else self.config.to_dict(),
        }
        write_contents(path, header, _pack(self, version))

    @classmethod
    def load(cls, path: str | Path) -> "VideoTokens":
        """Read a .vtok file of any format so far, and check all of it: first its header, then its contents.

        Raises:
            TokensError: not a .vtok file, a newer format, or a damaged one.
        """
        with open_contents(Path(path), CODEBOOKS, TOKENIZERS) as contents:
            return _unpack(contents.header, contents.arrays)

    def __repr__(self) -> str:
        return (
            f"VideoTokens({printable(self.source.file)}, clips={self.num_clips}, visual={len(self.visual_ids)}, "
            f"motion={int(self.motion_counts.sum())}, {self.duration_seconds:.2f} s)"
        )

    def bits_per_second(self) -> dict[str, float]:
        """Return the uncompressed bit rate of each part, in bits per second of video.

        `visual`: ids, and one bit per patch for each mask that is in use. `motion`: global-motion ids included.
        `pictures`: where keyframes are stored as JPEG files. An id takes the base-2 logarithm of its codebook's size.
        """
        bits = {name: math.log2(size) for name, size in self.codebooks.items()}
        masks = self.keep_mask.size * (not self.keep_mask.all()) + self.skip_mask.size * bool(self.skip_mask.any())
        totals = {
            "visual": len(self.visual_ids) * bits["visual"] + masks,
            "motion": self.motion_quantizers.sum() * self.motion_ids.shape[2] * bits["motion"]
            + self.global_motion_ids.size * bits["global_motion"],
        }
        if self.pictures:
            totals["pictures"] = 8 * sum(map(len, self.pictures))
        return {name: float(total / self.duration_seconds) for name, total in totals.items()}

    def facts(self) -> dict[str, Any]:
        """Return counts and everything but the arrays as plain values: what `videotok info --json` prints."""
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
            "visual_tokens_per_keyframe": dict(min=int(counts.min()), mean=float(counts.mean()), max=int(counts.max())),
            "patches_per_keyframe": self.keep_mask.shape[1],
            "skipped_patches_per_keyframe": float(self.skip_mask.sum(axis=1).mean()),
            "independent_clips": int(self.independent.sum()),
            "bits_per_second": self.bits_per_second(),
            "motion_tokens": int(self.motion_counts.sum()),
            "motion_quantizers": self.num_motion_quantizers,
            "motion_quantizers_per_clip": {
                "min": int(self.motion_quantizers.min()),
                "mean": float(self.motion_quantizers.mean()),
                "max": int(self.motion_quantizers.max()),
            },
            "motion_ids_per_quantizer": self.motion_ids.shape[2],
            "global_motion_ids_per_clip": self.global_motion_ids.shape[1],
            "motion_source": self.motion_source,
            "spec": spec_facts(self.spec),
            "source": source_facts(self.source),
            "models": {name: vars(model) for name, model in self.models.items()},
            "codebooks": dict(self.codebooks),
            "config": None if self.config is None else self.config.to_dict(),
        }


def _check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        wanted = ", ".join("any" if side is None else str(side) for side in shape)
        raise ValueError(f"`{name}` must be {np.dtype(dtype)} [{wanted}], got {array.dtype} {list(array.shape)}")


MAX_PADDED_IDS, MAX_PADDING = 1 << 24, 64
"""Limits of the memory that a file of clips with different numbers of quantizers may take, since a forged one could ask
for all there is: so many motion ids after padding, or so many times those that are stored, whichever is more."""


def _pack(tokens: VideoTokens, version: int) -> dict[str, np.ndarray]:
    """Return the arrays as they are stored: ids in the smallest type of their codebook, one bit per patch."""
    id_types = {name: np.uint16 if size <= 1 << 16 else np.uint32 for name, size in tokens.codebooks.items()}
    motion_ids, since_4 = tokens.motion_ids, {}
    if version >= 4:
        motion_ids = motion_ids[np.arange(motion_ids.shape[1]) < tokens.motion_quantizers[:, None]]
        since_4 = {"motion_quantizers": tokens.motion_quantizers.astype(np.uint8)}
    return since_4 | {
        "damaged": tokens.damaged.astype(np.uint8),
        "global_motion_ids": tokens.global_motion_ids.astype(id_types["global_motion"]),
        "keep_mask": np.packbits(tokens.keep_mask, axis=1),
        "motion_ids": motion_ids.astype(id_types["motion"]),
        "num_frames": tokens.num_frames.astype(np.uint32),
        "picture_offsets": np.cumsum([0, *map(len, tokens.pictures)], dtype=np.uint64),
        "pictures": np.frombuffer(b"".join(tokens.pictures), np.uint8),
        "pts_seconds": tokens.pts_seconds,
        "skip_mask": np.packbits(tokens.skip_mask, axis=1),
        "visual_ids": tokens.visual_ids.astype(id_types["visual"]),
        "visual_offsets": tokens.visual_offsets.astype(np.uint32),
    }


def _unpack(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> VideoTokens:
    spec, source = header["spec"], dict(header["source"])
    if source["average_fps"] is not None:
        source["average_fps"] = Fraction(source["average_fps"])
    known = {entry.name for entry in fields(SourceFacts)}
    config = header["config"] if header["format"] >= 3 else None
    options = {entry.name for entry in fields(EncodeConfig)}
    return VideoTokens(
        spec=ClipSpec(frames=spec["frames"], fps=Fraction(spec["fps"]), grid=tuple(spec["grid"])),
        source=SourceFacts(**{name: value for name, value in source.items() if name in known}),
        motion_source=header["motion_source"],
        models={name: ModelIdentity(**model) for name, model in header["models"].items()},
        codebooks=current_codebooks(header["codebooks"]),
        visual_ids=arrays["visual_ids"].astype(np.int32),
        visual_offsets=arrays["visual_offsets"].astype(np.int64),
        keep_mask=np.unpackbits(arrays["keep_mask"], axis=1, count=header["patches"]).astype(bool),
        global_motion_ids=arrays["global_motion_ids"].astype(np.int32),
        num_frames=arrays["num_frames"].astype(np.int32),
        pts_seconds=arrays["pts_seconds"],
        damaged=arrays["damaged"].astype(bool),
        start_seconds=header["start_seconds"],
        # a record: options of later versions are left out
        config=None if config is None else EncodeConfig.from_dict({n: config[n] for n in config if n in options}),
        **_unpack_motion(arrays),
        **(_unpack_since_2(header, arrays) if header["format"] >= 2 else {}),
    )


def _unpack_motion(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `motion_ids`, and `motion_quantizers` where they are stored."""
    ids = arrays["motion_ids"].astype(np.int32)
    if "motion_quantizers" not in arrays:
        return {"motion_ids": ids}
    counts = arrays["motion_quantizers"].astype(np.int32)
    if counts.sum() != len(ids):
        raise ValueError(f"`motion_quantizers` add up to {counts.sum()}, `motion_ids` has {len(ids)} rows")
    padded = len(counts) * int(counts.max(initial=0)) * ids.shape[1]
    if padded > max(MAX_PADDED_IDS, MAX_PADDING * ids.size):
        raise ValueError(f"`motion_quantizers` (at most {counts.max()}) ask for {padded} ids, {ids.size} are stored")
    return pad_motion_ids(np.split(ids, np.cumsum(counts)[:-1]))


def pad_motion_ids(clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the motion ids of clips, int [its quantizers, ids per quantizer] each, as fields of `VideoTokens`.

    Returns:
        `motion_ids` int32 [clips, quantizers, ids per quantizer], with zeros past the quantizers of a clip, and
        `motion_quantizers` int32 [clips].
    """
    counts = np.array([len(ids) for ids in clips], np.int32)
    widths = [ids.shape[1] for ids in clips if len(ids)] or [clips[0].shape[-1]]
    padded = np.zeros((len(clips), counts.max(initial=0), widths[0]), np.int32)
    for row, ids in zip(padded, clips, strict=True):
        row[: len(ids)] = ids
    return {"motion_ids": padded, "motion_quantizers": counts}


def _unpack_since_2(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the fields of VideoTokens that format 1 did not have."""
    ends = arrays["picture_offsets"].astype(np.int64)
    if ends[0] != 0 or ends[-1] != len(arrays["pictures"]) or (np.diff(ends) <= 0).any():
        raise ValueError("`picture_offsets` must rise from 0 to the length of `pictures`")
    data = arrays["pictures"].tobytes()
    return {
        "skip_mask": np.unpackbits(arrays["skip_mask"], axis=1, count=header["patches"]).astype(bool),
        "pictures": tuple(data[start:end] for start, end in pairwise(ends)),
    }
