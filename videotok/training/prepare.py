"""From a folder of videos and photographs to a training cache (see videotok.training.dataset)."""

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from codec import Clip, ClipSpec, MediaError, iter_clips
from videotok.image_utils import encode_jpeg
from videotok.inputs import PHOTO_SUFFIXES, VIDEO_SUFFIXES
from videotok.io_utils import write_json
from videotok.training.dataset import FORMAT, Shard, write_shard

FRAME_SIZE = (256, 144)
"""Width and height of the cache's frames; other shapes are squashed to it."""
KEYFRAME_SIZE = 256
"""Side of the square that keyframes are squashed to; photographs keep their shape, with this as their short side."""
JPEG_QUALITY = 95
VIDEOS_PER_SHARD = 32
PHOTOS_PER_SHARD = 512


@dataclass
class PrepareResult:
    """What became of the files of a folder, or of one shard."""

    clips: int = 0
    photos: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """File -> why it could not be read."""

    def add(self, other: "PrepareResult") -> None:
        """Add the counts and refusals of another result."""
        self.clips += other.clips
        self.photos += other.photos
        self.refused |= other.refused


def prepare(
    folder: Path,
    cache: Path,
    spec: ClipSpec,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareResult:
    """Write every video below `folder`, cut into clips, and every photograph to the folder `cache`.

    Shards that exist already are kept, so that a killed run continues where it stopped.

    Args:
        folder: of the videos and photographs.
        cache: folder to write.
        spec: how videos are cut into clips.
        workers: processes.
        progress: called with the number of files done and of all files whenever a shard is finished.

    Raises:
        MediaError: `folder` has no videos and no photographs.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES)
    if not files:
        raise MediaError(
            f"{folder} has no videos and no photographs: no file's name ends as theirs do (.mp4, .mkv, .jpg, .png …); "
            "name another folder"
        )
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    cache.mkdir(parents=True, exist_ok=True)

    result, done = PrepareResult(), 0
    # not forked: a fork of a process whose libraries have threads may wait for them for ever
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = {}
        for part in _parts(videos, VIDEOS_PER_SHARD):
            path = cache / f"clips-{_shard_key(part, folder, spec)}.safetensors"
            jobs[pool.submit(_write_clip_shard, path, folder, part, spec)] = len(part)
        for part in _parts(photos, PHOTOS_PER_SHARD):
            path = cache / f"photos-{_shard_key(part, folder, spec)}.safetensors"
            jobs[pool.submit(_write_photo_shard, path, folder, part)] = len(part)
        for job in as_completed(jobs):
            result.add(job.result())
            done += jobs[job]
            progress(done, len(files))
    facts = {"format": FORMAT, "folder": folder.name, "frames": spec.frames, "fps": str(spec.fps), "grid": spec.grid}
    facts |= {"clips": result.clips, "photos": result.photos, "refused": result.refused}
    write_json(cache / "cache.json", facts)
    return result


def _parts(files: list[Path], size: int) -> Iterator[list[Path]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _shard_key(files: list[Path], folder: Path, spec: ClipSpec) -> str:
    """Return a name that depends on the files and the spec alone, whatever else is in the folder."""
    text = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files) + repr(spec)
    return f"{zlib.crc32(text.encode()):08x}"


def _write_clip_shard(path: Path, folder: Path, files: list[Path], spec: ClipSpec) -> PrepareResult:
    cv2.setNumThreads(1)
    if path.exists():
        shard = Shard(path)
        return PrepareResult(clips=len(shard), refused=shard.header["refused"])
    pictures: list[bytes] = []
    columns: dict[str, list] = {
        name: [] for name in ("first_picture", "num_frames", "vectors", "valid", "follows", "source")
    }
    refused, sources = {}, [str(file.relative_to(folder)) for file in files]
    for index, file in enumerate(files):
        try:
            for number, clip in enumerate(iter_clips(file, spec, frames=True, frame_size=FRAME_SIZE)):
                if clip.frames is not None and clip.num_frames >= 2:
                    columns["first_picture"].append(len(pictures))
                    columns["follows"].append(number > 0)
                    columns["source"].append(index)
                    pictures += _add_clip(clip, columns)
        except MediaError as error:
            refused[sources[index]] = str(error)
    if pictures:
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        write_shard(path, pictures, arrays, {"sources": sources, "refused": refused})
    return PrepareResult(clips=len(columns["source"]), refused=refused)


def _add_clip(clip: Clip, columns: dict[str, list]) -> list[bytes]:
    """Append a clip's motion to the columns; return its frames and its keyframe as JPEG files."""
    columns["num_frames"].append(clip.num_frames)
    columns["vectors"].append(clip.motion.vectors.astype(np.float16))
    columns["valid"].append(clip.motion.valid)
    keyframe = cv2.resize(clip.keyframe, (KEYFRAME_SIZE, KEYFRAME_SIZE), interpolation=cv2.INTER_AREA)
    frames = [] if clip.frames is None else clip.frames
    return [encode_jpeg(picture, JPEG_QUALITY) for picture in (*frames, keyframe)]


def _write_photo_shard(path: Path, folder: Path, files: list[Path]) -> PrepareResult:
    if path.exists():
        shard = Shard(path)
        return PrepareResult(photos=len(shard), refused=shard.header["refused"])
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
        pictures.append(encode_jpeg(np.ascontiguousarray(photo[..., ::-1]), JPEG_QUALITY))
        rows.append(index)
    if pictures:
        write_shard(path, pictures, {"source": np.asarray(rows)}, {"sources": sources, "refused": refused})
    return PrepareResult(photos=len(rows), refused=refused)
