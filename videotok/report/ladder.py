"""The page of `videotok eval`: the ladder of a user's own videos."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from markupsafe import Markup

from videotok.evaluation import SIZE, Figures
from videotok.report.chart import Curve, chart
from videotok.report.page import write_page
from videotok.report.results import ClipResult, Key, Settings, VideoResult

TITLES = {
    "hold": "keyframe held still",
    "crossfade": "crossfade of keyframes",
    "warp_raw": "warp, raw vectors",
    "two_way_raw": "two-way warp, raw vectors",
    "warp": "warp",
    "two_way": "two-way warp",
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
    for rung in ("warp", "two_way", "detokenized"):
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
    means.setdefault("two_way", means["warp"])
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
