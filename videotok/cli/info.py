"""`videotok info` of a video: what its stream says of its motion.

`videotok info`: what a .vtok file holds, or what a video's stream says.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

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


def info(
    file: Annotated[Path, typer.Argument(help="A .vtok file, or a video.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Say what a file of tokens holds; of a video, how sure its motion is, and where its cuts are."""
    if is_video(file):
        found = video_facts(file)
        _show(found, video_lines(found), as_json)
        return

    from videotok.tokens import FORMAT, VideoTokens

    facts = {"file": str(file), "format": FORMAT, "size_bytes": 0} | VideoTokens.load(file).facts()
    facts["size_bytes"] = file.stat().st_size
    _show(facts, _lines(facts), as_json)


def is_video(file: Path) -> bool:
    """By its suffix; what says neither is taken for tokens."""
    from videotok.footage import VIDEO_SUFFIXES

    return file.suffix.lower() in VIDEO_SUFFIXES


def _show(facts: dict[str, Any], lines: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in lines:
        print(f"{name:<18} {value}")


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    source, spec, models = facts["source"], facts["spec"], facts["models"]
    visual = facts["visual_tokens_per_keyframe"]
    camera = facts["camera_ids_per_clip"]
    levels = f"{facts['motion_quantizers']} levels of {facts['motion_ids_per_level']}"
    motion = f"{camera} for the camera, {levels}" if camera else levels
    rate = "unknown" if source["average_fps"] is None else source["average_fps"]
    length = "unknown length" if source["duration_seconds"] is None else f"{source['duration_seconds']:.2f} s"
    damaged = f", {facts['damaged_clips']} damaged" if facts["damaged_clips"] else ""
    bits = ", ".join(f"{name} {value / 1000:.1f}" for name, value in facts["bits_per_second"].items())
    carried = facts["carried_patches_per_keyframe"]
    chained = f"; {carried:.1f} are carried on from the clip before; independent clips: {facts['independent_clips']}"
    turned = f", turned by {source['rotation_degrees']}°" if source["rotation_degrees"] else ""
    return [
        ("file", f"{facts['file']}: format {facts['format']}, {facts['size_bytes']:,} bytes"),
        (
            "source",
            f"{source['file']}: {source['codec']}, {source['width']}x{source['height']}{turned}, {rate} fps, {length}",
        ),
        (
            "clips",
            f"{facts['clips']} of {spec['frames']} frames at {spec['fps']} fps: {facts['frames']} frames, "
            f"{facts['duration_seconds']:.2f} s from {facts['start_seconds']:.2f} s{damaged}",
        ),
        (
            "visual tokens",
            f"{facts['visual_tokens']:,}; a keyframe {visual['min']} to {visual['max']}, "
            f"{visual['mean']:.1f} on average, of {facts['patches_per_keyframe']} patches{chained if carried else ''}",
        ),
        ("motion tokens", f"{facts['clips'] * facts['motion_tokens_per_clip']:,}; a clip {motion}"),
        ("motion source", facts["motion_source"]),
        ("tokens/s of video", f"{facts['tokens_per_second']:.1f}"),
        ("kbit/s of video", bits),
        *((f"{part} weights", f"{model['sha256'][:12]} ({model['name']})") for part, model in models.items()),
    ]
