"""The camera's share of a field: found among things that move by themselves, and followed to both keyframes."""

import torch

from unet3d.candidates import CANDIDATES, back, gather, global_motion_grids, global_motion_steps, onward
from unet3d.warping import cell_centres

GRID = (20, 36)


def zooming(steps: int = 5) -> torch.Tensor:
    """A camera that pans and zooms, [1, steps, 20, 36, 2]."""
    centres = cell_centres(*GRID, torch.zeros(1))
    step = torch.tensor((0.02, -0.01)) + 0.03 * (centres - 0.5)
    return step.expand(1, steps, *GRID, 2).clone()


def test_what_moves_by_itself_does_not_pull_the_camera():
    field = zooming()
    truth = global_motion_steps(field)
    field[:, :, 4:14, 6:20] += torch.tensor((0.05, 0.04))  # a fifth of the picture
    assert torch.allclose(global_motion_steps(field), truth, atol=2e-4)
    centres = cell_centres(*GRID, field)
    assert torch.allclose(global_motion_grids(truth, *GRID)[0, 0], centres + zooming()[0, 0], atol=1e-5)


def test_a_camera_that_stands_still_stands_exactly_still():
    field = torch.zeros(1, 4, *GRID, 2)
    field[:, :, 5:12, 8:20] = 0.03
    assert torch.equal(global_motion_steps(field), torch.eye(3).expand(1, 4, 3, 3))


def test_steps_lead_back_to_the_keyframe_and_on_to_the_next():
    maps = global_motion_steps(zooming())
    last = global_motion_steps(zooming(1))[:, 0]
    there, home = onward(maps, last), back(maps)
    assert torch.equal(home[:, 0], torch.eye(3)[None])
    # from the next keyframe to the first: the way of every frame to the one, after the way back from the other
    whole = home[:, -1] @ last
    for step in range(5):
        assert torch.allclose(home[:, step] @ torch.linalg.inv(there[:, step]), whole, atol=1e-4)


def test_a_candidate_is_the_keyframe_moved_by_the_camera_alone():
    picture = torch.rand(1, 3, 36, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    field = torch.zeros(1, 4, *GRID, 2)
    field[..., 0] = 2 / 64
    evidence = gather(picture, field)
    camera = evidence.candidates[:, :, CANDIDATES.index("camera")]
    assert torch.allclose(camera[:, 3, :, :, :-6], picture[..., 6:], atol=1e-3)
    assert torch.allclose(evidence.shares.sum(2), torch.ones(1), atol=1e-5)
