"""Videos and photographs -> a training cache."""

import json
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from codec import ClipSpec, MediaError, atomic_path, iter_clips
from videotok.footage import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from videotok.training.dataset import FORMAT, Shard, jpeg, write_shard

FRAME_SIZE = (256, 144)
"""Width and height that frames of the cache are squashed to."""
KEYFRAME_SIZE = 256
"""Side that keyframes are squashed to; photographs keep their shape, with this short side."""
FILES_A_SHARD = 32


@dataclass
class Prepared:
    """What became of the files of a folder."""

    clips: int = 0
    photos: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """File -> why it could not be read."""


def prepare(
    folder: Path, cache: Path, spec: ClipSpec, *, workers: int = 1, done: Callable[[int, int], None] = lambda i, n: None
) -> Prepared:
    """Cuts every video below `folder` into clips and writes them, and every photograph, into shards below `cache`.

    Shards that are there already are kept, so a killed run goes on where it stopped. `done(files, of)` is called as
    shards are finished.

    Raises:
        MediaError: `folder` has no videos and no photographs.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES)
    if not files:
        raise MediaError(f"{folder} has no videos ({', '.join(sorted(VIDEO_SUFFIXES))}) and no photographs in it")
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    cache.mkdir(parents=True, exist_ok=True)
    chunks = [(_clip_shard, "clips", part) for part in _chunks(videos, FILES_A_SHARD)]
    chunks += [(_photo_shard, "photos", part) for part in _chunks(photos, 16 * FILES_A_SHARD)]

    result, finished = Prepared(), 0
    # not forked: a fork of a process whose libraries have threads may wait for them for ever
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = {
            pool.submit(work, cache / f"{kind}-{_name(part, folder, spec)}.safetensors", folder, part, spec): (
                kind,
                part,
            )
            for work, kind, part in chunks
        }
        for job in as_completed(jobs):
            kind, part = jobs[job]
            count, refused = job.result()
            setattr(result, kind, getattr(result, kind) + count)
            result.refused.update(refused)
            finished += len(part)
            done(finished, len(files))
    facts = {"format": FORMAT, "folder": folder.name, "frames": spec.frames, "fps": str(spec.fps), "grid": spec.grid}
    facts |= {"clips": result.clips, "photos": result.photos, "refused": result.refused}
    with atomic_path(cache / "cache.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    return result


def _chunks(files: list[Path], size: int) -> list[list[Path]]:
    return [files[start : start + size] for start in range(0, len(files), size)]


def _name(files: list[Path], folder: Path, spec: ClipSpec) -> str:
    """The same files and spec give the same shard, whatever else is in the folder."""
    text = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files) + repr(spec)
    return f"{zlib.crc32(text.encode()):08x}"


def _clip_shard(path: Path, folder: Path, files: list[Path], spec: ClipSpec) -> tuple[int, dict[str, str]]:
    cv2.setNumThreads(1)
    if path.exists():
        return _already(path)
    pictures: list[bytes] = []
    columns: dict[str, list] = {
        name: [] for name in ("first_picture", "num_frames", "vectors", "valid", "follows", "source")
    }
    refused, sources = {}, [str(file.relative_to(folder)) for file in files]
    for index, file in enumerate(files):
        try:
            for number, clip in enumerate(iter_clips(file, spec, frames=True, frame_size=FRAME_SIZE)):
                if clip.frames is None or clip.num_frames < 2:
                    continue
                columns["first_picture"].append(len(pictures))
                pictures += [jpeg(frame) for frame in clip.frames]
                pictures.append(
                    jpeg(cv2.resize(clip.keyframe, (KEYFRAME_SIZE, KEYFRAME_SIZE), interpolation=cv2.INTER_AREA))
                )
                columns["num_frames"].append(clip.num_frames)
                columns["vectors"].append(clip.motion.vectors.astype(np.float16))
                columns["valid"].append(clip.motion.valid)
                columns["follows"].append(number > 0)
                columns["source"].append(index)
        except MediaError as error:
            refused[sources[index]] = str(error)
    if pictures:
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        write_shard(path, pictures, arrays, {"sources": sources, "refused": refused})
    return len(columns["source"]), refused


def _photo_shard(path: Path, folder: Path, files: list[Path], spec: ClipSpec) -> tuple[int, dict[str, str]]:
    del spec
    if path.exists():
        return _already(path)
    pictures, rows, refused = [], [], {}
    sources = [str(file.relative_to(folder)) for file in files]
    for index, file in enumerate(files):
        photo = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if photo is None:
            refused[sources[index]] = "not a picture that OpenCV reads"
            continue
        scale = KEYFRAME_SIZE / min(photo.shape[:2])
        size = (round(photo.shape[1] * scale), round(photo.shape[0] * scale))
        photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        pictures.append(jpeg(photo[..., ::-1]))
        rows.append(index)
    if pictures:
        write_shard(path, pictures, {"source": np.asarray(rows)}, {"sources": sources, "refused": refused})
    return len(rows), refused


def _already(path: Path) -> tuple[int, dict[str, str]]:
    shard = Shard(path)
    return len(shard), shard.header["refused"]
