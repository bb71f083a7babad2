"""The training cache: clips and photographs as shards that need no video library to read.

A cache is a folder of safetensors files, one per chunk of source files, and `cache.json`:

    clips-00000.safetensors    jpeg uint8 [bytes], jpeg_ends int64 [pictures]: pictures one after another
                               first_picture int64 [n], num_frames int64 [n]: frames of clip i, then its keyframe
                               vectors float16 [n, T, h, w, 2], valid bool [n, T, h, w]
                               follows bool [n]: clip i continues clip i - 1 of the same video
                               source int64 [n]: index into the header's `sources`
    photos-00000.safetensors   jpeg, jpeg_ends, source

Batches of a training run: what is drawn at a step depends on the seed and the step alone.

Motion as the detokenizer will meet it: through the motion tokenizer and back.
"""

import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from re import sub
from typing import Literal

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset

from codec import atomic_path
from motion_vq import MotionTokenizer

FORMAT = "1"
Item = dict[str, np.ndarray]
Split = Literal["train", "validation"]


def jpeg(picture: np.ndarray, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] RGB -> JPEG bytes."""
    ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"picture of shape {picture.shape} and type {picture.dtype} could not be written as JPEG")
    return data.tobytes()


def write_shard(path: Path, pictures: Sequence[bytes], arrays: Item, header: dict) -> None:
    """Writes one shard, whole or not at all."""
    tensors = {
        "jpeg": np.frombuffer(b"".join(pictures), np.uint8),
        "jpeg_ends": np.cumsum([len(data) for data in pictures], dtype=np.int64),
        **arrays,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"videotok": json.dumps({"format": FORMAT, **header})})


def is_validation(source: str) -> bool:
    """One source in twenty is held back; parts of one recording (`name_2`, `name-2`) stay on the same side."""
    recording = sub(r"([-_]\d+)+$", "", source.rsplit(".", 1)[0])
    return zlib.crc32(recording.encode()) % 20 == 0


class Shard:
    """One file of the cache; pictures are read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "numpy") as file:
            self.header = json.loads((file.metadata() or {}).get("videotok", "{}"))
            if self.header.get("format") != FORMAT:
                raise ValueError(
                    f"{path} has cache format {self.header.get('format')}, this version reads {FORMAT}; prepare it anew"
                )
            small = [name for name in file.keys() if name != "jpeg"]  # noqa: SIM118 (not a dict)
            self.arrays = {name: file.get_tensor(name) for name in small}

    def __len__(self) -> int:
        return len(self.arrays["source"])

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    @cached_property
    def _file(self) -> safe_open:
        return safe_open(self.path, "numpy")

    def pictures(self, first: int, count: int) -> np.ndarray:
        """uint8 [count, H, W, 3] RGB; the pictures must be of one size."""
        ends = self.arrays["jpeg_ends"]
        start = int(ends[first - 1]) if first else 0
        data = self._file.get_slice("jpeg")[start : int(ends[first + count - 1])]
        cuts = ends[first : first + count - 1] - start
        decoded = [np.asarray(cv2.imdecode(part, cv2.IMREAD_COLOR)) for part in np.split(data, cuts)]
        return np.ascontiguousarray(np.stack(decoded)[..., ::-1])

    def source(self, row: int) -> str:
        return self.header["sources"][int(self.arrays["source"][row])]


@dataclass(frozen=True)
class Row:
    """Where an item lies."""

    shard: Shard
    row: int

    @property
    def source(self) -> str:
        return self.shard.source(self.row)

    @property
    def folder(self) -> str:
        """First folder of the source's path: footage of one kind."""
        return self.source.split("/")[0] if "/" in self.source else ""

    def motion(self) -> Item:
        """vectors float32 [T, h, w, 2], valid bool [T, h, w], num_frames int64 []."""
        arrays = self.shard.arrays
        return {
            "vectors": arrays["vectors"][self.row].astype(np.float32),
            "valid": arrays["valid"][self.row],
            "num_frames": arrays["num_frames"][self.row],
        }

    def clip(self) -> Item:
        """`motion()` and frames uint8 [T, H, W, 3] (the last one repeated past num_frames).

        Where the next clip of the video is in the cache, also its first frame as next_keyframe_frame uint8 [H, W, 3]
        and its step 0 as next_vectors0 float32 [h, w, 2].
        """
        item = self.motion()
        first, count = int(self.shard.arrays["first_picture"][self.row]), int(item["num_frames"])
        frames = self.shard.pictures(first, count)
        missing = len(item["vectors"]) - count
        item["frames"] = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        following = self.row + 1
        if following < len(self.shard) and self.shard.arrays["follows"][following]:
            picture = int(self.shard.arrays["first_picture"][following])
            item["next_keyframe_frame"] = self.shard.pictures(picture, 1)[0]
            item["next_vectors0"] = self.shard.arrays["vectors"][following, 0].astype(np.float32)
        return item

    def picture(self) -> Item:
        """photo uint8 [H, W, 3] of a photograph, keyframe uint8 [S, S, 3] of a clip."""
        if "first_picture" not in self.shard.arrays:
            return {"photo": self.shard.pictures(self.row, 1)[0]}
        last = int(self.shard.arrays["first_picture"][self.row] + self.shard.arrays["num_frames"][self.row])
        return {"keyframe": self.shard.pictures(last, 1)[0]}


class Cache:
    """Every shard of a folder.

    Raises:
        FileNotFoundError: `folder` is not a training cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "cache.json").is_file():
            raise FileNotFoundError(
                f"{folder} is not a training cache; make one with: videotok train prepare VIDEOS {folder}"
            )
        self.facts = json.loads((self.folder / "cache.json").read_text())

    def clips(self, split: Split | None = None) -> list[Row]:
        return self._rows("clips-*.safetensors", split)

    def photos(self, split: Split | None = None) -> list[Row]:
        return self._rows("photos-*.safetensors", split)

    def _rows(self, pattern: str, split: Split | None) -> list[Row]:
        rows = [
            Row(shard, i)
            for path in sorted(self.folder.glob(pattern))
            for shard in [Shard(path)]
            for i in range(len(shard))
        ]
        return [row for row in rows if split is None or is_validation(row.source) == (split == "validation")]


Read = Callable[[Row], Item]
Prepare = Callable[[list[Item], np.random.Generator], dict[str, torch.Tensor]]


class Draw:
    """Draws rows with an equal chance for every folder: hours of static footage do not drown minutes of moving."""

    def __init__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise ValueError("the cache holds nothing of this kind to draw from; prepare it from other footage")
        folders: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            folders[row.folder].append(row)
        self.folders = [folders[name] for name in sorted(folders)]

    def __call__(self, rng: np.random.Generator) -> Row:
        folder = self.folders[rng.integers(len(self.folders))]
        return folder[rng.integers(len(folder))]


class Batches(Dataset):
    """Item `step` is the whole batch of that step, so that a resumed run sees what an unbroken one would have."""

    def __init__(
        self, rows: Sequence[Row], read: Read, prepare: Prepare, batch_size: int, steps: int, seed: int
    ) -> None:
        self.draw, self.read, self.prepare = Draw(rows), read, prepare
        self.batch_size, self.steps, self.seed = batch_size, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        return self.prepare([self.read(self.draw(rng)) for _ in range(self.batch_size)], rng)

    def from_step(self, step: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of the steps from `step` on, read ahead by `workers` processes."""
        return iter(
            DataLoader(
                self, batch_size=None, sampler=range(step, self.steps), num_workers=workers, worker_init_fn=_one_thread
            )
        )


def validation_batches(
    rows: Sequence[Row], read: Read, prepare: Prepare, batch_size: int, items: int
) -> list[dict[str, torch.Tensor]]:
    """`items` rows spread evenly over `rows`, always the same ones, prepared with a fixed seed."""
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(items, len(rows))).astype(int)]
    parts = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    return [prepare([read(row) for row in part], np.random.default_rng(index)) for index, part in enumerate(parts)]


def _one_thread(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


class CodedMotion:
    """Callable (vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> decoded vectors, same shape.

    The number of levels is drawn anew at each call, so that the detokenizer learns coarse and fine motion alike.
    """

    def __init__(self, tokenizer: MotionTokenizer) -> None:
        self.tokenizer = tokenizer.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, vectors: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        tokens = self.tokenizer.encode(vectors, valid, self.tokenizer.num_quantizers)
        levels = int(rng.integers(1, tokens.num_quantizers + 1))
        return self.tokenizer.decode(tokens.first_quantizers(levels))
