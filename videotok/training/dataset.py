"""The training data: a cache of clips and photographs on disk, its training and validation split, batches by step.

A cache is a folder with `cache.json` and one safetensors file for each group of source files, which can be read without
a video library:

    clips-*.safetensors     jpeg uint8 [bytes], jpeg_ends int64 [pictures]: JPEG files one after another
                            first_picture int64 [n], num_frames int64 [n]: the frames of clip i, then its keyframe
                            vectors float16 [n, T, h, w, 2], valid bool [n, T, h, w]
                            follows bool [n]: clip i continues clip i - 1 of the same video
                            source int64 [n]: index into `sources` of the header
    photos-*.safetensors    jpeg, jpeg_ends, source
"""

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset

from codec import atomic_path
from motion_vq import MotionTokenizer
from videotok.image_utils import resize, to_square_tensor, to_tensor, to_uint8
from videotok.keyframes import KeyframeTokenizerProtocol

FORMAT = "1"
Item = dict[str, np.ndarray]
Split = Literal["train", "validation"]

MIN_KEEP_RATIO = 0.25
"""Rates of `CodedKeyframes` are drawn evenly between this share of the patches and all of them."""
SPLIT_VERSION = 3
"""Version of `is_validation`, recorded in run.json: figures on held-back data compare only within one version. In
version 1 the training cache decided by the path and synthetic videos by the bare name, so that they disagreed; in
version 2 every trailing number was taken for that of a part, the id of a COCO picture too."""


def is_validation(source: str | PurePath) -> bool:
    """Return whether a source file belongs to the validation split, about one in twenty.

    Decided by the file's name alone, without folder and suffix, so that a path and a name always agree. Numbered parts
    of one recording (`walk_2.mp4`, `walk-3.mp4`, `DJI_0042.jpg`) are on the same side; a number of more than eight
    digits is no part but an id or a date.
    """
    recording = re.sub(r"([-_]\d{1,8})+$", "", PurePath(source).stem)
    return zlib.crc32(recording.encode()) % 20 == 0


def write_shard(path: Path, pictures: Sequence[bytes], arrays: Item, header: dict) -> None:
    """Write one file of the cache, atomically.

    Args:
        path: the file.
        pictures: JPEG files.
        arrays: the other arrays of the layout above.
        header: `sources` and `refused`, plain values.
    """
    tensors = {
        "jpeg": np.frombuffer(b"".join(pictures), np.uint8),
        "jpeg_ends": np.cumsum([len(data) for data in pictures], dtype=np.int64),
        **arrays,
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"videotok": json.dumps({"format": FORMAT, **header})})


class Shard:
    """One file of the cache. Small arrays are in memory, pictures are read when asked for.

    Raises:
        ValueError: the file has another format version.
    """

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
        # an open file does not travel to the processes of a DataLoader
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    @cached_property
    def _file(self) -> safe_open:
        return safe_open(self.path, "numpy")

    def pictures(self, first: int, count: int) -> np.ndarray:
        """Return `count` pictures from number `first` on, uint8 [count, H, W, 3] RGB; they must be of one size."""
        ends = self.arrays["jpeg_ends"]
        start = int(ends[first - 1]) if first else 0
        data = self._file.get_slice("jpeg")[start : int(ends[first + count - 1])]
        parts = np.split(data, ends[first : first + count - 1] - start)
        decoded = [np.asarray(cv2.imdecode(part, cv2.IMREAD_COLOR)) for part in parts]
        return np.ascontiguousarray(np.stack(decoded)[..., ::-1])

    def source(self, row: int) -> str:
        """Return the path of a row's source file, relative to the prepared folder."""
        return self.header["sources"][int(self.arrays["source"][row])]


@dataclass(frozen=True)
class Row:
    """One clip or photograph of the cache."""

    shard: Shard
    row: int

    @property
    def source(self) -> str:
        """Path of the source file, relative to the prepared folder."""
        return self.shard.source(self.row)

    @property
    def folder(self) -> str:
        """First folder of the source's path: one kind of footage."""
        return self.source.split("/")[0] if "/" in self.source else ""

    def motion(self) -> Item:
        """Return vectors float32 [T, h, w, 2], valid bool [T, h, w] and num_frames int64 [] of a clip."""
        arrays = self.shard.arrays
        return {
            "vectors": arrays["vectors"][self.row].astype(np.float32),
            "valid": arrays["valid"][self.row],
            "num_frames": arrays["num_frames"][self.row],
        }

    def clip(self) -> Item:
        """Return `motion()` and frames uint8 [T, H, W, 3] of a clip, the last frame repeated past num_frames.

        Also the keyframe as a square, keyframe uint8 [S, S, 3]. If the cache has the next clip of the video, also its
        first frame as next_keyframe_frame uint8 [H, W, 3], its keyframe as next_keyframe uint8 [S, S, 3], and the
        motion into it as next_vectors0 float32 [h, w, 2].
        """
        item = self.motion()
        first, count = int(self.shard.arrays["first_picture"][self.row]), int(item["num_frames"])
        frames = self.shard.pictures(first, count)
        missing = len(item["vectors"]) - count
        item["frames"] = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        item |= self.picture()
        following = self.row + 1
        if following < len(self.shard) and self.shard.arrays["follows"][following]:
            picture = int(self.shard.arrays["first_picture"][following])
            item["next_keyframe_frame"] = self.shard.pictures(picture, 1)[0]
            item["next_keyframe"] = Row(self.shard, following).picture()["keyframe"]
            item["next_vectors0"] = self.shard.arrays["vectors"][following, 0].astype(np.float32)
        return item

    def picture(self) -> Item:
        """Return photo uint8 [H, W, 3] of a photograph, or keyframe uint8 [S, S, 3] of a clip."""
        if "first_picture" not in self.shard.arrays:
            return {"photo": self.shard.pictures(self.row, 1)[0]}
        last = int(self.shard.arrays["first_picture"][self.row] + self.shard.arrays["num_frames"][self.row])
        return {"keyframe": self.shard.pictures(last, 1)[0]}


class Cache:
    """A folder written by `videotok train prepare`.

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
        """Return the clips of a split, or all."""
        return self._rows("clips-*.safetensors", split)

    def photos(self, split: Split | None = None) -> list[Row]:
        """Return the photographs of a split, or all."""
        return self._rows("photos-*.safetensors", split)

    def _rows(self, pattern: str, split: Split | None) -> list[Row]:
        shards = [Shard(path) for path in sorted(self.folder.glob(pattern))]
        rows = [Row(shard, number) for shard in shards for number in range(len(shard))]
        return [row for row in rows if split is None or is_validation(row.source) == (split == "validation")]


Read = Callable[[Row], Item]
"""Such as `Row.clip`."""
Prepare = Callable[[list[Item], np.random.Generator], dict[str, torch.Tensor]]
"""Augments items and stacks them into a batch."""


class Batches(Dataset):
    """Batches of a training run; what is drawn for a step depends on the seed and the step alone.

    Every first-level folder of the footage is drawn with equal chance, so that hours of static footage do not outweigh
    minutes of moving footage.

    Args:
        rows: what to draw from.
        read: reads a row.
        prepare: makes a batch of what was read.
        batch_size: rows a step, over all processes.
        steps: steps of the run.
        seed: of draws and augmentation.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(
        self, rows: Sequence[Row], read: Read, prepare: Prepare, batch_size: int, steps: int, seed: int
    ) -> None:
        if not rows:
            raise ValueError("the cache has nothing of this kind to train on; prepare it from other footage")
        folders: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            folders[row.folder].append(row)
        self._folders = [folders[name] for name in sorted(folders)]
        self._read, self._prepare = read, prepare
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._process, self._num_processes = 0, 1

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self._seed, step])
        rows = [self._draw(rng) for _ in range(self._batch_size)][self._process :: self._num_processes]
        if self._num_processes > 1:
            rng = np.random.default_rng([self._seed, step, self._process])
        return self._prepare([self._read(row) for row in rows], rng)

    def from_step(
        self, step: int, workers: int, process: int = 0, num_processes: int = 1
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of the steps from `step` on, prepared by `workers` processes; see `trainer.StepBatches`."""
        self._process, self._num_processes = process, num_processes
        sampler = range(step, self._steps)
        pinned = torch.cuda.is_available()  # for copies to the GPU that the CPU need not wait for
        options = {"num_workers": workers, "worker_init_fn": _limit_threads, "pin_memory": pinned}
        return iter(DataLoader(self, batch_size=None, sampler=sampler, **options))

    def _draw(self, rng: np.random.Generator) -> Row:
        folder = self._folders[rng.integers(len(self._folders))]
        return folder[rng.integers(len(folder))]


def validation_batches(
    rows: Sequence[Row], read: Read, prepare: Prepare, batch_size: int, items: int
) -> list[dict[str, torch.Tensor]]:
    """Return `items` rows spread evenly over `rows`, always the same ones, as batches prepared with fixed seeds."""
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(items, len(rows))).astype(int)]
    parts = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    return [prepare([read(row) for row in part], np.random.default_rng(index)) for index, part in enumerate(parts)]


def _limit_threads(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


class CodedMotion:
    """Motion encoded and decoded again by a motion tokenizer, with a random number of quantizers at each call.

    The video detokenizer is trained on it, so that it learns from coarse and fine motion alike.

    Callable (vectors float32 [B, T, h, w, 2], valid bool [B, T, h, w], rng) -> decoded vectors, same shape.
    """

    def __init__(self, tokenizer: MotionTokenizer) -> None:
        self.tokenizer = tokenizer.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, vectors: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        tokens = self.tokenizer.encode(vectors, valid, self.tokenizer.num_quantizers)
        return self.tokenizer.decode(tokens.first_quantizers(int(rng.integers(1, tokens.num_quantizers + 1))))


class CodedKeyframes:
    """Keyframes encoded and decoded again by a keyframe tokenizer, at a random rate at each call.

    The video detokenizer is trained on them, so that it learns what decoded keyframes lack at every rate.

    Callable (squares float32 [N, 3, S, S] in [-1, 1], (height, width), rng) -> keyframes [N, 3, height, width].
    """

    def __init__(self, tokenizer: KeyframeTokenizerProtocol) -> None:
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, squares: torch.Tensor, size: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
        tokenizer, (height, width) = self.tokenizer, size
        images = torch.cat([to_square_tensor(image, tokenizer.image_size) for image in to_uint8(squares[None])])
        ratio = MIN_KEEP_RATIO + (1 - MIN_KEEP_RATIO) * rng.random()
        adjustable = tokenizer.drops_patches and tokenizer.chooses_rate
        num_tokens = max(1, round(ratio * tokenizer.num_patches)) if adjustable else None
        tokens = tokenizer.encode(images.to(tokenizer.device), num_tokens=num_tokens)
        decoded = to_uint8(tokenizer.decode(tokens.ids, tokens.keep_mask)[None])
        return torch.cat([to_tensor(resize(image, (width, height))) for image in decoded])
