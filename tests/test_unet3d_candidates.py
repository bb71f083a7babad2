"""Motion candidates: content outside one keyframe comes from the other, and dilated motion."""

import pytest
import torch
import torch.nn.functional as F

from motion_vq.fields import cell_centres
from unet3d.candidates import (
    CANDIDATES,
    average_pool,
    dilate_motion,
    make_candidates,
    merge_frames,
    shift_warps,
    split_frames,
)

GRID = (20, 36)
HEIGHT, WIDTH, STEPS = 80, 144, 8


def panorama(width: int) -> torch.Tensor:
    """A picture [1, 3, HEIGHT, width] in [-1, 1], smooth enough to be read between pixels."""
    coarse = torch.rand(1, 3, 10, width // 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (HEIGHT, width), mode="bicubic").clamp(-1, 1)


def test_content_that_a_pan_covers_or_uncovers_comes_from_the_keyframe_that_shows_it():
    pixels = 6
    wide = panorama(WIDTH + pixels * STEPS)
    frames = [wide[..., pixels * step : pixels * step + WIDTH] for step in range(STEPS + 1)]
    field = torch.zeros(1, STEPS, *GRID, 2)
    field[..., 0] = pixels / WIDTH
    candidates = make_candidates(frames[0], field, next_keyframe=frames[-1], next_vectors=field[:, :1])
    middle = STEPS // 2
    for name in CANDIDATES[:2] + CANDIDATES[4:]:
        error = (candidates.pictures[0, middle, CANDIDATES.index(name)] - frames[middle][0]).abs()
        # apart from the column where one keyframe ends
        assert error.mean() < 0.02, name


def test_outside_the_only_keyframe_is_its_border():
    field = torch.zeros(1, STEPS, *GRID, 2)
    field[..., 0] = 6 / WIDTH
    candidates = make_candidates(panorama(WIDTH), field)
    last = candidates.pictures[0, -1, CANDIDATES.index("forward")]
    assert torch.allclose(last[..., -1], panorama(WIDTH)[0, ..., -1], atol=1e-4)


def test_independent_motion_is_dilated_by_a_cell_and_global_motion_is_not():
    camera = cell_centres(HEIGHT, WIDTH, torch.zeros(1)).expand(1, 1, HEIGHT, WIDTH, 2) + 0.01
    moving = camera.clone()
    moving[:, :, 32:48, 56:88, 0] += 0.05
    own = (dilate_motion(moving, camera, GRID) - camera)[0, 0, :, 72, 0]
    cell = HEIGHT // GRID[0]
    assert torch.allclose(own[32 - cell + 2 : 48 + cell - 2], torch.tensor(0.05), atol=2e-3)
    assert torch.allclose(own[: 32 - 2 * cell], torch.zeros(1), atol=1e-6)
    assert torch.equal(dilate_motion(camera, camera, GRID), camera)


def test_shifts_move_the_sampling_grids_of_both_warps():
    picture, field = panorama(WIDTH), torch.zeros(1, 4, *GRID, 2)
    candidates = make_candidates(picture, field, next_keyframe=picture, next_vectors=field)
    shifts = torch.zeros(1, 4, 2, HEIGHT, WIDTH, 2)
    shifts[..., 0] = torch.tensor([1.0, -1.0]).view(1, 1, 2, 1, 1) / WIDTH
    forward, backward = shift_warps(candidates, shifts).unbind(2)
    assert torch.allclose(forward[..., :-1], picture[:, None, ..., 1:].expand(-1, 4, -1, -1, -1), atol=1e-4)
    assert torch.allclose(backward[..., 1:], picture[:, None, ..., :-1].expand(-1, 4, -1, -1, -1), atol=1e-4)


def test_frames_are_split_and_merged():
    values = torch.arange(5).view(1, 5, 1).repeat(2, 1, 1)
    parts = split_frames(values, 2)
    assert parts[:2, :, 0].tolist() == [[0, 2, 4], [1, 3, 4]]
    assert torch.equal(merge_frames(parts, 2, 5), values)


@pytest.mark.parametrize("patch", [1, 2, 3, 6, 8])
def test_means_of_patches(patch: int):
    values = torch.randn(2, 3, 4, 48, 24)
    torch.testing.assert_close(average_pool(values, patch), F.avg_pool3d(values, (1, patch, patch)))
