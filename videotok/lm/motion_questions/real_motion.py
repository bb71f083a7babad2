"""Motion fields of real footage beside the camera's true motion, and variants of both: for questions about it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from codec import ClipSpec, MediaError, atomic_path, iter_clips
from videotok.lm.motion_questions.camera_motion import SIZE, CameraPath, camera_path
from videotok.lm.motion_questions.scenes import FPS

CACHE_VERSION = 3
"""Raised when footage is read in another way; older caches are then made again."""
SCALES = (0.5, 1.6)
"""Range of the factor on the motion of a variant."""
PAN_SPEEDS, ZOOM_SPEEDS = (0.02, 0.35), (0.015, 0.12)
"""Range of a virtual camera: a pan in frame widths a second, growth at either side likewise."""


@dataclass(frozen=True)
class RealMotion:
    """The motion of clips of footage that follow each other, as the codec reads it, and that of the camera."""

    vectors: np.ndarray
    """float32 [clips, T, h, w, 2], fractions of the frame; the first step of all is no motion."""
    valid: np.ndarray
    """bool [clips, T, h, w]."""
    steps: np.ndarray
    """float32 [clips * T, 3]: the step into each frame, as `CameraPath.steps`; the first one is 0."""

    def path(self, start: int, stop: int) -> CameraPath:
        """Return the camera's path in clips `start` to `stop` - 1."""
        length = self.vectors.shape[1]
        return CameraPath(self.steps[start * length : stop * length])


def read_real_motion(file: Path, cache: Path, max_clips: int) -> RealMotion | None:
    """Return the motion of the first complete clips of a file; None where it has none, or cannot be read. Read once."""
    path = cache / f"{file.stem}-{file.stat().st_size}-{max_clips}-{CACHE_VERSION}.safetensors"
    if not path.is_file():
        try:
            found = _read(file, max_clips)
        except MediaError:  # a file that cannot be read has nothing to teach
            return None
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({name: np.ascontiguousarray(value) for name, value in found.items()}, temporary)
    arrays = load_file(path)
    if not len(arrays["vectors"]):
        return None
    return RealMotion(arrays["vectors"].astype(np.float32), arrays["valid"].astype(bool), arrays["steps"])


def _read(file: Path, max_clips: int) -> dict[str, np.ndarray]:
    spec = ClipSpec()
    clips = list(iter_clips(file, spec, frames=True, frame_size=SIZE, max_clips=max_clips))
    clips = [clip for clip in clips if clip.frames is not None and clip.num_frames == spec.frames]
    vectors = np.zeros((0, spec.frames, *spec.grid, 2), np.float16)
    valid, steps = np.zeros(vectors.shape[:-1], np.uint8), np.zeros((0, 3), np.float32)
    if clips:
        vectors = np.stack([clip.motion.vectors for clip in clips]).astype(np.float16)
        valid = np.stack([clip.motion.valid for clip in clips]).astype(np.uint8)
        path = camera_path(np.concatenate([clip.frames for clip in clips if clip.frames is not None]))
        steps = np.concatenate([np.zeros((1, 3), np.float32), path.steps])
    return {"vectors": vectors, "valid": valid, "steps": steps}


def random_variant(motion: RealMotion, rng: np.random.Generator) -> RealMotion:
    """Return the motion mirrored, reversed, scaled, or under a virtual camera besides, each by chance."""
    if rng.random() < 0.5:
        motion = _mirror(motion, 0)
    if rng.random() < 0.3:
        motion = _mirror(motion, 1)
    if rng.random() < 0.5:
        motion = _reverse(motion)
    if rng.random() < 0.5:
        motion = _scale(motion, float(np.exp(rng.uniform(*np.log(SCALES)))))
    if rng.random() < 0.5:
        motion = _add(motion, _virtual_steps(len(motion.steps), rng))
    return motion


def _mirror(motion: RealMotion, axis: int) -> RealMotion:
    sign = np.ones(3, np.float32)
    sign[axis] = -1
    flipped = 3 - axis
    return RealMotion(np.flip(motion.vectors, flipped) * sign[:2], np.flip(motion.valid, flipped), motion.steps * sign)


def _reverse(motion: RealMotion) -> RealMotion:
    """Return the motion with time reversed, as `labeled_videos.reverse_time`; the step into the first frame is lost."""
    shape = motion.vectors.shape
    vectors, valid = motion.vectors.reshape(-1, *shape[2:]), motion.valid.reshape(-1, *shape[2:4])
    # frame k of the reversed video is the frame n - 1 - k; the step into it is the negative one of the frame after that
    order = np.arange(len(vectors))[:0:-1]
    return RealMotion(
        np.concatenate([vectors[:1] * 0, -vectors[order]]).reshape(shape),
        np.concatenate([valid[:1], valid[order]]).reshape(motion.valid.shape),
        np.concatenate([motion.steps[:1] * 0, -motion.steps[order]]),
    )


def _scale(motion: RealMotion, factor: float) -> RealMotion:
    return replace(motion, vectors=motion.vectors * np.float32(factor), steps=motion.steps * np.float32(factor))


def _virtual_steps(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the steps of a virtual camera that pans (mostly) or zooms, at a speed that swings slowly; [count, 3]."""
    steps, is_zoom = np.zeros((count, 3), np.float32), rng.random() < 0.35
    speed = np.exp(rng.uniform(*np.log(ZOOM_SPEEDS if is_zoom else PAN_SPEEDS))) * rng.choice([-1, 1]) / FPS
    swing = 1 + rng.uniform(0, 0.5) * np.sin(np.arange(count) * rng.uniform(0.02, 0.15) + rng.uniform(0, 6.3))
    main = 2 if is_zoom else int(rng.random() < 0.4)
    if rng.random() < 0.5:  # another speed from somewhere in the middle on
        change = np.arange(count) > count * rng.uniform(0.35, 0.6)
        swing = swing * np.where(change, *((1, 1 / rng.uniform(1.6, 4))[:: int(rng.choice([-1, 1]))]))
    steps[:, main] = speed * swing
    if not is_zoom:
        steps[:, 1 - main] = speed * swing * rng.uniform(-0.3, 0.3)
    steps[0] = 0
    return steps


def _add(motion: RealMotion, steps: np.ndarray) -> RealMotion:
    """Return the motion with that of a virtual camera besides (displacements of a step add up, nearly)."""
    height, width = motion.valid.shape[2:]
    x, y = (np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5) / height - 0.5
    aspect = SIZE[0] / SIZE[1]
    # a vector leads back to where the content stood: against its motion
    along_x = -(steps[:, 0, None, None] + 2 * steps[:, 2, None, None] * x)
    along_y = -(steps[:, 1, None, None] * aspect + 2 * steps[:, 2, None, None] * y[:, None])
    field = np.stack(np.broadcast_arrays(along_x, along_y), axis=-1).astype(np.float32)
    return replace(motion, vectors=motion.vectors + field.reshape(motion.vectors.shape), steps=motion.steps + steps)
