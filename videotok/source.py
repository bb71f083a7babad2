"""What tokens were made from: a video, and weights."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from codec import ClipSpec, MediaInfo


@dataclass(frozen=True)
class SourceFacts:
    """What the video said about itself when it was encoded."""

    file: str
    """Name, without its folder."""
    size_bytes: int
    codec: str
    width: int
    """As displayed: rotation applied, square pixels."""
    height: int
    rotation_degrees: int
    duration_seconds: float | None
    """None where the file does not say."""
    average_fps: Fraction | None

    @classmethod
    def of(cls, path: Path, info: MediaInfo) -> "SourceFacts":
        """The facts of a file that was just probed."""
        return cls(
            file=path.name,
            size_bytes=path.stat().st_size,
            codec=info.codec,
            width=info.width,
            height=info.height,
            rotation_degrees=info.rotation_degrees,
            duration_seconds=info.duration_seconds,
            average_fps=info.average_fps,
        )


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights gave the ids."""

    name: str
    """Where the user found them: `shipped`, a folder's name or a hub id. For people; not compared."""
    sha256: str
    """Of the weight file: what decides whether ids can be decoded."""


def spec_facts(spec: ClipSpec) -> dict[str, Any]:
    """A ClipSpec as plain values; rates as exact fractions in text, `30000/1001`."""
    return {"frames": spec.frames, "fps": str(spec.fps), "grid": list(spec.grid)}


def source_facts(source: SourceFacts) -> dict[str, Any]:
    """SourceFacts as plain values."""
    return vars(source) | {"average_fps": None if source.average_fps is None else str(source.average_fps)}
