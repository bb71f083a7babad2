"""KeyframeTokenizer: keyframes to codebook ids and back, few for plain images and more for detailed ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from motion_vq.model_base import VideotokModel, as_double, double_precision, no_tf32, register_to_config
from motion_vq.vector_quantizer import VectorQuantizer
from videotok.keyframes.detokenizer import KeyframeDetokenizer
from videotok.keyframes.protocol import (
    ExpectedErrors,
    KeyframeTokenizerProtocol,
    KeyframeTokens,
    check_ids,
    check_images,
    check_keep_mask,
)
from videotok.keyframes.refinement import refine_codes
from videotok.keyframes.selector import KeepThresholds, Selection, Selector, keep_above, keep_best, keep_numbers
from videotok.keyframes.vit import Merger, VisionTransformer

DECODE_ERROR = 3e-6
"""Bound on the rounding error of decoding in float32, for pixels in [-1, 1]; see `KeyframeTokenizer.decode_error`.

Measured with the shipped weights against float64 (docs/adr/0005-float32-certificate.md): a pixel is off by 2.3e-6 at
most, and the root of a patch's mean squared error against the source, which is what decisions compare, by 7.4e-7."""
GAIN_ERROR, VECTOR_ERROR = 1.3e-5, 4.5e-6
"""Bounds on the rounding error of encoding in float32: of the log of what a patch saves in a turn of the selection, and
of the length of the difference of a unit vector. Measured with the shipped weights on 68 pictures: 3.2e-6 and 1.1e-6
at most."""
MEASURED_DEPTH, MEASURED_WIDTH = 6, 320
"""Larger vision transformers round more, and encode in float64."""
IMAGES_ON_CPU = 4
"""Images that a CPU encodes at once. What one turn of the selection reads of a larger batch does not fit the cache, and
all images wait for the one with the most patches."""
OTHER_DEVICES = 4
"""Factor on all these on GPUs, whose convolutions add up in other orders, in part transformed (Winograd): not
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

    Encoding draws no random numbers, and ids are the same in any batch and on any number of threads: with float32
    weights it runs in float32, and again in float64 for images where rounding could decide between two codes or two
    patches that are equally near (docs/adr/0005-float32-certificate.md).

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
        return DECODE_ERROR * self._device_factor

    @property
    def gain_error(self) -> float:
        """See `GAIN_ERROR` and `OTHER_DEVICES`."""
        return GAIN_ERROR * self._device_factor

    @property
    def vector_error(self) -> float:
        """See `VECTOR_ERROR` and `OTHER_DEVICES`."""
        return VECTOR_ERROR * self._device_factor

    @property
    def _device_factor(self) -> int:
        return 1 if self.device.type == "cpu" else OTHER_DEVICES

    @property
    def drops_patches(self) -> bool:
        """True: `decode` fills in patches without a token."""
        return True

    @property
    def expects_errors(self) -> bool:
        """True: the selector predicts them."""
        return True

    @property
    def decodes_beside_encoding(self) -> bool:
        """True on a CPU, where `encode` casts no weights that `decode` uses; a GPU does one thing at a time."""
        return self.device.type == "cpu" and not self.config["refinement_steps"]

    @property
    def refines_codes(self) -> bool:
        """True: see `refinement_steps` of `encode`."""
        return True

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """Return how much each patch is worth its token, [B, N], comparable between images; see `Selector.scores`."""
        with double_precision(self.vit, self.selector):
            return _beside(images, self.selector.scores(self.features(images)))

    @torch.no_grad()
    def expected_errors(self, images: Tensor, counts: Sequence[int]) -> ExpectedErrors:
        """Return scores, what the selector predicts, and the features; see `KeyframeTokenizerProtocol`."""
        with double_precision(self.vit, self.selector):
            features = self.features(images)
            predicted = self.selector(features)
            scores = self.selector.scores_of(predicted)
            errors = self.selector.log_errors_of(predicted, keep_numbers(scores, counts)).exp()
        return ExpectedErrors(_beside(images, scores), _beside(images, errors), features)

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
        check_images(images, self.image_size)
        rule = self._selection_rule(len(images), keep_ratio, num_tokens, keep_mask)
        steps = self._refinement_steps(refinement_steps)
        if self.dtype == torch.float32 and self._knows_rounding and not steps:
            return self._encode_in_parts(images, rule)
        return self._encode_exactly(images, rule, steps)

    @torch.no_grad()
    def encode_features(
        self, features: Tensor, images: Tensor, keep_mask: Tensor, refinement_steps: int | None = None
    ) -> KeyframeTokens:
        """Return the tokens of images whose features float64 [B, N, width] are known."""
        check_keep_mask(keep_mask, (len(images), self.num_patches))
        steps = self._refinement_steps(refinement_steps)
        with double_precision(*self._encoder_after_selection, *([self.detokenizer] if steps else [])):
            return self._encode_kept(features, images, keep_mask.to(features.device), steps)

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor, *, fast: bool = False) -> Tensor:
        """Return the images of tokens, [B, 3, S, S] in [-1, 1].

        Args:
            ids: int64 [n_i] an image, in raster order of the kept patches.
            keep_mask: bool [B, num_patches].
            fast: for images that are shown and decide no id: the refiner of the detokenizer computes in bfloat16, which
                takes a quarter of the time off on a CPU that multiplies it; a pixel then differs by 0.1 / 255 (RMS).

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
        packed = pad_sequence(ids, batch_first=True).to(self.codebook_vectors.device)
        start = self.detokenizer.mask_token  # its device and dtype may not be those of the codebook
        with no_tf32():  # `decode_error` is a bound for float32
            codes = self.codebook.lookup(packed).to(start)
            return self.detokenizer(codes, keep_mask.to(start.device), fast=fast).clamp(-1, 1)

    def decode_exactly(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """Return what `decode` gives with float64 weights, which only the detokenizer needs."""
        with double_precision(self.detokenizer):
            return self.decode(ids, keep_mask)

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
            return F.normalize(self.to_code(merged.to(self.to_code.weight.dtype)), dim=-1)

    @property
    def _encoder_after_selection(self) -> list[nn.Module]:
        # not the codebook, which `decode` uses too, perhaps in another thread: its codes are cast where they are used
        return [self.merger, self.to_code]

    @property
    def _knows_rounding(self) -> bool:
        """Whether `GAIN_ERROR` and `VECTOR_ERROR` hold for models of this size."""
        return self.config["depth"] <= MEASURED_DEPTH and self.config["width"] <= MEASURED_WIDTH

    def _refinement_steps(self, steps: int | None) -> int:
        found: int = self.config["refinement_steps"] if steps is None else steps
        if found < 0:
            raise ValueError(f"`refinement_steps` (={found}) must be 0 or more")
        return found

    def _selection_rule(
        self, count: int, keep_ratio: float | None, num_tokens: int | None, keep_mask: Tensor | None
    ) -> "_SelectionRule":
        """Return which patches `encode` was asked to keep of `count` images."""
        if sum(rule is not None for rule in (keep_ratio, num_tokens, keep_mask)) > 1:
            raise ValueError("give only one of `keep_ratio`, `num_tokens` and `keep_mask`")
        if keep_mask is not None:
            check_keep_mask(keep_mask, (count, self.num_patches))
            return _SelectionRule(keep_mask=keep_mask)
        if num_tokens is not None:
            if not 1 <= num_tokens <= self.num_patches:
                raise ValueError(f"`num_tokens` (={num_tokens}) must lie in 1..{self.num_patches}")
            return _SelectionRule(num_tokens=num_tokens)
        share: float = self.config["default_keep_ratio"] if keep_ratio is None else keep_ratio
        if not 0 < share <= 1:
            raise ValueError(f"`keep_ratio` (={keep_ratio}) must be above 0 and at most 1")
        if share == 1:
            return _SelectionRule(keep_mask=torch.ones(count, self.num_patches, dtype=torch.bool))
        return _SelectionRule(threshold=self.thresholds(share))

    def _encode_exactly(self, images: Tensor, rule: "_SelectionRule", steps: int) -> KeyframeTokens:
        """Encode in float64, or in whatever precision the weights have if that is not float32."""
        encoder = [self.vit, self.selector, *self._encoder_after_selection]
        with double_precision(*encoder, *([self.detokenizer] if steps else [])):
            features = self.features(images)
            return self._encode_kept(features, images, self._keep_mask(features, rule), steps)

    def _keep_mask(self, features: Tensor, rule: "_SelectionRule") -> Tensor:
        if rule.keep_mask is not None:
            return rule.keep_mask.to(features.device)
        if rule.num_tokens is not None:
            scores = self.selector.scores(features, count=rule.num_tokens)
            return keep_best(scores, torch.full((len(scores),), rule.num_tokens, device=scores.device))
        assert rule.threshold is not None
        threshold = rule.threshold.to(features)
        return keep_above(self.selector.scores(features, threshold=threshold), threshold)

    def _encode_kept(self, features: Tensor, images: Tensor, keep_mask: Tensor, steps: int) -> KeyframeTokens:
        """Return the tokens of the kept patches of images with these features."""
        vectors, present = self.code_vectors(features, keep_mask)
        if steps:
            ids = refine_codes(self.codebook, self.detokenizer, images, keep_mask, vectors, present, steps)
        else:
            ids = self.codebook.nearest(vectors)
        return KeyframeTokens(_unpacked(ids.to(images.device), present), keep_mask.to(images.device))

    def _encode_in_parts(self, images: Tensor, rule: "_SelectionRule") -> KeyframeTokens:
        """Encode in float32, on a CPU some images at a time."""
        size = IMAGES_ON_CPU if self.device.type == "cpu" else len(images)
        if len(images) <= size:
            return self._encode_in_float32(images, rule)
        parts = torch.arange(len(images)).split(size)
        tokens = [self._encode_in_float32(images[part], rule.of_images(part)) for part in parts]
        return KeyframeTokens(
            [ids for some in tokens for ids in some.ids], torch.cat([one.keep_mask for one in tokens])
        )

    def _encode_in_float32(self, images: Tensor, rule: "_SelectionRule") -> KeyframeTokens:
        """Encode in float32, and again in float64 the images where rounding may have chosen a patch or a code."""
        with no_tf32():
            features = self.features(images)
            selection = self._certain_selection(features, rule, self.gain_error)
            keep_mask = selection.keep_mask.to(features.device)
            merged, present = self.merger(features, keep_mask)
            vectors = F.normalize(as_double(self.to_code(merged)), dim=-1)
            found = self.codebook.nearest_of_inexact(vectors, self.vector_error)
        present = present.to(vectors.device)
        is_certain = selection.is_certain.to(vectors.device) & (found.is_certain | ~present).all(dim=1)
        rows = _unpacked(found.ids.to(self.device), present)
        again = (~is_certain).nonzero()[:, 0]
        if len(again):
            exact = self._encode_exactly(images[again.to(images.device)], rule.of_images(again), 0)
            keep_mask = keep_mask.index_copy(0, again.to(keep_mask.device), exact.keep_mask.to(keep_mask.device))
            for index, ids in zip(again.tolist(), exact.ids, strict=True):
                rows[index] = ids.to(self.device)
        return KeyframeTokens(rows, keep_mask)

    def _certain_selection(self, features: Tensor, rule: "_SelectionRule", error: float) -> Selection:
        if rule.keep_mask is not None:
            certain = torch.ones(len(features), dtype=torch.bool, device=features.device)
            return Selection(rule.keep_mask.to(features.device), certain)
        return self.selector.select_by_inexact(features, error, rule.num_tokens, rule.threshold)


def _beside(images: Tensor, values: Tensor) -> Tensor:
    """Return float64 values on the device of images, or on the CPU where that has no float64 (Apple's GPUs)."""
    return values.to("cpu" if images.device.type == "mps" else images.device)


def _unpacked(ids: Tensor, present: Tensor) -> list[Tensor]:
    """Return the ids of each image, [n_i], of ids [B, n] whose padding at the end is not `present` bool [B, n]."""
    # a GPU waits once, and not for each image
    return [row[:count] for row, count in zip(ids, present.sum(dim=1).tolist(), strict=True)]


@dataclass(frozen=True)
class _SelectionRule:
    """Which patches are kept: one of these is given."""

    keep_mask: Tensor | None = None
    """bool [B, N]: these."""
    num_tokens: int | None = None
    """So many of each image."""
    threshold: Tensor | None = None
    """float64 []: those whose score reaches it."""

    def of_images(self, index: Tensor) -> "_SelectionRule":
        """Return the rule for some of the images, int64 [n]."""
        return self if self.keep_mask is None else _SelectionRule(self.keep_mask[index.to(self.keep_mask.device)])
