"""Global motion of fields: found beside independent motion, and followed to both keyframes."""

import torch

from motion_vq.fields import cell_centres
from unet3d.candidates import (
    CANDIDATES,
    affine_grid,
    compose_affine,
    compose_affine_to_next,
    fit_affine_steps,
    make_candidates,
)

GRID = (20, 36)


def zooming(steps: int = 5) -> torch.Tensor:
    """A camera that pans and zooms, [1, steps, 20, 36, 2]."""
    centres = cell_centres(*GRID, torch.zeros(1))
    step = torch.tensor((0.02, -0.01)) + 0.03 * (centres - 0.5)
    return step.expand(1, steps, *GRID, 2).clone()


def test_independent_motion_does_not_pull_the_fit():
    field = zooming()
    truth = fit_affine_steps(field)
    field[:, :, 4:14, 6:20] += torch.tensor((0.05, 0.04))  # a fifth of the picture
    assert torch.allclose(fit_affine_steps(field), truth, atol=2e-4)
    centres = cell_centres(*GRID, field)
    assert torch.allclose(affine_grid(truth, *GRID)[0, 0], centres + zooming()[0, 0], atol=1e-5)


def test_a_still_camera_is_exactly_still():
    field = torch.zeros(1, 4, *GRID, 2)
    field[:, :, 5:12, 8:20] = 0.03
    assert torch.equal(fit_affine_steps(field), torch.eye(3).expand(1, 4, 3, 3))


def test_steps_add_up_to_both_keyframes():
    maps = fit_affine_steps(zooming())
    last = fit_affine_steps(zooming(1))[:, 0]
    to_next, to_first = compose_affine_to_next(maps, last), compose_affine(maps)
    assert torch.equal(to_first[:, 0], torch.eye(3)[None])
    # from the next keyframe to the first: to every frame, then from there
    whole = to_first[:, -1] @ last
    for step in range(5):
        assert torch.allclose(to_first[:, step] @ torch.linalg.inv(to_next[:, step]), whole, atol=1e-4)


def test_a_candidate_is_the_keyframe_moved_by_the_global_motion():
    picture = torch.rand(1, 3, 36, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    field = torch.zeros(1, 4, *GRID, 2)
    field[..., 0] = 2 / 64
    candidates = make_candidates(picture, field)
    moved = candidates.pictures[:, :, CANDIDATES.index("global_motion")]
    assert torch.allclose(moved[:, 3, :, :, :-6], picture[..., 6:], atol=1e-3)
    assert torch.allclose(candidates.weights.sum(2), torch.ones(1), atol=1e-5)
