"""What is gathered of a clip before the network looks at it: light that changes, and how crisply warps are read."""

import torch
import torch.nn.functional as F

from unet3d.evidence import gather, lights, warped

GRID = (20, 36)


def picture(seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 3, 12, 18, generator=torch.Generator().manual_seed(seed)) - 0.5
    return F.interpolate(coarse, size=(72, 108), mode="bicubic").clamp(-0.6, 0.6)


def between(first: torch.Tensor, last: torch.Tensor, steps: int = 8):
    still = torch.zeros(1, steps, *GRID, 2)
    return gather(first, still, next_keyframe=last, next_vectors=still[:, :1])


def test_light_that_changes_changes_evenly_in_every_candidate():
    first = picture()
    last = first + torch.tensor((0.2, 0.1, -0.1)).view(1, 3, 1, 1)
    evidence = between(first, last)
    for step in range(8):
        expected = first + (last - first) * step / 8
        assert torch.allclose(evidence.prior[:, step], expected, atol=1e-3)
        assert torch.allclose(evidence.candidates[:, step], expected[:, None].expand(-1, 6, -1, -1, -1), atol=1e-3)
    assert torch.allclose(warped(evidence, torch.zeros_like(evidence.places)), evidence.candidates[:, :, :2], atol=1e-4)


def test_other_content_is_not_taken_for_light():
    evidence = between(picture(0), picture(1))
    assert not evidence.light.any()
    darker = picture(0)
    darker[..., :40] -= 0.3  # a shadow over less than half of the picture
    assert not between(picture(0), darker).light.any()


def test_light_is_told_only_where_both_keyframes_can_be_trusted():
    change, near = torch.full((1, 4, 3, 40, 40), 0.2), torch.arange(4)[None] / 4
    assert torch.allclose(lights(change, torch.ones(1, 4, 40, 40), near)[0, 2, 0], torch.tensor(0.1))
    assert not lights(change, torch.zeros(1, 4, 40, 40), near).any()


def test_crisper_is_sharper():
    field = torch.full((1, 4, *GRID, 2), 0.004)
    evidence = gather(picture(), field)
    nothing = torch.zeros_like(evidence.places)

    def sharpness(crispness: float) -> float:
        seen = warped(evidence, nothing, torch.tensor([crispness]))[:, 3, 0]
        return float(seen.diff(n=2, dim=-1).abs().mean())

    assert sharpness(0.0) < sharpness(1.0) < sharpness(1.7)
    assert torch.equal(warped(evidence, nothing), warped(evidence, nothing, torch.zeros(1)))
