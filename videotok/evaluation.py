"""The evaluator: rate and distortion of the same tokens, beside baselines of increasing effort.

    video ── encode(config) ──► VideoTokens ── decode(config) ──► frames ─┐
      │                             │                                     ├─► figures of each clip
      │                             └─ keyframes, motion ─► baselines ────┤
      └─ the frames that were encoded ────────────────────────────────────┘

What a clip is rebuilt by, from the least effort to the most (`METHODS`):

    repeat          its keyframe, repeated
    crossfade       from its keyframe into the next one
    warp            its keyframe, warped along the motion
    bidirectional   both keyframes, warped towards each other
    detokenized     the frames of `VideoTokenizer.decode`

Keyframes are those of the tokens, or exact ones, which show what the motion alone costs. `warp` and `bidirectional` can
also follow other motion than that of the tokens, such as the uncoded vectors: then they are `warp_uncoded` and
`bidirectional_uncoded`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from codec import Clip, MotionField
from unet3d.warping import warp_bidirectional, warp_forward
from videotok.config import DecodeConfig, EncodeConfig
from videotok.image_utils import display_size, to_uint8
from videotok.metrics import Figures, mean_figures, measure
from videotok.perceptual import LPIPS
from videotok.pipeline import DecodedClip, VideoTokenizer
from videotok.tokens import VideoTokens
from videotok.video_reading import source_clips

SIZE = (256, 144)
"""(width, height) at which videos are compared where the caller names no size."""
LAST_FRAME = 22
"""Figures are of frames 1 to this one of a clip: its keyframe and the frame before the next keyframe are too easy."""
METHOD_TITLES = {
    "repeat": "keyframe repeated",
    "crossfade": "crossfade of keyframes",
    "warp_uncoded": "warp, uncoded vectors",
    "bidirectional_uncoded": "bidirectional warp, uncoded vectors",
    "warp": "warp",
    "bidirectional": "bidirectional warp",
    "detokenized": "detokenized",
}
"""Ways to rebuild a clip, in the order of tables, and their titles there."""
METHODS = tuple(METHOD_TITLES)

KeyframeChoice = Literal["tokens", "exact"]
OtherMotion = Mapping[str, Callable[[MotionField], Tensor]]
"""Name of a motion -> what makes it of a clip's field: float [1, T, h, w, 2]."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class ReconstructedClip:
    """One clip of the source and what it was rebuilt as."""

    index: int
    source: np.ndarray
    """uint8 [n, H, W, 3], n frames as in the tokens."""
    frames: dict[str, np.ndarray]
    """Method -> uint8 [n, H, W, 3]. Nothing from two keyframes where `has_next` is False."""
    has_next: bool
    """A clip that continues this one follows."""
    decode_seconds: float
    """Wall-clock seconds that decoding it took."""

    def figures(self, method: str, lpips: LPIPS | None = None) -> Figures | None:
        """Return the figures of one method, or of the `source` itself, over the frames of `inner_frames`.

        None in a clip of one frame.
        """
        inner = inner_frames(len(self.source))
        if not len(self.source[inner]):
            return None
        frames = self.source if method == "source" else self.frames[method]
        return measure(self.source[inner], frames[inner], lpips)


def inner_frames(num_frames: int) -> slice:
    """Return the frames of a clip that figures are of: 1 to `LAST_FRAME`, fewer in a short clip, none in one frame."""
    return slice(1, max(2, min(LAST_FRAME, num_frames - 2) + 1))


def reconstruct(
    tokenizer: VideoTokenizer,
    tokens: VideoTokens,
    video: Path,
    config: DecodeConfig | None = None,
    *,
    keyframes: Iterable[np.ndarray] | None = None,
    other_motion: OtherMotion | None = None,
) -> Iterator[ReconstructedClip]:
    """Decode tokens and rebuild their clips by the baselines, clip after clip beside the source.

    Args:
        tokens, config, keyframes: see `VideoTokenizer.decode`.
        video: the file that the tokens were made from.
        other_motion: motion that the warps follow too, besides the one of the tokens.

    Raises:
        MediaError: the video cannot be read.
        TokensError: tokens of other weights, or of another video.
    """
    size = (config or DecodeConfig()).size or display_size(tokens.source.width, tokens.source.height)
    sources = _with_next(source_clips(tokens, video, size))
    seconds: list[float] = []
    clips = _with_next(_timed(tokenizer.decode_clips(tokens, config, keyframes=keyframes), seconds))
    for index, ((source, next_source), (clip, next_clip)) in enumerate(zip(sources, clips, strict=True)):
        if clip.ends_early:
            next_source = next_clip = None
        frames = still_baselines(clip.keyframe, next_clip and next_clip.keyframe, clip.vectors.shape[1])
        for name, motion_of in (other_motion or {}).items():
            vectors = [motion_of(one.motion) for one in (source, next_source) if one is not None]
            frames |= {f"{method}_{name}": made for method, made in _warps_along(vectors, clip, next_clip).items()}
        vectors = [one.vectors for one in (clip, next_clip) if one is not None]
        frames |= _warps_along(vectors, clip, next_clip)
        yield ReconstructedClip(
            index=index,
            source=frames_of(source)[: clip.num_frames],
            frames={name: made[: clip.num_frames] for name, made in frames.items()} | {"detokenized": clip.frames},
            has_next=next_clip is not None,
            decode_seconds=seconds[index],
        )


def still_baselines(keyframe: Tensor, next_keyframe: Tensor | None, num_steps: int) -> dict[str, np.ndarray]:
    """Return the baselines that use no motion, `repeat` and `crossfade`: method -> uint8 [num_steps, H, W, 3].

    Args:
        keyframe, next_keyframe: float [1, 3, H, W] in [-1, 1]; without the next one there is no `crossfade`.
    """
    repeated = keyframe[:, None].expand(-1, num_steps, -1, -1, -1)
    frames = {"repeat": to_uint8(repeated)}
    if next_keyframe is not None:
        weight = (torch.arange(num_steps, device=keyframe.device) / num_steps).view(1, num_steps, 1, 1, 1)
        frames["crossfade"] = to_uint8(repeated * (1 - weight) + next_keyframe[:, None] * weight)
    return frames


def warp_baselines(
    keyframe: Tensor, vectors: Tensor, next_keyframe: Tensor | None = None, next_vectors: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Return the baselines along a motion field, `warp` and `bidirectional`: method -> uint8 [T, H, W, 3].

    Args:
        keyframe, next_keyframe: float [1, 3, H, W] in [-1, 1]; without the next one there is no `bidirectional`.
        vectors: [1, T, h, w, 2] in fractions of the frame; next_vectors: the next clip's, of which step 0 is used.
    """
    frames = {"warp": to_uint8(warp_forward(keyframe, vectors).blended)}
    if next_keyframe is not None and next_vectors is not None:
        both = warp_bidirectional(keyframe, vectors, next_keyframe, next_vectors)
        frames["bidirectional"] = to_uint8(both.blended)
    return frames


def _warps_along(vectors: list[Tensor], clip: DecodedClip, next_clip: DecodedClip | None) -> dict[str, np.ndarray]:
    """Return `warp_baselines` along the fields of a clip and of the next one, where there is one."""
    if next_clip is None:
        return warp_baselines(clip.keyframe, vectors[0])
    return warp_baselines(clip.keyframe, vectors[0], next_clip.keyframe, vectors[1])


@dataclass(frozen=True)
class EvaluationConfig:
    """The rates and the kinds of keyframes that a video is evaluated with.

    Raises:
        ValueError: no number of motion quantizers, or no kind of keyframes.
    """

    motion_quantizers: tuple[int, ...] = (1, 4)
    """Numbers of motion quantizers; the video is encoded and decoded at each."""
    keyframes: tuple[KeyframeChoice, ...] = ("tokens", "exact")
    """`tokens`: decoded from the tokens alone. `exact`: the source's own keyframes, with the motion of the tokens."""
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    """How to encode; its `motion_quantizers` is replaced by each of those above."""
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(size=SIZE))
    """How to decode, and at which size to compare."""

    def __post_init__(self) -> None:
        if not self.motion_quantizers or min(self.motion_quantizers) < 0:
            raise ValueError(f"`motion_quantizers` (={self.motion_quantizers}) must be one or more numbers from 0")
        if not self.keyframes or set(self.keyframes) - {"tokens", "exact"}:
            raise ValueError(f"`keyframes` (={self.keyframes}) must be tokens, exact or both")


@dataclass(frozen=True)
class ClipResult:
    """Figures of one clip at one rate."""

    video: str
    """Name of the file."""
    index: int
    """Number of the clip in the video, from 0."""
    has_next: bool
    """A clip that continues this one follows, so that it was rebuilt between two keyframes."""
    keyframes: KeyframeChoice
    motion_quantizers: int
    tokens_per_second: float
    """Of all tokens of the video."""
    bits_per_second: float
    """Of all that a .vtok file of the video holds, ids at the width of their codebooks."""
    figures: dict[str, Figures]
    """Method -> its figures over `inner_frames`. `source`: sharpness and flicker of the source itself. Empty in a clip
    of one frame."""
    decode_seconds: float
    """Wall-clock seconds that decoding the clip took."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row for each method, for JSON."""
        shared = {
            "video": self.video,
            "clip": self.index,
            "last": not self.has_next,
            "keyframes": self.keyframes,
            "motion_quantizers": self.motion_quantizers,
        }
        if self.keyframes == "tokens":
            shared |= {"tokens_per_second": self.tokens_per_second, "bits_per_second": self.bits_per_second}
        return [
            {**shared, "method": method, **mean_figures([figures]).to_dict()}
            for method, figures in self.figures.items()
        ]


@dataclass(frozen=True)
class EvaluatedClip:
    """What was measured of a clip, and its pictures."""

    result: ClipResult
    reconstruction: ReconstructedClip


def evaluate(
    tokenizer: VideoTokenizer,
    video: Path,
    config: EvaluationConfig | None = None,
    *,
    other_motion: OtherMotion | None = None,
    lpips: LPIPS | None = None,
    methods: Collection[str] | None = None,
) -> Iterator[EvaluatedClip]:
    """Encode and decode a video at every rate of the config, and measure clip after clip.

    Args:
        other_motion: motion that the warps follow too, besides the one of the tokens.
        lpips: the network for LPIPS, which is left out without it.
        methods: whose figures are measured, besides those of the source. None: all.

    Raises:
        MediaError: the video cannot be read.
        ValueError: more motion quantizers than the models have.
    """
    config = config or EvaluationConfig()
    size = config.decode.size or SIZE
    for quantizers in config.motion_quantizers:
        tokens = tokenizer.encode(video, replace(config.encode, motion_quantizers=quantizers))
        for choice in config.keyframes:
            given = exact_keyframes(tokens, video, size) if choice == "exact" else None
            decode = replace(config.decode, size=size)
            for clip in reconstruct(tokenizer, tokens, video, decode, keyframes=given, other_motion=other_motion):
                measured = {
                    method: clip.figures(method, lpips)
                    for method in ("source", *clip.frames)
                    if methods is None or method in ("source", *methods)
                }
                yield EvaluatedClip(_result(video.name, tokens, choice, quantizers, clip, measured), clip)


def _result(
    video: str,
    tokens: VideoTokens,
    keyframes: KeyframeChoice,
    motion_quantizers: int,
    clip: ReconstructedClip,
    measured: Mapping[str, Figures | None],
) -> ClipResult:
    return ClipResult(
        video=video,
        index=clip.index,
        has_next=clip.has_next,
        keyframes=keyframes,
        motion_quantizers=motion_quantizers,
        tokens_per_second=tokens.tokens_per_second,
        bits_per_second=sum(tokens.bits_per_second().values()),
        figures={method: found for method, found in measured.items() if found is not None},
        decode_seconds=clip.decode_seconds,
    )


def uncoded_motion(motion: MotionField) -> Tensor:
    """Return the vectors of the video stream as they are: float32 [1, T, h, w, 2]."""
    return torch.from_numpy(motion.vectors)[None]


def exact_keyframes(tokens: VideoTokens, video: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Read the keyframes of the video that tokens were made from: uint8 [H, W, 3] at `size` (width, height) each.

    Raises:
        MediaError, TokensError: as for `source_clips`.
    """
    return (frames_of(clip)[0] for clip in source_clips(tokens, video, size))


def frames_of(clip: Clip) -> np.ndarray:
    """Return the clip's own frames uint8 [n, H, W, 3].

    Raises:
        ValueError: it was read without.
    """
    if clip.frames is None:
        raise ValueError(f"the clip at {clip.pts_seconds:.3f} s was read without frames; read it with frames=True")
    return clip.frames


def _timed(items: Iterable[Item], seconds: list[float]) -> Iterator[Item]:
    """Yield the items, and add the seconds that making each one took to `seconds`."""
    found = iter(items)
    while True:
        began = time.monotonic()
        try:
            item = next(found)
        except StopIteration:
            return
        seconds.append(time.monotonic() - began)
        yield item


def _with_next(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Yield each item with the one that follows it, the last with None."""
    found = iter(items)
    before = next(found, None)
    if before is None:
        return
    for item in found:
        yield before, item
        before = item
    yield before, None
