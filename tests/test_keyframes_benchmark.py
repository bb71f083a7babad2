"""benchmarks.keyframes: its own arithmetic, and its rows on a video."""

import json

import numpy as np
import pytest
import torch
from keyframe_sizes import SIZES

from benchmarks import keyframes as benchmark
from videotok.keyframes import KeyframeTokenizer


def test_quality_is_highest_for_equal_images_and_falls_with_noise():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    equal, noisy = (benchmark.quality(images + s * torch.randn_like(images), images, None) for s in (0.0, 0.3))
    assert (equal["psnr"], equal["ssim"], equal["ms_ssim"]) == pytest.approx((100.0, 1.0, 1.0))
    assert all(noisy[name] < equal[name] for name in equal)
    assert "lpips" not in equal


def test_spearman_compares_order_alone():
    assert benchmark.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1.0)
    assert benchmark.spearman([1, 2, 3, 4], [9, 7, 5, 1]) == pytest.approx(-1.0)
    assert benchmark.spearman([1, 1, 2, 2], [3, 3, 5, 5]) == pytest.approx(1.0)
    assert np.isnan(benchmark.spearman([1, 1], [1, 2]))


def test_detailed_images_take_more_intra_bytes():
    torch.manual_seed(0)
    assert benchmark.intra_bytes(torch.rand(3, 256, 256) * 2 - 1) > 10 * benchmark.intra_bytes(torch.zeros(3, 256, 256))


def test_rows_and_table(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    model = KeyframeTokenizer(**{**SIZES, "image_size": 192, "patch_size": 12, "seam_cells": 4})
    model.save_pretrained(tmp_path / "model")
    noise = torch.from_numpy(np.random.default_rng(0).random((1, 3, 192, 192), np.float32)) * 2 - 1
    monkeypatch.setattr(benchmark, "TOKENS", (32, 256))
    monkeypatch.setattr(benchmark, "load_keyframes", lambda video, size, count: noise)
    (tmp_path / "a.mp4").touch()
    output = tmp_path / "rows.json"
    benchmark.main([str(tmp_path / "a.mp4"), "--model", str(tmp_path / "model"), "--json", str(output)])
    rows = json.loads(output.read_text())
    assert len(rows) == 3 * len(benchmark.TOKENS) + 1
    assert set(rows[0]) == {"video", "keyframes", "selector", "tokens", "psnr", "ssim", "ms_ssim", "seconds"}
    assert [row["tokens"] for row in rows[: len(benchmark.TOKENS)]] == list(benchmark.TOKENS)
    assert "Spearman" in capsys.readouterr().out
