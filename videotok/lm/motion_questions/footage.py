"""Photographs and videos that the scenes are made of, split into training and test files."""

import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from re import sub
from typing import Literal

import cv2
import numpy as np
import torch

from codec import Clip, ClipSpec, MediaError, MotionField, iter_clips
from motion_vq.fields import to_pixels
from motion_vq.global_motion import GlobalMotionCodec
from videotok.lm.motion_questions.scenes import FPS, NUM_FRAMES, SIZE
from videotok.training.prepare import PHOTO_SUFFIXES, VIDEO_SUFFIXES

Split = Literal["train", "test"]
MIN_ZOOM_RATE = 0.3
"""Pixels per step by which a 256x144 picture grows or shrinks at its sides when a camera travels: 2.8 % a second."""
MAX_STRETCHES = 60
"""Stretches that are searched for one in which the camera travels."""


class MediaFolder:
    """The files of a folder that belong to a split. One recording in four, with all its parts, is for testing."""

    def __init__(self, folder: Path, suffixes: frozenset[str], split: Split) -> None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
        self.files = [path for path in found if (_recording_hash(path) % 4 == 0) == (split == "test")]
        if not self.files:
            raise MediaError(f"{folder} has no {split} files of {', '.join(sorted(suffixes))}; name another folder")

    def random_file(self, rng: np.random.Generator) -> Path:
        """Return one of the files."""
        return self.files[rng.integers(len(self.files))]


def photographs(folder: Path, split: Split) -> MediaFolder:
    """Return the photographs of a split."""
    return MediaFolder(folder, PHOTO_SUFFIXES, split)


def videos(folder: Path, split: Split) -> MediaFolder:
    """Return the videos of a split."""
    return MediaFolder(folder, VIDEO_SUFFIXES, split)


def random_photograph(folder: MediaFolder, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """Return a photograph as the image of a layer: uint8 [H, W, 3] RGB, the same at all times."""
    while True:
        image = cv2.imread(str(folder.random_file(rng)), cv2.IMREAD_COLOR)
        if image is not None and min(image.shape[:2]) >= SIZE[1]:
            image = np.ascontiguousarray(image[..., ::-1])
            return lambda seconds: image


def playback(frames: np.ndarray) -> Callable[[float], np.ndarray]:
    """Return footage uint8 [n, H, W, 3] as the image of a layer."""
    return lambda seconds: frames[min(int(seconds * FPS), len(frames) - 1)]


def random_stretch(folder: MediaFolder, rng: np.random.Generator) -> np.ndarray:
    """Return two and a half seconds from somewhere in a video: uint8 [30, 144, 256, 3] RGB at 12 fps."""
    return _frames(next(_random_clips(folder, rng)))


def random_travel_stretch(folder: MediaFolder, rng: np.random.Generator) -> np.ndarray:
    """Return a stretch, as `random_stretch`, in which the camera travels along its line of sight, ahead or back.

    Raises:
        MediaError: none of `MAX_STRETCHES` does.
    """
    for clip in islice(_random_clips(folder, rng), MAX_STRETCHES):
        if zoom_rate(clip.motion) > MIN_ZOOM_RATE:
            return _frames(clip)
    raise MediaError(
        f"in {MAX_STRETCHES} stretches of {folder.files[0].parent} no camera travels; name another --moving"
    )


def zoom_rate(motion: MotionField) -> float:
    """Return the pixels per step by which the picture grows or shrinks at its sides, of the global motion."""
    steps, *grid = motion.valid.shape
    codec = GlobalMotionCodec(steps, (grid[0], grid[1]), terms=(1, 1, 1))
    vectors, valid = torch.from_numpy(motion.vectors)[None], torch.from_numpy(motion.valid)[None]
    _, along_x, along_y = codec.fit(to_pixels(vectors), valid)[0]
    horizontal, vertical = float(along_x[0]), float(along_y[1]) * SIZE[0] / SIZE[1]
    return min(abs(horizontal), abs(vertical)) if horizontal * vertical > 0 else 0.0


def _random_clips(folder: MediaFolder, rng: np.random.Generator) -> Iterator[Clip]:
    spec = ClipSpec(frames=NUM_FRAMES, fps=Fraction(FPS))
    while True:
        path, start = folder.random_file(rng), float(rng.uniform(0, 5))
        try:
            clip = next(iter_clips(path, spec, frames=True, frame_size=SIZE, start_seconds=start, max_clips=1))
        except MediaError:  # the video ends before `start`
            continue
        if clip.frames is not None and clip.num_frames == NUM_FRAMES:
            yield clip


def _frames(clip: Clip) -> np.ndarray:
    if clip.frames is None:
        raise ValueError("the clip was read without its frames")
    return clip.frames


def _recording_hash(path: Path) -> int:
    """Return the same number for all parts of a recording: `name_2` and `name-3`; not for photographs of a series."""
    stem = path.stem if path.suffix.lower() in PHOTO_SUFFIXES else sub(r"([-_]\d{1,3})+$", "", path.stem)
    return zlib.crc32(stem.encode())
