"""What a clip's motion becomes: a few ids for the camera, levels of ids for what moves by itself.

MotionTokenizer: a motion field to ids and back.

The size that was published, as a configuration of the same class.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from motion_vq.attention import Decoder, Encoder, Stride, fold, silence, tanh_head, unfold
from motion_vq.global_motion import GlobalMotionCodec, compand, expand, to_fractions, to_pixels
from motion_vq.model_base import VideotokModel
from motion_vq.vector_quantizer import Quantized, ResidualQuantizer


@dataclass(frozen=True)
class MotionTokens:
    """Motion of a batch of clips as plain integers from 0; nested: the first n levels are a valid coarser code."""

    ids: Tensor
    """int64 [B, levels, tokens_per_quantizer], values 0..codebook_size - 1."""
    global_motion_ids: Tensor
    """int64 [B, num_global_motion_ids], values 0..global_motion_codebook_size - 1, one DCT coefficient of the camera's motion each;
    the middle value stands for a still camera. [B, 0] where the tokenizer does not code the camera by itself."""

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.global_motion_ids.ndim != 2 or len(self.ids) != len(self.global_motion_ids):
            raise ValueError(
                "`ids` must be [B, levels, tokens] and `global_motion_ids` [B, K] of the same clips, "
                f"got {tuple(self.ids.shape)} and {tuple(self.global_motion_ids.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        clips, levels, tokens = self.ids.shape
        return f"MotionTokens(clips={clips}, levels={levels}x{tokens}, global_motion_ids={self.global_motion_ids.shape[1]})"

    @property
    def num_quantizers(self) -> int:
        """Residual levels held; 0 leaves the camera alone."""
        return self.ids.shape[1]

    @property
    def tokens_per_clip(self) -> int:
        """Ids of one clip, the camera's included."""
        return self.ids.shape[1] * self.ids.shape[2] + self.global_motion_ids.shape[1]

    def first_quantizers(self, num_quantizers: int) -> "MotionTokens":
        """The same motion, coarser: the camera's ids and the first `num_quantizers` levels (0 = the camera alone).

        Raises:
            ValueError: more levels asked for than there are.
        """
        if not 0 <= num_quantizers <= self.num_quantizers:
            raise ValueError(
                f"`num_quantizers` (={num_quantizers}) must be 0 to {self.num_quantizers}, the levels these tokens hold; "
                "encode again with more levels for a finer motion"
            )
        return MotionTokens(self.ids[:, :num_quantizers], self.global_motion_ids)


class MotionTokenizer(VideotokModel):
    """Codes the motion of a clip.

        vectors, valid ── camera fit ──► global_motion_ids ──► camera motion ─┐
              │                                                        │
              └────────────── minus ◄──────────────────────────────────┤
                                │ local motion, companded              │
                                ▼                                      │
                  linear patches + space-time encoder                  │
                                ▼                                      │
                       residual quantizer ──► ids [levels, 135]        │
                                ▼                                      ▼
                  linear patches + space-time decoder ─────────────► plus ──► vectors

    A field is [B, num_steps, *grid, 2] in fractions of the frame; a place of the code is a patch times all strides.
    Everything is computed in the model's own dtype; in float64 the ids do not depend on threads or batch. Nothing
    samples.

    Args:
        num_steps, grid: size of the fields, time and (height, width).
        patch: steps and cells that the first layer takes together and the last one lays out; (1, 1, 1), as published:
            single cells.
        encoder_widths, encoder_depths, encoder_strides: stages of the encoder, see `layers`; decoder_* likewise.
        num_heads: attention heads; must divide the width of every stage that has blocks.
        code_dim, codebook_size: of each codebook.
        num_quantizers: levels trained. `default_num_quantizers`: levels written when nobody asks.
        num_stages: codebooks; more than levels lets hard patches have more ids than easy ones (see `quantizer`).
        normalized_codebook: codes on the unit sphere, as published.
        global_motion_terms, global_motion_codebook_size: of the camera's own ids, see `camera`; (0, 0, 0) = no such ids.
        unit_pixels: the vector, in pixels of a 256x144 picture, that the networks see as about 1, in x and y; negative
            where they count motion the other way round.
        companded: networks see the signed logarithm of vectors in units, not multiples of it.
        linear_path: a linear encoder and decoder of patches beside the networks.
        valid_channel: the encoder also sees which cells have a vector.
        keyframe_step: the motion into the keyframe is coded too; the published weights know none, there it counts as 0.
    """

    renamed_options = {
        "camera_terms": "global_motion_terms",
        "camera_codebook_size": "global_motion_codebook_size",
        "num_levels": "num_quantizers",
        "default_levels": "default_num_quantizers",
    }

    @register_to_config
    def __init__(
        self,
        num_steps: int = 24,
        grid: tuple[int, int] = (20, 36),
        patch: Stride = (8, 4, 4),
        encoder_widths: tuple[int, ...] = (128,),
        encoder_depths: tuple[int, ...] = (3,),
        encoder_strides: tuple[Stride, ...] = (),
        decoder_widths: tuple[int, ...] = (128,),
        decoder_depths: tuple[int, ...] = (4,),
        decoder_strides: tuple[Stride, ...] = (),
        num_heads: int = 4,
        code_dim: int = 32,
        codebook_size: int = 1024,
        num_quantizers: int = 4,
        num_stages: int = 10,
        default_num_quantizers: int = 2,
        normalized_codebook: bool = False,
        global_motion_terms: tuple[int, int, int] = (8, 2, 2),
        global_motion_codebook_size: int = 256,
        unit_pixels: tuple[float, float] = (0.5, 0.5),
        companded: bool = True,
        linear_path: bool = True,
        valid_channel: bool = True,
        keyframe_step: bool = True,
    ) -> None:
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.patch = (patch[0], patch[1], patch[2])
        place = _product(self.patch, *encoder_strides)
        if place != _product(self.patch, *decoder_strides):
            raise ValueError(
                f"strides of encoder {encoder_strides} and decoder {decoder_strides} must make the same place"
            )
        if any(size % step for size, step in zip((num_steps, *grid), place, strict=True)):
            raise ValueError(
                f"patch times strides {place} must divide a field of {num_steps} steps of {grid[0]}x{grid[1]} cells"
            )
        self.code_grid = (num_steps // place[0], grid[0] // place[1], grid[1] // place[2])
        self.camera = GlobalMotionCodec(num_steps, self.grid, tuple(global_motion_terms), global_motion_codebook_size)  # type: ignore[arg-type]
        cells = math.prod(patch)
        size = (num_steps // patch[0], grid[0] // patch[1], grid[1] // patch[2])
        channels = cells * (3 if valid_channel else 2)
        self.encoder = Encoder(channels, size, encoder_widths, encoder_depths, encoder_strides, num_heads)
        self.encode_task_layer = tanh_head(encoder_widths[-1], code_dim)
        self.quantize = ResidualQuantizer(
            code_dim,
            codebook_size,
            self.tokens_per_quantizer,
            num_quantizers,
            num_stages,
            normalized=normalized_codebook,
        )
        self.decoder = Decoder(code_dim, self.code_grid, decoder_widths, decoder_depths, decoder_strides, num_heads)
        self.decode_task_layer = tanh_head(decoder_widths[-1], 2 * cells)
        if linear_path:
            if place != self.patch:
                raise ValueError(
                    f"`linear_path` needs patches {place} as large as a place of the code, got {self.patch}"
                )
            self.linear_in = nn.Linear(2 * cells, code_dim, bias=False)
            self.linear_out = nn.Linear(code_dim, 2 * cells, bias=False)
            # the networks start as corrections of nothing
            for head in (self.encode_task_layer, self.decode_task_layer):
                silence(head[2])  # type: ignore[arg-type]

    @property
    def num_quantizers(self) -> int:
        """Levels trained, the most that `encode` can give."""
        return self.config["num_quantizers"]

    @property
    def default_num_quantizers(self) -> int:
        """Levels given when nobody asks for a number."""
        return self.config["default_num_quantizers"]

    @property
    def codebook_size(self) -> int:
        """Values of an id."""
        return self.config["codebook_size"]

    @property
    def tokens_per_quantizer(self) -> int:
        """Ids of a level: 135 for 24 steps of 20x36."""
        steps, height, width = self.code_grid
        return steps * height * width

    @property
    def num_global_motion_ids(self) -> int:
        """Ids of a clip that say what the camera does."""
        return self.camera.num_ids

    @property
    def global_motion_codebook_size(self) -> int:
        """Values of a camera id."""
        return self.camera.codebook_size

    @torch.no_grad()
    def encode(self, vectors: Tensor, valid: Tensor, num_quantizers: int | None = None) -> MotionTokens:
        """Vectors [B, T, h, w, 2] in fractions of the frame and valid bool [B, T, h, w] -> ids.

        Raises:
            ValueError: a field of another size than the model's, or more levels than it has.
        """
        self._check_field(vectors, valid)
        levels = self.default_num_quantizers if num_quantizers is None else num_quantizers
        if not 0 <= levels <= self.num_quantizers:
            raise ValueError(
                f"`num_quantizers` (={levels}) must be 0 to {self.num_quantizers}, the levels these weights have"
            )
        vectors = vectors.to(self.dtype)
        if not self.config["keyframe_step"]:
            vectors = torch.cat([torch.zeros_like(vectors[:, :1]), vectors[:, 1:]], 1)
        global_motion_ids = self.camera.encode(vectors, valid)
        if levels == 0:
            return MotionTokens(
                global_motion_ids.new_zeros(len(vectors), 0, self.tokens_per_quantizer), global_motion_ids
            )
        camera = self.camera.decode(global_motion_ids, self.dtype)
        return MotionTokens(self.quantize.encode(self.latents(vectors, camera, valid), levels), global_motion_ids)

    @torch.no_grad()
    def decode(self, tokens: MotionTokens) -> Tensor:
        """Ids of any number of levels up to the model's -> vectors float32 [B, T, h, w, 2] in fractions of the frame.

        Raises:
            ValueError: ids of another shape or out of range.
        """
        self._check_tokens(tokens)
        camera = self.camera.decode(tokens.global_motion_ids, self.dtype)
        if tokens.num_quantizers == 0:
            return camera.float()
        return (camera + self.local_motion(self.quantize.decode(tokens.ids, self.dtype))).float()

    def forward(self, vectors: Tensor, valid: Tensor, num_quantizers: int) -> tuple[Tensor, Quantized]:
        """One training pass: (decoded vectors [B, T, h, w, 2], what the quantizer did)."""
        camera = self.camera.decode(self.camera.encode(vectors, valid), vectors.dtype)
        quantized = self.quantize(self.latents(vectors, camera, valid), num_quantizers)
        return camera + self.local_motion(quantized.latents), quantized

    def latents(self, vectors: Tensor, camera: Tensor, valid: Tensor) -> Tensor:
        """What the quantizer sees: [B, tokens_per_quantizer, code_dim]."""
        local = self.scaled(vectors - camera)
        channels = torch.cat([local, valid[..., None].to(local.dtype)], -1) if self.config["valid_channel"] else local
        latents = self.encode_task_layer(self.encoder(fold(channels, self.patch)))
        if self.config["linear_path"]:
            latents = latents + self.linear_in(fold(local, self.patch))
        return latents.flatten(1, 3)

    def local_motion(self, latents: Tensor) -> Tensor:
        """Latents [B, tokens_per_quantizer, code_dim] -> vectors [B, T, h, w, 2] without the camera's motion."""
        latents = latents.unflatten(1, self.code_grid)
        patches = self.decode_task_layer(self.decoder(latents))
        if self.config["linear_path"]:
            patches = patches + self.linear_out(latents)
        local = unfold(patches.to(latents.dtype), self.patch)
        unit = local.new_tensor(self.config["unit_pixels"])
        return to_fractions((expand(local, 1.0) if self.config["companded"] else local) * unit)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Fractions of the frame to what the networks see."""
        values = to_pixels(vectors) / vectors.new_tensor(self.config["unit_pixels"])
        return compand(values, 1.0) if self.config["companded"] else values

    def _check_field(self, vectors: Tensor, valid: Tensor) -> None:
        size = (self.config["num_steps"], *self.grid)
        if vectors.ndim != 5 or tuple(vectors.shape[1:]) != (*size, 2):
            raise ValueError(
                f"`vectors` must be [B, {', '.join(map(str, size))}, 2] for these weights, got {list(vectors.shape)}; "
                "read the clip with a ClipSpec of that size"
            )
        if valid.shape != vectors.shape[:4] or valid.dtype != torch.bool:
            raise ValueError(f"`valid` must be bool {list(vectors.shape[:4])}, got {valid.dtype} {list(valid.shape)}")

    def _check_tokens(self, tokens: MotionTokens) -> None:
        levels, size = tokens.ids.shape[1:]
        if levels > self.num_quantizers or size != self.tokens_per_quantizer:
            raise ValueError(
                f"`ids` must be [B, 0 to {self.num_quantizers}, {self.tokens_per_quantizer}] for these weights, "
                f"got {list(tokens.ids.shape)}; decode with the weights that encoded"
            )
        if tokens.global_motion_ids.shape[1] != self.num_global_motion_ids:
            raise ValueError(
                f"`global_motion_ids` must be [B, {self.num_global_motion_ids}] for these weights, "
                f"got {list(tokens.global_motion_ids.shape)}; decode with the weights that encoded"
            )
        for name, ids, size in (
            ("ids", tokens.ids, self.codebook_size),
            ("global_motion_ids", tokens.global_motion_ids, self.global_motion_codebook_size),
        ):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
                raise ValueError(f"`{name}` must be 0 to {size - 1}, got {int(ids.min())} to {int(ids.max())}")


def _product(*strides: Stride) -> Stride:
    t, h, w = (math.prod(steps) for steps in zip(*strides, strict=True))
    return t, h, w


PUBLISHED_CONFIG: dict[str, Any] = {
    "patch": (1, 1, 1),
    "encoder_widths": (512, 512, 512, 512, 512),
    "encoder_depths": (3, 3, 3, 3, 0),
    "encoder_strides": ((1, 2, 2), (2, 1, 1), (2, 1, 1), (2, 2, 2)),
    "decoder_widths": (512, 512, 512, 512, 512),
    "decoder_depths": (0, 3, 3, 3, 3),
    "decoder_strides": ((2, 2, 2), (2, 1, 1), (2, 1, 1), (1, 2, 2)),
    "num_heads": 8,
    "num_quantizers": 1,
    "num_stages": 1,
    "default_num_quantizers": 1,
    "normalized_codebook": True,
    "global_motion_terms": (0, 0, 0),
    # its vectors point from the last frame to this one, ours back: the sign; 256 and 144 times its deviations / 10
    "unit_pixels": (-2.54387968, -1.62759744),
    "companded": False,
    "linear_path": False,
    "valid_channel": False,
    "keyframe_step": False,
}
"""The motion tokenizer of Video-LaVIT (arXiv 2402.03161): `MotionTokenizer(**PUBLISHED_CONFIG)`, 158 M parameters."""
