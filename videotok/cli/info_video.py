"""`videotok info` of a video: what its stream says of its motion."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from codec import VectorShares, iter_clips, probe


def video_facts(path: Path) -> dict[str, Any]:
    """What headers say, and what reading all of its clips says of vectors, cuts and damage, as plain values.

    Raises:
        MediaError: as `codec.iter_clips`.
    """
    facts = {"file": str(path), "size_bytes": path.stat().st_size} | asdict(probe(path))
    facts["average_fps"] = None if facts["average_fps"] is None else str(facts["average_fps"])
    shares: list[VectorShares] = []
    cuts: list[float] = []
    damaged, source = 0, ""
    for clip in iter_clips(path):
        if clip.num_frames > 1:
            shares.append(clip.shares)
        cuts += [round(clip.pts_seconds + cut / 12, 3) for cut in clip.cuts]
        damaged += clip.damaged
        source = clip.motion_source
    return facts | {
        "motion_source": source,
        "vectors": asdict(VectorShares.mean(shares)),
        "cuts_seconds": cuts,
        "damaged_clips": damaged,
    }


def video_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, value) for people."""
    length = "unknown length" if facts["duration_seconds"] is None else f"{facts['duration_seconds']:.2f} s"
    turned = f", turned by {facts['rotation_degrees']}°" if facts["rotation_degrees"] else ""
    interlaced = ", interlaced" if facts["is_interlaced"] else ""
    picture = f"{facts['width']}x{facts['height']}{turned}, {facts['pixel_format']}{interlaced}"
    cuts = facts["cuts_seconds"]
    listed = f" at {', '.join(f'{cut:.2f}' for cut in cuts[:12])}{' …' if len(cuts) > 12 else ''} s" if cuts else ""
    return [
        ("file", f"{facts['file']}: {facts['size_bytes']:,} bytes"),
        ("video", f"{facts['codec']}, {picture}, {facts['average_fps'] or 'unknown'} fps, {length}"),
        ("motion source", facts["motion_source"]),
        ("vectors", str(VectorShares(**facts["vectors"]))),
        ("cuts", f"{len(cuts)}{listed}"),
        ("damaged clips", str(facts["damaged_clips"])),
    ]
