"""What the codec hands to everyone else: a clip is one keyframe and the motion of the frames after it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np

MotionSource = Literal["native", "reencode", "mpeg4"]
"""`native`: the stream's own vectors. `reencode`: vectors of an x264 re-encoding (one reference, no B frames). `mpeg4`:
those of an MPEG-4 Part 2 re-encoding, as Video-LaVIT reads motion (codec.reencode)."""


@dataclass(frozen=True)
class ClipSpec:
    """How a video is cut into clips: `frames` frames at `fps`, motion on a grid of `grid` cells."""

    frames: int = 24
    """Frames in a clip, the keyframe included."""
    fps: Fraction = Fraction(12)
    """Frames per second of the clip's own clock."""
    grid: tuple[int, int] = (20, 36)
    """Cells of a motion field, (height, width), whatever the picture's size."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", Fraction(self.fps).limit_denominator(100_000))
        if self.frames < 2:
            raise ValueError(f"`frames` (={self.frames}) must be at least 2: a keyframe and one frame that moves")
        if self.fps <= 0:
            raise ValueError(f"`fps` (={self.fps}) must be positive")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"`grid` (={self.grid}) must be two positive numbers of cells, (height, width)")

    @property
    def duration_seconds(self) -> Fraction:
        """Time from one keyframe to the next."""
        return self.frames / self.fps


@dataclass(frozen=True)
class MotionField:
    """Motion of a clip on a grid: the content of this cell stood at (x + dx, y + dy) one step earlier."""

    vectors: np.ndarray
    """float32 [T, h, w, 2], (dx, dy) in fractions of frame width / height. `vectors[0]` is the step from the last frame
    of the clip before into this keyframe, where the stream has it."""
    valid: np.ndarray
    """bool [T, h, w]; False where the stream has no vector: what stands there is a guess, named by whoever made it."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 4 or self.vectors.shape[-1] != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"`vectors` must be float32 [T, h, w, 2], got {self.vectors.dtype} {self.vectors.shape}")
        if self.valid.shape != self.vectors.shape[:3] or self.valid.dtype != np.bool_:
            raise ValueError(
                f"`valid` must be bool {self.vectors.shape[:3]}, got {self.valid.dtype} {self.valid.shape}"
            )

    def __repr__(self) -> str:
        steps, height, width = self.valid.shape
        return f"MotionField(steps={steps}, grid={height}x{width}, valid={self.valid.mean():.0%})"


@dataclass(frozen=True)
class VectorShares:
    """How much is known of what vectors point to: shares of the picture, from 0 to 1, that add up to 1."""

    exact: float
    """The stream leaves no doubt which frame the vector points to."""
    inferred: float
    """The vector may point to one of several frames; the one that agrees with the motion around it was taken."""
    missing: float
    """There is no vector: intra blocks, I frames, frames that were lost."""

    @classmethod
    def mean(cls, shares: "Iterable[VectorShares]") -> "VectorShares":
        """Of several frames; all is missing where there are none."""
        counted = [(one.exact, one.inferred) for one in shares]
        exact, inferred = np.mean(counted, axis=0).tolist() if counted else (0.0, 0.0)
        return cls(exact, inferred, 1 - exact - inferred)

    def __str__(self) -> str:
        return f"{self.exact:.0%} exact, {self.inferred:.0%} inferred, {self.missing:.0%} missing"


NO_VECTORS = VectorShares(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Clip:
    """One keyframe, and how the picture moves in the frames after it."""

    keyframe: np.ndarray
    """uint8 [H, W, 3] RGB, rotation applied, square pixels."""
    motion: MotionField
    """[spec.frames, *spec.grid]; steps past `num_frames` are zero with valid = False."""
    pts_seconds: float
    """Time of the keyframe in the source."""
    num_frames: int
    """True frames of this clip on the spec's clock; less than spec.frames only at the end of a video, and before a cut
    where clips were to be split there."""
    motion_source: MotionSource = "native"
    """Where the vectors come from."""
    shares: VectorShares = NO_VECTORS
    """Of the source frames shown or passed after the keyframe: how much of their area has vectors, and how sure it is
    what they span. Of a re-encoding where `motion_source` says so."""
    cuts: tuple[int, ...] = ()
    """Frames of this clip, from 0, that begin a new scene; 0 where its keyframe is in another scene than the frame
    before. Their motion is zero with valid = False, and what follows cannot be made from the keyframe."""
    damaged: bool = False
    """Something of this clip was lost: frames that could not be decoded, or an end that is missing."""
    frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [num_frames, H, W, 3] RGB where the caller asked for frames; frames[0] is the keyframe's picture."""

    def __repr__(self) -> str:
        height, width = self.keyframe.shape[:2]
        cuts = f", cuts at {', '.join(map(str, self.cuts))}" if self.cuts else ""
        return (
            f"Clip({width}x{height} at {self.pts_seconds:.3f} s, num_frames={self.num_frames}, "
            f"{self.motion!r}, {self.motion_source}: {self.shares}{cuts}{', damaged' if self.damaged else ''})"
        )
