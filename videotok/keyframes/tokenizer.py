"""KeyframeTokenizer: keyframes to codebook ids and back, few for plain images and more for detailed ones."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from motion_vq.model_base import VideotokModel, double_precision, no_tf32, register_to_config
from motion_vq.vector_quantizer import VectorQuantizer
from videotok.keyframes.detokenizer import KeyframeDetokenizer
from videotok.keyframes.protocol import (
    KeyframeTokenizerProtocol,
    KeyframeTokens,
    check_ids,
    check_images,
    check_keep_mask,
)
from videotok.keyframes.refinement import refine_codes
from videotok.keyframes.selector import KeepThresholds, Selector, keep_above, keep_best
from videotok.keyframes.vit import Merger, VisionTransformer

DECODE_ERROR = 3e-6
"""Bound on the rounding error of decoding in float32, for pixels in [-1, 1]; see `KeyframeTokenizer.decode_error`.

Measured with the shipped weights against float64 (docs/adr/0005-float32-certificate.md): a pixel is off by 2.3e-6 at
most, and the root of a patch's mean squared error against the source, which is what decisions compare, by 7.4e-7."""
OTHER_DEVICES = 4
"""Factor on `DECODE_ERROR` on GPUs, whose convolutions add up in other orders, in part transformed (Winograd): not
measured, `benchmarks.device` does; keyframes are decided again in float64 more often."""


class KeyframeTokenizer(VideotokModel, KeyframeTokenizerProtocol):
    """Dynamic visual tokenizer after LaVIT (arXiv 2309.04669), with a detokenizer to pixels.

        images [B, 3, S, S] in [-1, 1]
          │ vision transformer                            features [B, N, width]
          │ selector: what each patch saves               keep_mask bool [B, N]
          │ merger: kept patches take in dropped ones     [B, n, width]
          │ Linear, scaled to unit length                 [B, n, code_dim]
          ▼ nearest code of the codebook                  ids int64 [n_i] an image
          │ detokenizer: codes at their patches, the others filled in
          ▼
        images [B, 3, S, S] in [-1, 1]

    Encoding draws no random numbers. Rounding could still decide between two codes or two patches that are equally
    near; in float64 (`model.double()`) ids are the same in any batch and on any number of threads.

    LaVIT's published size is `KeyframeTokenizer(image_size=224, patch_size=14, width=1408, depth=40, heads=16,
    hidden=6144, merger_depth=12, decoder_width=1408, decoder_depth=12, decoder_heads=16, decoder_hidden=6144,
    seam_cells=2)`.
    """

    renamed_options: ClassVar[dict[str, str]] = {
        "cells": "seam_cells",
        "cell_width": "seam_width",
        "default_keep": "default_keep_ratio",
        "search": "refinement_steps",
    }
    renamed_parameters: ClassVar[dict[str, str]] = {
        "codebook.words": "codebook.codes",
        "codebook.started": "codebook.initialized",
        "selector.judge": "selector.head",
        "selector.reach": "selector.redundancy",
        "merger.nothing": "merger.null_token",
        "detokenizer.words": "detokenizer.code_embedding",
        "detokenizer.empty": "detokenizer.mask_token",
        "detokenizer.recall": "detokenizer.feature_head",
        "detokenizer.pixels": "detokenizer.pixel_head",
        "detokenizer.cells": "detokenizer.refiner.cells",
        "detokenizer.join": "detokenizer.refiner.hidden",
        "detokenizer.finish": "detokenizer.refiner.out",
    }

    @register_to_config
    def __init__(
        self,
        *,
        image_size: int = 256,
        patch_size: int = 16,
        width: int = 256,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 1024,
        merger_depth: int = 1,
        codebook_size: int = 16384,
        code_dim: int = 32,
        decoder_width: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 4,
        decoder_hidden: int = 1024,
        seam_cells: int = 4,
        seam_width: int = 64,
        upsampler_widths: Sequence[int] | None = None,
        upsampler_blocks: Sequence[int] = (2, 2, 1),
        default_keep_ratio: float = 0.5,
        refinement_steps: int = 0,
    ) -> None:
        """Build a tokenizer with random weights.

        Args:
            image_size: side of the square images, in pixels.
            patch_size: side of a patch, in pixels; must divide `image_size`.
            width, depth, heads, hidden: of the vision transformer: values of a feature, blocks, attention heads, values
                in the middle of an MLP. The merger has the same width, heads and hidden.
            merger_depth: blocks of the merger.
            codebook_size, code_dim: number of codes, and values of a code.
            decoder_width, decoder_depth, decoder_heads, decoder_hidden: of the detokenizer's transformer.
            seam_cells, seam_width: without an upsampler, convolutions remove the seams between patches, on
                `seam_cells` x `seam_cells` cells a patch of `seam_width` values.
            upsampler_widths: channels of the stages of a convolutional upsampler, each twice as large as the one
                before; `2 ** (number of stages + 1)` must be `patch_size`, and 8 must divide each. None: no upsampler.
            upsampler_blocks: residual blocks of each stage.
            default_keep_ratio: share of all patches that is kept where the caller does not say, above 0 to 1.
            refinement_steps: steps of code refinement where the caller does not say, 0 or more.

        Raises:
            ValueError: sizes that do not fit each other.
        """
        super().__init__()
        self._check_sizes()
        self.vit = VisionTransformer(image_size, patch_size, width, depth, heads, hidden)
        self.selector = Selector(width, image_size // patch_size)
        self.thresholds = KeepThresholds()
        self.merger = Merger(width, merger_depth, heads, hidden)
        self.to_code = nn.Linear(width, code_dim)
        self.codebook = VectorQuantizer(codebook_size, code_dim, normalized=True)
        self.detokenizer = KeyframeDetokenizer(
            image_size=image_size,
            patch_size=patch_size,
            code_dim=code_dim,
            width=decoder_width,
            depth=decoder_depth,
            heads=decoder_heads,
            hidden=decoder_hidden,
            feature_width=width,
            seam_cells=seam_cells,
            seam_width=seam_width,
            upsampler_widths=upsampler_widths,
            upsampler_blocks=upsampler_blocks,
        )

    def _check_sizes(self) -> None:
        config = self.config
        divisions = [("patch_size", "image_size"), ("heads", "width"), ("decoder_heads", "decoder_width")]
        if config["upsampler_widths"] is None:
            divisions.append(("seam_cells", "patch_size"))
        for part, whole in divisions:
            if config[whole] % config[part]:
                raise ValueError(f"`{part}` (={config[part]}) must divide `{whole}` (={config[whole]})")
        widths, blocks = config["upsampler_widths"], config["upsampler_blocks"]
        if widths is None:
            return
        if len(widths) != len(blocks) or 2 ** (len(widths) + 1) != config["patch_size"]:
            raise ValueError(
                f"`upsampler_widths` (={tuple(widths)}) and `upsampler_blocks` (={tuple(blocks)}) must have one entry "
                f"for each doubling but the last, to `patch_size` (={config['patch_size']})"
            )
        if any(width % 8 for width in widths):
            raise ValueError(f"8 must divide each of `upsampler_widths` (={tuple(widths)})")

    @property
    def image_size(self) -> int:
        """Side of the square images this model takes and returns, in pixels."""
        return self.config["image_size"]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        side = self.image_size // self.config["patch_size"]
        return side, side

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids lie in [0, codebook_size)."""
        return self.config["codebook_size"]

    @property
    def codebook_vectors(self) -> Tensor:
        """The codes, [codebook_size, code_dim], each of unit length."""
        return self.codebook.codes

    @property
    def feature_width(self) -> int:
        """Width of `patch_features`."""
        return self.config["width"]

    @property
    def encoding_dtype(self) -> torch.dtype:
        """float32: `encode` decides as in float64 by itself."""
        return torch.float32

    @property
    def decode_error(self) -> float:
        """See `DECODE_ERROR` and `OTHER_DEVICES`."""
        return DECODE_ERROR if self.device.type == "cpu" else OTHER_DEVICES * DECODE_ERROR

    @property
    def drops_patches(self) -> bool:
        """True: `decode` fills in patches without a token."""
        return True

    @property
    def expects_errors(self) -> bool:
        """True: the selector predicts them."""
        return True

    @property
    def refines_codes(self) -> bool:
        """True: see `refinement_steps` of `encode`."""
        return True

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Return how much each patch is worth its token, [B, N], comparable between images; see `Selector.scores`."""
        with double_precision(self.vit, self.selector):
            return self.selector.scores(self.features(images)).to(images.device)

    @torch.no_grad()
    def expected_errors(self, images: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return scores and what the selector predicts; see `KeyframeTokenizerProtocol`."""
        with double_precision(self.vit, self.selector):
            features = self.features(images)
            scores, predicted = self.selector.scores(features), self.selector(features)
            masks = [keep_best(scores, torch.full((len(scores),), count, device=scores.device)) for count in counts]
            errors = [self.selector.log_error_of(predicted, mask).exp() for mask in masks]
        return scores.to(images.device), torch.stack(errors, dim=1).to(images.device)

    @torch.no_grad()
    def patch_features(self, images: Tensor, keep_mask: Tensor) -> list[Tensor]:
        """Return the merged features of kept patches, [n_i, width] an image; see `KeyframeTokenizerProtocol`."""
        merged, present = self.merger(self.features(images), keep_mask.to(self.device))
        return [rows[kept] for rows, kept in zip(merged, present, strict=True)]

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        keep_ratio: float | None = None,
        num_tokens: int | None = None,
        keep_mask: Tensor | None = None,
        refinement_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> KeyframeTokens:
        """Return the tokens of images.

        Args:
            images: [B, 3, S, S] in [-1, 1], of this model's `image_size`.
            keep_ratio: share of all patches to keep, above 0 to 1, on average over many images: plain images get fewer
                tokens, detailed ones more. None: the model's default.
            num_tokens: exactly so many tokens an image instead, 1 to `num_patches`.
            keep_mask: bool [B, num_patches] instead: the patches to keep, at least one an image.
            refinement_steps: steps of code refinement (`videotok.keyframes.refinement`), 0 or more. None: the model's
                default.
            generator: must be None: this tokenizer does not sample.

        Raises:
            ValueError: images of another size, more than one of `keep_ratio`, `num_tokens` and `keep_mask`, or an
                option out of range.
        """
        if generator is not None:
            raise ValueError("`generator`: this keyframe tokenizer does not sample patches; leave it out")
        steps: int = self.config["refinement_steps"] if refinement_steps is None else refinement_steps
        if steps < 0:
            raise ValueError(f"`refinement_steps` (={steps}) must be 0 or more")
        encoder = [self.vit, self.selector, self.thresholds, self.merger, self.to_code, self.codebook]
        with double_precision(*encoder, *([self.detokenizer] if steps else [])):
            features = self.features(images)
            mask = self._select(features, keep_ratio, num_tokens, keep_mask)
            vectors, present = self.code_vectors(features, mask)
            if steps:
                ids = refine_codes(self.codebook, self.detokenizer, images, mask, vectors, present, steps)
            else:
                ids = self.codebook.nearest(vectors)
        rows = [row[there].to(self.device) for row, there in zip(ids, present, strict=True)]
        return KeyframeTokens(rows, mask.to(self.device))

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """Return the images of tokens, [B, 3, S, S] in [-1, 1].

        Args:
            ids: int64 [n_i] an image, in raster order of the kept patches.
            keep_mask: bool [B, num_patches].

        Raises:
            ValueError: an id outside the codebook, or another number of ids than of kept patches.
        """
        counts = keep_mask.sum(dim=1).tolist()
        lengths = [len(row) for row in ids]
        if keep_mask.shape != (len(ids), self.num_patches) or counts != lengths:
            raise ValueError(
                f"`keep_mask` {tuple(keep_mask.shape)} keeps {counts} patches for images of {lengths} ids; "
                f"expected {(len(ids), self.num_patches)} and one id for each kept patch"
            )
        check_ids(torch.cat(ids), self.codebook_size)
        packed = pad_sequence(ids, batch_first=True).to(self.device)
        with no_tf32():  # `decode_error` is a bound for float32
            return self.detokenizer(self.codebook.lookup(packed), keep_mask.to(self.device)).clamp(-1, 1)

    def forward(self, images: Tensor, keep_ratio: float | None = None) -> Tensor:
        """Encode images [B, 3, S, S] and decode them again."""
        tokens = self.encode(images, keep_ratio=keep_ratio)
        return self.decode(tokens.ids, tokens.keep_mask)

    def features(self, images: Tensor) -> Tensor:
        """Return the vision transformer's features [B, N, width] of images [B, 3, S, S]."""
        check_images(images, self.image_size)
        return self.vit(images.to(self.device, self.dtype))

    def code_vectors(self, features: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Merge, pack and project features [B, N, width]: unit vectors [B, n, code_dim], and present bool [B, n]."""
        merged, present = self.merger(features, keep_mask)
        return self._to_sphere(merged), present

    def code_vectors_in_place(self, features: Tensor, keep_mask: Tensor) -> Tensor:
        """Return the same vectors without packing, [B, N, code_dim], of which only the kept patches count."""
        return self._to_sphere(self.merger.merge_in_place(features, keep_mask))

    def _to_sphere(self, merged: Tensor) -> Tensor:
        # neighbouring codes differ in the third digit: more than bfloat16 holds when training in mixed precision
        with torch.autocast(merged.device.type, enabled=False):
            return F.normalize(self.to_code(merged.to(self.dtype)), dim=-1)

    def _select(
        self, features: Tensor, keep_ratio: float | None, num_tokens: int | None, keep_mask: Tensor | None
    ) -> Tensor:
        """Return the keep mask bool [B, N] that `encode` was asked for."""
        if sum(rule is not None for rule in (keep_ratio, num_tokens, keep_mask)) > 1:
            raise ValueError("give only one of `keep_ratio`, `num_tokens` and `keep_mask`")
        if keep_mask is not None:
            keep_mask = keep_mask.to(features.device)
            check_keep_mask(keep_mask, (len(features), self.num_patches))
            return keep_mask
        if num_tokens is not None:
            if not 1 <= num_tokens <= self.num_patches:
                raise ValueError(f"`num_tokens` (={num_tokens}) must lie in 1..{self.num_patches}")
            scores = self.selector.scores(features, count=num_tokens)
            return keep_best(scores, torch.full((len(scores),), num_tokens, device=scores.device))
        share: float = self.config["default_keep_ratio"] if keep_ratio is None else keep_ratio
        if not 0 < share <= 1:
            raise ValueError(f"`keep_ratio` (={keep_ratio}) must be above 0 and at most 1")
        threshold = self.thresholds(share)
        return keep_above(self.selector.scores(features, threshold=threshold), threshold)
