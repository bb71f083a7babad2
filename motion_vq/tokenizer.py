"""MotionTokenizer: the motion of a clip to discrete ids and back."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from motion_vq.attention import Decoder, Encoder, Stride, fold, split_fused_attention, tanh_head, unfold, zero_module
from motion_vq.fields import compand, expand, to_fractions, to_pixels
from motion_vq.global_motion import GlobalMotionCodec
from motion_vq.model_base import VideotokModel, register_to_config
from motion_vq.vector_quantizer import QuantizedLatents, ResidualQuantizer


@dataclass(frozen=True)
class MotionTokens:
    """Motion of a batch of clips as integers from 0. Nested: the ids of the first n quantizers are a coarser code.

    Raises:
        ValueError: arrays of other dimensions, or of different clips.
    """

    ids: Tensor
    """int64 [B, num_quantizers, tokens_per_quantizer], values 0 to codebook_size - 1."""
    global_motion_ids: Tensor
    """int64 [B, num_global_motion_ids], values 0 to global_motion_codebook_size - 1, one DCT coefficient each; the
    middle value is zero motion. [B, 0] where the tokenizer does not code the global motion separately."""

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.global_motion_ids.ndim != 2 or len(self.ids) != len(self.global_motion_ids):
            raise ValueError(
                "`ids` must be [B, num_quantizers, tokens] and `global_motion_ids` [B, K] of the same clips, "
                f"got {tuple(self.ids.shape)} and {tuple(self.global_motion_ids.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        clips, quantizers, tokens = self.ids.shape
        global_ids = self.global_motion_ids.shape[1]
        return f"MotionTokens(clips={clips}, quantizers={quantizers}x{tokens}, global_motion_ids={global_ids})"

    @property
    def num_quantizers(self) -> int:
        """Residual quantizers there are ids of; 0 leaves the global motion alone."""
        return self.ids.shape[1]

    @property
    def tokens_per_clip(self) -> int:
        """Ids of one clip, those of the global motion included."""
        return self.ids.shape[1] * self.ids.shape[2] + self.global_motion_ids.shape[1]

    def first_quantizers(self, num_quantizers: int) -> "MotionTokens":
        """Return a coarser code of the same motion: the ids of the first quantizers, 0 for the global motion alone.

        Raises:
            ValueError: more quantizers than there are.
        """
        if not 0 <= num_quantizers <= self.num_quantizers:
            raise ValueError(
                f"`num_quantizers` (={num_quantizers}) must be 0 to {self.num_quantizers}, the number in these tokens; "
                "encode again with more quantizers for a finer motion"
            )
        return MotionTokens(self.ids[:, :num_quantizers], self.global_motion_ids)


class MotionTokenizer(VideotokModel):
    """Discrete tokenizer for the motion field of a clip.

        vectors, valid ── global motion fit ──► global_motion_ids ──► global motion ─┐
              │                                                                      │
              └────────────── minus ◄────────────────────────────────────────────────┤
                                │ local motion, companded                            │
                                ▼                                                    │
                  linear patches + space-time encoder                                │
                                ▼                                                    │
                       residual quantizer ──► ids [num_quantizers, 135]              │
                                ▼                                                    ▼
                  linear patches + space-time decoder ───────────────────────────► plus ──► vectors

    A field is [B, num_steps, *grid, 2] in fractions of the frame. One token stands for a patch times all strides.
    Everything is computed in the model's own dtype; in float64 the ids do not depend on threads or batch. Nothing is
    sampled.
    """

    renamed_options: ClassVar = {
        "camera_terms": "global_motion_terms",
        "camera_codebook_size": "global_motion_codebook_size",
        "num_levels": "num_quantizers",
        "default_levels": "default_num_quantizers",
    }
    renamed_parameters: ClassVar = {
        "_codebook.embed": "codes",
        "_codebook.cluster_size": "usage",
        "_codebook.initted": "initialized",
        "_codebook.embed_avg": None,
    }

    @register_to_config
    def __init__(
        self,
        *,
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
        """Build the model.

        Args:
            num_steps, grid: size of the fields, in steps and (rows, columns).
            patch: steps, rows and columns that the first layer takes together; (1, 1, 1), as published: single cells.
            encoder_widths, encoder_depths, encoder_strides: stages of the encoder, see `motion_vq.attention.Encoder`.
            decoder_widths, decoder_depths, decoder_strides: stages of the decoder, see `motion_vq.attention.Decoder`.
            num_heads: attention heads; must divide the width of every stage that has blocks.
            code_dim, codebook_size: of each codebook.
            num_quantizers: quantizers trained.
            default_num_quantizers: used by `encode` where the caller gives no number.
            num_stages: codebooks; with more than `num_quantizers`, patches that are hard to code get more ids than
                others, see `ResidualQuantizer`.
            normalized_codebook: latents and codes on the unit sphere, as published.
            global_motion_terms, global_motion_codebook_size: see `GlobalMotionCodec`; (0, 0, 0): no such ids.
            unit_pixels: the vector, in pixels of a 256x144 picture, that the networks see as about 1, in x and y;
                negative for weights that were trained on vectors of the opposite sign.
            companded: the networks see the signed logarithm of vectors in units, not vectors in units.
            linear_path: a linear encoder and decoder of patches in parallel with the networks.
            valid_channel: the encoder also sees which cells have a vector.
            keyframe_step: the motion into the keyframe is coded too; the published weights do not know it.

        Raises:
            ValueError: strides that do not fit together or do not divide a field.
        """
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.patch = (patch[0], patch[1], patch[2])
        self.code_grid = _code_grid((num_steps, *self.grid), self.patch, encoder_strides, decoder_strides)
        terms = (global_motion_terms[0], global_motion_terms[1], global_motion_terms[2])
        self.global_motion = GlobalMotionCodec(num_steps, self.grid, terms, global_motion_codebook_size)
        cells = math.prod(patch)
        size = (num_steps // patch[0], grid[0] // patch[1], grid[1] // patch[2])
        channels = cells * (3 if valid_channel else 2)
        self.encoder = Encoder(channels, size, encoder_widths, encoder_depths, encoder_strides, num_heads)
        self.encode_task_layer = tanh_head(encoder_widths[-1], code_dim)
        tokens, normalized = math.prod(self.code_grid), normalized_codebook
        self.quantize = ResidualQuantizer(
            code_dim, codebook_size, tokens, num_quantizers, num_stages, normalized=normalized
        )
        self.decoder = Decoder(code_dim, self.code_grid, decoder_widths, decoder_depths, decoder_strides, num_heads)
        self.decode_task_layer = tanh_head(decoder_widths[-1], 2 * cells)
        if linear_path:
            if self.code_grid != size:
                raise ValueError(f"`linear_path` needs one patch per token: no strides beside `patch` (={self.patch})")
            self.linear_in = nn.Linear(2 * cells, code_dim, bias=False)
            self.linear_out = nn.Linear(code_dim, 2 * cells, bias=False)
            # the networks correct the linear path: they start from no correction
            zero_module(self.encode_task_layer[2])
            zero_module(self.decode_task_layer[2])

    @property
    def num_quantizers(self) -> int:
        """Quantizers trained, the most that `encode` can use."""
        return self.config["num_quantizers"]

    @property
    def default_num_quantizers(self) -> int:
        """Quantizers used where the caller gives no number."""
        return self.config["default_num_quantizers"]

    @property
    def codebook_size(self) -> int:
        """Number of values of a motion id."""
        return self.config["codebook_size"]

    @property
    def feature_width(self) -> int:
        """Channels of `latents`."""
        return self.config["code_dim"]

    @property
    def tokens_per_quantizer(self) -> int:
        """Motion ids of a clip for each quantizer: 135 for 24 steps of 20x36 cells."""
        return math.prod(self.code_grid)

    @property
    def num_global_motion_ids(self) -> int:
        """Global motion ids of a clip."""
        return self.global_motion.num_ids

    @property
    def global_motion_codebook_size(self) -> int:
        """Number of values of a global motion id."""
        return self.global_motion.codebook_size

    def codebook_vectors(self, num_quantizers: int) -> Tensor:
        """Return a codebook for the ids of each of the first quantizers, float32 [n, codebook_size, code_dim].

        It is the one of stage q for quantizer q. Where there are more stages than quantizers, ids of quantizer 2 and
        later are of several stages (see `ResidualQuantizer`), and this is no more than a starting point for embeddings.
        """
        shape = (0, self.codebook_size, self.feature_width)
        codes = [self.quantize.stage(number).codes.detach().float() for number in range(num_quantizers)]
        return torch.stack(codes) if codes else torch.zeros(shape, device=self.device)

    @torch.no_grad()
    def encode(self, vectors: Tensor, valid: Tensor, num_quantizers: int | None = None) -> MotionTokens:
        """Return the ids of motion fields.

        Args:
            vectors: [B, num_steps, *grid, 2] in fractions of the frame (`codec.types.MotionField`).
            valid: bool [B, num_steps, *grid], which cells have a vector.
            num_quantizers: 0 for the global motion alone; the model's default where not given.

        Raises:
            ValueError: a field of another size than the model's, or more quantizers than it has.
        """
        self._check_field(vectors, valid)
        number = self.default_num_quantizers if num_quantizers is None else num_quantizers
        if not 0 <= number <= self.num_quantizers:
            raise ValueError(
                f"`num_quantizers` (={number}) must be 0 to {self.num_quantizers}, the number these weights have"
            )
        vectors = vectors.to(self.dtype)
        if not self.config["keyframe_step"]:
            vectors = torch.cat([torch.zeros_like(vectors[:, :1]), vectors[:, 1:]], 1)
        global_motion_ids = self.global_motion.encode(vectors, valid)
        if number == 0:
            no_ids = global_motion_ids.new_zeros(len(vectors), 0, self.tokens_per_quantizer)
            return MotionTokens(no_ids, global_motion_ids)
        global_motion = self.global_motion.decode(global_motion_ids, self.dtype)
        return MotionTokens(
            self.quantize.encode(self.latents(vectors, global_motion, valid), number), global_motion_ids
        )

    @torch.no_grad()
    def decode(self, tokens: MotionTokens) -> Tensor:
        """Return the vectors float32 [B, num_steps, *grid, 2], in fractions of the frame, of any number of quantizers.

        Raises:
            ValueError: ids of another shape or out of range.
        """
        self._check_tokens(tokens)
        global_motion = self.global_motion.decode(tokens.global_motion_ids, self.dtype)
        if tokens.num_quantizers == 0:
            return global_motion.float()
        return (global_motion + self.local_motion(self.quantize.decode(tokens.ids, self.dtype))).float()

    def forward(self, vectors: Tensor, valid: Tensor, num_quantizers: int) -> tuple[Tensor, QuantizedLatents]:
        """Run one training pass; return the decoded vectors [B, T, h, w, 2] and the quantizer's result."""
        global_motion = self.global_motion.decode(self.global_motion.encode(vectors, valid), vectors.dtype)
        quantized = self.quantize(self.latents(vectors, global_motion, valid), num_quantizers)
        return global_motion + self.local_motion(quantized.latents), quantized

    def latents(self, vectors: Tensor, global_motion: Tensor, valid: Tensor) -> Tensor:
        """Return what the quantizer sees, [B, tokens_per_quantizer, code_dim]."""
        local = self.to_network_units(vectors - global_motion)
        channels = torch.cat([local, valid[..., None].to(local.dtype)], -1) if self.config["valid_channel"] else local
        latents = self.encode_task_layer(self.encoder(fold(channels, self.patch)))
        if self.config["linear_path"]:
            latents = latents + self.linear_in(fold(local, self.patch))
        return latents.flatten(1, 3)

    def local_motion(self, latents: Tensor) -> Tensor:
        """Return the vectors [B, T, h, w, 2], less global motion, of latents [B, tokens_per_quantizer, code_dim]."""
        latents = latents.unflatten(1, self.code_grid)
        patches = self.decode_task_layer(self.decoder(latents))
        if self.config["linear_path"]:
            patches = patches + self.linear_out(latents)
        local = unfold(patches.to(latents.dtype), self.patch)
        unit = local.new_tensor(self.config["unit_pixels"])
        return to_fractions((expand(local, 1.0) if self.config["companded"] else local) * unit)

    def to_network_units(self, vectors: Tensor) -> Tensor:
        """Convert vectors [..., 2] in fractions of the frame to what the networks see."""
        values = to_pixels(vectors) / vectors.new_tensor(self.config["unit_pixels"])
        return compand(values, 1.0) if self.config["companded"] else values

    def upgrade_weights(self, state_dict: dict[str, Any]) -> None:
        """Convert weights whose attention was fused and whose codebooks had a leading dimension of 1."""
        split_fused_attention(state_dict)
        for name, value in state_dict.items():
            if name.endswith((".codes", ".usage")) and value.ndim > (2 if name.endswith(".codes") else 1):
                state_dict[name] = value[0]

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
        quantizers, size = tokens.ids.shape[1:]
        if quantizers > self.num_quantizers or size != self.tokens_per_quantizer:
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


def _code_grid(
    field: tuple[int, int, int], patch: Stride, encoder_strides: tuple[Stride, ...], decoder_strides: tuple[Stride, ...]
) -> tuple[int, int, int]:
    """Return the tokens along time, rows and columns of a field [T, h, w].

    Raises:
        ValueError: strides of encoder and decoder that differ in all, or that do not divide the field.
    """
    token = tuple(math.prod(steps) for steps in zip(patch, *encoder_strides, strict=True))
    if token != tuple(math.prod(steps) for steps in zip(patch, *decoder_strides, strict=True)):
        raise ValueError(
            f"`encoder_strides` (={encoder_strides}) and `decoder_strides` (={decoder_strides}) must have one product"
        )
    if any(size % step for size, step in zip(field, token, strict=True)):
        raise ValueError(
            f"patch times strides {token} must divide a field of {field[0]} steps of {field[1]}x{field[2]} cells"
        )
    return field[0] // token[0], field[1] // token[1], field[2] // token[2]


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
    # the published vectors point from the last frame to this one, ours back: hence the sign. The values are 256 and 144
    # times the published standard deviations, divided by 10
    "unit_pixels": (-2.54387968, -1.62759744),
    "companded": False,
    "linear_path": False,
    "valid_channel": False,
    "keyframe_step": False,
}
"""The motion tokenizer of Video-LaVIT (arXiv 2402.03161): `MotionTokenizer(**PUBLISHED_CONFIG)`, 158 M parameters."""
