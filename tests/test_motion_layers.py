"""The layers that every model shares: attention, vector quantizer, k-means, principal components, and PSNR."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from motion_vq.attention import Attention, SpaceTimeBlock, TransformerBlock, fold, split_fused_attention, unfold
from motion_vq.losses import psnr
from motion_vq.train import principal_components
from motion_vq.vector_quantizer import VectorQuantizer, codebook_usage, collapse_message, k_means, nearest


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_a_weighted_mean_of_the_values_that_the_mask_allows(fused):
    attention = Attention(12, 3, fused_kernel=fused)
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    mask = torch.rand(2, 1, 5, 7) > 0.4
    mask[..., 0] = True
    query, key, value = attention.project(x, memory)
    expected = torch.zeros_like(query)
    for index in np.ndindex(*query.shape[:3]):
        batch, head, row = index
        allowed = mask[batch, 0, row]
        weights = (key[batch, head, allowed] @ query[index] / math.sqrt(4)).softmax(0)
        expected[index] = weights @ value[batch, head, allowed]
    torch.testing.assert_close(attention(x, memory, mask), attention.merge_heads(expected))
    torch.testing.assert_close(attention(x), attention(x, x))


def test_fused_weights_become_the_same_attention():
    fused = {"a.qkv.weight": torch.randn(24, 8), "a.q_bias": torch.randn(8), "a.v_bias": torch.randn(8)}
    fused |= {"a.proj.weight": torch.randn(8, 8), "a.proj.bias": torch.randn(8), "other": torch.ones(1)}
    x = torch.randn(2, 5, 8)
    qkv = F.linear(x, fused["a.qkv.weight"], torch.cat([fused["a.q_bias"], torch.zeros(8), fused["a.v_bias"]]))
    query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, -1))
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    expected = F.linear(mixed, fused["a.proj.weight"], fused["a.proj.bias"])
    split_fused_attention(fused)
    attention = Attention(8, 2)
    attention.load_state_dict({name[2:]: value for name, value in fused.items() if name != "other"})
    torch.testing.assert_close(attention(x), expected)
    assert "other" in fused


def test_a_new_transformer_block_returns_its_input():
    x = torch.randn(2, 5, 8)
    assert torch.equal(TransformerBlock(8, 2, 16)(x), x)


def test_a_space_time_block_mixes_cells_of_a_step_and_steps_of_a_cell():
    block = SpaceTimeBlock(8, 2)
    x = torch.zeros(1, 3, 2, 2, 8)
    changed = x.clone()
    changed[0, 1, 0, 1] = torch.randn(8)
    moved = (block(changed) - block(x)).abs().amax(-1)[0] > 1e-6
    assert moved.all()  # within its step, and from every cell of that step over time


def test_fold_and_unfold():
    x = torch.arange(2 * 4 * 4 * 6 * 2).view(2, 4, 4, 6, 2)
    folded = fold(x, (2, 2, 3))
    assert folded.shape == (2, 2, 2, 2, 24)
    assert torch.equal(folded[0, 0, 0, 0].view(2, 2, 3, 2), x[0, :2, :2, :3])
    assert torch.equal(unfold(folded, (2, 2, 3)), x)


def test_k_means_finds_separate_clusters():
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    vectors = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(200, 2)
    codes = k_means(vectors, 4)
    torch.testing.assert_close(codes[nearest(centres, codes)], centres, atol=0.1, rtol=0)


@pytest.mark.parametrize("normalized", [True, False])
def test_updates_move_codes_to_their_vectors_and_reset_dead_ones(normalized):
    centres = F.normalize(torch.randn(4, 4), dim=-1) * (1 if normalized else 3)
    vectors = centres.repeat(32, 1)
    quantizer = VectorQuantizer(8, 4, normalized=normalized, decay=0.9)
    quantizer.codes.copy_(-centres[:1] + 0.001 * torch.randn(8, 4))
    resets = sum(quantizer.update(vectors, quantizer.nearest(vectors)) for _ in range(100))
    assert resets > 0
    found = quantizer.lookup(quantizer.nearest(centres))
    torch.testing.assert_close(found, centres, atol=0.05, rtol=0)
    assert quantizer.usage.mean() == pytest.approx(1, abs=0.1)


def test_initialize_needs_as_many_vectors_as_codes():
    quantizer = VectorQuantizer(8, 4, normalized=True)
    with pytest.raises(ValueError, match="3 vectors cannot initialize 8 codes"):
        quantizer.initialize(torch.randn(3, 4))
    assert not quantizer.initialized
    quantizer.initialize(F.normalize(torch.randn(50, 4), dim=-1))
    assert quantizer.initialized
    torch.testing.assert_close(quantizer.codes.norm(dim=-1), torch.ones(8))


def test_nearest_of_no_vectors_is_no_id():
    assert VectorQuantizer(8, 4, normalized=True).nearest(torch.randn(2, 0, 4)).shape == (2, 0)
    assert VectorQuantizer(8, 4).nearest(torch.randn(2, 0, 4)).shape == (2, 0)


def test_codebook_usage_and_collapse():
    usage = codebook_usage(torch.tensor([0, 0, 1, 1]), 8)
    assert (usage.used_share, usage.perplexity) == (0.25, pytest.approx(2))
    assert collapse_message(torch.arange(128), 128) is None
    assert "use 0.8% of 128 codes, perplexity 1.0" in str(collapse_message(torch.zeros(256, dtype=torch.long), 128))


def test_principal_components_are_the_directions_of_largest_variance():
    scales = torch.tensor([0.1, 3.0, 1.0])
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    found = principal_components(torch.randn(4000, 3) * scales @ rotation + 7, 2)
    assert (found.directions @ rotation.T).abs().argmax(1).tolist() == [1, 2]
    torch.testing.assert_close(found.scales, torch.tensor([3.0, 1.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(found.mean, torch.full((3,), 7.0), atol=0.2, rtol=0)


def test_psnr_of_every_type_with_one_cap():
    for error, expected in ((255.0**2 / 100, 20.0), (0.0, 100.0), (1e-12, 100.0)):
        assert psnr(error, 255) == pytest.approx(expected)
        assert psnr(np.array([error]), 255) == pytest.approx([expected])
        assert psnr(torch.tensor([error], dtype=torch.float64), 255).item() == pytest.approx(expected)
