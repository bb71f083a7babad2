"""What the keyframe tokenizer learns from, on a tiny model: start as a linear code, words, the selector's forecast."""

import numpy as np
import pytest
import torch
from keyframe_sizes import SIZES
from skimage import data

from motion_vq.vector_quantizer import Codebook, codebook_use
from videotok.keyframes import KeyframeTokenizer, KeyframeTraining
from videotok.keyframes.train import choose, error_prediction_loss, psnr, random_crop


def pictures(count: int) -> list[dict[str, np.ndarray]]:
    astronaut, coffee = data.astronaut(), data.coffee()
    return [{"photo": astronaut} if i % 2 else {"keyframe": coffee} for i in range(count)]


@pytest.fixture
def task() -> KeyframeTraining:
    torch.manual_seed(0)
    task = KeyframeTraining(KeyframeTokenizer(**SIZES))
    task.initialise([task.prepare(pictures(16), np.random.default_rng(0))])
    return task


def test_pictures_are_cut_from_photographs_and_keyframes(task: KeyframeTraining):
    batch = task.prepare(pictures(3), np.random.default_rng(0))["images"]
    assert batch.shape == (3, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert -1 <= batch.min() < batch.max() <= 1
    assert torch.equal(batch, task.prepare(pictures(3), np.random.default_rng(0))["images"])


def test_a_crop_of_a_tiny_picture_works():
    assert random_crop(np.zeros((3, 5, 3), np.uint8), 64, np.random.default_rng(0)).shape == (64, 64, 3)


def test_a_run_begins_as_a_linear_code(task: KeyframeTraining):
    batch = task.prepare(pictures(8), np.random.default_rng(1))
    found = task.validate([batch])
    assert found["psnr_all_patches"] > 16, "principal components and k-means, before any step"
    assert found["words_used"] > 0.9


def test_initialising_again_keeps_the_words(task: KeyframeTraining):
    words = task.model.codebook.words.clone()
    task.initialise([])
    assert torch.equal(task.model.codebook.words, words)


def test_training_steps_lower_the_loss(task: KeyframeTraining):
    batch = task.prepare(pictures(8), np.random.default_rng(1))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    losses = []
    for step in range(25):
        loss, figures = task.loss(batch, step / 25)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["pixels"] + figures["selection"] * 0.05)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all(p.grad is not None for p in task.model.parameters())


def test_mixed_precision_reads_the_same_words(task: KeyframeTraining):
    vectors = task.model.codebook.words + 0.01 * torch.randn_like(task.model.codebook.words)
    exact = task.model.codebook.nearest(vectors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.model.codebook.nearest(vectors), exact)


def test_choices_of_training_are_partly_blind_and_of_many_rates(task: KeyframeTraining):
    torch.manual_seed(0)
    saving = torch.linspace(-9, 0, 64).expand(64, 64)
    selector = task.model.selector
    masks = [choose(saving, torch.full_like(saving, 0.01), selector) for _ in range(8)]
    rates = torch.stack([mask.double().mean() for mask in masks])
    assert rates.min() > 0
    assert rates.max() - rates.min() > 0.3
    best_kept = torch.cat([mask[:, -1] for mask in masks]).double().mean()
    assert 0.8 < best_kept < 1


def test_the_forecast_is_best_at_the_mean_error():
    torch.manual_seed(0)
    errors = torch.rand(1, 20_000)
    candidates = torch.linspace(-2, 1, 61)
    costs = torch.stack([error_prediction_loss(c.expand_as(errors), errors) for c in candidates])
    assert candidates[int(costs.argmin())].exp().item() == pytest.approx(0.5, rel=0.1)


def test_a_collapsed_codebook_is_said_while_training(task: KeyframeTraining):
    batch = task.prepare(pictures(4), np.random.default_rng(1))
    task.validate([batch])
    with torch.no_grad():
        task.model.to_code.weight.zero_()
    with pytest.warns(UserWarning, match="collapsed: 256 patches use 0.8% of 128 words"):
        task.validate([batch])


def test_words_find_clusters_and_the_dead_begin_anew():
    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(8, 4), dim=-1)
    vectors = torch.nn.functional.normalize(centres.repeat(40, 1) + 0.02 * torch.randn(320, 4), dim=-1)
    codebook = Codebook(8, 4, decay=0.9)
    codebook.words.copy_(-centres[:1] + 0.001 * torch.randn(8, 4))
    revived = sum(codebook.learn(vectors, codebook.nearest(vectors)) for _ in range(100))
    assert revived > 0
    assert (vectors * codebook(codebook.nearest(vectors))).sum(dim=-1).mean() > 0.98
    torch.testing.assert_close(codebook.words.norm(dim=-1), torch.ones(8))


def test_a_codebook_needs_enough_vectors():
    with pytest.raises(ValueError, match="3 vectors cannot start 8 words"):
        Codebook(8, 4).start(torch.randn(3, 4))


def test_use_of_a_codebook():
    used, perplexity = codebook_use(torch.tensor([0, 0, 1, 1]), 8)
    assert used == 0.25
    assert perplexity == pytest.approx(2.0)


def test_psnr_is_that_of_bytes():
    images = torch.zeros(1, 3, 8, 8)
    assert psnr(images + 2 / 255, images).item() == pytest.approx(20 * np.log10(255), abs=1e-3)
