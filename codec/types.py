"""Types that the codec returns: a clip is one keyframe and the motion of the frames that follow it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np

MotionSource = Literal["native", "reencode", "mpeg4"]
"""Where motion vectors come from. `native`: the stream itself. `reencode`: an x264 re-encoding with one reference and
no B frames. `mpeg4`: an MPEG-4 Part 2 re-encoding, as Video-LaVIT reads motion (see codec.reencode)."""


@dataclass(frozen=True)
class ClipSpec:
    """Frames, frame rate and motion grid of a clip.

    Raises:
        ValueError: fewer than 2 frames, a rate that is not positive, or a grid that is not two positive numbers.
    """

    frames: int = 24
    """Frames of a clip, the keyframe included."""
    fps: Fraction = Fraction(12)
    """Frames per second after resampling."""
    grid: tuple[int, int] = (20, 36)
    """Size of the motion grid, (height, width) in cells, for pictures of any size."""

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
    """Motion of a clip on a grid.

    The content of a cell at (x, y) stood at (x + dx, y + dy) one frame earlier.

    Raises:
        ValueError: an array has another shape or dtype than stated below.
    """

    vectors: np.ndarray
    """float32 [T, h, w, 2], (dx, dy) in fractions of the frame's width and height. `vectors[0]` is the motion from the
    last frame of the previous clip to this clip's keyframe."""
    valid: np.ndarray
    """bool [T, h, w]; False where the stream has no vector and the one in `vectors` is an estimate."""

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
    """Shares of the picture's area by how well the frame that a vector points to is known. They sum to 1."""

    exact: float
    """The stream states which frame the vector points to."""
    inferred: float
    """The vector may point to one of several frames; the one that agrees best with the motion around it is taken."""
    missing: float
    """There is no vector: intra blocks, I frames, lost frames."""

    @classmethod
    def mean(cls, shares: "Iterable[VectorShares]") -> "VectorShares":
        """Return the mean of the shares of several frames; all missing if there are no frames."""
        counted = [(one.exact, one.inferred) for one in shares]
        exact, inferred = np.mean(counted, axis=0).tolist() if counted else (0.0, 0.0)
        return cls(exact, inferred, max(0.0, 1 - exact - inferred))

    def __str__(self) -> str:
        return f"{self.exact:.0%} exact, {self.inferred:.0%} inferred, {self.missing:.0%} missing"


NO_VECTORS = VectorShares(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Clip:
    """One keyframe and the motion of the frames after it."""

    keyframe: np.ndarray
    """uint8 [H, W, 3] RGB, upright, with square pixels."""
    motion: MotionField
    """[spec.frames, *spec.grid]; zero and not valid from `num_frames` on."""
    pts_seconds: float
    """Presentation time of the keyframe in the source."""
    num_frames: int
    """Frames of this clip. Less than spec.frames only at the end of a video, and before a scene cut if clips are split
    there."""
    motion_source: MotionSource = "native"
    """Where the vectors come from."""
    shares: VectorShares = NO_VECTORS
    """Mean over the source frames after the keyframe (frames of the re-encoding if `motion_source` says so)."""
    cuts: tuple[int, ...] = ()
    """Indices of frames that begin a new scene; 0 if the keyframe is in another scene than the frame before it. Their
    motion is zero and not valid, and the frames from there on cannot be predicted from the keyframe."""
    damaged: bool = False
    """Some frames of this clip could not be decoded, or the end of the file is missing."""
    is_truncated: bool = False
    """The file ends after this clip, before its header says: packets are missing."""
    frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [num_frames, H, W, 3] RGB if frames were requested; frames[0] is the keyframe's picture."""

    def __repr__(self) -> str:
        height, width = self.keyframe.shape[:2]
        cuts = f", cuts at {', '.join(map(str, self.cuts))}" if self.cuts else ""
        return (
            f"Clip({width}x{height} at {self.pts_seconds:.3f} s, num_frames={self.num_frames}, "
            f"{self.motion!r}, {self.motion_source}: {self.shares}{cuts}{', damaged' if self.damaged else ''})"
        )
