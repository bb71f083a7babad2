"""Cuts, fades and changes of light between two keyframes: recognised, and shown without the network."""

import pytest
import torch
import torch.nn.functional as F
from detokenizer_sizes import GRID, trained_detokenizer
from torch import Tensor

from unet3d.candidates import CANDIDATES, MotionCandidates, make_candidates
from unet3d.transitions import compare_keyframes, replace_transitions

STEPS, HEIGHT, WIDTH = 8, 96, 144


def scene(seed: int, at: float) -> Tensor:
    """Return a picture [1, 3, HEIGHT, WIDTH] of a wide scene, seen from `at` pixels further to the right."""
    coarse = torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.6
    wide = F.interpolate(coarse, size=(HEIGHT, 2 * WIDTH), mode="bicubic")
    return wide[..., round(at) : round(at) + WIDTH]


def pan(pixels: float = 2.0) -> Tensor:
    """Return a field [1, STEPS, h, w, 2] in which the content moves to the left."""
    vectors = torch.zeros(1, STEPS, *GRID, 2)
    vectors[..., 0] = pixels / WIDTH
    return vectors


def candidates_between(keyframe: Tensor, next_keyframe: Tensor, vectors: Tensor | None = None) -> MotionCandidates:
    vectors = pan() if vectors is None else vectors
    return make_candidates(keyframe, vectors, next_keyframe=next_keyframe, next_vectors=vectors)


def test_a_moving_scene_is_left_to_the_network():
    found = candidates_between(scene(0, 0), scene(0, 2 * STEPS))
    agreement = compare_keyframes(found)
    assert agreement.correlation > 0.95
    assert agreement.scene_share == 1
    assert agreement.light_share == 0
    frames = torch.rand_like(found.prior)
    assert torch.equal(replace_transitions(frames, found), frames), "not even rounded otherwise"


def test_a_scene_whose_motion_is_missed_is_still_a_scene():
    found = candidates_between(scene(0, 0), scene(0, 6), torch.zeros_like(pan()))
    assert compare_keyframes(found).scene_share == 1


@pytest.mark.parametrize("kind", ["cut", "fade from black", "fade to white"])
def test_a_cut_or_a_fade_is_a_cross_fade_half_way(kind: str):
    first, second = scene(0, 0), scene(1, 0)
    if kind == "fade from black":
        first = torch.full_like(first, -1)
    elif kind == "fade to white":
        second = torch.ones_like(second)
    found = candidates_between(first, second)
    assert compare_keyframes(found).scene_share == 0
    shown = replace_transitions(torch.rand_like(found.prior), found)
    before, after = (found.pictures[:, :, CANDIDATES.index(name)] for name in ("global_motion", "next_global_motion"))
    quarter = STEPS // 4
    assert torch.allclose(shown[:, : quarter + 1], before[:, : quarter + 1], atol=1e-6)
    assert torch.allclose(shown[:, -quarter:], after[:, -quarter:], atol=1e-6)
    middle = STEPS // 2
    assert torch.allclose(shown[:, middle], (before + after)[:, middle] / 2, atol=1e-5)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.4), (0.5, -0.2)])
def test_light_that_changes_during_a_pan_changes_evenly(gain: float, offset: float):
    truth = torch.cat([scene(0, 2 * t) * (1 + (gain - 1) * t / STEPS) + offset * t / STEPS for t in range(STEPS)])
    found = candidates_between(scene(0, 0), scene(0, 2 * STEPS) * gain + offset)
    agreement = compare_keyframes(found)
    assert agreement.scene_share == 1
    assert agreement.light_share == 1
    frames = replace_transitions(torch.rand_like(found.prior), found)[0]

    def error(shown: Tensor) -> float:
        """Where both keyframes show the scene."""
        return float((shown - truth)[1:, :, :, 2 * STEPS : -2 * STEPS].square().mean())

    assert error(frames) < 0.2 * error(found.pictures[0, :, 0])
    assert error(frames) < error(found.prior[0])
    steps = frames.mean((1, 2, 3)).diff()
    assert float(steps.std()) < 0.1 * abs(float(steps.mean())) + 0.01


def test_a_flash_between_keyframes_is_not_seen_from_them():
    """Keyframes alike: nothing to recognise, and nothing to replace."""
    found = candidates_between(scene(0, 0), scene(0, 0) + 0.02, torch.zeros_like(pan()))
    agreement = compare_keyframes(found)
    assert agreement.scene_share == 1
    assert agreement.light_share == 0


def test_clips_of_a_batch_are_judged_each_by_itself():
    first = torch.cat((scene(0, 0), scene(0, 0)))
    second = torch.cat((scene(0, 2 * STEPS), scene(1, 0)))
    found = candidates_between(first, second, pan().expand(2, -1, -1, -1, -1))
    assert compare_keyframes(found).scene_share.tolist() == [1, 0]


def test_reconstruction_leaves_the_network_out_at_a_cut():
    model, vectors = trained_detokenizer(), pan()
    keyframe = scene(0, 0)
    with torch.no_grad():
        for following, is_scene in ((scene(0, 2 * STEPS), True), (scene(1, 0), False)):
            found = candidates_between(keyframe, following)
            frames = model.reconstruct(keyframe, vectors, next_keyframe=following, next_vectors=vectors)
            shown = replace_transitions(torch.zeros_like(found.prior), found)[:, 1:].clamp(-1, 1)
            assert torch.allclose(frames[:, 1:], shown, atol=1e-6) != is_scene
        alone = model.reconstruct(keyframe, vectors)
    assert alone.shape == (1, STEPS, 3, HEIGHT, WIDTH), "a clip without a next keyframe has no transition"
