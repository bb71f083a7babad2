"""`videotok info`: what a .vtok file holds, or what a video's stream says of its motion."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from videotok.cli.console import Refusal, print_line
from videotok.cli.options import AsJson, Stream
from videotok.errors import to_json

WIDTH = 18
"""Characters of the column of names."""


def info(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A .vtok file, or a video; - for standard input; or a URL.")
    ],
    as_json: AsJson = False,
    stream: Stream = None,
) -> None:
    """Show what a file of tokens holds, or how reliable a video's motion vectors are and where its cuts are."""
    from videotok.inputs import local_input
    from videotok.tokens import VideoTokens
    from videotok.vtok import is_vtok, vtok_format

    with local_input(source) as file:
        # what a file is called does not say what it is
        if is_vtok(file.path) or file.path.suffix.lower() == ".vtok":
            tokens = VideoTokens.load(file.path)
            if stream is not None:
                raise Refusal(f"--stream {stream} chooses a stream of a video; {source} is a .vtok file, leave it out")
            size = {"size_bytes": file.path.stat().st_size}
            facts = {"file": source, "format": vtok_format(file.path)} | size | tokens.facts()
            _print(facts, token_lines(facts), as_json)
        else:
            facts = video_facts(file.path, stream) | {"file": source}
            _print(facts, video_lines(facts), as_json)


def _print(facts: dict[str, Any], lines: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        print(to_json(facts))
        return
    for name, value in lines:
        print_line(f"{name:<{WIDTH}} {value}")


def video_facts(path: Path, stream: int | None = None) -> dict[str, Any]:
    """Read a whole video and return facts of its headers, vectors, cuts and damage as plain values.

    `stream` is the index of the video stream in the file; its default one where None.

    Raises:
        MediaError: as `codec.iter_clips`.
    """
    from codec import ClipSpec, VectorShares, iter_clips, probe

    facts = {"file": str(path), "size_bytes": path.stat().st_size} | asdict(probe(path, stream))
    facts["average_fps"] = None if facts["average_fps"] is None else str(facts["average_fps"])
    shares: list[VectorShares] = []
    cuts: list[float] = []
    damaged, source, spec = 0, "", ClipSpec()
    for clip in iter_clips(path, spec, stream=stream):
        if clip.num_frames > 1:
            shares.append(clip.shares)
        cuts += [round(clip.pts_seconds + float(cut / spec.fps), 3) for cut in clip.cuts]
        damaged += clip.damaged
        source = clip.motion_source
    return facts | {
        "motion_source": source,
        "vectors": asdict(VectorShares.mean(shares)),
        "cuts_seconds": cuts,
        "damaged_clips": damaged,
    }


def video_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a video as (name, value) for people."""
    from codec import VectorShares

    interlaced = ", interlaced" if facts["is_interlaced"] else ""
    picture = f"{facts['width']}x{facts['height']}{_rotation(facts)}, {facts['pixel_format']}{interlaced}"
    cuts = facts["cuts_seconds"]
    times = f" at {', '.join(f'{cut:.2f}' for cut in cuts[:12])}{' …' if len(cuts) > 12 else ''} s" if cuts else ""
    return [
        ("file", f"{facts['file']}: {facts['size_bytes']:,} bytes"),
        ("video", f"{facts['codec']}, {picture}, {facts['average_fps'] or 'unknown'} fps, {_length(facts)}"),
        ("motion source", facts["motion_source"]),
        ("vectors", str(VectorShares(**facts["vectors"]))),
        ("cuts", f"{len(cuts)}{times}"),
        ("damaged clips", str(facts["damaged_clips"])),
    ]


def token_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a .vtok file as (name, value) for people."""
    source, spec, models = facts["source"], facts["spec"], facts["models"]
    visual = facts["visual_tokens_per_keyframe"]
    quantizers = facts["motion_quantizers_per_clip"]
    motion = f"{quantizers['max']} quantizers of {facts['motion_ids_per_quantizer']} ids"
    if quantizers["min"] < quantizers["max"]:
        motion = f"{quantizers['min']} to {motion}, {quantizers['mean']:.1f} on average"
    if facts["global_motion_ids_per_clip"]:
        motion = f"{facts['global_motion_ids_per_clip']} of global motion, {motion}"
    damaged = f", {facts['damaged_clips']} damaged" if facts["damaged_clips"] else ""
    bits = ", ".join(f"{name} {value / 1000:.1f}" for name, value in facts["bits_per_second"].items())
    skipped = facts["skipped_patches_per_keyframe"]
    predicted = f"; {skipped:.1f} are predicted; independent clips: {facts['independent_clips']}" if skipped else ""
    return [
        ("file", f"{facts['file']}: format {facts['format']}, {facts['size_bytes']:,} bytes"),
        (
            "source",
            f"{source['file']}: {source['codec']}, {source['width']}x{source['height']}{_rotation(source)}, "
            f"{source['average_fps'] or 'unknown'} fps, {_length(source)}",
        ),
        (
            "clips",
            f"{facts['clips']} of {spec['frames']} frames at {spec['fps']} fps: {facts['frames']} frames, "
            f"{facts['duration_seconds']:.2f} s from {facts['start_seconds']:.2f} s{damaged}",
        ),
        (
            "visual tokens",
            f"{facts['visual_tokens']:,}; {visual['min']} to {visual['max']} per keyframe, "
            f"{visual['mean']:.1f} on average, of {facts['patches_per_keyframe']} patches{predicted}",
        ),
        ("motion tokens", f"{facts['motion_tokens']:,}; per clip {motion}"),
        ("motion source", facts["motion_source"]),
        ("tokens/s of video", f"{facts['tokens_per_second']:.1f}"),
        ("kbit/s of video", bits),
        *((f"{part} weights", f"{model['sha256'][:12]} ({model['name']})") for part, model in models.items()),
    ]


def _rotation(facts: dict[str, Any]) -> str:
    return f", rotated by {facts['rotation_degrees']}°" if facts["rotation_degrees"] else ""


def _length(facts: dict[str, Any]) -> str:
    seconds = facts["duration_seconds"]
    return "unknown length" if seconds is None else f"{seconds:.2f} s"
