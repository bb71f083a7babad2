"""Plain k-means codes of motion, the bar that a motion tokenizer must clear: no network, no camera.

    python -m benchmarks.kmeans TRAIN_CACHE --levels 4 [--out benchmarks/kmeans.safetensors]

fits them on a folder that `videotok train prepare` wrote. benchmarks/kmeans.safetensors was made so from the footage
that the shipped weights were trained on.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import atomic_path
from motion_vq.networks import fold, unfold
from motion_vq.fields import compand, expand, to_fractions, to_pixels
from motion_vq.vector_quantizer import k_means, nearest
from videotok.training.dataset import Cache, Row

FITTED = Path(__file__).with_suffix(".safetensors")
PATCH = (8, 4, 4)
UNIT_PIXELS = 1.0
WORDS = 1024
TRAIN_CLIPS = 600


@dataclass(frozen=True)
class KMeansCodes:
    """Residual k-means of log-companded patches of 8 steps x 4 x 4 cells: one id a patch and level."""

    codebooks: list[Tensor]
    """float32 [WORDS, 2 * 8 * 4 * 4] a level."""

    @classmethod
    def fit(cls, vectors: Tensor, levels: int) -> "KMeansCodes":
        """Codebooks of fields [B, T, h, w, 2] in fractions of the frame."""
        residual = cls._patches(vectors).flatten(0, 3)
        codebooks = []
        for _ in range(levels):
            codebooks.append(k_means(residual, WORDS))
            residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
        return cls(codebooks)

    @classmethod
    def load(cls, path: Path = FITTED) -> "KMeansCodes":
        """Those of a file that `save` wrote."""
        arrays = load_file(path)
        return cls([arrays[f"level_{number}"].float() for number in range(len(arrays))])

    def save(self, path: Path) -> None:
        """Writes them in half precision, beside the place and renamed into it."""
        arrays = {f"level_{number}": book.half().contiguous() for number, book in enumerate(self.codebooks)}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)

    def coded(self, vectors: Tensor, levels: int) -> Tensor:
        """The fields as the first `levels` levels tell them.

        Raises:
            ValueError: more levels than were fitted.
        """
        if levels > len(self.codebooks):
            raise ValueError(
                f"k-means codes have {len(self.codebooks)} levels, {levels} were asked for; fit more with --levels"
            )
        patches = self._patches(vectors)
        residual = patches.flatten(0, 3)
        for codebook in self.codebooks[:levels]:
            residual = residual - codebook[nearest(residual, codebook)]
        return to_fractions(expand(unfold(patches - residual.view_as(patches), PATCH), UNIT_PIXELS))

    @staticmethod
    def ids(vectors: Tensor, levels: int) -> int:
        """Ids a clip of fields [B, T, h, w, 2]."""
        _, steps, height, width, _ = vectors.shape
        return levels * (steps // PATCH[0]) * (height // PATCH[1]) * (width // PATCH[2])

    @staticmethod
    def _patches(vectors: Tensor) -> Tensor:
        return fold(compand(to_pixels(vectors), UNIT_PIXELS), PATCH)


def fields(rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Vectors [B, T, h, w, 2] and valid [B, T, h, w] of clips in a cache."""
    items = [row.motion() for row in rows]
    vectors = torch.from_numpy(np.stack([item["vectors"] for item in items]))
    return vectors, torch.from_numpy(np.stack([item["valid"] for item in items]))


def sample(rows: list[Row]) -> Tensor:
    """Fields of at most TRAIN_CLIPS clips, as many of each folder."""
    folders: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        folders[row.folder].append(row)
    each = TRAIN_CLIPS // len(folders)
    chosen = [
        kind[i] for kind in folders.values() for i in np.linspace(0, len(kind) - 1, min(each, len(kind))).astype(int)
    ]
    return fields(chosen)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits plain k-means codes of motion.")
    parser.add_argument("cache", type=Path, help="folder that `videotok train prepare` wrote")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--out", type=Path, default=FITTED)
    args = parser.parse_args()
    torch.manual_seed(0)
    KMeansCodes.fit(sample(Cache(args.cache).clips("train")), args.levels).save(args.out)
    print(f"{args.out}: {args.levels} levels of {WORDS} words, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
