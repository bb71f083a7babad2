"""Batches of a training run: what is drawn at a step depends on the seed and the step alone."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from videotok.training.cache import Item, Row

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
