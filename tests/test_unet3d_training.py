"""Training of the video detokenizer in a tiny size: the loss falls, crops are reproducible, hooks are used."""

import numpy as np
import pytest
import torch
from detokenizer_sizes import GRID, tiny_detokenizer

from unet3d import DetokenizerTraining


def cached_items(count: int = 2) -> list[dict[str, np.ndarray]]:
    """Return items as the training cache has them: a pan over noise, with motion that is a little wrong."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        coarse = torch.rand(1, 3, 12, 32, generator=torch.Generator().manual_seed(index))
        wide = torch.nn.functional.interpolate(coarse, size=(96, 256), mode="bilinear")[0]
        wide = (wide * 255).byte().permute(1, 2, 0).numpy()
        frames = np.stack([wide[:, 3 * t : 3 * t + 128] for t in range(25)])
        vectors = np.zeros((24, *GRID, 2), np.float32)
        vectors[..., 0] = 2 / 128
        item = {"frames": frames[:24], "vectors": vectors, "valid": rng.random(vectors.shape[:3]) < 0.9}
        item |= {"num_frames": np.int64(24 if index else 5)}
        if index:
            item |= {"next_keyframe_frame": frames[24], "next_vectors0": vectors[0]}
        items.append(item)
    return items


def test_training_lowers_the_loss_and_reports_the_gain():
    torch.manual_seed(0)
    task = DetokenizerTraining(tiny_detokenizer())
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    assert batch["frames"].shape == (4, 12, 3, 80, 128)
    before = task.validate([batch])
    assert before["psnr"] == pytest.approx(before["prior_psnr"], abs=1e-3)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    losses = []
    for step in range(8):
        torch.manual_seed(1)
        loss, figures = task.loss(batch, step / 8)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert figures["gain"] > 0
    after = task.validate([batch])
    assert after["gain"] == pytest.approx(after["psnr"] - after["prior_psnr"], abs=1e-3)


def test_the_same_seed_gives_the_same_crops():
    task = DetokenizerTraining(tiny_detokenizer())
    first, again = (task.prepare(cached_items(), np.random.default_rng(7)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_coded_keyframes_and_motion_replace_exact_ones():
    def black(keyframe: torch.Tensor) -> torch.Tensor:
        return torch.full_like(keyframe, -1.0)

    def still(vectors: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        return torch.zeros_like(vectors)

    batch = DetokenizerTraining(tiny_detokenizer(), still, black).prepare(cached_items(), np.random.default_rng(0))
    assert (batch["keyframes"] == -1).all()
    assert batch["frames"].max() > 0
    displacement = batch["maps"][:, :, -4:]
    assert displacement[:, 0].abs().max() < 0.2  # slot 0 of a field is not coded, and not used by the first frame
