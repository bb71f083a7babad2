"""What `videotok eval` measures: the ladder of every clip of a video.

The page of `videotok eval`: the ladder of a user's own videos.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from codec import Clip, MediaError
from videotok.config import EncodeConfig
from videotok.evaluation import (
    SIZE,
    Figures,
    Rung,
    clips_with_next,
    ends_of,
    figures,
    flicker,
    frames_of,
    ladder,
    measured,
    sharpness,
    side_by_side_of,
)
from videotok.pipeline import VideoTokenizer
from videotok.report.html import Curve, chart, video_uri, write_page
from videotok.tokens import VideoTokens

Key = tuple[str, int | None]
"""A rung and its number of motion levels."""


@dataclass(frozen=True)
class ClipResult:
    """One clip's figures."""

    index: int
    last: bool
    source_sharpness: float
    source_flicker: float
    rungs: dict[Key, Figures]


@dataclass
class VideoResult:
    """One video's."""

    name: str
    tokens_per_second: float
    bits_per_second: float
    clips: list[ClipResult] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    """Videos of clips side by side, as `data:` addresses."""


@dataclass(frozen=True)
class Settings:
    """What `videotok eval` was asked for."""

    levels: tuple[int, ...]
    max_clips: int | None
    shown: int
    """Clips a video that are put on the page."""
    steps: int | None


def evaluate(
    model: VideoTokenizer, path: Path, settings: Settings, done: Callable[[float], None] = lambda seconds: None
) -> VideoResult:
    """Measures the clips of one video.

    Args:
        done: told the seconds of video measured, after each clip.

    Raises:
        MediaError: the video cannot be read, or has no clip of three frames.
    """
    tokens = model.encode(path, EncodeConfig(max_clips=settings.max_clips))
    result = VideoResult(path.name, tokens.tokens_per_second, _bits_per_second(tokens))
    for index, clip, following in clips_with_next(path, settings.max_clips):
        truth, rungs, best = frames_of(clip), {}, {}
        for rung in _rungs(model, clip, following, settings):
            rungs[rung.name, rung.levels] = figures(truth, rung.frames)
            best[rung.name] = rung.frames
        if index < settings.shown:
            result.shown.append(_shown(truth, best, int(tokens.spec.fps)))
        source = truth[measured(truth)]
        result.clips.append(ClipResult(index, following is None, sharpness(source), flicker(source), rungs))
        done(float(clip.num_frames / tokens.spec.fps))
    if not result.clips:
        raise MediaError(f"{path} has no clip of three frames or more; there is nothing to measure")
    return result


def rows(results: Sequence[VideoResult]) -> list[dict]:
    """Flat rows for a JSON file: means of each video, clip, rung and number of levels."""
    return [
        {
            "video": result.name,
            "clip": clip.index,
            "rung": rung,
            "levels": levels,
            "psnr": float(np.mean(found.psnr)),
            "ssim": float(np.mean(found.ssim)),
            "sharpness": found.sharpness,
            "flicker": found.flicker,
            "last": clip.last,
        }
        for result in results
        for clip in result.clips
        for (rung, levels), found in clip.rungs.items()
    ]


def _rungs(model: VideoTokenizer, clip: Clip, following: Clip | None, settings: Settings) -> Iterator[Rung]:
    yield from ladder(
        model,
        ends_of(model, clip, following, exact=True),
        clip,
        following,
        settings.levels,
        steps=settings.steps,
    )
    coded = ends_of(model, clip, following, exact=False)
    most = (max(settings.levels),)
    for rung in ladder(model, coded, clip, following, most, steps=settings.steps):
        if rung.name == "detokenized":
            yield Rung("tokens", rung.levels, rung.frames, rung.seconds)


def _shown(truth: np.ndarray, rungs: dict[str, np.ndarray], fps: int) -> str:
    panels = {
        "source": truth,
        "two-way warp": rungs.get("bidirectional", rungs["warp"]),
        "detokenized": rungs["detokenized"],
        "from tokens alone": rungs["tokens"],
    }
    count = len(truth)
    size = (len(panels) * SIZE[0], SIZE[1])
    return video_uri(side_by_side_of({name: frames[:count] for name, frames in panels.items()}), fps, size)


def _bits_per_second(tokens: VideoTokens) -> float:
    """Of all ids, each at the width of its codebook, and a bit a patch for the keep mask."""
    counts = {
        "visual": len(tokens.visual_ids),
        "motion": tokens.motion_ids.size,
        "camera": tokens.global_motion_ids.size,
    }
    bits = sum(count * np.log2(tokens.codebooks[name]) for name, count in counts.items())
    return float((bits + tokens.keep_mask.size) / float(tokens.duration_seconds))


TITLES = {
    "hold": "keyframe held still",
    "crossfade": "crossfade of keyframes",
    "warp_raw": "warp, raw vectors",
    "bidirectional_raw": "two-way warp, raw vectors",
    "warp": "warp",
    "bidirectional": "two-way warp",
    "detokenized": "detokenized",
    "tokens": "detokenized, keyframes from their tokens",
}
"""Rungs of the page, from the floor upward; the last is what a `.vtok` file alone gives."""


def write_report(
    path: Path, results: Sequence[VideoResult], settings: Settings, left_out: Sequence[str], model: str
) -> None:
    """Writes the page.

    Raises:
        OSError: the place cannot be written to.
    """
    most = max(settings.levels)
    clips = [clip for result in results for clip in result.clips]
    joined = [clip for clip in clips if not clip.last] or clips
    write_page(
        path,
        "ladder.html",
        model=model,
        settings=asdict(settings),
        left_out=left_out,
        num_clips=len(clips),
        num_joined=len(joined),
        all_last=all(clip.last for clip in clips),
        table=_table(joined),
        source={
            "sharpness": float(np.mean([clip.source_sharpness for clip in joined])),
            "flicker": float(np.mean([clip.source_flicker for clip in joined])),
        },
        by_frame=_by_frame(joined, most),
        by_levels=_by_levels(joined, settings.levels),
        videos=[_video(result, most) for result in results],
        size=SIZE,
    )


def _table(clips: Sequence[ClipResult]) -> list[dict]:
    return [
        {
            "title": TITLES[rung],
            "colour": rung,
            "levels": levels,
            "strong": rung in ("detokenized", "tokens"),
            **{name: float(np.mean([getattr(clip, name) for clip in found])) for name in ("sharpness", "flicker")},
            **{name: float(np.mean([np.mean(getattr(clip, name)) for clip in found])) for name in ("psnr", "ssim")},
        }
        for (rung, levels), found in _grouped(clips).items()
    ]


def _by_frame(clips: Sequence[ClipResult], most: int) -> Markup:
    curves = []
    for (rung, levels), found in _grouped(clips).items():
        if levels in (None, most):
            longest = max(len(one.psnr) for one in found)
            means = [
                (float(1 + index), float(np.mean([one.psnr[index] for one in found if len(one.psnr) > index])))
                for index in range(longest)
            ]
            curves.append(Curve(rung.replace("_", "-"), means, rung, dashed=rung.endswith("_raw")))
    return chart(curves, "PSNR in dB over the frames of a clip", "frame of the clip")


def _by_levels(clips: Sequence[ClipResult], levels: Sequence[int]) -> Markup:
    found = _grouped(clips)
    curves = []
    for rung in ("warp", "bidirectional", "detokenized"):
        points = [
            (float(number), float(np.mean([np.mean(one.psnr) for one in found[rung, number]])))
            for number in sorted(levels)
            if (rung, number) in found
        ]
        if points:
            curves.append(Curve(rung.replace("_", "-"), points, rung))
    return chart(curves, "PSNR in dB over the number of motion levels", "motion levels")


def _video(result: VideoResult, most: int) -> dict:
    found = _grouped(result.clips)
    means = {
        rung: float(np.mean([np.mean(one.psnr) for one in group]))
        for (rung, levels), group in found.items()
        if levels in (None, most)
    }
    means.setdefault("bidirectional", means["warp"])
    return {
        "name": result.name,
        "clips": len(result.clips),
        "tokens_per_second": result.tokens_per_second,
        "bits_per_second": result.bits_per_second,
        "psnr": means,
        "shown": result.shown,
    }


def _grouped(clips: Sequence[ClipResult]) -> dict[Key, list[Figures]]:
    groups: dict[Key, list[Figures]] = defaultdict(list)
    for clip in clips:
        for key, found in clip.rungs.items():
            groups[key].append(found)
    order = list(TITLES)
    return dict(sorted(groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1] or 0)))
