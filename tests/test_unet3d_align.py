"""Aligning: two pictures that show one thing at two places meet where they should."""

import torch
import torch.nn.functional as F

from unet3d.align import align


def scene(shift: float) -> torch.Tensor:
    """Smooth waves [1, 3, 48, 64], moved right by `shift` pixels."""
    x = (torch.arange(64) - shift)[None, :]
    y = torch.arange(48)[:, None]
    waves = torch.sin(x / 7 + y / 11) + 0.7 * torch.sin(x / 5 - y / 6)
    return (waves / 2).expand(1, 3, 48, 64).clone()


def test_both_move_to_the_place_between():
    for share in (0.25, 0.5, 0.75):
        first, second = align(scene(0), scene(2), torch.tensor([share]))
        middle = scene(2 * share)
        inner = (..., slice(8, -8), slice(8, -8))
        for moved, still in ((first, scene(0)), (second, scene(2))):
            assert F.l1_loss(moved[inner], middle[inner]) < 0.4 * F.l1_loss(still[inner], middle[inner])


def test_what_agrees_stays():
    picture = scene(1)
    first, second = align(picture, picture, torch.tensor([0.5]))
    assert torch.allclose(first, picture, atol=1e-4)
    assert torch.allclose(second, picture, atol=1e-4)
