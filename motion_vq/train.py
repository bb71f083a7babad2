"""Motion fields that could have been filmed as well: mirrored, played backwards or faster, by another camera.

What the motion tokenizer learns from: fields alone, judged by where they lead.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from motion_vq.attention import fold
from motion_vq.global_motion import PIXELS, to_pixels
from motion_vq.losses import path_loss, step_loss
from motion_vq.tokenizer import MotionTokenizer


def augment(vectors: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Field float32 [T, h, w, 2] in fractions of the frame, bool [T, h, w] -> the same kinds, changed at random."""
    vectors, valid = vectors.copy(), valid.copy()
    if rng.random() < 0.5:
        vectors, valid = vectors[:, :, ::-1] * (-1, 1), valid[:, :, ::-1]
    if rng.random() < 0.5:
        vectors, valid = vectors[:, ::-1] * (1, -1), valid[:, ::-1]
    if rng.random() < 0.5:
        vectors, valid = -vectors[::-1], valid[::-1]
    if rng.random() < 0.5:
        vectors = vectors * np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.25:
        vectors = vectors + camera_motion(valid.shape[0], valid.shape[1], valid.shape[2], rng)
    return np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(valid)


def camera_motion(num_steps: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Field [T, h, w, 2] of a camera that pans, tilts, zooms, rolls and shakes; fractions of the frame."""
    x = (np.arange(width) * 2 + 1) / width - 1
    y = ((np.arange(height) * 2 + 1) / height - 1)[:, None]
    time = np.linspace(0, np.pi, num_steps)[:, None]
    speed = np.exp(rng.normal(-1.0, 1.2, 6)) * rng.choice([-1, 1], 6) * (1, 0.6, 0.3, 0.3, 0.1, 0.1)
    waves = np.cos(time * np.arange(3)) @ (rng.normal(0, (1, 0.5, 0.25), (6, 3))).T * speed
    waves[:, :2] += rng.normal(0, np.exp(rng.normal(-2.5, 1.0)), (num_steps, 2))
    pan, tilt, zoom, roll, shear, stretch = (waves[:, i, None, None] for i in range(6))
    dx = pan + (zoom + stretch) * x - (roll - shear) * y
    dy = tilt + (zoom - stretch) * y + (roll + shear) * x
    return np.stack(np.broadcast_arrays(dx, dy), -1) / PIXELS


Batch = dict[str, Tensor]

_COMMITMENT = 0.1
_STEPS = 0.1
_INITIAL_CLIPS = 512


class MotionTraining:
    """Teaches a `MotionTokenizer` (see `videotok.training.trainer.Task`).

    The loss is `path_loss` + a little of `step_loss` and of the commitment to codes, at a number of levels drawn anew
    each step, so that every first n levels are a code.
    """

    def __init__(self, model: MotionTokenizer) -> None:
        self.model = model

    def prepare(self, items: list[dict[str, np.ndarray]], rng: np.random.Generator) -> Batch:
        """Items with `vectors` float32 [T, h, w, 2] and `valid` bool [T, h, w], augmented and stacked."""
        fields = [augment(item["vectors"], item["valid"], rng) for item in items]
        return {
            "vectors": torch.from_numpy(np.stack([vectors for vectors, _ in fields])),
            "valid": torch.from_numpy(np.stack([valid for _, valid in fields])),
        }

    @torch.no_grad()
    def initialise(self, batches: Iterable[Batch]) -> None:
        """Starts the linear path from the principal components of local motion, the codebooks from k-means.

        Without a linear path there is nothing to know yet: codebooks start from the first step's latents. A model that
        has learned already stays as it is.
        """
        if self.model.quantize.started or not self.model.config["linear_path"]:
            return
        fields: list[Tensor] = []
        for batch in batches:
            camera = self.model.camera.decode(self.model.camera.encode(batch["vectors"], batch["valid"]))
            fields.append(fold(self.model.scaled(batch["vectors"] - camera), self.model.patch))
            if sum(map(len, fields)) >= _INITIAL_CLIPS:
                break
        patches = torch.cat(fields).flatten(1, 3)
        basis = principal_components(patches.flatten(0, 1), self.model.config["code_dim"])
        self.model.linear_in.weight.copy_(basis)
        self.model.linear_out.weight.copy_(basis.T)
        self.model.quantize.initialise(patches @ basis.T)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Loss [] of a batch at a random number of levels."""
        del progress
        levels = int(torch.randint(1, self.model.num_quantizers + 1, ()))
        vectors, valid = batch["vectors"], batch["valid"]
        decoded, quantized = self.model(vectors, valid, levels)
        paths = path_loss(decoded.float(), vectors, valid).mean()
        steps = step_loss(decoded.float(), vectors, valid).mean()
        loss = paths + _STEPS * steps + _COMMITMENT * quantized.commitment
        return loss, {
            f"paths_{levels}": paths.item(),
            "steps": steps.item(),
            "commitment": quantized.commitment.item(),
        }

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Figures of the model as it encodes and decodes, on fields as they are prepared.

        There are no pictures here: "psnr" is -10 log10 of the robust displacement error (`path_loss`, at the default
        number of levels), which falls and rises with the PSNR of a warp but is not one. "paths_n" are the losses with n
        levels, "error_pixels" the mean end-point error of displacements to the keyframe, "use" the share of the
        codebook used.
        """
        losses: dict[int, list[float]] = {0: []} | {n: [] for n in range(1, self.model.num_quantizers + 1)}
        errors, used = [], []
        for batch in batches:
            tokens = self.model.encode(batch["vectors"], batch["valid"], self.model.num_quantizers)
            used.append(tokens.ids.flatten())
            for levels, found in losses.items():
                decoded = self.model.decode(tokens.first_quantizers(levels))
                found += path_loss(decoded, batch["vectors"], batch["valid"]).tolist()
                if levels == self.model.default_num_quantizers:
                    sums = (decoded - batch["vectors"])[:, 1:].cumsum(1)
                    errors += to_pixels(sums).norm(dim=-1).mean((1, 2, 3)).tolist()
        paths = {levels: float(np.mean(found)) for levels, found in losses.items()}
        return {
            "psnr": -10 * float(np.log10(paths[self.model.default_num_quantizers])),
            **{f"paths_{levels}": value for levels, value in paths.items()},
            "error_pixels": float(np.mean(errors)),
            "use": len(torch.cat(used).unique()) / self.model.codebook_size,
        }


def principal_components(points: Tensor, number: int) -> Tensor:
    """The first `number` directions of points [N, D]: orthonormal [number, D]."""
    _, directions = torch.linalg.eigh(points.T @ points)
    return directions.flip(1)[:, :number].T
