"""Clips through the codec, kept in a cache: drawn, encoded with x264, and read by their own motion vectors."""

import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.motion_questions import footage
from benchmarks.motion_questions.scenes import (
    ANSWERS,
    FPS,
    SIZE,
    Example,
    Kind,
    counted,
    in_time,
    one_object,
    pan,
    zoom,
)
from codec import Clip, VideoWriter, atomic_path, iter_clips

SHARE: dict[Kind, float] = {"pan": 0.22, "zoom": 0.16, "object": 0.22, "count": 0.24, "time": 0.16}
"""Of all clips."""
PRESETS = ("ultrafast", "veryfast", "fast", "medium")
"""x264's, in turn."""
CLIPS_A_SHARD = 20
OPPOSITES = (("left", "right"), ("up", "down"), ("closer", "away"), ("faster", "slower"), ("forwards", "backwards"))
TURNED = {**dict(OPPOSITES), **{b: a for a, b in OPPOSITES}}
"""What becomes of an answer when time runs the other way."""
FOOTAGE_SHARE = 0.3
"""Of cameras that move over footage, which moves by itself, and not over a photograph."""
VERSION = 3
"""Raised when clips are made in another way: older caches are made anew."""


@dataclass(frozen=True)
class Asked:
    """A video of `n` clips that has been read, and its questions."""

    keyframes: np.ndarray
    """uint8 [n, 144, 256, 3] RGB."""
    vectors: np.ndarray
    """float32 [n, 24, 20, 36, 2], fractions of the frame."""
    valid: np.ndarray
    """bool [n, 24, 20, 36]."""
    answers: dict[str, str]


@dataclass(frozen=True)
class Material:
    """Folders that clips are made of."""

    photos: Path
    still_videos: Path
    """Of cameras that stand still: a virtual one is moved over them."""
    moving_videos: Path
    """Of cameras that move: where they travel, shown forwards or backwards."""


def asked(
    material: Material, cache: Path, split: str, count: int, *, done: Callable[[int], None] = lambda shards: None
) -> Iterator[Asked]:
    """`count` videos of a split, from the cache where they are there; a killed run goes on where it stopped.

    Calls `done(videos so far)` after every shard.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, CLIPS_A_SHARD):
        indices = range(start, min(start + CLIPS_A_SHARD, count))
        path = cache / f"{split}-{start:05d}-{len(indices)}.safetensors"
        if not _is_current(path):
            _write(path, [_read(_example(material, split, index), index) for index in indices])
        yield from _load(path)
        done(indices.stop)


def kind_of(index: int) -> Kind:
    """Which kind of scene video `index` is: shares are kept in every hundred."""
    place, total = (index * 37 % 100) / 100, 0.0
    for kind, share in SHARE.items():
        total += share
        if place < total - 1e-9:
            return kind
    return "time"


def _example(material: Material, split: str, index: int) -> Example:
    rng = np.random.default_rng([zlib.crc32(split.encode()), index])
    photos = footage.photographs(material.photos, split)
    kind = kind_of(index)
    if kind == "time":
        return in_time(rng, footage.travel(footage.videos(material.moving_videos, split), rng))
    if kind == "object":
        return one_object(rng, footage.photograph(photos, rng), footage.photograph(photos, rng))
    if kind == "count":
        return counted(rng, footage.photograph(photos, rng), [footage.photograph(photos, rng) for _ in range(3)])
    if rng.uniform() < FOOTAGE_SHARE:
        picture = footage.playing(footage.stretch(footage.videos(material.still_videos, split), rng))
    else:
        picture = footage.photograph(photos, rng)
    return pan(rng, picture) if kind == "pan" else zoom(rng, picture)


def _read(example: Example, index: int) -> Asked:
    """Through an x264 file and the codec's native vectors, like any user's video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        options = {"preset": PRESETS[index % len(PRESETS)]}
        with VideoWriter(path, Fraction(FPS), SIZE, options=options) as writer:
            for frame in example.frames():
                writer.write(frame)
        clips: list[Clip] = list(iter_clips(path, motion_source="native"))
    return Asked(
        keyframes=np.stack([clip.keyframe for clip in clips]),
        vectors=np.stack([clip.motion.vectors for clip in clips]),
        valid=np.stack([clip.motion.valid for clip in clips]),
        answers=example.answers,
    )


def mirrored(video: Asked, across: bool, down: bool) -> Asked:
    """The video as its mirror image would have been: more to learn from, and the answers that go with it."""
    turned = video
    for axis, wanted, names in ((0, across, ("left", "right")), (1, down, ("up", "down"))):
        if not wanted:
            continue
        sign = np.ones(2, np.float32)
        sign[axis] = -1
        swap = {names[0]: names[1], names[1]: names[0]}
        turned = Asked(
            keyframes=np.flip(turned.keyframes, 2 - axis),
            vectors=np.flip(turned.vectors, 3 - axis) * sign,
            valid=np.flip(turned.valid, 3 - axis),
            answers={question: swap.get(answer, answer) for question, answer in turned.answers.items()},
        )
    return turned


def backwards(video: Asked) -> Asked:
    """The first clip filmed from its end, where the second one's keyframe stands, to its beginning.

    A vector that leads from a frame to the one before leads, turned round, from there to here; that it now stands where
    its content came from, a fraction of a cell away, is let go. Nothing is known of a clip after it.
    """
    steps = video.vectors.shape[1]
    vectors, valid = np.concatenate(video.vectors), np.concatenate(video.valid)
    # frame k of the turned clip is frame `steps - k`; its way back is the way there of the frame after that
    order = steps + 1 - np.arange(steps)
    blank = [np.zeros_like(video.vectors[:1])] * (len(video.vectors) - 1)
    unknown = [np.zeros_like(video.valid[:1])] * (len(video.valid) - 1)
    return Asked(
        keyframes=video.keyframes[::-1],
        vectors=np.concatenate([-vectors[order][None], *blank]),
        valid=np.concatenate([valid[order][None], *unknown]),
        answers={question: TURNED.get(answer, answer) for question, answer in video.answers.items()},
    )


def _is_current(path: Path) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "numpy") as file:
        return (file.metadata() or {}).get("version") == str(VERSION)


def _write(path: Path, videos: list[Asked]) -> None:
    arrays: dict[str, np.ndarray] = {}
    questions = list(ANSWERS)
    for index, video in enumerate(videos):
        arrays[f"{index}.keyframes"] = np.ascontiguousarray(video.keyframes)
        arrays[f"{index}.vectors"] = video.vectors
        arrays[f"{index}.valid"] = np.packbits(video.valid, axis=-1)
        arrays[f"{index}.answers"] = np.array(
            [[questions.index(q), ANSWERS[q].index(a)] for q, a in video.answers.items()], np.int64
        )
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"version": str(VERSION), "videos": str(len(videos))})


def _load(path: Path) -> Iterator[Asked]:
    questions = list(ANSWERS)
    with safe_open(path, "numpy") as file:
        for index in range(int((file.metadata() or {})["videos"])):
            vectors = file.get_tensor(f"{index}.vectors")
            bits = np.unpackbits(file.get_tensor(f"{index}.valid"), axis=-1, count=vectors.shape[3])
            pairs = file.get_tensor(f"{index}.answers")
            answers = {questions[q]: ANSWERS[questions[q]][a] for q, a in pairs}
            yield Asked(file.get_tensor(f"{index}.keyframes"), vectors, bits.astype(bool), answers)
