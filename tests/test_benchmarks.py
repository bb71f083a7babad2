"""Benchmarks: the entropy model, rate-distortion rows, checksums and traces."""

import math

import numpy as np
import pytest

from benchmarks.entropy import CHOICE_BITS, coded_bits, id_bits, mask_bits
from videotok import VideoTokenizer


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
