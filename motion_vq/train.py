"""MotionTraining: trains a MotionTokenizer on motion fields alone, which need no pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motion_vq.attention import fold
from motion_vq.fields import PIXELS, to_pixels
from motion_vq.losses import path_loss, step_loss
from motion_vq.tokenizer import MotionTokenizer

Batch = dict[str, Tensor]

_COMMITMENT_WEIGHT = 0.1
_STEP_LOSS_WEIGHT = 0.1
_INITIAL_CLIPS = 512


class MotionTraining:
    """Training task of a `MotionTokenizer` (see `videotok.training.trainer.Task`).

    The loss is `path_loss` plus a little of `step_loss` and of the commitment to codes, with a number of quantizers
    drawn at random in each step, so that the ids of any first n quantizers are a valid code.
    """

    def __init__(self, model: MotionTokenizer) -> None:
        self.model = model

    def prepare(self, items: list[dict[str, np.ndarray]], rng: np.random.Generator) -> Batch:
        """Augment and stack items with `vectors` float32 [T, h, w, 2] and `valid` bool [T, h, w]."""
        fields = [augment(item["vectors"], item["valid"], rng) for item in items]
        return {
            "vectors": torch.from_numpy(np.stack([vectors for vectors, _ in fields])),
            "valid": torch.from_numpy(np.stack([valid for _, valid in fields])),
        }

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        """Set the linear path to the principal components of local motion, and the codebooks by k-means.

        Without a linear path the codebooks are set from the first step's latents instead. A model whose codebooks come
        from data already is left as it is.
        """
        model = self.model
        if model.quantize.initialized or not model.config["linear_path"]:
            return
        fields: list[Tensor] = []
        for batch in batches:
            global_motion = model.global_motion.decode(model.global_motion.encode(batch["vectors"], batch["valid"]))
            fields.append(fold(model.to_network_units(batch["vectors"] - global_motion), model.patch))
            if sum(map(len, fields)) >= _INITIAL_CLIPS:
                break
        patches = torch.cat(fields).flatten(1, 3)
        basis = principal_components(patches.flatten(0, 1), model.config["code_dim"], centre=False).directions
        model.linear_in.weight.copy_(basis)
        model.linear_out.weight.copy_(basis.T)
        model.quantize.initialize(patches @ basis.T)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Return the loss [] of a batch with a random number of quantizers, and figures to log."""
        del progress
        number = int(torch.randint(1, self.model.num_quantizers + 1, ()))
        vectors, valid = batch["vectors"], batch["valid"]
        decoded, quantized = self.model(vectors, valid, number)
        paths = path_loss(decoded.float(), vectors, valid).mean()
        steps = step_loss(decoded.float(), vectors, valid).mean()
        loss = paths + _STEP_LOSS_WEIGHT * steps + _COMMITMENT_WEIGHT * quantized.commitment
        return loss, {
            f"paths_{number}": paths.item(),
            "steps": steps.item(),
            "commitment": quantized.commitment.item(),
        }

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return figures of the model as it encodes and decodes.

        Returns:
            "psnr": -10 log10 of `path_loss` with the default number of quantizers. There are no pictures here: it rises
            and falls with the PSNR of warped frames but is not one. "paths_n": `path_loss` with n quantizers.
            "error_pixels": mean length of the error of displacements to the keyframe. "use": share of the codes used.
        """
        losses: dict[int, list[float]] = {number: [] for number in range(self.model.num_quantizers + 1)}
        errors, used = [], []
        for batch in batches:
            tokens = self.model.encode(batch["vectors"], batch["valid"], self.model.num_quantizers)
            used.append(tokens.ids.flatten())
            for number, found in losses.items():
                decoded = self.model.decode(tokens.first_quantizers(number))
                found += path_loss(decoded, batch["vectors"], batch["valid"]).tolist()
                if number == self.model.default_num_quantizers:
                    sums = (decoded - batch["vectors"])[:, 1:].cumsum(1)
                    errors += to_pixels(sums).norm(dim=-1).mean((1, 2, 3)).tolist()
        paths = {number: float(np.mean(found)) for number, found in losses.items()}
        return {
            "psnr": -10 * float(np.log10(paths[self.model.default_num_quantizers])),
            **{f"paths_{number}": value for number, value in paths.items()},
            "error_pixels": float(np.mean(errors)),
            "use": len(torch.cat(used).unique()) / self.model.codebook_size,
        }


def augment(vectors: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a field float32 [T, h, w, 2], in fractions of the frame, and valid bool [T, h, w], changed at random.

    The field may be mirrored, reversed in time, made faster or slower, or given more camera motion.
    """
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
        vectors = vectors + random_global_motion(valid.shape[0], valid.shape[1], valid.shape[2], rng)
    return np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(valid)


def random_global_motion(num_steps: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a field [T, h, w, 2] of a camera that pans, tilts, zooms, rolls and shakes, in fractions of the frame."""
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


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of vectors with D values."""

    mean: Tensor
    """[D]; zero where the vectors were not centred."""
    directions: Tensor
    """[count, D], orthonormal, the largest component first."""
    scales: Tensor
    """[count]: root mean square of the vectors along each direction."""


def principal_components(vectors: Tensor, count: int, *, centre: bool = True) -> PrincipalComponents:
    """Return the `count` leading principal components of vectors [N, D], computed in float64.

    `centre`: subtract the mean first.
    """
    mean = vectors.mean(dim=0) if centre else torch.zeros_like(vectors[0])
    centred = (vectors - mean).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(1).T
    scales = (centred @ directions.T).square().mean(dim=0).sqrt()
    return PrincipalComponents(mean, directions.to(vectors.dtype), scales.to(vectors.dtype))
