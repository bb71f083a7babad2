"""Where training begins: the best linear code of patches, written into the networks' weights.

A network of random weights needs tens of thousands of pictures to get where principal components and k-means are at
once (about 25 dB with 16,384 words). So it begins there: the transformers add nothing yet, and a straight path through
them carries each patch's leading components to a vector of length one, to a word, and back to pixels.

What the keyframe tokenizer is trained for; the loop that drives it is videotok.training.trainer.

A run begins as the best linear code of patches (start.py); from there everything is trained together.
"""

import warnings
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.vector_quantizer import codebook_use, collapsed
from videotok.keyframes.selector import Selector, greedy_selection, keep_best
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.keyframes.vit import patchify

REACH = 0.2
"""Root mean square length of the components beside the constant one: how far apart words lie on the sphere."""


@torch.no_grad()
def start_linear(model: KeyframeTokenizer, images: Tensor) -> None:
    """Writes principal components of the patches of `images` [B, 3, S, S] into `model`, starts its codebook on them.

    Raises:
        ValueError: fewer patches than words.
    """
    patches = patchify(images, model.config["patch_size"]).flatten(0, 1)
    mean, components, lengths = principal_components(patches, model.config["code_dim"] - 1)
    _write_encoder(model, mean, components, lengths)
    _write_detokenizer(model, mean, components, lengths)
    keep_all = torch.ones(1, model.num_patches, dtype=torch.bool, device=images.device)
    vectors = [model.code_vectors(model.features(image[None]), keep_all)[0][0] for image in images]
    model.codebook.start(torch.cat(vectors))


def principal_components(patches: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """patches [n, V] -> mean [V], `count` orthonormal directions [count, V], rms length along each [count]."""
    mean = patches.mean(dim=0)
    centred = (patches - mean).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(1).T
    lengths = (centred @ directions.T).square().mean(dim=0).sqrt()
    return mean, directions.to(patches.dtype), lengths.to(patches.dtype)


def _write_encoder(model: KeyframeTokenizer, mean: Tensor, components: Tensor, lengths: Tensor) -> None:
    count, embed, code = len(components), model.vit.patches, model.to_code
    model.vit.positions[:, :count] = 0
    nn.init.zeros_(embed.weight)
    nn.init.zeros_(embed.bias)
    embed.weight[:count] = components / _balance(lengths)[:, None]
    embed.bias[:count] = -(embed.weight[:count] @ mean)
    nn.init.zeros_(code.weight)
    nn.init.zeros_(code.bias)
    code.weight[:count, :count] = torch.diag(_balance(lengths)) * (REACH / lengths.norm())
    code.bias[-1] = 1.0


def _write_detokenizer(model: KeyframeTokenizer, mean: Tensor, components: Tensor, lengths: Tensor) -> None:
    count, words, pixels = len(components), model.detokenizer.words, model.detokenizer.pixels
    model.detokenizer.positions[:, :count] = 0
    nn.init.zeros_(words.weight)
    nn.init.zeros_(words.bias)
    # vectors of length one have lost this part of their components, on the average
    shrink = (1 + REACH**2) ** -0.5
    words.weight[:count, :count] = torch.diag(lengths.norm() / (REACH * shrink * _balance(lengths)))
    nn.init.zeros_(pixels.weight)
    pixels.weight[:, :count] = components.T * _balance(lengths)
    pixels.bias.copy_(mean)


def _balance(lengths: Tensor) -> Tensor:
    """What components are divided by among the features: half-way to equal size, so detail is seen beside light."""
    return (lengths * lengths[0]).sqrt()


START_PATCHES_PER_WORD = 6
"""The codebook begins on so many patches a word."""
LEAST_KEEP = 0.12
"""Keep rates of training are drawn evenly between this and 1: one set of weights serves every rate."""
LEAST_ERROR = 1e-3
"""Squared error (36 dB) below which a picture is good enough to be taken less seriously."""
RANDOM_CHOICE = 0.25
"""Part of the training pictures whose patches are chosen blindly: every kind of patch is seen kept and dropped."""
LUCK = 0.3
"""Strength of the Gumbel noise among the scores of the others, in units of the scores."""
PIXELS, COMMITMENT, SELECTION, RECALL = 0.05, 2.0, 0.005, 0.005
"""Weights of the log of the pixels' squared error (its mean is near 0.05, so this is the error's own scale), of the
vectors' distance from their words, of the selector's forecast and of the features' squared error."""


class KeyframeTraining:
    """Training task: pixels and features are regressed, words follow by moving average, the selector learns to
    foretell what a token saves."""

    def __init__(self, model: KeyframeTokenizer) -> None:
        self.model = model

    def prepare(self, items: Sequence[dict[str, np.ndarray]], rng: np.random.Generator) -> dict[str, Tensor]:
        """Items with `photo` or `keyframe` (uint8 [H, W, 3]) -> {"images": float32 [B, 3, S, S] in [-1, 1]}."""
        pictures = [item["photo"] if "photo" in item else item["keyframe"] for item in items]
        crops = np.stack([random_crop(picture, self.model.image_size, rng) for picture in pictures])
        return {"images": torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1}

    def initialise(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Begins a new run as the best linear code of its first pictures' patches, with a codebook to match.

        A model that comes with words (`--from`) goes on from them.
        """
        if self.model.codebook.started:
            return
        images: list[Tensor] = []
        needed = START_PATCHES_PER_WORD * self.model.codebook_size / self.model.num_patches
        for batch in batches:
            images.append(batch["images"])
            if sum(map(len, images)) >= needed:
                break
        start_linear(self.model, torch.cat(images))

    def loss(self, batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, float]]:
        """One step's loss and what to log; the thresholds settle as `progress` goes from 0 to 1."""
        model, images = self.model, batch["images"]
        features = model.features(images)
        log_error, log_saving, reach = (part.float() for part in model.selector(features.detach()))
        keep_mask = choose(log_saving, reach, model.selector)
        vectors, present = model.code_vectors(features, keep_mask)
        vectors = vectors.float()
        ids = model.codebook.nearest(vectors)
        words = model.codebook(ids)
        commitment = 1 - (vectors * words).sum(dim=-1)[present].mean()
        revived = model.codebook.learn(vectors[present].detach(), ids[present])
        words = vectors + (words - vectors).detach()
        filled = model.detokenizer.fill(words, present, keep_mask)
        restored = model.detokenizer.draw(filled).float()

        errors = patchify((restored - images) ** 2, model.config["patch_size"]).mean(dim=-1)
        # the log is what PSNR counts in: easy pictures and high rates matter as much as hard ones and low rates
        pixels = (errors.mean(dim=1) + LEAST_ERROR).log().mean()
        recall = F.mse_loss(model.detokenizer.recall(filled).float(), features.detach().float())
        predicted_error = model.selector.predicted_error(log_error, log_saving, reach, keep_mask)
        selection = error_prediction_loss(predicted_error, errors.detach())
        # thresholds change slowly: two pictures a step are enough to follow
        scores = greedy_selection(log_saving[:2], reach[:2], model.selector.distances)
        model.thresholds.follow(scores, step=0.2 * (1 - progress) + 0.01)
        total = PIXELS * pixels + COMMITMENT * commitment + RECALL * recall + SELECTION * selection
        return total, {
            "pixels": errors.mean().item(),
            "commitment": commitment.item(),
            "recall": recall.item(),
            "selection": selection.item(),
            "kept": keep_mask.float().mean().item(),
            "revived": float(revived),
        }

    @torch.no_grad()
    def validate(self, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """PSNR in dB (mean over pictures) at the default budget and with every patch kept, the codebook's use, and the
        part of the patches that the default threshold keeps."""
        model = self.model
        budgets = {
            "psnr": round(model.config["default_keep"] * model.num_patches),
            "psnr_all_patches": model.num_patches,
        }
        found: dict[str, list[Tensor]] = {name: [] for name in budgets}
        kept, ids = [], []
        for batch in batches:
            images = batch["images"]
            for name, budget in budgets.items():
                tokens = model.encode(images, num_tokens=budget, search=0)
                found[name].append(psnr(model.decode(tokens.ids, tokens.keep_mask).float(), images))
                ids += tokens.ids if budget == model.num_patches else []
            scores = model.selector.scores(model.features(images))
            kept.append((scores >= model.thresholds(model.config["default_keep"])).double().mean(dim=1))
        used, perplexity = codebook_use(torch.cat(ids), model.codebook_size)
        if trouble := collapsed(torch.cat(ids), model.codebook_size):
            warnings.warn(trouble, stacklevel=2)
        figures = {name: float(torch.cat(values).mean()) for name, values in found.items()}
        return figures | {"kept": float(torch.cat(kept).mean()), "words_used": used, "perplexity": perplexity}


@torch.no_grad()
def choose(log_saving: Tensor, reach: Tensor, selector: Selector) -> Tensor:
    """Patches to keep in one training step: bool [B, N]. A quarter of the pictures is chosen blindly, the others by the
    selector and gumbel_noise (Gumbel noise), at rates around one that is drawn for the batch."""
    batch, patches = log_saving.shape
    rate = LEAST_KEEP + (1 - LEAST_KEEP) * torch.rand(1, device=log_saving.device)
    spread = rate * torch.empty(batch, device=log_saving.device).uniform_(0.8, 1.25)
    counts = (spread * patches).round().long().clamp(1, patches)
    gumbel_noise = -torch.empty_like(log_saving).exponential_().log()
    scores = greedy_selection(log_saving, reach, selector.distances, int(counts.max()), LUCK * gumbel_noise)
    blind = torch.rand(batch, 1, device=log_saving.device) < RANDOM_CHOICE
    return keep_best(torch.where(blind, gumbel_noise, scores), counts)


def error_prediction_loss(predicted_error: Tensor, errors: Tensor) -> Tensor:
    """How badly logs of errors were predicted_error, [B, N] both, as an exponential distribution's log-likelihood.

    It is least where the predicted_error error is the mean of what is measured, whatever its size, and no ratio explodes.
    """
    return (errors.clamp(min=1e-7) * torch.exp(-predicted_error) + predicted_error).mean()


def psnr(restored: Tensor, images: Tensor) -> Tensor:
    """dB [B] between pictures in [-1, 1], as between the same in 0..255."""
    return 10 * torch.log10(4 / (restored - images).square().mean(dim=(1, 2, 3)).clamp(min=1e-10))


def random_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random window of `picture`, squashed to size x size, mirrored half of the time.

    Windows have three quarters of the sides or more: smaller ones are smoother than any keyframe, and words learned
    from them are missing where there is detail.
    """
    height, width = picture.shape[:2]
    rows, columns = (max(1, round(side * rng.uniform(0.75, 1.0))) for side in (height, width))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    window = picture[top : top + rows, left : left + columns]
    shrinks = rows > size and columns > size
    window = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(window[:, ::-1]) if rng.random() < 0.5 else window
