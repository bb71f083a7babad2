"""Training of the video detokenizer in a tiny size: losses fall, crops are reproducible, hooks are used."""

from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detokenizer_sizes import GRID, tiny_detokenizer, trained_detokenizer
from torch import Tensor

from unet3d import DetokenizerPerceptualTraining, DetokenizerTraining, PerceptualOptions
from unet3d.candidates import MotionCandidates
from unet3d.perceptual_losses import (
    augmented_lpips,
    pattern_excess,
    resample,
    sharpness_difference,
    spectrum_difference,
)


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
        item |= {"num_frames": np.int64(24 if index else 5), "keyframe": cv2.resize(frames[0], (64, 64))}
        if index:
            item |= {"next_keyframe_frame": frames[24], "next_vectors0": vectors[0]}
            item |= {"next_keyframe": cv2.resize(frames[24], (64, 64))}
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


def still(vectors: Tensor, valid: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.zeros_like(vectors)


def blurred(squares: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Stand in for a keyframe tokenizer: an eighth of the resolution."""
    small = F.interpolate(squares, scale_factor=1 / 8, mode="area")
    return F.interpolate(small, size, mode="bilinear", align_corners=False)


def test_coded_keyframes_and_motion_replace_exact_ones():
    asked = []

    def black(squares: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        asked.append((tuple(squares.shape), size))
        return torch.full((len(squares), 3, *size), -1.0)

    task = DetokenizerTraining(tiny_detokenizer(), still, black, exact_share=0)
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    assert asked[0] == ((1, 3, 64, 64), (96, 128))
    assert asked[1][0][0] == 2, "a clip and the one after it are coded together, at one rate"
    assert (batch["keyframes"] == -1).all()
    assert batch["exact"].tolist() == [0] * 4
    assert batch["frames"].max() > 0
    displacement = batch["maps"][:, :, -4:]
    assert displacement[:, 0].abs().max() < 0.2  # slot 0 of a field is not coded, and not used by the first frame
    asked.clear()
    task = DetokenizerTraining(tiny_detokenizer(), still, black, exact_share=1)
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    assert batch["exact"].tolist() == [1] * 4
    assert batch["keyframes"].max() > 0
    assert not asked


class Distance(torch.nn.Module):
    """A perceptual distance without weights: absolute differences."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().mean((1, 2, 3))


def perceptual_task(**options: Any) -> DetokenizerPerceptualTraining:
    """Return a task with a refiner, on blurred keyframes."""
    model = trained_detokenizer(refiner_widths=(8, 16), refiner_blocks=(1, 1), bicubic_mix=1.0)
    losses = PerceptualOptions(**{"lpips": Distance(), "frames_per_crop": 12, **options})
    return DetokenizerPerceptualTraining(model, losses, code_keyframes=blurred, exact_share=0)


def train_perceptual(task: DetokenizerPerceptualTraining, batch: dict[str, Tensor], steps: int = 6) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(steps):
        task.model.train()
        torch.manual_seed(1)
        loss, figures = task.loss(batch, step / steps)
        assert {"gain", "lpips", "sharpness_difference", "spectrum_difference", "pattern_excess"} <= set(figures)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("refiner_only", [True, False])
def test_perceptual_training_lowers_the_loss(refiner_only: bool):
    task = perceptual_task(refiner_only=refiner_only)
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    kept = {name: value.clone() for name, value in task.model.state_dict().items()}
    before = task.validate([batch])
    losses = train_perceptual(task, batch)
    assert losses[-1] < losses[0] - 0.05
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, kept[name])}
    assert any(name.startswith("refiner.") for name in changed)
    assert any(not name.startswith("refiner.") for name in changed) != refiner_only
    task.model.eval()
    after = task.validate([batch])
    assert after["sharpness_difference"] < before["sharpness_difference"]
    assert after["score"] == pytest.approx(after["psnr"] - 13 * after["lpips"], abs=1e-4)
    assert after["sharpness"] > before["sharpness"]


def test_the_refiner_learns_from_mixtures_as_in_decoding(monkeypatch: pytest.MonkeyPatch):
    task = perceptual_task(refiner_only=True)
    with torch.no_grad():  # so that noise does not matter
        task.model.unet.conv_in.weight[:, : task.model.patch_channels] = 0
    batch = task.prepare(cached_items(1), np.random.default_rng(0))
    assert task.model.refiner is not None
    seen, refine = [], task.model.refiner.forward

    def record(mixture: Tensor, warps: Tensor, candidates: MotionCandidates) -> Tensor:
        seen.append(mixture)
        return refine(mixture, warps, candidates)

    monkeypatch.setattr(task.model.refiner, "forward", record)
    task.model.train()
    torch.manual_seed(1)
    task.loss(batch, 0.0)
    task.model.eval()
    parts = {part.name: batch[part.name] for part in fields(MotionCandidates)}
    task.model.denoise(MotionCandidates(**parts), torch.Generator().manual_seed(0))
    trained, decoded = (mixture.abs().mean((2, 3, 4)).sort().values for mixture in seen)
    assert torch.allclose(trained, decoded, atol=1e-5), "the same frames, in another order"
    task.model.register_to_config(inverse_temperature=8.0)
    task.model.train()
    torch.manual_seed(1)
    task.loss(batch, 0.0)
    assert not torch.allclose(seen[2].abs().mean((2, 3, 4)).sort().values, decoded, atol=1e-5)


def test_exact_keyframes_weigh_less_in_what_is_perceived():
    task = perceptual_task(exact_weight=0.5, refiner_only=True)
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    losses = {}
    for exact in (0.0, 1.0):
        torch.manual_seed(1)
        loss, figures = task.loss({**batch, "exact": torch.full((4,), exact)}, 0.0)
        losses[exact] = loss.item()
    perceived = 6 * figures["lpips"] + 0.6 * figures["sharpness_difference"]
    perceived += 0.8 * figures["spectrum_difference"] + 3 * figures["pattern_excess"]
    assert losses[0.0] - losses[1.0] == pytest.approx(0.5 * perceived, rel=1e-3)


def test_exact_keyframes_are_shown_without_the_refiner():
    """As in decoding: where keyframes are exact, nothing that the refiner adds is trained or measured."""
    task = perceptual_task(refiner_only=True)
    batch = task.prepare(cached_items(), np.random.default_rng(0))
    train_perceptual(task, batch, 2)
    task.model.eval()
    refiner = task.model.refiner
    assert refiner is not None
    found = {}
    for exact in (0.0, 1.0):
        marked = {**batch, "exact": torch.full((4,), exact)}
        task.model.zero_grad()
        task.loss(marked, 0.0)[0].backward()
        gradient = refiner.write.weight.grad
        assert gradient is not None
        assert bool(gradient.abs().max() > 0) == (exact == 0)
        found[exact] = task.validate([marked])["psnr"]
    with torch.no_grad():
        refiner.write.weight.zero_()
        refiner.write.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    plain = task.validate([batch])["psnr"]
    assert found[1.0] == pytest.approx(plain, abs=1e-6)
    assert found[0.0] != pytest.approx(plain, abs=1e-3)
    half = {**batch, "exact": torch.tensor([0.0, 0.0, 1.0, 1.0])}
    assert task.validate([half])["psnr"] == pytest.approx(plain, abs=1e-6)


class EverySecondPixel(torch.nn.Module):
    """As LPIPS begins: one look for every 2 x 2 pixels."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs()[..., ::2, ::2].mean((1, 2, 3))


def test_patterns_of_two_pixels_do_not_escape_the_perceptual_distance():
    truth, dotted = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    dotted[..., 1::2, 1::2] = 1
    network = EverySecondPixel()
    assert network(dotted, truth) == 0
    torch.manual_seed(0)
    found = torch.stack([augmented_lpips(network, dotted, truth) for _ in range(60)])
    assert found.min() > 0
    assert found.mean() == pytest.approx(dotted.mean(), rel=0.5)
    assert augmented_lpips(network, truth, truth) == 0


def test_both_pictures_are_seen_through_the_same_augmentation():
    """In all sizes: what LPIPS gets of two equal pictures is equal, and is the picture, moved and mirrored."""
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def record(first: Tensor, second: Tensor) -> Tensor:
        assert torch.equal(first, second)
        seen.append(first)
        return first.new_zeros(len(first))

    network = Distance()
    network.forward = record  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    for _ in range(40):
        augmented_lpips(network, picture, picture)
    whole, parts = seen[::2], seen[1::2]
    assert len({tuple(part.shape) for part in parts}) > 10
    assert {max(view.shape) > 90 for view in whole} == {True, False}, "in its own size, and smaller"
    assert {view.shape[-1] > view.shape[-2] for view in whole} == {True, False}, "turned at times"
    assert all(float(view.mean()) == pytest.approx(float(picture.mean()), abs=0.02) for view in whole)


@pytest.mark.parametrize("scale", [0.75, 1.5])
def test_pictures_are_resampled_where_they_are(scale: float):
    """A ramp stays a ramp, of a slope that the scale says, and begins less than a pixel beside."""
    ramp = torch.arange(64.0).expand(1, 1, 48, 64)
    torch.manual_seed(0)
    found = resample(ramp, scale)
    assert found.shape[-2:] == (int(47 * scale), int(63 * scale))
    inside = found[0, 0, 4, 4:-4]
    # bicubic interpolation is up to 0.06 beside a ramp
    assert torch.allclose(inside.diff(), torch.full((len(inside) - 1,), 1 / scale), atol=0.15)
    assert float(inside.diff().mean()) == pytest.approx(1 / scale, abs=0.01)
    assert 4 / scale - 0.1 <= inside[0] < 5 / scale + 0.1


def test_the_spectrum_asks_for_waves_of_the_same_kind():
    generator = torch.Generator().manual_seed(0)
    truth, other = (torch.rand(2, 3, 80, 128, generator=generator) * 2 - 1 for _ in range(2))
    blurry = F.avg_pool2d(truth, 3, stride=1, padding=1)
    torch.manual_seed(0)
    assert spectrum_difference(truth, truth).abs().max() == 0
    assert spectrum_difference(other, truth).max() < 0.75
    assert spectrum_difference(blurry, truth).min() > 1


@pytest.mark.parametrize("period", [2, 4, 6])
def test_a_faint_grid_is_a_pattern_and_noise_is_none(period: int):
    """Beside detail that is as strong as the grid and hides it from a measure of sharpness."""
    torch.manual_seed(0)
    truth, more = torch.randn(2, 1, 3, 80, 128).mul(0.2)
    grid = torch.zeros(80, 128)
    grid[::period, ::period] = 0.2 * period
    assert pattern_excess(truth, truth) == 0
    assert pattern_excess(truth + grid - grid.mean(), truth) > 0.05
    assert pattern_excess(truth + 0.5 * more, truth) < 0.02
    assert pattern_excess(F.avg_pool2d(truth, 3, 1, 1), truth) < 0.001, "too little of a frequency is no pattern"


def test_refiner_only_needs_a_refiner():
    with pytest.raises(ValueError, match="no refiner"):
        DetokenizerPerceptualTraining(tiny_detokenizer(), PerceptualOptions(refiner_only=True))
    model = tiny_detokenizer()
    model.add_refiner((8, 16), (1, 1))
    assert tuple(model.config["refiner_widths"]) == (8, 16)
    with pytest.raises(ValueError, match="a refiner already"):
        model.add_refiner((8,), (1,))


def test_sharpness_asks_for_as_much_detail_and_not_for_the_same():
    generator = torch.Generator().manual_seed(0)
    truth, other = (torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    blurry = F.avg_pool2d(truth, 3, stride=1, padding=1)
    assert sharpness_difference(truth, truth).abs().max() == 0
    assert sharpness_difference(other, truth).max() < 0.3
    assert sharpness_difference(blurry, truth).min() > 1
