"""What each step of the system is worth on a clip: the rungs of the ladder, and their figures frame by frame."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec import Clip, ClipSpec, iter_clips
from videotok.ladder import Ends, pixels, still_rungs, tensor, warp_rungs
from videotok.metrics import flicker, psnr, sharpness, ssim
from videotok.pipeline import VideoTokenizer

SIZE = (256, 144)
"""(width, height) at which clips are measured."""
LAST_FRAME = 22
"""Figures are over frames 1 to this of a clip: the keyframe and the frame before the next one are too easy."""


@dataclass(frozen=True)
class Rung:
    """A clip, rebuilt in one way."""

    name: str
    """hold, crossfade, warp_raw, two_way_raw, warp, two_way, detokenized or forward."""
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
