"""Plain k-means codes of motion: the baseline of a motion tokenizer, without a network and without global motion.

    python -m benchmarks.kmeans TRAIN_CACHE --quantizers 4 [--out benchmarks/kmeans.safetensors]

fits them on a folder that `videotok train prepare` wrote. benchmarks/kmeans.safetensors was made so from the videos
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
from motion_vq.attention import fold, unfold
from motion_vq.fields import compand, expand, to_fractions, to_pixels
from motion_vq.vector_quantizer import k_means, nearest
from videotok.training.dataset import Cache, Row

FITTED = Path(__file__).with_suffix(".safetensors")
PATCH = (8, 4, 4)
UNIT_PIXELS = 1.0
NUM_CODES = 1024
TRAINING_CLIPS = 600


@dataclass(frozen=True)
class KMeansCodes:
    """Residual k-means of log-companded patches of 8 steps x 4 x 4 cells: one id for each patch and quantizer."""

    codebooks: list[Tensor]
    """float32 [NUM_CODES, 2 * 8 * 4 * 4], one for each quantizer."""

    @classmethod
    def fit(cls, vectors: Tensor, num_quantizers: int) -> "KMeansCodes":
        """Fit codebooks to fields [B, T, h, w, 2] in fractions of the frame."""
        residual = _patches(vectors).flatten(0, 3)
        codebooks = []
        for _ in range(num_quantizers):
            codebooks.append(k_means(residual, NUM_CODES))
            residual = residual - codebooks[-1][nearest(residual, codebooks[-1])]
        return cls(codebooks)

    @classmethod
    def load(cls, path: Path = FITTED) -> "KMeansCodes":
        """Read a file that `save` wrote."""
        arrays = load_file(path)
        return cls([arrays[f"level_{number}"].float() for number in range(len(arrays))])

    def save(self, path: Path) -> None:
        """Write the codebooks in half precision."""
        arrays = {f"level_{number}": codes.half().contiguous() for number, codes in enumerate(self.codebooks)}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary)

    def coded(self, vectors: Tensor, num_quantizers: int) -> Tensor:
        """Return fields [B, T, h, w, 2] after coding with the first quantizers.

        Raises:
            ValueError: more quantizers than were fitted.
        """
        if num_quantizers > len(self.codebooks):
            raise ValueError(
                f"`num_quantizers` (={num_quantizers}) must be at most {len(self.codebooks)}, the number that was "
                "fitted; fit more with --quantizers"
            )
        patches = _patches(vectors)
        residual = patches.flatten(0, 3)
        for codes in self.codebooks[:num_quantizers]:
            residual = residual - codes[nearest(residual, codes)]
        return to_fractions(expand(unfold(patches - residual.view_as(patches), PATCH), UNIT_PIXELS))

    @staticmethod
    def ids_per_clip(vectors: Tensor, num_quantizers: int) -> int:
        """Return the number of ids of a clip in fields [B, T, h, w, 2]."""
        _, steps, height, width, _ = vectors.shape
        return num_quantizers * (steps // PATCH[0]) * (height // PATCH[1]) * (width // PATCH[2])


@dataclass(frozen=True)
class Fields:
    """Motion fields of a batch of clips."""

    vectors: Tensor
    """float32 [B, T, h, w, 2] in fractions of the frame."""
    valid: Tensor
    """bool [B, T, h, w]."""


def read_fields(rows: list[Row]) -> Fields:
    """Read the motion fields of clips in a cache."""
    items = [row.motion() for row in rows]
    vectors = torch.from_numpy(np.stack([item["vectors"] for item in items]))
    return Fields(vectors, torch.from_numpy(np.stack([item["valid"] for item in items])))


def training_vectors(rows: list[Row]) -> Tensor:
    """Read the vectors of at most TRAINING_CLIPS clips, as many of each folder."""
    folders: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        folders[row.folder].append(row)
    per_folder = TRAINING_CLIPS // len(folders)
    chosen = [
        found[i]
        for found in folders.values()
        for i in np.linspace(0, len(found) - 1, min(per_folder, len(found))).astype(int)
    ]
    return read_fields(chosen).vectors


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit plain k-means codes of motion.")
    parser.add_argument("cache", type=Path, help="folder that `videotok train prepare` wrote")
    parser.add_argument("--quantizers", type=int, default=4, help="residual quantizers to fit")
    parser.add_argument("--out", type=Path, default=FITTED, help="file to write")
    args = parser.parse_args()
    torch.manual_seed(0)
    KMeansCodes.fit(training_vectors(Cache(args.cache).clips("train")), args.quantizers).save(args.out)
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {args.quantizers} quantizers of {NUM_CODES} codes, {size:.1f} MB")


def _patches(vectors: Tensor) -> Tensor:
    return fold(compand(to_pixels(vectors), UNIT_PIXELS), PATCH)


if __name__ == "__main__":
    main()
