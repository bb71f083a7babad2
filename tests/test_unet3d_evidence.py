"""What frames are mixed from: what one keyframe does not show comes from the other; what moves reaches further."""

import torch

from unet3d.candidates import CANDIDATES, dilate_motion, gather
from unet3d.warping import cell_centres

GRID = (20, 36)
HEIGHT, WIDTH, STEPS = 80, 144, 8


def panorama(width: int) -> torch.Tensor:
    """A picture [1, 3, HEIGHT, width] in [-1, 1], smooth enough to be read between pixels."""
    coarse = torch.rand(1, 3, 10, width // 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (HEIGHT, width), mode="bicubic").clamp(-1, 1)


def test_what_a_pan_leaves_behind_and_what_it_uncovers_is_seen_in_the_keyframe_that_shows_it():
    pixels = 6
    wide = panorama(WIDTH + pixels * STEPS)
    frames = [wide[..., pixels * step : pixels * step + WIDTH] for step in range(STEPS + 1)]
    field = torch.zeros(1, STEPS, *GRID, 2)
    field[..., 0] = pixels / WIDTH
    evidence = gather(frames[0], field, next_keyframe=frames[-1], next_vectors=field[:, :1])
    middle = STEPS // 2
    for name in ("forward", "backward", "camera", "next_camera", "dilate_motion", "next_grown"):
        error = (evidence.candidates[0, middle, CANDIDATES.index(name)] - frames[middle][0]).abs()
        # but for the column where one keyframe ends
        assert error.mean() < 0.02, name


def test_beyond_the_only_keyframe_there_is_its_border():
    field = torch.zeros(1, STEPS, *GRID, 2)
    field[..., 0] = 6 / WIDTH
    evidence = gather(panorama(WIDTH), field)
    last = evidence.candidates[0, -1, CANDIDATES.index("forward")]
    assert torch.allclose(last[..., -1], panorama(WIDTH)[0, ..., -1], atol=1e-4)


def test_what_moves_by_itself_grows_by_a_cell_and_the_camera_does_not():
    camera = cell_centres(HEIGHT, WIDTH, torch.zeros(1)).expand(1, 1, HEIGHT, WIDTH, 2) + 0.01
    moving = camera.clone()
    moving[:, :, 32:48, 56:88, 0] += 0.05
    own = (dilate_motion(moving, camera, GRID) - camera)[0, 0, :, 72, 0]
    cell = HEIGHT // GRID[0]
    assert torch.allclose(own[32 - cell + 2 : 48 + cell - 2], torch.tensor(0.05), atol=2e-3)
    assert torch.allclose(own[: 32 - 2 * cell], torch.zeros(1), atol=1e-6)
    assert torch.equal(dilate_motion(camera, camera, GRID), camera)
