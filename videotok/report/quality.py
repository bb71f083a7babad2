"""The page of `videotok eval`: rate and quality of a user's own videos, and pictures side by side."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from codec import ClipSpec, MediaError
from videotok.evaluation import (
    LAST_FRAME,
    METHOD_TITLES,
    METHODS,
    SIZE,
    ClipResult,
    EvaluationConfig,
    KeyframeChoice,
    ReconstructedClip,
    evaluate,
    uncoded_motion,
)
from videotok.metrics import MeanFigures, mean_figures
from videotok.perceptual import LPIPS
from videotok.pipeline import VideoTokenizer
from videotok.report.html import Curve, chart, video_uri, write_page
from videotok.report.overlay import side_by_side

PANELS = ("source", "bidirectional warp", "detokenized", "exact keyframes")
"""What stands side by side; the last one only where exact keyframes are evaluated."""
CODED_METHODS = ("warp", "bidirectional", "detokenized")
"""Methods that use the motion of the tokens."""
VIDEO_METHODS = ("repeat", "warp", "bidirectional", "detokenized")
"""Columns of the table of videos."""


@dataclass(frozen=True)
class Example:
    """A clip that the page shows side by side with its source."""

    clip: int
    """Number of the clip in its video, from 1."""
    uris: Mapping[int, str]
    """Motion quantizers -> the `data:` address of a video."""


@dataclass
class VideoResult:
    """Figures of all clips of one video, and some of its clips as pictures."""

    name: str
    clips: list[ClipResult] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Rate:
    """What the tokens of a video take."""

    tokens_per_second: float
    kbit_per_second: float

    @classmethod
    def of(cls, clips: Sequence[ClipResult]) -> "Rate":
        """Return the mean over clips."""
        return cls(
            float(np.mean([clip.tokens_per_second for clip in clips])),
            float(np.mean([clip.bits_per_second for clip in clips])) / 1000,
        )


@dataclass(frozen=True)
class ShownRate:
    """A rate that the slider of the page chooses, and what is reached at it."""

    motion_quantizers: int
    rate: Rate
    psnr: float
    """Of the detokenized frames, in dB."""


@dataclass(frozen=True)
class TableRow:
    """One line of a table of figures."""

    title: str
    colour: str
    strong: bool
    motion_quantizers: int | None
    """None where the method uses none."""
    rate: Rate | None
    """None where keyframes are exact or the method uses no coded motion."""
    figures: MeanFigures


@dataclass(frozen=True)
class TableEntry:
    """One line of the table of videos, and the clips that it opens."""

    name: str
    num_clips: int
    rate: Rate
    psnr: Mapping[str, float]
    """Method -> mean over frames in dB, for `VIDEO_METHODS`."""
    examples: Sequence[Example]


def evaluate_video(
    tokenizer: VideoTokenizer,
    video: Path,
    config: EvaluationConfig,
    *,
    num_examples: int = 1,
    lpips: LPIPS | None = None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> VideoResult:
    """Evaluate one video for the page.

    Args:
        num_examples: clips that are shown side by side, from the first on.
        progress: called with the seconds of every clip that is finished, once for each rate.

    Raises:
        MediaError: the video cannot be read, or has no clip of two frames.
    """
    result, fps = VideoResult(video.name), config.encode.fps
    panels: dict[tuple[int, int], dict[str, np.ndarray]] = defaultdict(dict)
    for clip in evaluate(tokenizer, video, config, other_motion={"uncoded": uncoded_motion}, lpips=lpips):
        if clip.result.figures:
            result.clips.append(clip.result)
        if clip.result.index < num_examples:
            key = clip.result.index, clip.result.motion_quantizers
            panels[key] |= _panels(clip.reconstruction, clip.result.keyframes)
        progress(float(len(clip.reconstruction.source) / fps))
    if not result.clips:
        raise MediaError(f"{video} has no clip of two frames or more; there is nothing to measure")
    uris: dict[int, dict[int, str]] = defaultdict(dict)
    for (index, quantizers), found in panels.items():
        ordered = {name: found[name] for name in PANELS if name in found}
        height, width = ordered["source"].shape[1:3]
        uris[index][quantizers] = video_uri(side_by_side(ordered), fps, (len(ordered) * width, height))
    result.examples = [Example(index + 1, uris[index]) for index in sorted(uris)]
    return result


def _panels(clip: ReconstructedClip, keyframes: KeyframeChoice) -> dict[str, np.ndarray]:
    """Return what is shown of a clip: name -> uint8 [n, H, W, 3]."""
    if keyframes == "exact":
        return {"source": clip.source, "exact keyframes": clip.frames["detokenized"]}
    warped = clip.frames.get("bidirectional", clip.frames["warp"])
    return {"source": clip.source, "bidirectional warp": warped, "detokenized": clip.frames["detokenized"]}


def write_quality_page(
    path: Path,
    results: Sequence[VideoResult],
    config: EvaluationConfig,
    *,
    left_out: Sequence[str] = (),
    model: str = "shipped with videotok",
) -> None:
    """Write the page.

    Args:
        results: of one or more videos, evaluated with `config`.
        left_out: reasons why other videos were not.
        model: name of the weights.

    Raises:
        OSError: the file cannot be written.
    """
    most = max(config.motion_quantizers)
    from_tokens, exact = (
        [clip for result in results for clip in result.clips if clip.keyframes == choice]
        for choice in ("tokens", "exact")
    )
    all_last = not any(clip.has_next for clip in from_tokens)
    joined, exact_joined = (
        clips if all_last else [clip for clip in clips if clip.has_next] for clips in (from_tokens, exact)
    )
    write_page(
        path,
        "quality.html",
        model=model,
        size=config.decode.size or SIZE,
        fps=config.encode.fps,
        frames=ClipSpec().frames,
        last_frame=LAST_FRAME,
        most=most,
        left_out=left_out,
        num_clips=len({(clip.video, clip.index) for clip in from_tokens}),
        num_with_next=len({(clip.video, clip.index) for clip in joined}),
        all_last=all_last,
        source=mean_figures([clip.figures["source"] for clip in joined]),
        tokens=_table(joined, most),
        exact=_table(exact_joined, most),
        with_lpips=joined[0].figures["detokenized"].lpips is not None,
        by_frame=_by_frame([clip for clip in joined if clip.motion_quantizers == most]),
        by_rate=_by_rate(joined) if len(config.motion_quantizers) > 1 else "",
        titles=METHOD_TITLES,
        shown_methods=VIDEO_METHODS,
        videos=[_table_entry(result, most) for result in results],
        num_examples=sum(len(result.examples) for result in results),
        rates=_rates(joined),
        panels=[name for name in PANELS if exact or name != "exact keyframes"],
    )


def _table(clips: Sequence[ClipResult], most: int) -> list[TableRow]:
    """Return the rows of a table: methods without coded motion once, others for each number of motion quantizers."""
    rows = []
    for (method, quantizers), group in _grouped(clips).items():
        is_coded = method in CODED_METHODS
        if not is_coded and quantizers != most:
            continue
        rows.append(
            TableRow(
                title=METHOD_TITLES[method],
                colour=_colour(method),
                strong=method == "detokenized",
                motion_quantizers=quantizers if is_coded else None,
                rate=Rate.of(group) if is_coded and group[0].keyframes == "tokens" else None,
                figures=mean_figures([clip.figures[method] for clip in group]),
            )
        )
    return rows


def _rates(clips: Sequence[ClipResult]) -> list[ShownRate]:
    """Return the rates of the slider, in ascending order."""
    return [
        ShownRate(quantizers, Rate.of(group), mean_figures([clip.figures["detokenized"] for clip in group]).psnr)
        for (method, quantizers), group in _grouped(clips).items()
        if method == "detokenized"
    ]


def _by_frame(clips: Sequence[ClipResult]) -> Markup:
    """Draw a curve for each method: mean PSNR of the first, second, … frame."""
    curves = []
    for (method, _), group in _grouped(clips).items():
        longest = max(len(clip.figures[method].psnr) for clip in group)
        points = []
        for index in range(longest):
            values = [clip.figures[method].psnr[index : index + 1] for clip in group]
            points.append((float(1 + index), float(np.mean([value for one in values for value in one]))))
        dashed = method.endswith("_uncoded")
        curves.append(Curve(method.replace("_", ", "), points, _colour(method), dashed))
    return chart(curves, "PSNR in dB over the frames of a clip", "frame of the clip")


def _by_rate(clips: Sequence[ClipResult]) -> Markup:
    """Draw a curve for each method that uses coded motion: mean PSNR at every rate."""
    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (method, _), group in _grouped(clips).items():
        if method in CODED_METHODS:
            psnr = mean_figures([clip.figures[method] for clip in group]).psnr
            curves[method].append((Rate.of(group).kbit_per_second, psnr))
    drawn = [Curve(method, sorted(points), _colour(method)) for method, points in curves.items()]
    return chart(drawn, "PSNR in dB over kbit/s", "kbit/s")


def _table_entry(result: VideoResult, most: int) -> TableEntry:
    """Return the line of one video; where no clip follows, a bidirectional warp is a warp."""
    clips = [clip for clip in result.clips if clip.keyframes == "tokens" and clip.motion_quantizers == most]
    psnr = {
        method: mean_figures([clip.figures.get(method, clip.figures["warp"]) for clip in clips]).psnr
        for method in VIDEO_METHODS
    }
    return TableEntry(result.name, len(clips), Rate.of(clips), psnr, result.examples)


def _grouped(clips: Sequence[ClipResult]) -> dict[tuple[str, int], list[ClipResult]]:
    """Return clips by (method, number of motion quantizers), in the order of `METHODS`."""
    groups: dict[tuple[str, int], list[ClipResult]] = defaultdict(list)
    for clip in clips:
        for method in clip.figures:
            if method != "source":
                groups[method, clip.motion_quantizers].append(clip)
    return dict(sorted(groups.items(), key=lambda group: (METHODS.index(group[0][0]), group[0][1])))


def _colour(method: str) -> str:
    return method.removesuffix("_uncoded")


def rows(results: Sequence[VideoResult]) -> Iterator[dict[str, Any]]:
    """Return the rows of all videos, for JSON."""
    return (row for result in results for clip in result.clips for row in clip.rows())
