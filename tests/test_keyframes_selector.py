"""Patch selection: ranking, keep masks, thresholds."""

import pytest
import torch

from videotok.keyframes.selector import KeepThresholds, Selector, greedy_selection, keep_above, keep_best


def test_equal_scores_go_to_the_earlier_patch():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    assert keep_best(scores, torch.tensor([2])).tolist() == [[False, True, True, False]]
    assert keep_above(scores, torch.tensor(9.0)).tolist() == [[False, True, False, False]]


def test_kept_patches_spread_over_a_smooth_image_and_lie_denser_where_there_is_detail():
    distances = Selector(32, 8).distances
    smooth = torch.full((1, 64), -4.0)
    kept = keep_best(greedy_selection(smooth, torch.ones(1, 64), distances), torch.tensor([13]))[0].view(8, 8)
    assert not (kept[1:] & kept[:-1]).any()
    assert not (kept[:, 1:] & kept[:, :-1]).any()
    detailed = smooth.view(8, 8).clone()
    detailed[:4, :4] = 0.0
    redundancy = torch.where(detailed < 0, 1.0, 0.1).view(1, 64)
    kept = keep_best(greedy_selection(detailed.view(1, 64), redundancy, distances), torch.tensor([13]))[0].view(8, 8)
    assert kept[:4, :4].sum() > 6


def test_greedy_scores_fall_and_stop_at_the_count():
    torch.manual_seed(0)
    saving, redundancy = torch.randn(3, 64, dtype=torch.float64), torch.rand(3, 64, dtype=torch.float64)
    distances = Selector(32, 8).distances
    scores = greedy_selection(saving, redundancy, distances)
    assert scores.isfinite().all()
    first = greedy_selection(saving, redundancy, distances, count=10)
    assert first.isfinite().sum(dim=1).tolist() == [10] * 3
    assert torch.equal(keep_best(scores, torch.tensor([10] * 3)), first.isfinite())


def test_thresholds_follow_the_quantiles_of_the_scores():
    torch.manual_seed(0)
    thresholds = KeepThresholds()
    for step in range(1500):
        thresholds.update(torch.randn(400) - 5, step_size=0.2 if step < 1000 else 0.02)
    for keep_ratio in (0.1, 0.35, 0.8):
        assert (torch.randn(100_000) - 5 >= thresholds(keep_ratio)).double().mean().item() == pytest.approx(
            keep_ratio, abs=0.02
        )


def test_fitted_thresholds_are_exact_on_their_scores():
    scores = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * 3 - 5
    thresholds = KeepThresholds()
    thresholds.fit(scores)
    for keep_ratio in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert (scores >= thresholds(keep_ratio)).double().mean().item() == pytest.approx(keep_ratio, abs=0.01)
