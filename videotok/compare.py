"""A decoded video beside its source: the ladder's figures, and the pictures side by side."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from codec import Clip, iter_clips
from videotok.errors import TokensError
from videotok.evaluation import LAST_FRAME
from videotok.ladder import Ends, still_rungs, warp_rungs
from videotok.metrics import psnr, ssim
from videotok.pipeline import DecodedClip, VideoTokenizer
from videotok.tokens import VideoTokens

RUNGS = ("hold", "warp", "two_way", "detokenized")
PANELS = 3
"""Pictures side by side: the source, the two-way warp, the result."""


@dataclass(frozen=True)
class ComparedClip:
    """One clip of the source and what was rebuilt of it."""

    truth: np.ndarray
    """uint8 [n, H, W, 3]."""
    rungs: dict[str, np.ndarray]
    """Name (of `RUNGS`) -> uint8 [n, H, W, 3]. Where no clip follows, `two_way` is `warp`."""


@dataclass
class Figures:
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
    two_way: bool = True,
    noise_rate: float = 1.0,
) -> Iterator[ComparedClip]:
    """Rebuilds clip after clip beside the source.

    Args:
        model, tokens: see `VideoTokenizer.decode`.
        clips: `model.decoded_clips(tokens, size, …)`.
        video: the file the tokens were made from.
        size: (width, height) of all pictures.
        steps, seed: see `VideoTokenizer.decode`.
        two_way, noise_rate: see `unet3d.decode_chain`.
    """
    ahead, behind = itertools.tee(clips)
    rebuilt = model.rebuilt(ahead, steps=steps, seed=seed, two_way=two_way, noise_rate=noise_rate)
    for source, frames, (clip, following) in zip(
        source_clips(tokens, video, size), rebuilt, _with_next(behind), strict=True
    ):
        truth = cast(np.ndarray, source.frames)[: clip.num_frames]
        following = None if clip.ends_early else following
        ends = Ends(clip.keyframe, None if following is None else following.keyframe)
        rungs = still_rungs(ends, clip.vectors.shape[1])
        rungs |= dict(warp_rungs(ends, clip.vectors, None if following is None else following.vectors))
        rungs.setdefault("two_way", rungs["warp"])
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
        {"source": clip.truth, "two-way warp": clip.rungs["two_way"], "detokenized": clip.rungs["detokenized"]}
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
