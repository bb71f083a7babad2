"""Devices: the benchmark that proves ids equal, and encoding on a GPU that is simulated on the CPU."""

import numpy as np
import pytest
import torch

from benchmarks.rounding import Rounding, decisions, evenly, photograph_files, rounding
from motion_vq.vector_quantizer import NearestCodes, VectorQuantizer
from tests.fake_device import fake_device
from tests.keyframe_sizes import SIZES
from tests.test_exact_ids import pictures
from tests.test_keyframes_tokenizer import randomized
from videotok import VideoTokenizer
from videotok.config import EncodeConfig
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes import tokenizer as tokenizer_module

IDS = ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids")


def loaded(model, *parts):
    """Return a tokenizer with these models in memory."""
    tokenizer = VideoTokenizer.from_pretrained(model)
    assert all(getattr(tokenizer, part) for part in parts)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


def test_rounding_lies_within_the_bounds(tokenizer):
    images = [image[None] for image in pictures(6)]
    row = rounding(tokenizer, images, 10**6, batch=2)
    assert row["pictures"] == 6
    assert 6 * 16 >= row["codes"] >= 2 * 16 + 4  # all 16 patches of every other batch
    assert row["different"] == 0
    assert row["decoded"] == 4
    assert all(row[name] > 0 for name in ("gain_error", "vector_error", "pixel_error", "patch_error"))
    assert row["within"]


def test_bounds_that_are_too_narrow_are_found(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "VECTOR_ERROR", 0.0)
    row = rounding(tokenizer, [image[None] for image in pictures(2)], 10**6, batch=1)
    assert not row["within"]
    assert row["safety_factors"]["vector"] == 0


def test_ids_that_rounding_changed_are_found(monkeypatch):
    model = randomized(KeyframeTokenizer(**SIZES)).eval()
    found, exact = Rounding(), VectorQuantizer.nearest_of_inexact
    found.add(model, pictures(2), 1.0)
    assert found.different == 0

    def careless(codebook, vectors, error):
        certain = exact(codebook, vectors, error).is_certain
        return NearestCodes(codebook.nearest(vectors.round(decimals=1)), torch.ones_like(certain))

    monkeypatch.setattr(VectorQuantizer, "nearest_of_inexact", careless)
    found.add(model, pictures(2), 1.0)
    assert found.different == 2


def test_decisions_are_counted(tokenizer, clip_mp4, monkeypatch):
    assert decisions(tokenizer, [clip_mp4], 2)["keyframes"] == 2
    monkeypatch.setattr(tokenizer_module, "DECODE_ERROR", 1.0)
    row = decisions(tokenizer, [clip_mp4], 2)
    assert row["decided_again"] == 1
    assert row["decoded_again_in_float64"] == 2


def test_photographs_are_taken_evenly(tmp_path):
    for name in ("b.jpg", "a.png", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in photograph_files([tmp_path])] == ["a.png", "b.jpg"]
    assert evenly(list(range(10)), 3) == [0, 3, 6]
    assert evenly([], 3) == []


@pytest.mark.parametrize("rate", [{}, {"tokens_per_second": 100.0}, {"tokens_per_keyframe": 6}])
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_gives_the_same_ids(kind, rate, tokenizer, tiny_model, clip_mp4):
    config = EncodeConfig(**rate)
    expected = tokenizer.encode(clip_mp4, config)
    on_gpu = loaded(tiny_model, "keyframes", "motion")
    with fake_device(kind) as device:
        found = on_gpu.to(kind).encode(clip_mp4, config)
    for name in IDS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert sum(device.launches.values()) > 100


def test_a_gpu_waits_for_no_patch_or_code(monkeypatch):
    """Waiting once a patch or a code would make a GPU slower than a CPU; once a batch is enough."""
    # nothing is encoded again in float64, which some random weights would need
    monkeypatch.setattr(tokenizer_module, "GAIN_ERROR", 0.0)
    monkeypatch.setattr(tokenizer_module, "VECTOR_ERROR", 0.0)

    def waits(count, **sizes):
        torch.manual_seed(0)
        model = randomized(KeyframeTokenizer(**(SIZES | sizes))).eval()
        images = pictures(count)
        with fake_device("cuda") as device:
            model.to("cuda").encode(images.to("cuda"), num_tokens=20)
            encoding = device.waits.total(), device.launches.total()
            device.clear()
            tokens = model.encode(images.to("cuda"), keep_ratio=1.0)
            device.clear()
            model.decode(tokens.ids, tokens.keep_mask)
        return *encoding, device.waits.total(), device.launches.total()

    few, many = waits(1), waits(4, codebook_size=1024)
    assert many[0] <= few[0] + 4
    assert many[2] <= few[2] + 4
    # more pictures are larger operations, not more of them
    assert many[1] < 1.2 * few[1]
    assert many[3] < 1.2 * few[3]


def test_tensors_of_two_devices_do_not_mix():
    """What the tests above rely on."""
    with fake_device("cuda") as device:
        on_gpu = torch.ones(3).to("cuda")
        assert on_gpu.device == torch.device("cuda", 0)
        with pytest.raises(RuntimeError, match="same device"):
            _ = on_gpu + torch.ones(3)
        device.clear()
        assert float((on_gpu * 2).sum()) == 6
        assert (device.launches.total(), device.waits.total()) == (2, 1)
        assert (on_gpu > 0).nonzero().shape == (3, 1)
        assert device.waits.total() == 2
    with fake_device("mps"), pytest.raises(TypeError, match="float64"):
        torch.ones(3).to("mps").double()
