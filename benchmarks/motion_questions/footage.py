"""Photographs and videos that clips are made of, and which of them are for testing."""

import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from re import sub

import cv2
import numpy as np
import torch

from benchmarks.motion_questions.scenes import FPS, NUM_FRAMES, SIZE
from codec import Clip, ClipSpec, MediaError, MotionField, iter_clips
from motion_vq.global_motion import GlobalMotionCodec, to_pixels
from videotok.training.prepare import PHOTO_SUFFIXES, VIDEO_SUFFIXES

Split = str
"""`train` or `test`."""
LEAST_TRAVEL = 0.3
"""Pixels a step by which a 256x144 picture grows or shrinks at its sides where a camera travels: 2.8 % a second."""


class Sources:
    """Files of a folder; one recording in four is for testing, with all its parts."""

    def __init__(self, folder: Path, suffixes: frozenset[str], split: Split) -> None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        self.files = [path for path in found if (_recording(path) % 4 == 0) == (split == "test")]
        if not self.files:
            raise SystemExit(f"{folder} has no {split} files of {', '.join(sorted(suffixes))}; name another folder")

    def draw(self, rng: np.random.Generator) -> Path:
        return self.files[rng.integers(len(self.files))]


def photographs(folder: Path, split: Split) -> Sources:
    return Sources(folder, PHOTO_SUFFIXES, split)


def videos(folder: Path, split: Split) -> Sources:
    return Sources(folder, VIDEO_SUFFIXES, split)


def photograph(sources: Sources, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """One photograph, the same at all times."""
    while True:
        picture = cv2.imread(str(sources.draw(rng)), cv2.IMREAD_COLOR)
        if picture is not None and min(picture.shape[:2]) >= SIZE[1]:
            picture = np.ascontiguousarray(picture[..., ::-1])
            return lambda seconds: picture


def playing(frames: np.ndarray) -> Callable[[float], np.ndarray]:
    """Footage uint8 [n, H, W, 3] as the picture of a layer: what it shows at a time."""
    return lambda seconds: frames[min(int(seconds * FPS), len(frames) - 1)]


def stretch(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Two and a half seconds from somewhere in a video: uint8 [30, 144, 256, 3] RGB at 12 fps."""
    return _frames(next(_stretches(sources, rng)))


def travel(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Like `stretch`, where the camera travels along its line of sight, whether ahead or back.

    Raises:
        SystemExit: none of 60 stretches does.
    """
    for clip in islice(_stretches(sources, rng), 60):
        if growth(clip.motion) > LEAST_TRAVEL:
            return _frames(clip)
    raise SystemExit(f"in 60 stretches of {sources.files[0].parent} no camera travels; name another --moving")


def growth(motion: MotionField) -> float:
    """Pixels a step by which the picture grows or shrinks at its left and right edges, of the camera's own motion."""
    steps, *grid = motion.valid.shape
    camera = GlobalMotionCodec(steps, (grid[0], grid[1]), terms=(1, 1, 1))
    vectors, valid = torch.from_numpy(motion.vectors)[None], torch.from_numpy(motion.valid)[None]
    _, along_x, along_y = camera.fit(to_pixels(vectors), valid)[0]
    across, down = float(along_x[0]), float(along_y[1]) * SIZE[0] / SIZE[1]
    return min(abs(across), abs(down)) if across * down > 0 else 0.0


def _stretches(sources: Sources, rng: np.random.Generator) -> Iterator[Clip]:
    spec = ClipSpec(frames=NUM_FRAMES, fps=Fraction(FPS))
    while True:
        path, start = sources.draw(rng), float(rng.uniform(0, 5))
        try:
            clip = next(iter_clips(path, spec, frames=True, frame_size=SIZE, start_seconds=start, max_clips=1))
        except MediaError:  # shorter than the start asked for
            continue
        if clip.frames is not None and clip.num_frames == NUM_FRAMES:
            yield clip


def _frames(clip: Clip) -> np.ndarray:
    if clip.frames is None:
        raise ValueError("a clip that was read without its frames")
    return clip.frames


def _recording(path: Path) -> int:
    """The same number for all parts of a recording: `name_2` and `name-3`, but not photographs in a numbered series."""
    stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else sub(r"([-_]\d{1,3})+$", "", path.stem)
    return zlib.crc32(stem.encode())
