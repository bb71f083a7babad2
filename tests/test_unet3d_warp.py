"""Warping: signs, sizes and inverses, on shifts that are known."""

import torch
import torch.nn.functional as F

from unet3d.warping import bidirectional, cell_centres, compose, follow, invert, towards, warp


def picture(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """A smooth random picture [1, 3, height, width] in about [-1, 1]."""
    coarse = torch.randn(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(-1, 1)


def steady(dx: float, dy: float, steps: int = 6, grid: tuple[int, int] = (20, 36)) -> torch.Tensor:
    """A field of one vector everywhere, [1, steps, h, w, 2]."""
    return torch.tensor([dx, dy]).expand(1, steps, *grid, 2).clone()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def test_warp_moves_by_the_vector_towards_its_source():
    still = picture()
    moved = torch.roll(still, shifts=4, dims=-1)  # the picture went 4 pixels to the right
    seen = warp(still, steady(-4 / 64, 0.0, steps=1))[:, 0]
    assert torch.allclose(seen[..., 4:], moved[..., 4:], atol=1e-5)
    down = torch.roll(still, shifts=3, dims=-2)
    seen = warp(still, steady(0.0, -3 / 48, steps=1))[:, 0]
    assert torch.allclose(seen[..., 3:, :], down[..., 3:, :], atol=1e-5)


def test_zero_displacement_is_the_picture_itself():
    still = picture()
    assert torch.allclose(warp(still, torch.zeros(1, 3, 20, 36, 2)), still[:, None].expand(1, 3, 3, 48, 64), atol=1e-5)


def test_steady_steps_add_up_and_slot_zero_is_left_out():
    vectors = steady(0.01, -0.02)
    vectors[:, 0] = 5.0
    displacement = compose(vectors)
    expected = torch.arange(6).view(1, 6, 1, 1, 1) * torch.tensor([0.01, -0.02])
    assert torch.allclose(displacement, expected.expand_as(displacement), atol=1e-6)


def test_towards_counts_the_steps_that_are_left():
    onward = towards(steady(0.01, -0.02), steady(0.03, 0.0, steps=1))
    expected = -torch.tensor([0.03, 0.0]) - torch.arange(5, -1, -1).view(1, 6, 1, 1, 1) * torch.tensor([0.01, -0.02])
    assert torch.allclose(onward, expected.expand_as(onward), atol=1e-6)


def test_a_step_and_its_inverse_lead_home():
    centres = cell_centres(20, 36, torch.zeros(1))
    zoom = ((centres - 0.5) * 0.1)[None]
    assert (follow(zoom, invert(zoom))[:, 2:-2, 2:-2]).abs().max() < 1e-4
    waves = 0.02 * torch.sin(centres * 9)[None]
    assert (follow(invert(waves), waves)).abs().max() < 1e-4


def test_two_ways_beat_one_on_a_pan():
    wide = picture(48, 96, seed=3)
    frames = torch.stack([wide[..., 4 * t : 4 * t + 64] for t in range(8)], dim=1)  # the camera goes right
    vectors = steady(4 / 64, 0.0, steps=7)
    guess = bidirectional(frames[:, 0], vectors, frames[:, 7], vectors)
    one, two = psnr(guess.forward, frames[:, :7]), psnr(guess.pictures, frames[:, :7])
    assert two > one + 6
    assert two > psnr(guess.backward, frames[:, :7]) + 3
    assert torch.allclose(guess.pictures[:, 0], frames[:, 0], atol=1e-5)
    assert guess.forward_confidence[0, 6, 0, :, -8:].max() < 0.1  # what came in from the right
    assert guess.forward_confidence[0, 6, 0, :, :32].min() > 0.9
