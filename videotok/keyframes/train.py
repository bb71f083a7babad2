"""Training of the keyframe tokenizer: two tasks for `videotok.training.trainer`, one run after the other.

KeyframeTraining             everything: squared error, LPIPS if given, codebook, selector
KeyframeAdversarialTraining  the detokenizer alone, for sharp images: LPIPS and a patch discriminator
interpolate_weights          between the two: faithful to sharp
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.losses import psnr
from motion_vq.vector_quantizer import codebook_usage, collapse_message, reduce_over_processes
from videotok.keyframes.initialization import initialize_linear
from videotok.keyframes.selector import ERROR_EXPONENT, PredictedErrors, Selector, greedy_selection, keep_best
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.keyframes.vit import patchify
from videotok.perceptual import LPIPS, PatchDiscriminator, adaptive_weight, hinge_loss

PATCHES_PER_CODE = 6
"""The codebook is initialized from this many patches for each code."""
MIN_KEEP_RATIO = 0.12
"""Keep ratios of training are drawn evenly between this and 1: one set of weights serves every rate."""
ERROR_OFFSET = 1e-3
"""Added to the squared error before its log: images better than this (36 dB) count less."""
RANDOM_MASK_SHARE = 0.25
"""Share of the training images whose patches are chosen at random, so that every kind of patch is kept and dropped."""
GUMBEL_SCALE = 0.3
"""Scale of the Gumbel noise on the scores of the other images."""
PIXEL_WEIGHT, COMMITMENT_WEIGHT, SELECTION_WEIGHT, FEATURE_WEIGHT = 0.05, 2.0, 0.005, 0.005
"""Weights of the log of the pixels' squared error (whose mean is near 0.05, so this is the error's own scale), of the
vectors' distance from their codes, of the selector's predicted errors and of the features' squared error."""
LPIPS_RANGE = 1.1
"""Pixels are clipped to this before LPIPS, which was trained on images in [-1, 1]."""
ADVERSARIAL_WARMUP = 0.5
"""Part of an adversarial run over which the discriminator's weight rises from 0."""

Items = Sequence[dict[str, np.ndarray]]
Batch = dict[str, Tensor]
Figures = dict[str, float]


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained for, besides squared error."""

    lpips: LPIPS | None = None
    """Perceptual distance, frozen; None: not used."""
    lpips_weight: float = 0.05
    static_shapes: bool | None = None
    """Do not pack kept patches, and rank them by their predicted savings at once instead of one after another: 2.3
    times faster on a GPU. None: on every device but the CPU."""


class KeyframeTraining:
    """Trains all of a keyframe tokenizer.

    Pixels and features are regressed at random keep ratios, codes follow by moving averages, and the selector learns to
    predict what a token saves.
    """

    def __init__(self, model: KeyframeTokenizer, options: TrainingOptions | None = None) -> None:
        self.model = model
        self.options = options or TrainingOptions()

    def prepare(self, items: Items, rng: np.random.Generator) -> Batch:
        """Return {"images": float32 [B, 3, S, S] in [-1, 1]} of items with `photo` or `keyframe`, uint8 [H, W, 3]."""
        return prepare_images(items, self.model.image_size, rng)

    def initialize(self, batches: Iterable[Batch]) -> None:
        """Start a new run as the best linear code of its first images' patches, with a codebook to match.

        A model whose codebook comes from data (`--from`) stays as it is.
        """
        if self.model.codebook.initialized:
            return
        images: list[Tensor] = []
        needed = PATCHES_PER_CODE * self.model.codebook_size / self.model.num_patches
        for batch in batches:
            images.append(batch["images"])
            if sum(map(len, images)) >= needed:
                break
        initialize_linear(self.model, torch.cat(images))

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, Figures]:
        """Return a step's loss [] and figures; the thresholds settle as `progress` goes from 0 to 1."""
        model, images = self.model, batch["images"]
        static = uses_static_shapes(self.options, images)
        features = model.features(images)
        predicted = predict_errors(model, features.detach())
        keep_mask = sample_keep_mask(predicted, model.selector, greedy=not static)
        coded = encode_for_training(model, features, keep_mask, static)
        reset = model.codebook.update(coded.kept_vectors.detach(), coded.kept_ids)
        decoded, filled = coded.decode(model, straight_through=True)

        errors = patchify((decoded - images) ** 2, model.config["patch_size"]).mean(dim=-1)
        feature_error = F.mse_loss(model.detokenizer.feature_head(filled).float(), features.detach().float())
        selection = error_prediction_loss(model.selector.log_error_of(predicted, keep_mask), errors.detach())
        self._update_thresholds(predicted, progress, static)
        total = (
            PIXEL_WEIGHT * log_error(errors)
            + COMMITMENT_WEIGHT * coded.commitment
            + FEATURE_WEIGHT * feature_error
            + SELECTION_WEIGHT * selection
        )
        figures = {
            "squared_error": errors.mean().item(),
            "commitment": coded.commitment.item(),
            "features": feature_error.item(),
            "selection": selection.item(),
            "kept": keep_mask.float().mean().item(),
            "reset_codes": float(reset),
        }
        if self.options.lpips is not None:
            # half of the batch is enough for its gradient, at half of the time
            half = (len(images) + 1) // 2
            distance = lpips_distance(self.options.lpips, decoded[:half], images[:half])
            total = total + self.options.lpips_weight * distance
            figures["lpips"] = distance.item()
        return total, figures

    def validate(self, batches: Iterable[Batch]) -> Figures:
        """Return figures of validation images; see `validate`."""
        return validate(self.model, batches, self.options.lpips)

    def _update_thresholds(self, predicted: PredictedErrors, progress: float, static: bool) -> None:
        """Let the thresholds follow the scores. They change slowly, so a few images are enough; on a GPU, where one
        greedy selection takes as long for many images as for two, many images once in a while."""
        if static:
            draw = torch.rand((), device=predicted.log_error.device)
            reduce_over_processes(draw)  # all processes or none: they gather their scores
            if draw.remainder(1).item() >= 1 / 25:
                return
        count, step_size = (64, 0.8 * (1 - progress) + 0.02) if static else (2, 0.2 * (1 - progress) + 0.01)
        distances = self.model.selector.distances
        scores = greedy_selection(predicted.log_saving[:count], predicted.redundancy[:count], distances)
        self.model.thresholds.update(scores, step_size)


class KeyframeAdversarialTraining:
    """Trains the detokenizer alone against a patch discriminator, as VQGAN does (Esser et al., arXiv 2012.09841).

    Encoder and codebook stay as they are, and so do all ids. Start it from the weights of a `KeyframeTraining` run.
    """

    def __init__(
        self,
        model: KeyframeTokenizer,
        options: TrainingOptions,
        *,
        adversarial_weight: float = 0.5,
        discriminator_width: int = 64,
    ) -> None:
        """Freeze all of `model` but what makes pixels.

        Args:
            model: with a codebook that comes from data.
            options: must have an LPIPS network; a weight of 0.2 is a good start here.
            adversarial_weight: of the discriminator's loss, in units of the other losses' gradient.
            discriminator_width: channels of the discriminator's first layer.

        Raises:
            ValueError: no LPIPS network, or an untrained model.
        """
        if options.lpips is None:
            raise ValueError("adversarial training needs `lpips`: without it images lose what they show")
        if not model.codebook.initialized:
            raise ValueError("adversarial training needs a trained model; start from the weights of an earlier run")
        self.model, self.options, self.lpips = model, options, options.lpips
        self.adversarial_weight = adversarial_weight
        model.requires_grad_(False)
        model.detokenizer.requires_grad_(True)
        model.detokenizer.feature_head.requires_grad_(False)
        self.discriminator = PatchDiscriminator(discriminator_width)
        self._decoded: Tensor | None = None

    def prepare(self, items: Items, rng: np.random.Generator) -> Batch:
        """Return the same batches as `KeyframeTraining.prepare`."""
        return prepare_images(items, self.model.image_size, rng)

    def initialize(self, batches: Iterable[Batch]) -> None:
        """Do nothing: the model is trained already."""

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, Figures]:
        """Return the detokenizer's loss [] and figures."""
        model, images = self.model, batch["images"]
        static = uses_static_shapes(self.options, images)
        with torch.no_grad():
            features = model.features(images)
            predicted = predict_errors(model, features)
            keep_mask = sample_keep_mask(predicted, model.selector, greedy=not static)
            coded = encode_for_training(model, features, keep_mask, static)
        decoded, _ = coded.decode(model, straight_through=False)
        errors = (decoded - images).square().mean(dim=(1, 2, 3))
        distance = lpips_distance(self.lpips, decoded, images)
        faithful = PIXEL_WEIGHT * log_error(errors[:, None]) + self.options.lpips_weight * distance
        self.discriminator.requires_grad_(False)
        sharp = -self.discriminator(decoded).float().mean()
        weight = adaptive_weight(faithful, sharp, model.detokenizer.refiner.out.weight)
        ramp = min(1.0, progress / ADVERSARIAL_WARMUP)
        self._decoded = decoded.detach()
        return faithful + self.adversarial_weight * ramp * weight * sharp, {
            "squared_error": errors.mean().item(),
            "lpips": distance.item(),
            "adversarial": sharp.item(),
            "adaptive_weight": weight.item(),
        }

    def discriminator_loss(self, batch: Batch, progress: float) -> tuple[Tensor, Figures]:
        """Return the discriminator's loss [] on the images of `loss`, which must have been called before."""
        del progress
        if self._decoded is None:
            raise RuntimeError("`discriminator_loss` needs the images of `loss`; call that first")
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(batch["images"]).float(), self.discriminator(self._decoded).float()
        return hinge_loss(real, fake), {"real": real.mean().item(), "fake": fake.mean().item()}

    def validate(self, batches: Iterable[Batch]) -> Figures:
        """Return figures of validation images; see `validate`."""
        return validate(self.model, batches, self.lpips)


@dataclass(frozen=True)
class CodedBatch:
    """A training batch after quantization, packed or, where `present` is None, at its patches."""

    vectors: Tensor
    """Unit vectors of the encoder: [B, n, code_dim], or [B, N, code_dim]."""
    ids: Tensor
    """int64, of the nearest codes."""
    codes: Tensor
    """The codes themselves."""
    present: Tensor | None
    """bool [B, n]: which of them are patches and not padding."""
    keep_mask: Tensor
    """bool [B, N]."""

    @property
    def kept_vectors(self) -> Tensor:
        """Vectors of all kept patches, [n, code_dim]."""
        return self.vectors[self._kept]

    @property
    def kept_ids(self) -> Tensor:
        """Their ids, int64 [n]."""
        return self.ids[self._kept]

    @property
    def commitment(self) -> Tensor:
        """Mean cosine distance [] of kept patches' vectors to their codes."""
        similarity = (self.vectors * self.codes).sum(dim=-1)
        return 1 - (similarity * self._kept).sum() / self._kept.sum()

    @property
    def _kept(self) -> Tensor:
        return self.keep_mask if self.present is None else self.present

    def decode(self, model: KeyframeTokenizer, *, straight_through: bool) -> tuple[Tensor, Tensor]:
        """Return float32 images [B, 3, S, S], and the detokenizer's features [B, N, width].

        `straight_through`: gradients pass the quantization to the encoder's vectors.
        """
        codes = self.vectors + (self.codes - self.vectors).detach() if straight_through else self.codes
        if self.present is None:
            filled = model.detokenizer.fill_in_place(codes, self.keep_mask)
        else:
            filled = model.detokenizer.fill(codes, self.keep_mask)
        return model.detokenizer.to_pixels(filled).float(), filled


def encode_for_training(model: KeyframeTokenizer, features: Tensor, keep_mask: Tensor, static: bool) -> CodedBatch:
    """Quantize features [B, N, width] at `keep_mask` bool [B, N]; `static`: without packing."""
    present = None
    if static:
        vectors = model.code_vectors_in_place(features, keep_mask).float()
    else:
        vectors, present = model.code_vectors(features, keep_mask)
        vectors = vectors.float()
    ids = model.codebook.nearest(vectors)
    return CodedBatch(vectors, ids, model.codebook.lookup(ids), present, keep_mask)


def predict_errors(model: KeyframeTokenizer, features: Tensor) -> PredictedErrors:
    """Return the selector's predictions in float32."""
    predicted = model.selector(features)
    return PredictedErrors(predicted.log_error.float(), predicted.log_saving.float(), predicted.redundancy.float())


@torch.no_grad()
def sample_keep_mask(predicted: PredictedErrors, selector: Selector, *, greedy: bool = True) -> Tensor:
    """Choose the patches to keep in a training step: bool [B, N].

    A quarter of the images gets patches at random, the others by the selector and Gumbel noise. The number of patches
    lies around one keep ratio that is drawn for the batch. `greedy`: take patches one after another, as in encoding.
    """
    log_saving = predicted.log_saving
    batch, patches = log_saving.shape
    ratio = MIN_KEEP_RATIO + (1 - MIN_KEEP_RATIO) * torch.rand(1, device=log_saving.device)
    ratios = ratio * torch.empty(batch, device=log_saving.device).uniform_(0.8, 1.25)
    counts = (ratios * patches).round().long().clamp(1, patches)
    gumbel_noise = -torch.empty_like(log_saving).exponential_().log()
    if greedy:
        scores = greedy_selection(
            log_saving, predicted.redundancy, selector.distances, int(counts.max()), GUMBEL_SCALE * gumbel_noise
        )
    else:
        scores = ERROR_EXPONENT * log_saving + GUMBEL_SCALE * gumbel_noise
    at_random = torch.rand(batch, 1, device=log_saving.device) < RANDOM_MASK_SHARE
    return keep_best(torch.where(at_random, gumbel_noise, scores), counts)


def uses_static_shapes(options: TrainingOptions, images: Tensor) -> bool:
    """Return whether a step on these images packs no patches."""
    return images.device.type != "cpu" if options.static_shapes is None else options.static_shapes


def log_error(errors: Tensor) -> Tensor:
    """Return the mean log [] of images' squared errors, [B, n] parts each.

    PSNR counts in logs: easy images and high rates matter as much as hard ones and low rates.
    """
    return (errors.mean(dim=1) + ERROR_OFFSET).log().mean()


def lpips_distance(lpips: LPIPS, decoded: Tensor, images: Tensor) -> Tensor:
    """Return the mean LPIPS distance [] of images [B, 3, S, S]."""
    return lpips.to(images.device)(decoded.clamp(-LPIPS_RANGE, LPIPS_RANGE), images).mean()


def error_prediction_loss(predicted: Tensor, errors: Tensor) -> Tensor:
    """Return how badly logs of errors were predicted, [B, N] both: an exponential distribution's negative
    log-likelihood.

    It is least where the predicted error is the mean of the measured ones, whatever its size, and no ratio explodes.
    """
    return (errors.clamp(min=1e-7) * torch.exp(-predicted) + predicted).mean()


@torch.no_grad()
def validate(model: KeyframeTokenizer, batches: Iterable[Batch], lpips: LPIPS | None) -> Figures:
    """Measure a model on validation images.

    Returns:
        `psnr` and `psnr_all_patches`: dB, at the default keep ratio and with every patch kept, means over images;
        `lpips` at the default keep ratio, where a network is given; `kept`: share of patches above the default
        threshold; `codes_used` (share) and `perplexity` of the codebook.
    """
    keep_ratio = model.config["default_keep_ratio"]
    rates = {"psnr": round(keep_ratio * model.num_patches), "psnr_all_patches": model.num_patches}
    values: dict[str, list[Tensor]] = {name: [] for name in (*rates, "lpips", "kept")}
    ids: list[Tensor] = []
    for batch in batches:
        images = batch["images"]
        for name, num_tokens in rates.items():
            tokens = model.encode(images, num_tokens=num_tokens, refinement_steps=0)
            decoded = model.decode(tokens.ids, tokens.keep_mask).float()
            values[name].append(image_psnr(decoded, images))
            if name == "psnr" and lpips is not None:
                values["lpips"].append(lpips.to(images.device)(decoded, images))
            ids += tokens.ids if num_tokens == model.num_patches else []
        kept = model.scores(images) >= model.thresholds(keep_ratio)
        values["kept"].append(kept.double().mean(dim=1))
    all_ids = torch.cat(ids)
    if message := collapse_message(all_ids, model.codebook_size):
        warnings.warn(message, stacklevel=2)
    usage = codebook_usage(all_ids, model.codebook_size)
    figures = {name: float(torch.cat(rows).mean()) for name, rows in values.items() if rows}
    return figures | {"codes_used": usage.used_share, "perplexity": usage.perplexity}


def image_psnr(decoded: Tensor, images: Tensor) -> Tensor:
    """Return the PSNR [B] in dB of images [B, 3, H, W] in [-1, 1], as of the same in 0..255."""
    return psnr((decoded - images).square().mean(dim=(1, 2, 3)), 2.0)


@torch.no_grad()
def interpolate_weights(first: nn.Module, second: nn.Module, share: float) -> None:
    """Move the parameters of `first` the part `share` (0 to 1) of the way to those of `second`, in place.

    Between the weights of a `KeyframeTraining` run and those of the adversarial run after it lies a trade: squared
    error for sharpness. Encoder and codebook are the same in both.

    Raises:
        ValueError: the two have other parameters.
    """
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    if {n: p.shape for n, p in ours.items()} != {n: p.shape for n, p in theirs.items()}:
        raise ValueError("weights of two different architectures cannot be interpolated")
    for name, parameter in ours.items():
        parameter.lerp_(theirs[name].to(parameter), share)


def prepare_images(items: Items, size: int, rng: np.random.Generator) -> Batch:
    """Cut a random crop of each item's picture; see `KeyframeTraining.prepare`."""
    pictures = [item["photo"] if "photo" in item else item["keyframe"] for item in items]
    crops = np.stack([random_crop(picture, size, rng) for picture in pictures])
    return {"images": torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1}


def random_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random window of a picture uint8 [H, W, 3], resized to [size, size, 3], mirrored half of the time.

    Windows have three quarters of the sides or more: smaller ones are smoother than any keyframe, and codes learned
    from them are missing where there is detail.
    """
    height, width = picture.shape[:2]
    rows, columns = (max(1, round(side * rng.uniform(0.75, 1.0))) for side in (height, width))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    window = picture[top : top + rows, left : left + columns]
    shrinks = rows > size and columns > size
    window = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(window[:, ::-1]) if rng.random() < 0.5 else window
