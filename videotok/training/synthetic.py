"""Films of photographs and footage under a virtual camera: pictures that are sharp, and cameras that move in every way.

Footage at hand is mostly of cameras that stand still; a detokenizer that learns from it alone holds still what moves.
Films are encoded with x264 like anybody's video, so that what is learned from is vectors as encoders find them.
"""

import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from codec import REPRODUCIBLE, ClipSpec, MediaError, VideoWriter, atomic_path, iter_clips
from videotok.footage import PHOTO_SUFFIXES, video_files
from videotok.training.dataset import is_validation
from videotok.virtual_camera import Layer, Pose, Scene, steady, wandering
from videotok.virtual_camera import Path as CameraPath

SIZE = (256, 144)
SECONDS = 6.4
"""Three clips of two seconds and the keyframe that follows them."""
RATES = (12, 24, 25, 30)
PRESETS = ("ultrafast", "veryfast", "fast", "medium")
FOOTAGE_SHARE = 0.4
"""Of films whose background is footage that moves by itself, not a photograph."""
CUT_OUTS = (0.4, 0.3, 0.2, 0.1)
"""Chances of none to three photographs' cut-outs before the background."""
STRENGTH = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Of a hand-held camera; see `wandering`."""

Picture = Callable[[float], np.ndarray]
"""What a layer shows at a time in seconds, uint8 [H, W, 3] RGB."""


def films(
    photos: Path, videos: Path | None, folder: Path, count: int, *, done: Callable[[int], None] = lambda number: None
) -> None:
    """Writes film0000.mp4 and so on; what is there already is kept, so a killed run goes on where it stopped.

    What is held back stays apart: films that `is_validation` holds back show held-back photographs and footage alone,
    and the others none of it.

    Args:
        photos: folder of photographs.
        videos: folder of footage for some of the backgrounds, or None.

    Raises:
        MediaError: no photographs, or no videos in a folder that was named.
    """
    pictures = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    footage = [] if videos is None else video_files([videos])
    sides = {
        held: (
            [path for path in pictures if (zlib.crc32(path.name.encode()) % 20 == 0) == held],
            [path for path in footage if is_validation(path.name) == held],
        )
        for held in (False, True)
    }
    if not all(shown for shown, _ in sides.values()):
        raise MediaError(f"{photos} has {len(pictures)} photographs; a part is held back, so give some dozens")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"film{number:04d}.mp4"
        if not path.exists():
            film(path, *sides[is_validation(path.name)], seed=number)
        done(number + 1)


def film(path: Path, photos: Sequence[Path], videos: Sequence[Path], seed: int) -> None:
    """Writes one film of `SECONDS` at `SIZE`; the same files and seed give the same film.

    Args:
        photos: photographs, at least one.
        videos: footage for backgrounds; none where there is none.

    Raises:
        MediaError: a photograph cannot be read.
    """
    rng = np.random.default_rng([0xF11E, seed])
    rate = RATES[rng.integers(len(RATES))]
    footage = bool(videos) and rng.random() < FOOTAGE_SHARE
    background = playing(videos, rate, rng) if footage else None
    layers: list[tuple[Picture, CameraPath, tuple[float, float] | None]] = [
        (background or photograph(photos, rng), camera(rng), None)
    ]
    for _ in range(rng.choice(len(CUT_OUTS), p=CUT_OUTS)):
        oval = (rng.uniform(0.12, 0.4), rng.uniform(0.2, 0.7))
        layers.append((photograph(photos, rng), camera(rng, reach=0.35), oval))
    options = {"preset": PRESETS[rng.integers(len(PRESETS))], "crf": str(rng.integers(18, 27)), **REPRODUCIBLE}
    with atomic_path(path) as temporary, VideoWriter(temporary, Fraction(rate), SIZE, options=options) as writer:
        for index in range(round(SECONDS * rate)):
            seconds = index / rate
            shown = [Layer(picture(seconds), way, oval) for picture, way, oval in layers]
            writer.write(Scene(shown, SIZE).frame(seconds))


def camera(rng: np.random.Generator, reach: float = 0.1) -> CameraPath:
    """A hand that shakes more or less, over a pan, turn or zoom of any speed, also none."""
    held = wandering(int(rng.integers(1 << 30)), STRENGTH[rng.integers(len(STRENGTH))])
    moves = rng.random() < 0.6
    angle, speed = rng.uniform(0, 2 * np.pi), moves * np.exp(rng.normal(-2.8, 0.8))
    pan = (float(speed * np.cos(angle)), float(speed * np.sin(angle)))
    zoom = float(np.exp(moves * (rng.random() < 0.4) * rng.normal(0, 0.08)))
    start = Pose(*rng.uniform(-reach, reach, 2), zoom=rng.uniform(1.0, 1.3), degrees=rng.uniform(-8, 8))
    way = steady(pan, zoom, float(moves * (rng.random() < 0.3) * rng.normal(0, 4)), start)

    def path(seconds: float) -> Pose:
        a, b = way(seconds), held(seconds)
        return Pose(a.x + b.x, a.y + b.y, a.zoom * b.zoom, a.degrees + b.degrees)

    return path


def photograph(photos: Sequence[Path], rng: np.random.Generator) -> Picture:
    """One photograph, the same at all times."""
    path = photos[int(rng.integers(len(photos)))]
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise MediaError(f"{path} is not a picture that OpenCV reads; take it out of the folder")
    picture = np.ascontiguousarray(picture[..., ::-1])
    return lambda seconds: picture


def playing(videos: Sequence[Path], rate: int, rng: np.random.Generator) -> Picture | None:
    """A video's own frames, one after another; None where the one that was drawn is too short."""
    spec = ClipSpec(frames=round(SECONDS * rate), fps=Fraction(rate))
    try:
        clip = next(iter_clips(videos[int(rng.integers(len(videos)))], spec, frames=True, max_clips=1), None)
    except MediaError:
        return None
    if clip is None or clip.frames is None or clip.num_frames < spec.frames:
        return None
    frames = clip.frames
    return lambda seconds: frames[min(round(seconds * rate), len(frames) - 1)]
