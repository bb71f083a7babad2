"""Labeled videos: scenes encoded with x264 and read by their own motion vectors, kept in a cache."""

import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from codec import Clip, VideoWriter, atomic_path, iter_clips
from videotok.lm.motion_questions import footage
from videotok.lm.motion_questions.scenes import (
    ANSWERS,
    FPS,
    SIZE,
    Example,
    SceneKind,
    count_example,
    object_example,
    pan_example,
    time_example,
    zoom_example,
)

KIND_SHARES: dict[SceneKind, float] = {"pan": 0.22, "zoom": 0.16, "object": 0.22, "count": 0.24, "time": 0.16}
"""Share of all videos."""
PRESETS = ("ultrafast", "veryfast", "fast", "medium")
"""Of x264, in turn."""
VIDEOS_PER_SHARD = 20
OPPOSITES = (("left", "right"), ("up", "down"), ("closer", "away"), ("faster", "slower"), ("forwards", "backwards"))
REVERSED_ANSWERS = {**dict(OPPOSITES), **{b: a for a, b in OPPOSITES}}
"""Answer -> answer when time is reversed."""
FOOTAGE_SHARE = 0.3
"""Share of camera scenes over footage, which has motion of its own, and not over a photograph."""
SLOWER = 0.6
"""Of `augment`."""
FURTHER_FRAMES = 4
"""Of the first clip, beside the keyframes: on average they take at least the 161 ids of the clip's motion."""
CACHE_VERSION = 3
"""Raised when videos are made in another way; older caches are then made again."""


@dataclass(frozen=True)
class LabeledVideo:
    """A video of n clips as the codec reads it, and the answers to its questions."""

    keyframes: np.ndarray
    """uint8 [n, 144, 256, 3] RGB."""
    vectors: np.ndarray
    """float32 [n, 24, 20, 36, 2], fractions of the frame."""
    valid: np.ndarray
    """bool [n, 24, 20, 36]."""
    answers: dict[str, str]
    """Question -> answer."""
    further_frames: np.ndarray | None = None
    """uint8 [FURTHER_FRAMES, 144, 256, 3] RGB: frames of the first clip between the first and the second keyframe,
    evenly spaced, in the order of time; None where not asked for."""


@dataclass(frozen=True)
class SourceFolders:
    """Folders of the material that videos are made of."""

    photos: Path
    still_videos: Path
    """Recorded by cameras that stand still: a virtual camera moves over them."""
    moving_videos: Path
    """Recorded by moving cameras: where they travel, shown forwards or backwards."""


def labeled_videos(
    sources: SourceFolders,
    cache: Path,
    split: footage.Split,
    count: int,
    *,
    with_further_frames: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Iterator[LabeledVideo]:
    """Yield `count` videos of a split, from the cache where it has them; a killed run resumes at the next shard.

    Args:
        sources: folders of the material.
        cache: folder.
        split: `train` or `test`.
        count: number of videos.
        with_further_frames: also keep frames between the keyframes; such videos have cache files of their own.
        on_progress: called with the number of videos so far after every shard.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, VIDEOS_PER_SHARD):
        indices = range(start, min(start + VIDEOS_PER_SHARD, count))
        suffix = f"-frames{FURTHER_FRAMES}" if with_further_frames else ""
        path = cache / f"{split}-{start:05d}-{len(indices)}{suffix}.safetensors"
        if not _is_current(path):
            examples = ((index, _make_example(sources, split, index)) for index in indices)
            _write_shard(path, [encode_and_read(example, index, with_further_frames) for index, example in examples])
        yield from _read_shard(path)
        on_progress(indices.stop)


def kind_of(index: int) -> SceneKind:
    """Return the kind of scene of video number `index`; every hundred videos have `KIND_SHARES`."""
    position, total = (index * 37 % 100) / 100, 0.0
    for kind, share in KIND_SHARES.items():
        total += share
        if position < total - 1e-9:
            return kind
    return "time"


def _make_example(sources: SourceFolders, split: footage.Split, index: int) -> Example:
    rng = np.random.default_rng([zlib.crc32(split.encode()), index])
    photos = footage.photographs(sources.photos, split)
    kind = kind_of(index)
    if kind == "time":
        return time_example(rng, footage.random_travel_stretch(footage.videos(sources.moving_videos, split), rng))
    if kind == "object":
        return object_example(rng, footage.random_photograph(photos, rng), footage.random_photograph(photos, rng))
    if kind == "count":
        background = footage.random_photograph(photos, rng)
        return count_example(rng, background, [footage.random_photograph(photos, rng) for _ in range(3)])
    if rng.uniform() < FOOTAGE_SHARE:
        image = footage.playback(footage.random_stretch(footage.videos(sources.still_videos, split), rng))
    else:
        image = footage.random_photograph(photos, rng)
    return pan_example(rng, image) if kind == "pan" else zoom_example(rng, image)


def encode_and_read(example: Example, index: int, with_further_frames: bool = False) -> LabeledVideo:
    """Write an example as an x264 file and read it by its native vectors, like any user's video.

    `index` chooses the preset. Further frames are those of the decoded file, like its keyframes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        options = {"preset": PRESETS[index % len(PRESETS)]}
        with VideoWriter(path, Fraction(FPS), SIZE, options=options) as writer:
            for frame in example.frames():
                writer.write(frame)
        clips: list[Clip] = list(iter_clips(path, motion_source="native", frames=with_further_frames))
    return LabeledVideo(
        keyframes=np.stack([clip.keyframe for clip in clips]),
        vectors=np.stack([clip.motion.vectors for clip in clips]),
        valid=np.stack([clip.motion.valid for clip in clips]),
        answers=example.answers,
        further_frames=_further_frames(clips[0]) if with_further_frames else None,
    )


def _further_frames(clip: Clip) -> np.ndarray:
    assert clip.frames is not None
    # symmetric in time, so that the reversed clip has the same ones
    positions = np.linspace(0, len(clip.frames), FURTHER_FRAMES + 2)[1:-1]
    return clip.frames[np.rint(positions).astype(int)]


def augment(video: LabeledVideo, variant: int) -> LabeledVideo:
    """Return a variant of a video.

    Args:
        video: the video.
        variant: a sum of 1 (mirror left and right), 2 (mirror up and down), 4 (reverse time), 8 (`SLOWER` motion; the
            keyframes stay, and further frames, which would not fit it, are left out).
    """
    mirrored = mirror(video, bool(variant & 1), bool(variant & 2))
    found = reverse_time(mirrored) if variant & 4 else mirrored
    if variant & 8:
        return replace(found, vectors=found.vectors * np.float32(SLOWER), further_frames=None)
    return found


def mirror(video: LabeledVideo, horizontal: bool, vertical: bool) -> LabeledVideo:
    """Return the video mirrored, with the answers that go with it."""
    for axis, wanted, names in ((0, horizontal, ("left", "right")), (1, vertical, ("up", "down"))):
        if not wanted:
            continue
        sign = np.ones(2, np.float32)
        sign[axis] = -1
        swap = {names[0]: names[1], names[1]: names[0]}
        video = LabeledVideo(
            keyframes=np.flip(video.keyframes, 2 - axis),
            vectors=np.flip(video.vectors, 3 - axis) * sign,
            valid=np.flip(video.valid, 3 - axis),
            answers={question: swap.get(answer, answer) for question, answer in video.answers.items()},
            further_frames=None if video.further_frames is None else np.flip(video.further_frames, 2 - axis),
        )
    return video


def reverse_time(video: LabeledVideo) -> LabeledVideo:
    """Return the first clip from its end, where the second one's keyframe stands, to its beginning.

    The negative of a vector from a frame to the one before leads from that one to this frame. The reversed vector
    should stand where its content came from, a fraction of a cell away; this is neglected. The motion of later clips is
    unknown.
    """
    steps = video.vectors.shape[1]
    vectors, valid = np.concatenate(video.vectors), np.concatenate(video.valid)
    # frame k of the reversed clip is frame `steps - k`; the step into it is the negative step of the frame after that
    order = steps + 1 - np.arange(steps)
    zeros = [np.zeros_like(video.vectors[:1])] * (len(video.vectors) - 1)
    invalid = [np.zeros_like(video.valid[:1])] * (len(video.valid) - 1)
    return LabeledVideo(
        keyframes=video.keyframes[::-1],
        vectors=np.concatenate([-vectors[order][None], *zeros]),
        valid=np.concatenate([valid[order][None], *invalid]),
        answers={question: REVERSED_ANSWERS.get(answer, answer) for question, answer in video.answers.items()},
        further_frames=None if video.further_frames is None else video.further_frames[::-1],
    )


def _is_current(path: Path) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "numpy") as file:
        return (file.metadata() or {}).get("version") == str(CACHE_VERSION)


def _write_shard(path: Path, videos: list[LabeledVideo]) -> None:
    arrays: dict[str, np.ndarray] = {}
    questions = list(ANSWERS)
    for index, video in enumerate(videos):
        arrays[f"{index}.keyframes"] = np.ascontiguousarray(video.keyframes)
        if video.further_frames is not None:
            arrays[f"{index}.further_frames"] = np.ascontiguousarray(video.further_frames)
        arrays[f"{index}.vectors"] = video.vectors
        arrays[f"{index}.valid"] = np.packbits(video.valid, axis=-1)
        arrays[f"{index}.answers"] = np.array(
            [[questions.index(q), ANSWERS[q].index(a)] for q, a in video.answers.items()], np.int64
        )
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"version": str(CACHE_VERSION), "videos": str(len(videos))})


def _read_shard(path: Path) -> Iterator[LabeledVideo]:
    questions = list(ANSWERS)
    with safe_open(path, "numpy") as file:
        for index in range(int((file.metadata() or {})["videos"])):
            vectors = file.get_tensor(f"{index}.vectors")
            bits = np.unpackbits(file.get_tensor(f"{index}.valid"), axis=-1, count=vectors.shape[3])
            pairs = file.get_tensor(f"{index}.answers")
            answers = {questions[q]: ANSWERS[questions[q]][a] for q, a in pairs}
            name = f"{index}.further_frames"
            further_frames = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
            keyframes = file.get_tensor(f"{index}.keyframes")
            yield LabeledVideo(keyframes, vectors, bits.astype(bool), answers, further_frames)
