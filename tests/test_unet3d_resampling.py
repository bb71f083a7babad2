"""Reading and resizing by OpenCV gives what torch gives, and torch does it where OpenCV cannot."""

import cv2
import pytest
import torch
import torch.nn.functional as F

from motion_vq.fields import cell_centres
from unet3d import resampling
from unet3d.resampling import enlarge_bilinear, read_bicubic, resize_fields_bicubic
from unet3d.warping import resize_fields, sample_frames

HEIGHT, WIDTH = 24, 40


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def grids(batch: int, steps: int, reach: float) -> torch.Tensor:
    centres = cell_centres(HEIGHT, WIDTH, torch.zeros(1))
    return centres + reach * random(batch, steps, HEIGHT, WIDTH, 2, seed=1)


@pytest.mark.parametrize("reach", [0.01, 0.5, 3.0])
def test_pictures_are_read_as_torch_reads_them_also_far_outside(reach: float):
    pictures, positions = random(2, 3, HEIGHT, WIDTH), grids(2, 3, reach)
    expected = sample_frames(pictures, positions, "bicubic")
    torch.testing.assert_close(read_bicubic(pictures, positions), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
def test_fields_are_resized_as_torch_resizes_them(channels: int):
    values = random(2, 3, 10, 18, channels)
    found = resize_fields_bicubic(values, HEIGHT, WIDTH)
    torch.testing.assert_close(found, resize_fields(values, HEIGHT, WIDTH), atol=1e-5, rtol=0)


@pytest.mark.parametrize("leading", [(2, 3, 4), (2, 4)])
def test_values_are_enlarged_as_torch_enlarges_them(leading: tuple[int, ...]):
    values = random(*leading, 6, 10)
    expected = F.interpolate(values.flatten(0, -4), (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge_bilinear(values, HEIGHT, WIDTH).view_as(expected), expected, atol=1e-5, rtol=0)


def test_float64_keeps_its_precision():
    pictures, positions = random(1, 3, HEIGHT, WIDTH).double(), grids(1, 2, 0.1).double()
    assert torch.equal(read_bicubic(pictures, positions), sample_frames(pictures, positions, "bicubic"))


def test_training_has_gradients():
    positions = grids(1, 2, 0.1).requires_grad_()
    read_bicubic(random(1, 3, HEIGHT, WIDTH), positions).sum().backward()
    assert positions.grad is not None
    assert positions.grad.abs().max() > 0


def test_opencv_4_which_rounds_positions_does_not_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cv2, "__version__", "4.13.0")
    pictures, positions = random(1, 3, HEIGHT, WIDTH), grids(1, 2, 0.1)
    assert torch.equal(read_bicubic(pictures, positions), sample_frames(pictures, positions, "bicubic"))


@pytest.mark.skipif(int(cv2.__version__.partition(".")[0]) < 5, reason="OpenCV 4 rounds positions")
def test_opencv_is_what_reads_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resampling, "sample_frames", None)  # would be called for anything else
    assert read_bicubic(random(1, 3, HEIGHT, WIDTH), grids(1, 2, 0.1)).shape == (1, 2, 3, HEIGHT, WIDTH)
