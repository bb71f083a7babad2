"""What the motion tokenizer learns from: fields alone, judged by where they lead."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from motion_vq.augment import augment
from motion_vq.camera import to_pixels
from motion_vq.layers import fold
from motion_vq.paths import path_loss, step_loss
from motion_vq.tokenizer import MotionTokenizer

Batch = dict[str, Tensor]

_COMMITMENT = 0.1
_STEPS = 0.1
_INITIAL_CLIPS = 512


class MotionTraining:
    """Teaches a `MotionTokenizer` (see `videotok.training.loop.Task`).

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
        levels = int(torch.randint(1, self.model.num_levels + 1, ()))
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
        losses: dict[int, list[float]] = {0: []} | {n: [] for n in range(1, self.model.num_levels + 1)}
        errors, used = [], []
        for batch in batches:
            tokens = self.model.encode(batch["vectors"], batch["valid"], self.model.num_levels)
            used.append(tokens.ids.flatten())
            for levels, found in losses.items():
                decoded = self.model.decode(tokens.first_levels(levels))
                found += path_loss(decoded, batch["vectors"], batch["valid"]).tolist()
                if levels == self.model.default_levels:
                    sums = (decoded - batch["vectors"])[:, 1:].cumsum(1)
                    errors += to_pixels(sums).norm(dim=-1).mean((1, 2, 3)).tolist()
        paths = {levels: float(np.mean(found)) for levels, found in losses.items()}
        return {
            "psnr": -10 * float(np.log10(paths[self.model.default_levels])),
            **{f"paths_{levels}": value for levels, value in paths.items()},
            "error_pixels": float(np.mean(errors)),
            "use": len(torch.cat(used).unique()) / self.model.codebook_size,
        }


def principal_components(points: Tensor, number: int) -> Tensor:
    """The first `number` directions of points [N, D]: orthonormal [number, D]."""
    _, directions = torch.linalg.eigh(points.T @ points)
    return directions.flip(1)[:, :number].T
