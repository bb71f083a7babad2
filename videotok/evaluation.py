"""How near one picture is to another, and how a video looks without a reference. All take uint8 RGB.

The ladder of rebuilt clips: what each step of the system is worth, from the keyframe held still upward.

What each step of the system is worth on a clip: the rungs of the ladder, and their figures frame by frame.

A decoded video beside its source: the ladder's figures, and the pictures side by side.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from codec import Clip, ClipSpec, iter_clips
from unet3d.warping import bidirectional, one_way
from videotok.errors import TokensError
from videotok.image_utils import pixels, tensor
from videotok.pipeline import DecodedClip, VideoTokenizer
from videotok.tokens import VideoTokens


def psnr(truth: np.ndarray, picture: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of one picture uint8 [H, W, 3]; equal pictures count as 100 dB."""
    if np.array_equal(truth, picture):
        return 100.0
    return float(peak_signal_noise_ratio(truth, picture, data_range=255))


def ssim(truth: np.ndarray, picture: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of one picture uint8 [H, W, 3], mean over channels, 7 x 7 windows."""
    return float(np.asarray(structural_similarity(truth, picture, data_range=255, channel_axis=2)))


def sharpness(frames: np.ndarray) -> float:
    """Mean absolute Laplacian of the luminance of frames uint8 [T, H, W, 3], in levels of 255: blur lowers it."""
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    return float(np.mean([np.abs(cv2.Laplacian(picture, cv2.CV_32F)).mean() for picture in grey]))


def flicker(frames: np.ndarray) -> float:
    """Mean absolute second difference in time of frames uint8 [T, H, W, 3], in levels of 255: steady motion of smooth
    things is low, frames that come and go are high. 0 for fewer than three frames."""
    if len(frames) < 3:
        return 0.0
    values = frames.astype(np.float32)
    return float(np.abs(values[2:] - 2 * values[1:-1] + values[:-2]).mean())


@dataclass(frozen=True)
class Ends:
    """The pictures a clip lies between."""

    keyframe: Tensor
    """float32 [1, 3, H, W] in [-1, 1]."""
    next_keyframe: Tensor | None
    """The next clip's, same shape; None at the end of a video."""


def still_rungs(ends: Ends, steps: int) -> dict[str, np.ndarray]:
    """Rungs that use no motion: name -> uint8 [T, H, W, 3]. `hold`: the keyframe, still. `crossfade`: into the next."""
    hold = ends.keyframe[:, None].expand(-1, steps, -1, -1, -1)
    rungs = {"hold": pixels(hold)}
    if ends.next_keyframe is not None:
        weight = (torch.arange(steps) / steps).view(1, steps, 1, 1, 1)
        rungs["crossfade"] = pixels(hold * (1 - weight) + ends.next_keyframe[:, None] * weight)
    return rungs


def warp_rungs(
    ends: Ends, vectors: Tensor, next_vectors: Tensor | None, suffix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Rungs along a motion field: (name, uint8 [T, H, W, 3]), each made when it is asked for.

    `warp`: the keyframe along the field. `bidirectional`: the next keyframe too, where there is one.

    Args:
        vectors: float32 [1, T, h, w, 2]; next_vectors: the next clip's field, whose slot 0 is used.
        suffix: added to the names ("_raw" for vectors that were not coded).
    """
    yield f"warp{suffix}", pixels(one_way(ends.keyframe, vectors).pictures)
    if ends.next_keyframe is not None and next_vectors is not None:
        both = bidirectional(ends.keyframe, vectors, ends.next_keyframe, next_vectors)
        yield f"bidirectional{suffix}", pixels(both.pictures)


SIZE = (256, 144)
"""(width, height) at which clips are measured."""
LAST_FRAME = 22
"""Figures are over frames 1 to this of a clip: the keyframe and the frame before the next one are too easy."""


@dataclass(frozen=True)
class Rung:
    """A clip, rebuilt in one way."""

    name: str
    """hold, crossfade, warp_raw, bidirectional_raw, warp, bidirectional, detokenized or forward."""
    levels: int | None
    """Motion levels it was rebuilt from; None where its motion is not coded."""
    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    seconds: float
    """What warping and the network took; 0 where there is neither."""


@dataclass(frozen=True)
class Figures:
    """How near a rung comes to its source, of frames 1 to `LAST_FRAME` (fewer in a short clip)."""

    psnr: list[float]
    """dB a frame."""
    ssim: list[float]
    """A frame."""
    sharpness: float
    """See `metrics.sharpness`; of the rung, not against the source."""
    flicker: float
    """See `metrics.flicker`."""


def measured(truth: np.ndarray) -> slice:
    """The frames of a clip uint8 [n, H, W, 3], n >= 3, that figures are over."""
    return slice(1, min(LAST_FRAME, len(truth) - 2) + 1)


def figures(truth: np.ndarray, frames: np.ndarray) -> Figures:
    """Figures of frames uint8 [T, H, W, 3] against the source's own [n, H, W, 3], n >= 3."""
    shown, seen = truth[measured(truth)], frames[measured(truth)]
    pairs = list(zip(shown, seen, strict=True))
    return Figures([psnr(*pair) for pair in pairs], [ssim(*pair) for pair in pairs], sharpness(seen), flicker(seen))


def clips_with_next(path: Path, max_clips: int | None) -> Iterator[tuple[int, Clip, Clip | None]]:
    """Clips of a video with frames of `SIZE`, numbered, each beside the one that follows; those of fewer than three
    frames are left out.

    Raises:
        MediaError: see `codec.iter_clips`.
    """
    found = iter_clips(path, ClipSpec(), frames=True, frame_size=SIZE, max_clips=max_clips and max_clips + 1)
    for index, (clip, following) in enumerate(pairwise(chain(found, [None]))):
        if clip is not None and clip.num_frames >= 3 and (max_clips is None or index < max_clips):
            yield index, clip, following


def ends_of(model: VideoTokenizer, clip: Clip, following: Clip | None, *, exact: bool) -> Ends:
    """The keyframes that a clip lies between, from its frames (`exact`) or decoded from their tokens."""

    def keyframe(of: Clip) -> Tensor:
        return tensor(frames_of(of)[0]) if exact else model.rebuilt_keyframe(of.keyframe, SIZE)

    return Ends(keyframe(clip), None if following is None else keyframe(following))


def ladder(
    model: VideoTokenizer,
    ends: Ends,
    clip: Clip,
    following: Clip | None,
    levels: Sequence[int],
    *,
    steps: int | None = None,
    detokenize: bool = True,
    forward: bool = False,
) -> Iterator[Rung]:
    """Rebuilds a clip in every way, the simplest first.

    Args:
        ends: see `ends_of`.
        following: the next clip, None at the end of a video: then nothing is rebuilt from two sides.
        levels: numbers of motion levels to rebuild from.
        steps: network evaluations; the model's own number where not given.
        detokenize: False leaves out the network, the slow rung.
        forward: the network without the next keyframe as well, where there is one; to be compared with `warp`.
    """
    steps_of_clip = len(clip.motion.vectors)
    for name, frames in still_rungs(ends, steps_of_clip).items():
        yield Rung(name, None, frames, 0.0)
    raw = [torch.from_numpy(one.motion.vectors)[None] for one in (clip, following) if one is not None]
    yield from _warps(ends, raw, None)
    for number in levels:
        coded = [model.coded_motion(one.motion, number) for one in (clip, following) if one is not None]
        yield from _warps(ends, coded, number)
        if detokenize:
            yield _detokenized(model, "detokenized", number, ends, coded, steps)
        if detokenize and forward and following is not None:
            yield _detokenized(model, "forward", number, Ends(ends.keyframe, None), coded[:1], steps)


def frames_of(clip: Clip) -> np.ndarray:
    """The clip's own frames uint8 [n, H, W, 3].

    Raises:
        ValueError: it was read without.
    """
    if clip.frames is None:
        raise ValueError(f"the clip at {clip.pts_seconds:.3f} s was read without frames; read it with frames=True")
    return clip.frames


def _detokenized(
    model: VideoTokenizer, name: str, levels: int, ends: Ends, fields: list[Tensor], steps: int | None
) -> Rung:
    began = time.monotonic()
    rebuilt = model.detokenizer.reconstruct(
        ends.keyframe,
        fields[0],
        next_keyframe=ends.next_keyframe,
        next_vectors=fields[1] if len(fields) > 1 else None,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
    )
    return Rung(name, levels, pixels(rebuilt), time.monotonic() - began)


def _warps(ends: Ends, fields: list[Tensor], levels: int | None) -> Iterator[Rung]:
    following = fields[1] if len(fields) > 1 else None
    began = time.monotonic()
    for name, frames in warp_rungs(ends, fields[0], following, "_raw" if levels is None else ""):
        yield Rung(name, levels, frames, time.monotonic() - began)
        began = time.monotonic()


RUNGS = ("hold", "warp", "bidirectional", "detokenized")
PANELS = 3
"""Pictures side by side: the source, the two-way warp, the result."""


@dataclass(frozen=True)
class ComparedClip:
    """One clip of the source and what was rebuilt of it."""

    truth: np.ndarray
    """uint8 [n, H, W, 3]."""
    rungs: dict[str, np.ndarray]
    """Name (of `RUNGS`) -> uint8 [n, H, W, 3]. Where no clip follows, `bidirectional` is `warp`."""


@dataclass
class ReconstructionFigures:
    """PSNR and SSIM of every rung, frame by frame."""

    psnr: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ssim: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, clip: ComparedClip) -> None:
        """Counts frames 1 to 22 of a clip; fewer in a short one, none in one of a single frame."""
        count = len(clip.truth)
        for index in range(1, min(LAST_FRAME + 1, max(2, count - 1), count)):
            for name, frames in clip.rungs.items():
                self.psnr[name].append(psnr(clip.truth[index], frames[index]))
                self.ssim[name].append(ssim(clip.truth[index], frames[index]))

    def rows(self) -> list[tuple[str, float, float]]:
        """(rung, mean PSNR in dB, mean SSIM), from the floor upward."""
        return [
            (name, float(np.mean(self.psnr[name])), float(np.mean(self.ssim[name])))
            for name in RUNGS
            if self.psnr[name]
        ]


def source_clips(tokens: VideoTokens, video: Path, frame_size: tuple[int, int] | None = None) -> Iterator[Clip]:
    """The clips of the video that tokens were made from, with frames if `frame_size` (width, height) is given.

    Raises:
        MediaError: the video cannot be read.
        TokensError: it is another video: a clip is missing or stands at another time.
    """
    # only cuts end a clip early that is not the last
    was_split = bool((tokens.num_frames[:-1] < tokens.spec.frames).any())
    clips = iter_clips(
        video,
        tokens.spec,
        frames=frame_size is not None,
        frame_size=frame_size,
        start_seconds=tokens.start_seconds,
        max_clips=tokens.num_clips,
        motion_source=tokens.motion_source if was_split else "auto",
        split_at_cuts=was_split,
    )
    for index, (pts, num_frames) in enumerate(zip(tokens.pts_seconds, tokens.num_frames, strict=True)):
        clip = next(clips, None)
        if clip is None:
            raise TokensError(
                f"{video} has {index} clips, the tokens of {tokens.source.file} have {tokens.num_clips}; "
                "name the video they were made from"
            )
        if abs(clip.pts_seconds - pts) > 0.5 / tokens.spec.fps or clip.num_frames < num_frames:
            raise TokensError(
                f"clip {index} of {video} has {clip.num_frames} frames from {clip.pts_seconds:.3f} s, that of "
                f"{tokens.source.file} {num_frames} from {pts:.3f} s; name the video the tokens were made from"
            )
        yield clip


def compared(
    model: VideoTokenizer,
    tokens: VideoTokens,
    clips: Iterator[DecodedClip],
    video: Path,
    size: tuple[int, int],
    *,
    steps: int | None,
    seed: int,
    bidirectional: bool = True,
    noise_rate: float = 1.0,
) -> Iterator[ComparedClip]:
    """Rebuilds clip after clip beside the source.

    Args:
        model, tokens: see `VideoTokenizer.decode`.
        clips: `model.decoded_clips(tokens, size, …)`.
        video: the file the tokens were made from.
        size: (width, height) of all pictures.
        steps, seed: see `VideoTokenizer.decode`.
        bidirectional, noise_rate: see `unet3d.decode_chain`.
    """
    ahead, behind = itertools.tee(clips)
    rebuilt = model.rebuilt(ahead, steps=steps, seed=seed, bidirectional=bidirectional, noise_rate=noise_rate)
    for source, frames, (clip, following) in zip(
        source_clips(tokens, video, size), rebuilt, _with_next(behind), strict=True
    ):
        truth = cast(np.ndarray, source.frames)[: clip.num_frames]
        following = None if clip.ends_early else following
        ends = Ends(clip.keyframe, None if following is None else following.keyframe)
        rungs = still_rungs(ends, clip.vectors.shape[1])
        rungs |= dict(warp_rungs(ends, clip.vectors, None if following is None else following.vectors))
        rungs.setdefault("bidirectional", rungs["warp"])
        rungs["detokenized"] = frames
        yield ComparedClip(truth, {name: rungs[name][: clip.num_frames] for name in RUNGS})


def _with_next(clips: Iterable[DecodedClip]) -> Iterator[tuple[DecodedClip, DecodedClip | None]]:
    before: DecodedClip | None = None
    for clip in clips:
        if before is not None:
            yield before, clip
        before = clip
    if before is not None:
        yield before, None


def side_by_side(clip: ComparedClip) -> Iterator[np.ndarray]:
    """uint8 [H, PANELS * W, 3] a frame: source, two-way warp and detokenized, with their names on them."""
    return side_by_side_of(
        {"source": clip.truth, "two-way warp": clip.rungs["bidirectional"], "detokenized": clip.rungs["detokenized"]}
    )


def side_by_side_of(panels: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """uint8 [H, number * W, 3] a frame, for panels name -> uint8 [n, H, W, 3], with their names on them."""
    for pictures in zip(*panels.values(), strict=True):
        yield np.concatenate([_named(picture, name) for picture, name in zip(pictures, panels, strict=True)], axis=1)


def _named(picture: np.ndarray, name: str) -> np.ndarray:
    picture = picture.copy()
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    picture[: height + 8, : width + 8] //= 3
    cv2.putText(picture, name, (4, height + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return picture
