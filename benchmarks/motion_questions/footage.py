"""Photographs and videos that clips are made of, and which of them are for testing."""

import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from re import sub

import cv2
import numpy as np

from benchmarks.motion_questions.scenes import FPS, NUM_FRAMES, SIZE
from codec import ClipSpec, MediaError, iter_clips
from videotok.training.prepare import PHOTO_SUFFIXES, VIDEO_SUFFIXES

Split = str
"""`train` or `test`."""


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
    spec = ClipSpec(frames=NUM_FRAMES, fps=Fraction(FPS))
    while True:
        path, start = sources.draw(rng), float(rng.uniform(0, 5))
        try:
            clip = next(iter_clips(path, spec, frames=True, frame_size=SIZE, start_seconds=start, max_clips=1))
        except MediaError:  # shorter than the start asked for
            continue
        if clip.frames is not None and clip.num_frames == NUM_FRAMES:
            return clip.frames


def _recording(path: Path) -> int:
    """The same number for all parts of a recording: `name_2` and `name-3`, but not photographs in a numbered series."""
    stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else sub(r"([-_]\d{1,3})+$", "", path.stem)
    return zlib.crc32(stem.encode())
