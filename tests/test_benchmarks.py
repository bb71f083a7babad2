"""Benchmarks: the entropy model, rate-distortion rows, checksums and traces."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from benchmarks.entropy import coded_bits, id_bits, mask_bits, motion_contexts
from benchmarks.golden import compare
from benchmarks.rate_distortion import CODECS, RATES, encode_with, measure_video
from benchmarks.reconstruction import sharpness_shares
from benchmarks.trace_files import find_cycles, trace
from videotok import EncodeConfig, VideoTokenizer


def test_ids_without_structure_take_the_width_of_their_codebook():
    ids = np.random.default_rng(0).permutation(1024)
    assert 0.99 * 1024 * 10 < id_bits(ids, 1024) < 1.01 * 1024 * 10


def test_repeated_ids_take_few_bits():
    assert id_bits(np.zeros(1000, int), 1024) < 60
    assert id_bits(np.zeros(0, int), 1024) == 0


def test_the_code_length_is_that_of_a_code():
    """Probabilities of all sequences of three ids add up to 1: no code is shorter on average."""
    sequences = [np.array(ids) for ids in itertools.product(range(4), repeat=3)]
    assert sum(2.0 ** -id_bits(ids, 4) for ids in sequences) == pytest.approx(1)
    before = [np.concatenate([[-1], ids[:-1]]) for ids in sequences]
    total = sum(2.0 ** -id_bits(ids, 4, [context]) for ids, context in zip(sequences, before, strict=True))
    assert total == pytest.approx(1)


def test_contexts_that_tell_save_bits():
    rng = np.random.default_rng(0)
    following = rng.permutation(64)
    ids = [0]
    for _ in range(2000):
        ids.append(int(following[ids[-1]]) if rng.random() < 0.9 else int(rng.integers(64)))
    ids = np.array(ids)
    alone, told = id_bits(ids, 64), id_bits(ids, 64, [np.concatenate([[-1], ids[:-1]])])
    assert told < 0.5 * alone


def test_neighbours_are_contexts():
    """The same ids in every clip take few bits from the second one on; a border is no neighbour."""
    ids = np.random.default_rng(0).integers(0, 1024, (1, 2, 12)).repeat(4, axis=0)
    contexts = motion_contexts(ids, np.array([2, 2, 1, 2]), 1, (2, 2, 3))
    left, above, earlier, last_clip, coarser = (context.reshape(3, 2, 2, 3) for context in contexts)
    own = ids[0, 1].reshape(2, 2, 3)
    assert (left[..., 0] == -1).all()
    assert (left[0, ..., 1:] == own[..., :-1]).all()
    assert (above[0, :, 1] == own[:, 0]).all()
    assert (earlier[0, 1] == own[0]).all()
    assert (last_clip[0] == -1).all()
    assert (last_clip[1] == own).all()
    assert (last_clip[2] == -1).all()  # the clip before it has one quantizer
    assert (coarser[0] == ids[0, 0].reshape(2, 2, 3)).all()


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
    assert 0 < bits["visual"] <= 1.05 * raw + 5
    with_grid = coded_bits(tokens, tokenizer.keyframes.grid, tokenizer.motion.code_grid)
    assert with_grid["visual"] == bits["visual"]
    assert with_grid["motion_1"] != bits["motion_1"]


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
    streams = coded_bits(tokens, tokenizer.keyframes.grid, tokenizer.motion.code_grid)
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
