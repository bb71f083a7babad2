"""Training of the motion tokenizer: augmentation, losses, and that it learns."""

import numpy as np
import pytest
import torch
from motion_fields import PIXELS, TINY, moving_fields, pan

from motion_vq import MotionTokenizer, MotionTraining
from motion_vq.losses import displacements, path_loss, step_loss
from motion_vq.train import augment, random_global_motion


def items(number: int) -> list[dict[str, np.ndarray]]:
    vectors, valid = moving_fields(number, TINY["num_steps"], TINY["grid"])
    return [{"vectors": v.numpy(), "valid": m.numpy()} for v, m in zip(vectors, valid, strict=True)]


@pytest.fixture
def task() -> MotionTraining:
    torch.manual_seed(0)
    return MotionTraining(MotionTokenizer(**TINY))


def test_training_lowers_the_loss(task):
    rng = np.random.default_rng(0)
    batches = [task.prepare(items(16), rng) for _ in range(4)]
    task.initialize(batches)
    optimizer = torch.optim.AdamW(task.model.parameters(), 2e-3)
    before = task.validate(batches)
    for step in range(40):
        loss, figures = task.loss(batches[step % 4], step / 40)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(np.isfinite(value) for value in figures.values())
    after = task.validate(batches)
    assert after["psnr"] > before["psnr"]
    assert after["paths_0"] > after["paths_1"] > after["paths_3"]
    assert after["paths_0"] == pytest.approx(before["paths_0"])


def test_initialize_leaves_a_trained_model_as_it_is(task):
    batches = [task.prepare(items(16), np.random.default_rng(0))]
    task.initialize(batches)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    task.initialize([task.prepare(items(8), np.random.default_rng(1))])
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_augmenting_keeps_shapes_and_types():
    rng = np.random.default_rng(0)
    for _ in range(20):
        vectors, valid = augment(items(1)[0]["vectors"], items(1)[0]["valid"], rng)
        assert vectors.shape == (8, 8, 12, 2)
        assert vectors.dtype == np.float32
        assert valid.shape == (8, 8, 12)
        assert valid.dtype == bool
        assert np.isfinite(vectors).all()


def test_random_cameras_move_by_pixels_not_frames():
    rng = np.random.default_rng(0)
    speeds = [np.abs(random_global_motion(24, 20, 36, rng) * PIXELS.numpy()).mean() for _ in range(200)]
    assert 0.1 < np.median(speeds) < 3
    assert max(speeds) < 64


def test_paths_add_up_displacements():
    vectors, valid = pan(1, 6, (20, 36), (1.0, -0.5))
    found = displacements(vectors) * PIXELS
    assert found.shape == (1, 10, 20, 36, 2)
    assert torch.allclose(found[:, 4, 10, 18], torch.tensor([[5.0, -2.5]]), atol=1e-4)
    assert torch.allclose(found[:, 9, 10, 18], torch.tensor([[-5.0, 2.5]]), atol=1e-4)
    assert path_loss(vectors, vectors, valid).item() == pytest.approx(0, abs=1e-6)


def test_an_error_that_lasts_costs_more_than_one_that_does_not():
    vectors, valid = pan(1, 24, (20, 36), (0.0, 0.0))
    lasting = vectors + 0.5 / PIXELS
    alternating = vectors + 0.5 / PIXELS * torch.tensor((1.0, -1.0)).repeat(12).view(24, 1, 1, 1)
    assert step_loss(lasting, vectors, valid) == pytest.approx(step_loss(alternating, vectors, valid).item(), rel=1e-4)
    assert path_loss(lasting, vectors, valid) > 1.5 * path_loss(alternating, vectors, valid)
