"""The curve's own arithmetic, and its rows on a clip."""

import json

import numpy as np
import pytest
import torch
from keyframe_sizes import SIZES
from skimage import data

from benchmarks import keyframes as benchmark
from videotok.keyframes import KeyframeTokenizer


def test_ms_ssim_is_one_for_the_same_picture_and_falls_with_noise():
    torch.manual_seed(0)
    picture = torch.from_numpy(data.astronaut()[:256, :256]).permute(2, 0, 1)[None].float() / 127.5 - 1
    noise = torch.randn_like(picture)
    values = [benchmark.ms_ssim((picture + s * noise).clamp(-1, 1), picture).item() for s in (0.0, 0.1, 0.4)]
    assert values[0] == pytest.approx(1.0, abs=1e-5)
    assert values[0] > values[1] > values[2] > 0


def test_spearman_sees_order_alone():
    assert benchmark.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1.0)
    assert benchmark.spearman([1, 2, 3, 4], [9, 7, 5, 1]) == pytest.approx(-1.0)
    assert benchmark.spearman([1, 1, 2, 2], [3, 3, 5, 5]) == pytest.approx(1.0)
    assert np.isnan(benchmark.spearman([1, 1], [1, 2]))


def test_a_busy_picture_takes_more_intra_bytes():
    torch.manual_seed(0)
    assert benchmark.intra_bytes(torch.rand(3, 256, 256) * 2 - 1) > 10 * benchmark.intra_bytes(torch.zeros(3, 256, 256))


def test_rows_and_table(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    model = KeyframeTokenizer(**{**SIZES, "image_size": 192, "patch_size": 12, "cells": 4})
    model.save_pretrained(tmp_path / "model")
    noise = torch.from_numpy(np.random.default_rng(0).random((1, 3, 192, 192), np.float32)) * 2 - 1
    monkeypatch.setattr(benchmark, "RATES", (32, 256))
    monkeypatch.setattr(benchmark, "keyframes", lambda video, size, most: noise)
    benchmark.main(["a.mp4", "--model", str(tmp_path / "model"), "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 3 * len(benchmark.RATES) + 1
    assert {"video", "selector", "tokens", "psnr", "ssim", "ms_ssim", "seconds"} == set(rows[0])
    assert [row["tokens"] for row in rows[: len(benchmark.RATES)]] == list(benchmark.RATES)
    assert "Spearman" in capsys.readouterr().out
