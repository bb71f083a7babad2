"""Warping along known shifts: signs, sizes and inverses."""

import torch
import torch.nn.functional as F

from motion_vq.fields import cell_centres, follow
from motion_vq.losses import psnr
from unet3d.warping import compose, compose_to_next, invert, warp, warp_bidirectional


def picture(height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """A smooth random picture [1, 3, height, width] in about [-1, 1]."""
    coarse = torch.randn(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(-1, 1)


def uniform_field(dx: float, dy: float, steps: int = 6, grid: tuple[int, int] = (20, 36)) -> torch.Tensor:
    """A field of one vector everywhere, [1, steps, h, w, 2]."""
    return torch.tensor([dx, dy]).expand(1, steps, *grid, 2).clone()


def picture_psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(psnr((a - b).square().mean(), peak=2))


def test_warp_moves_by_the_vector_towards_its_source():
    still = picture()
    moved = torch.roll(still, shifts=4, dims=-1)  # the picture went 4 pixels to the right
    warped = warp(still, uniform_field(-4 / 64, 0.0, steps=1))[:, 0]
    assert torch.allclose(warped[..., 4:], moved[..., 4:], atol=1e-5)
    down = torch.roll(still, shifts=3, dims=-2)
    warped = warp(still, uniform_field(0.0, -3 / 48, steps=1))[:, 0]
    assert torch.allclose(warped[..., 3:, :], down[..., 3:, :], atol=1e-5)


def test_zero_displacement_is_the_picture_itself():
    still = picture()
    assert torch.allclose(warp(still, torch.zeros(1, 3, 20, 36, 2)), still[:, None].expand(1, 3, 3, 48, 64), atol=1e-5)


def test_equal_steps_add_up_and_slot_zero_is_not_used():
    vectors = uniform_field(0.01, -0.02)
    vectors[:, 0] = 5.0
    displacement = compose(vectors)
    expected = torch.arange(6).view(1, 6, 1, 1, 1) * torch.tensor([0.01, -0.02])
    assert torch.allclose(displacement, expected.expand_as(displacement), atol=1e-6)


def test_compose_to_next_counts_the_steps_that_are_left():
    displacement = compose_to_next(uniform_field(0.01, -0.02), uniform_field(0.03, 0.0, steps=1))
    expected = -torch.tensor([0.03, 0.0]) - torch.arange(5, -1, -1).view(1, 6, 1, 1, 1) * torch.tensor([0.01, -0.02])
    assert torch.allclose(displacement, expected.expand_as(displacement), atol=1e-6)


def test_a_step_and_its_inverse_cancel():
    centres = cell_centres(20, 36, torch.zeros(1))
    zoom = ((centres - 0.5) * 0.1)[None]
    assert (follow(zoom, invert(zoom))[:, 2:-2, 2:-2]).abs().max() < 1e-4
    waves = 0.02 * torch.sin(centres * 9)[None]
    assert (follow(invert(waves), waves)).abs().max() < 1e-4


def test_bidirectional_beats_forward_on_a_pan():
    wide = picture(48, 96, seed=3)
    frames = torch.stack([wide[..., 4 * t : 4 * t + 64] for t in range(8)], dim=1)  # the camera goes right
    vectors = uniform_field(4 / 64, 0.0, steps=7)
    warped = warp_bidirectional(frames[:, 0], vectors, frames[:, 7], vectors)
    blended = picture_psnr(warped.blended, frames[:, :7])
    assert blended > picture_psnr(warped.forward, frames[:, :7]) + 6
    assert blended > picture_psnr(warped.backward, frames[:, :7]) + 3
    assert torch.allclose(warped.blended[:, 0], frames[:, 0], atol=1e-5)
    assert warped.forward_confidence[0, 6, 0, :, -8:].max() < 0.1  # what came in from the right
    assert warped.forward_confidence[0, 6, 0, :, :32].min() > 0.9
