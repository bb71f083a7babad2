"""Benchmarks: the entropy model, rate-distortion rows, checksums and traces."""

import math
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.entropy import CHOICE_BITS, coded_bits, id_bits, mask_bits
from benchmarks.golden import compare
from benchmarks.rate_distortion import CODECS, RATES, encode_with, measure_video
from benchmarks.reconstruction import sharpness_shares
from benchmarks.trace_files import find_cycles, trace
from videotok import EncodeConfig, VideoTokenizer


def test_ids_without_structure_take_the_width_of_their_codebook():
    ids = np.random.default_rng(0).permutation(1024)
    assert id_bits(ids, 1024) == pytest.approx(1024 * 10 + CHOICE_BITS)


def test_repeated_ids_take_few_bits():
    assert id_bits(np.zeros(1000, int), 1024) < 60
    assert id_bits(np.zeros(0, int), 1024) == 0


def test_the_code_length_is_that_of_a_code():
    """Kraft's inequality over all sequences of three ids: no code is shorter."""
    total = sum(
        2.0 ** -id_bits(np.array([first, second, third]), 4)
        for first in range(4)
        for second in range(4)
        for third in range(4)
    )
    assert total <= 1


def test_masks_with_structure_take_less_than_a_bit():
    half = np.zeros((4, 16, 16), bool)
    half[:, :, 8:] = True
    noise = np.random.default_rng(0).random((4, 256)) < 0.5
    assert mask_bits(half.reshape(4, 256), (16, 16)) < 0.15 * half.size
    assert mask_bits(noise, (16, 16)) == pytest.approx(noise.size, rel=0.1)
    assert mask_bits(noise, (16, 16), known=np.ones_like(noise)) == 0


def test_every_stream_is_counted(tiny_model, clip_mp4):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    tokens = tokenizer.encode(clip_mp4)
    bits = coded_bits(tokens, tokenizer.keyframes.grid)
    assert set(bits) == {"visual", "skip_mask", "keep_mask", "global_motion", "motion_1", "motion_2"}
    raw = len(tokens.visual_ids) * math.log2(tokens.codebooks["visual"])
    assert 0 < bits["visual"] <= raw + CHOICE_BITS


def test_files_and_functions_are_traced(tmp_path):
    """A caller in one file and a function in another, with a library in between, make one edge."""
    package = tmp_path / "codec"
    package.mkdir()
    (package / "one.py").write_text("def first(function):\n    return list(map(function, [1, 2]))\n")
    (package / "two.py").write_text("def second(value):\n    return value\n")
    modules = {}
    for name in ("one", "two"):
        modules[name] = {}
        exec(compile((package / f"{name}.py").read_text(), str(package / f"{name}.py"), "exec"), modules[name])
    found = trace(tmp_path, lambda: modules["one"]["first"](modules["two"]["second"]))
    assert {function.co_name for function in found.functions} == {"first", "second"}
    assert found.edges == {(str(package / "one.py"), str(package / "two.py"))}


def test_import_cycles_are_found():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}
    assert sorted(find_cycles(imports)) == [["a", "b", "c"], ["e", "f"]]
    assert find_cycles({"a": {"b"}, "b": set()}) == []


def test_golden_values_are_compared():
    entry = {"visual": "aa", "decoded": "bb", "decoded_mean": 100.0}
    assert compare("x", entry, entry) == []
    assert compare("x", entry | {"decoded": "cc", "decoded_mean": 100.01}, entry) == []  # other arithmetic
    assert compare("x", entry | {"visual": "dd"}, entry) == ["x: visual is dd, was aa"]
    assert len(compare("x", entry | {"decoded": "cc", "decoded_mean": 101.0}, entry)) == 2
    assert compare("x", entry | {"visual": "dd"}, entry, {"visual"}) == []  # other weights
    assert compare("x", {"error": "MediaError"}, {"error": "MediaError"}) == []


@pytest.mark.parametrize("factor", [1, 2])
def test_a_codec_gives_back_as_many_frames(factor):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :, 48:] = 255
    coded = encode_with(CODECS["x264"], 40, frames, Fraction(12), factor)
    assert coded.frames.shape == frames.shape
    assert 50 < coded.num_bytes < 2000
    assert np.abs(coded.frames[:, :, :40].astype(int) - frames[:, :, :40]).mean() < 5


def test_a_rate_distortion_row_is_of_its_tokens(tiny_model, clip_mp4):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    rates = {"default": RATES["default"]}
    (row,) = measure_video(tokenizer, clip_mp4, 1, [], None, rates)
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(max_clips=1))
    assert row["tokens_per_second"] == tokens.tokens_per_second
    assert row["kbit_per_second"] == pytest.approx(sum(tokens.bits_per_second().values()) / 1000)
    streams = coded_bits(tokens, tokenizer.keyframes.grid)
    assert row["coded_kbit_per_second"] == pytest.approx(sum(streams.values()) / 2 / 1000)
    assert row["lpips"] is None


def test_sharpness_is_a_share_of_the_source():
    """Of the means, and that of the median clip: each row beside the source of its own clip."""
    sources = {("a", 0, 2): 10.0, ("a", 1, 2): 20.0, ("b", 0, 2): 30.0}
    rows = [
        {"video": video, "clip": clip, "motion_quantizers": 2, "sharpness": value}
        for (video, clip), value in {("b", 0): 15.0, ("a", 0): 9.0, ("a", 1): 12.0}.items()
    ]
    assert sharpness_shares(rows, sources) == pytest.approx((0.6, 0.6))
    assert sharpness_shares(rows[:2], sources) == pytest.approx((0.6, 0.7))
