"""What `videotok eval` measures: the ladder of every clip of a video."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from codec import Clip, MediaError
from videotok.compare import side_by_side_of
from videotok.evaluation import (
    SIZE,
    Figures,
    Rung,
    clips_with_next,
    ends_of,
    figures,
    frames_of,
    ladder,
    measured,
)
from videotok.metrics import flicker, sharpness
from videotok.pipeline import VideoTokenizer
from videotok.report.page import video_uri
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
    tokens = model.encode(path, max_clips=settings.max_clips)
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
        "two-way warp": rungs.get("two_way", rungs["warp"]),
        "detokenized": rungs["detokenized"],
        "from tokens alone": rungs["tokens"],
    }
    count = len(truth)
    size = (len(panels) * SIZE[0], SIZE[1])
    return video_uri(side_by_side_of({name: frames[:count] for name, frames in panels.items()}), fps, size)


def _bits_per_second(tokens: VideoTokens) -> float:
    """Of all ids, each at the width of its codebook, and a bit a patch for the keep mask."""
    counts = {"visual": len(tokens.visual_ids), "motion": tokens.motion_ids.size, "camera": tokens.camera_ids.size}
    bits = sum(count * np.log2(tokens.codebooks[name]) for name, count in counts.items())
    return float((bits + tokens.keep_mask.size) / float(tokens.duration_seconds))
