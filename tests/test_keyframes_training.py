"""Training of the keyframe tokenizer on a tiny model: linear initialization, losses, both phases."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from keyframe_sizes import SIZES, UPSAMPLER
from skimage import data
from torch import Tensor

from videotok.keyframes import KeyframeTokenizer, KeyframeTraining
from videotok.keyframes.selector import PredictedErrors
from videotok.keyframes.train import (
    KeyframeAdversarialTraining,
    TrainingOptions,
    error_prediction_loss,
    image_psnr,
    interpolate_weights,
    random_crop,
    sample_keep_mask,
)
from videotok.perceptual import LPIPS, PatchDiscriminator, adaptive_weight, hinge_loss
from videotok.training.trainer import Plan, train


def pictures(count: int) -> list[dict[str, np.ndarray]]:
    astronaut, coffee = data.astronaut(), data.coffee()
    return [{"photo": astronaut} if i % 2 else {"keyframe": coffee} for i in range(count)]


def initialized(options: TrainingOptions | None = None, **sizes) -> KeyframeTraining:
    torch.manual_seed(0)
    task = KeyframeTraining(KeyframeTokenizer(**SIZES, **sizes), options)
    task.initialize([task.prepare(pictures(16), np.random.default_rng(0))])
    return task


@pytest.fixture
def task() -> KeyframeTraining:
    return initialized()


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    """An LPIPS network with random weights: for plumbing."""
    torch.manual_seed(0)
    network = LPIPS()
    for index in range(7):
        getattr(network, f"lin{index}").fill_(0.1)
    return network


def batch_of(task: KeyframeTraining | KeyframeAdversarialTraining, count: int = 8) -> dict[str, Tensor]:
    return task.prepare(pictures(count), np.random.default_rng(1))


def train_steps(module: torch.nn.Module, loss: Callable[[float], tuple[Tensor, dict]], steps: int) -> list[dict]:
    """Take optimizer steps, and return the figures of each."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    found = []
    for step in range(steps):
        total, figures = loss(step / steps)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        found.append(figures)
    return found


def test_images_are_cut_from_photographs_and_keyframes(task: KeyframeTraining):
    batch = batch_of(task, 3)["images"]
    assert batch.shape == (3, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert -1 <= batch.min() < batch.max() <= 1
    assert torch.equal(batch, batch_of(task, 3)["images"])


def test_a_crop_of_a_tiny_picture_works():
    assert random_crop(np.zeros((3, 5, 3), np.uint8), 64, np.random.default_rng(0)).shape == (64, 64, 3)


@pytest.mark.parametrize("sizes", [{}, UPSAMPLER], ids=["seams", "upsampler"])
def test_a_run_starts_as_a_linear_code(sizes: dict):
    task = initialized(**sizes)
    found = task.validate([batch_of(task)])
    assert found["psnr_all_patches"] > 16, "principal components and k-means, before any step"
    assert found["codes_used"] > 0.8


def test_initializing_again_keeps_the_codes(task: KeyframeTraining):
    codes = task.model.codebook.codes.clone()
    task.initialize([])
    assert torch.equal(task.model.codebook.codes, codes)


@pytest.mark.parametrize("static", [False, True])
def test_training_steps_lower_the_loss(static: bool):
    task = initialized(TrainingOptions(static_shapes=static))
    batch = batch_of(task)

    def same_patches() -> tuple[float, float]:
        torch.manual_seed(5)
        _, figures = task.loss(batch, 1.0)
        return figures["squared_error"], figures["selection"]

    error, selection = same_patches()
    train_steps(task.model, lambda progress: task.loss(batch, progress), 20)
    assert all(p.grad is not None for p in task.model.parameters())
    error_after, selection_after = same_patches()
    assert error_after < error
    assert selection_after < selection


def test_packed_and_static_steps_have_the_same_loss(monkeypatch: pytest.MonkeyPatch):
    """Both compute the same function of the same patches; only the choice of patches and thresholds differ."""
    results = []
    mask = torch.rand(8, 64, generator=torch.Generator().manual_seed(3)) < 0.4
    monkeypatch.setattr("videotok.keyframes.train.sample_keep_mask", lambda *args, **options: mask)
    for static in (False, True):
        task = initialized(TrainingOptions(static_shapes=static))
        total, figures = task.loss(batch_of(task), 0.5)
        total.backward()
        results.append((total, task.model.vit.patches.weight.grad))
        assert figures["kept"] == pytest.approx(mask.double().mean().item())
    (packed, packed_gradient), (static, static_gradient) = results
    torch.testing.assert_close(packed, static)
    torch.testing.assert_close(packed_gradient, static_gradient, rtol=1e-3, atol=1e-6)


def test_lpips_is_part_of_the_loss_where_a_network_is_given(task: KeyframeTraining, lpips: LPIPS):
    perceptual = initialized(TrainingOptions(lpips=lpips, lpips_weight=100.0))
    totals = []
    for one in (task, perceptual):
        torch.manual_seed(5)
        totals.append(one.loss(batch_of(one), 0.0))
    (plain, plain_figures), (weighted, figures) = totals
    assert "lpips" not in plain_figures
    assert weighted.item() == pytest.approx(plain.item() + 100 * figures["lpips"], rel=1e-4)
    assert perceptual.validate([batch_of(perceptual)])["lpips"] > 0


def test_adversarial_training_changes_pixels_and_no_ids(lpips: LPIPS):
    first = initialized(**UPSAMPLER)
    batch = batch_of(first)
    train_steps(first.model, lambda progress: first.loss(batch, progress), 5)
    before = {name: value.clone() for name, value in first.model.state_dict().items()}
    task = KeyframeAdversarialTraining(first.model, TrainingOptions(lpips=lpips, lpips_weight=0.2))
    discriminator = [value.clone() for value in task.discriminator.parameters()]
    images = batch["images"].double()
    ids = [row.clone() for row in task.model.double().encode(images).ids]
    task.model.float()

    def loss(progress: float) -> tuple[Tensor, dict]:
        total, figures = task.loss(batch, progress)
        judged, judgements = task.discriminator_loss(batch, progress)
        optimizer.zero_grad()
        judged.backward()
        optimizer.step()
        return total, figures | judgements

    optimizer = torch.optim.AdamW(task.discriminator.parameters(), lr=1e-3)
    figures = train_steps(task.model, loss, 6)
    assert {"lpips", "adversarial", "adaptive_weight", "real", "fake"} <= set(figures[-1])
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("detokenizer.") for name in changed)
    assert any(not torch.equal(a, b) for a, b in zip(discriminator, task.discriminator.parameters(), strict=True))
    again = task.model.double().encode(images).ids
    assert all(torch.equal(a, b) for a, b in zip(ids, again, strict=True))


class SameBatch:
    """The same batch at every step."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def from_step(self, step: int, workers: int, process: int = 0, num_processes: int = 1) -> Iterator[dict]:
        del step, workers, process, num_processes
        while True:
            yield self.batch


def test_both_phases_run_in_the_trainer(lpips: LPIPS, tmp_path):
    """The second run starts from the weights of the first one; the discriminator stays out of the weights."""
    torch.manual_seed(0)
    first = KeyframeTraining(KeyframeTokenizer(**SIZES, **UPSAMPLER), TrainingOptions(lpips=lpips))
    batch = batch_of(first)
    plan = Plan(steps=2, batch_size=8, learning_rate=1e-3, warmup_steps=1, save_every=2)
    record = train(first, SameBatch(batch), [batch], plan, tmp_path / "first")
    assert record["validation"][0]["psnr"] > 10
    model = KeyframeTokenizer.from_pretrained(tmp_path / "first" / "best")
    second = KeyframeAdversarialTraining(model, TrainingOptions(lpips=lpips, lpips_weight=0.2))
    figures: list[dict[str, float]] = []
    train(
        second,
        SameBatch(batch),
        [batch],
        replace(plan, betas=(0.5, 0.99)),
        tmp_path / "second",
        criterion=None,
        report=lambda step, found: figures.append(found),
    )
    assert {"adversarial", "discriminator_loss"} <= set(figures[0])
    sharp = KeyframeTokenizer.from_pretrained(tmp_path / "second" / "best")
    assert torch.equal(sharp.to_code.weight, model.to_code.weight)
    faithful = KeyframeTokenizer.from_pretrained(tmp_path / "first" / "best")
    assert not torch.equal(sharp.detokenizer.pixel_head.weight, faithful.detokenizer.pixel_head.weight)


def test_adversarial_training_needs_lpips_and_a_trained_model(task: KeyframeTraining, lpips: LPIPS):
    with pytest.raises(ValueError, match="`lpips`"):
        KeyframeAdversarialTraining(task.model, TrainingOptions())
    with pytest.raises(ValueError, match="earlier run"):
        KeyframeAdversarialTraining(KeyframeTokenizer(**SIZES), TrainingOptions(lpips=lpips))


def test_adaptive_weight_makes_gradients_equally_long():
    weights = torch.tensor([3.0, 4.0], requires_grad=True)
    first, second = (weights**2).sum() / 2, 0.5 * weights.sum()
    weight = adaptive_weight(first, second, weights)
    assert weight.item() == pytest.approx(5 / (0.5 * 2**0.5), rel=1e-4)
    assert adaptive_weight(1000 * first, second, weights).item() == 10


def test_hinge_loss_is_zero_for_a_sure_discriminator():
    assert hinge_loss(torch.full((4,), 1.5), torch.full((4,), -1.5)).item() == 0
    assert hinge_loss(torch.zeros(4), torch.zeros(4)).item() == 2


def test_the_discriminator_judges_patches():
    judged = PatchDiscriminator(8)(torch.rand(2, 3, 64, 64))
    assert judged.shape[:2] == (2, 1)
    assert min(judged.shape[2:]) > 1


def test_weights_between_two_runs():
    torch.manual_seed(0)
    first, second = KeyframeTokenizer(**SIZES), KeyframeTokenizer(**SIZES)
    expected = 0.3 * first.to_code.weight + 0.7 * second.to_code.weight
    interpolate_weights(first, second, 0.7)
    torch.testing.assert_close(first.to_code.weight, expected)
    with pytest.raises(ValueError, match="different architectures"):
        interpolate_weights(first, KeyframeTokenizer(**SIZES, **UPSAMPLER), 0.5)


def test_mixed_precision_gives_the_same_ids(task: KeyframeTraining):
    vectors = task.model.codebook.codes + 0.01 * torch.randn_like(task.model.codebook.codes)
    exact = task.model.codebook.nearest(vectors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.model.codebook.nearest(vectors), exact)


@pytest.mark.parametrize("greedy", [True, False])
def test_keep_masks_of_training_are_partly_random_and_of_many_rates(task: KeyframeTraining, greedy: bool):
    torch.manual_seed(0)
    saving = torch.linspace(-9, 0, 64).expand(64, 64)
    predicted = PredictedErrors(saving, saving, torch.full_like(saving, 0.01))
    masks = [sample_keep_mask(predicted, task.model.selector, greedy=greedy) for _ in range(8)]
    rates = torch.stack([mask.double().mean() for mask in masks])
    assert rates.min() > 0
    assert rates.max() - rates.min() > 0.3
    best_kept = torch.cat([mask[:, -1] for mask in masks]).double().mean()
    assert 0.8 < best_kept < 1


def test_error_prediction_is_best_at_the_mean_error():
    torch.manual_seed(0)
    errors = torch.rand(1, 20_000)
    candidates = torch.linspace(-2, 1, 61)
    costs = torch.stack([error_prediction_loss(c.expand_as(errors), errors) for c in candidates])
    assert candidates[int(costs.argmin())].exp().item() == pytest.approx(0.5, rel=0.1)


def test_a_collapsed_codebook_gives_a_warning(task: KeyframeTraining):
    batch = batch_of(task, 4)
    task.validate([batch])
    with torch.no_grad():
        task.model.to_code.weight.zero_()
    with pytest.warns(UserWarning, match="collapsed: 256 patches use 0.8% of 128 codes"):
        task.validate([batch])


def test_psnr_is_that_of_bytes():
    images = torch.zeros(1, 3, 8, 8)
    assert image_psnr(images + 2 / 255, images).item() == pytest.approx(20 * np.log10(255), abs=1e-3)
