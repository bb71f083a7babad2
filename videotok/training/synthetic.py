"""Synthetic training videos: photographs and footage under a virtual camera that moves in every way.

Most footage at hand is from cameras that stand still; a video detokenizer trained on it alone holds still what moves.
The videos are encoded with x264 like any other, so that their motion vectors are those an encoder finds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from codec import REPRODUCIBLE, ClipSpec, MediaError, VideoWriter, atomic_path, iter_clips
from videotok.inputs import PHOTO_SUFFIXES, video_files
from videotok.training.dataset import is_validation
from videotok.virtual_camera import Layer, Pose, Scene, constant_speed, hand_held_path
from videotok.virtual_camera import Path as CameraPath

SIZE = (256, 144)
"""Width and height."""
SECONDS = 6.4
"""Three clips of two seconds and the keyframe that follows them."""
RATES = (12, 24, 25, 30)
"""Frames per second."""
PRESETS = ("ultrafast", "veryfast", "fast", "medium")
"""Of x264."""
FOOTAGE_SHARE = 0.4
"""Share of videos whose background is footage, which moves by itself, instead of a photograph."""
FOREGROUND_PROBABILITIES = (0.4, 0.3, 0.2, 0.1)
"""Of 0, 1, 2 and 3 photographs cut out to an oval in front of the background."""
SHAKE_STRENGTHS = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Of the hand-held camera; see `hand_held_path`."""

Picture = Callable[[float], np.ndarray]
"""What a layer shows at a time in seconds, uint8 [H, W, 3] RGB."""


@dataclass(frozen=True)
class Sources:
    """What the videos of one split may show."""

    photos: Sequence[Path]
    videos: Sequence[Path]


def synthesize(
    photos: Path,
    videos: Path | None,
    folder: Path,
    count: int,
    *,
    progress: Callable[[int], None] = lambda number: None,
) -> None:
    """Write `count` videos, synthetic0000.mp4 and so on; those that exist are kept, so a killed run continues.

    The splits stay apart: videos that `is_validation` holds back show held-back photographs and footage only, and the
    others none of them.

    Args:
        photos: folder of photographs.
        videos: folder of footage for some of the backgrounds, or None.
        folder: folder to write to.
        count: number of videos.
        progress: called with the number of videos done.

    Raises:
        MediaError: too few photographs, or no videos in a folder that was named.
    """
    pictures = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    footage = [] if videos is None else video_files([videos])
    splits = {
        held_back: Sources(
            [path for path in pictures if is_validation(path) == held_back],
            [path for path in footage if is_validation(path) == held_back],
        )
        for held_back in (False, True)
    }
    if not all(sources.photos for sources in splits.values()):
        raise MediaError(
            f"{photos} has {len(pictures)} photographs, too few: about one in twenty is held back for validation, and "
            "both splits need at least one; names that differ in their last number alone, such as IMG_1.jpg and "
            "IMG_2.jpg, are held back or not together: rename some, or add others"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"synthetic{number:04d}.mp4"
        if not path.exists():
            write_video(path, splits[is_validation(path)], seed=number)
        progress(number + 1)


def write_video(path: Path, sources: Sources, seed: int) -> None:
    """Write one video of `SECONDS` at `SIZE`; the same sources and seed give the same file.

    Args:
        path: the file.
        sources: at least one photograph; without videos every background is a photograph.
        seed: of everything that is random.

    Raises:
        MediaError: a photograph cannot be read.
    """
    rng = np.random.default_rng([0xF11E, seed])
    rate = int(RATES[rng.integers(len(RATES))])
    has_footage = bool(sources.videos) and rng.random() < FOOTAGE_SHARE
    background = random_footage(sources.videos, rate, rng) if has_footage else None
    layers: list[tuple[Picture, CameraPath, tuple[float, float] | None]] = [
        (background or random_photo(sources.photos, rng), random_camera(rng), None)
    ]
    for _ in range(rng.choice(len(FOREGROUND_PROBABILITIES), p=FOREGROUND_PROBABILITIES)):
        oval = (rng.uniform(0.12, 0.4), rng.uniform(0.2, 0.7))
        layers.append((random_photo(sources.photos, rng), random_camera(rng, offset=0.35), oval))
    options = {"preset": PRESETS[rng.integers(len(PRESETS))], "crf": str(rng.integers(18, 27)), **REPRODUCIBLE}
    with atomic_path(path) as temporary, VideoWriter(temporary, Fraction(rate), SIZE, options=options) as writer:
        for index in range(round(SECONDS * rate)):
            seconds = index / rate
            scene = Scene([Layer(picture(seconds), camera, oval) for picture, camera, oval in layers], SIZE)
            writer.write(scene.frame(seconds))


def random_camera(rng: np.random.Generator, offset: float = 0.1) -> CameraPath:
    """Return a hand-held camera of random shake over a pan, zoom and turn of random speed, each of which may be none.

    It starts at most `offset` frame widths and heights from the centre.
    """
    shake = hand_held_path(int(rng.integers(1 << 30)), SHAKE_STRENGTHS[rng.integers(len(SHAKE_STRENGTHS))])
    moves = rng.random() < 0.6
    angle, speed = rng.uniform(0, 2 * np.pi), moves * np.exp(rng.normal(-2.8, 0.8))
    pan = (float(speed * np.cos(angle)), float(speed * np.sin(angle)))
    zoom = float(np.exp(moves * (rng.random() < 0.4) * rng.normal(0, 0.08)))
    start = Pose(*rng.uniform(-offset, offset, 2), zoom=rng.uniform(1.0, 1.3), degrees=rng.uniform(-8, 8))
    path = constant_speed(pan, zoom, float(moves * (rng.random() < 0.3) * rng.normal(0, 4)), start)

    def camera(seconds: float) -> Pose:
        a, b = path(seconds), shake(seconds)
        return Pose(a.x + b.x, a.y + b.y, a.zoom * b.zoom, a.degrees + b.degrees)

    return camera


def random_photo(photos: Sequence[Path], rng: np.random.Generator) -> Picture:
    """Return one of the photographs, the same at all times.

    Raises:
        MediaError: it cannot be read.
    """
    path = photos[int(rng.integers(len(photos)))]
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise MediaError(f"{path} is not a picture that OpenCV reads; take it out of the folder")
    picture = np.ascontiguousarray(picture[..., ::-1])
    return lambda seconds: picture


def random_footage(videos: Sequence[Path], rate: int, rng: np.random.Generator) -> Picture | None:
    """Return the frames of one of the videos over time; None if it is shorter than `SECONDS` or cannot be read."""
    spec = ClipSpec(frames=round(SECONDS * rate), fps=Fraction(rate))
    try:
        clip = next(iter_clips(videos[int(rng.integers(len(videos)))], spec, frames=True, max_clips=1), None)
    except MediaError:
        return None
    if clip is None or clip.frames is None or clip.num_frames < spec.frames:
        return None
    frames = clip.frames
    return lambda seconds: frames[min(round(seconds * rate), len(frames) - 1)]
