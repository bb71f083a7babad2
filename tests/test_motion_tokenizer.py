"""The motion tokenizer: shapes, nesting, determinism, files, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from motion_fields import TINY, moving_fields

from motion_vq import PUBLISHED_CONFIG, MotionTokenizer, MotionTokens


@pytest.fixture(scope="module")
def tokenizer() -> MotionTokenizer:
    torch.manual_seed(0)
    model = MotionTokenizer(**TINY).eval()
    latents = torch.randn(40, model.tokens_per_quantizer, TINY["code_dim"])
    model.quantize.initialize(latents)
    # a network that corrects something, so that tests cover all of it
    for head in (model.encode_task_layer, model.decode_task_layer):
        torch.nn.init.normal_(head[2].weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def fields() -> tuple[torch.Tensor, torch.Tensor]:
    return moving_fields(6, TINY["num_steps"], TINY["grid"])


def test_shapes_and_ranges(tokenizer, fields):
    vectors, valid = fields
    tokens = tokenizer.encode(vectors, valid, 3)
    assert tokenizer.tokens_per_quantizer == 2 * 2 * 3
    assert tokens.ids.shape == (6, 3, 12)
    assert tokens.global_motion_ids.shape == (6, tokenizer.num_global_motion_ids) == (6, 10)
    assert tokens.tokens_per_clip == 3 * 12 + 10
    assert tokens.ids.dtype == tokens.global_motion_ids.dtype == torch.int64
    assert 0 <= tokens.ids.min() <= tokens.ids.max() < 32
    assert tokenizer.encode(vectors, valid).num_quantizers == 2
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == vectors.shape
    assert decoded.dtype == torch.float32
    assert torch.isfinite(decoded).all()


def test_quantizers_are_nested(tokenizer, fields):
    vectors, valid = fields
    fine = tokenizer.encode(vectors, valid, 3)
    for number in range(4):
        coarse = tokenizer.encode(vectors, valid, number)
        assert torch.equal(coarse.ids, fine.first_quantizers(number).ids)
        assert torch.equal(coarse.global_motion_ids, fine.global_motion_ids)
        assert torch.equal(tokenizer.decode(coarse), tokenizer.decode(fine.first_quantizers(number)))


def test_each_quantizer_adds_ids_where_the_first_finds_motion_hard(tokenizer, fields):
    quantizer = tokenizer.quantize
    first_ids = tokenizer.encode(*fields, 1).ids[:, 0]
    for number in (1, 2, 3):
        counts = quantizer.stage_counts(first_ids, number)
        assert (counts.sum(1) == number * tokenizer.tokens_per_quantizer).all()
        assert counts.min() >= 1
        assert counts.max() <= TINY["num_stages"]
    difficulty = quantizer.difficulty[first_ids]
    hardest, easiest = difficulty.argmax(1, keepdim=True), difficulty.argmin(1, keepdim=True)
    assert (counts.gather(1, hardest) >= counts.gather(1, easiest)).all()


def test_decoding_adds_the_codes_that_encoding_chose(tokenizer):
    latents = torch.randn(3, 12, 8)
    quantizer = tokenizer.quantize
    errors = [(latents - quantizer.decode(quantizer.encode(latents, number))).square().mean() for number in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_ids_do_not_depend_on_batch_or_threads(tokenizer, fields):
    model = MotionTokenizer.from_config(tokenizer.config)
    model.load_state_dict(tokenizer.state_dict())
    model = model.double().eval()
    vectors, valid = fields
    threads = torch.get_num_threads()
    whole = model.encode(vectors, valid, 3)
    try:
        torch.set_num_threads(2)
        again = model.encode(vectors, valid, 3)
    finally:
        torch.set_num_threads(threads)
    single = [model.encode(vectors[i : i + 1], valid[i : i + 1], 3) for i in range(len(vectors))]
    assert torch.equal(whole.ids, again.ids)
    assert torch.equal(whole.global_motion_ids, again.global_motion_ids)
    assert torch.equal(whole.ids, torch.cat([tokens.ids for tokens in single]))
    assert torch.equal(whole.global_motion_ids, torch.cat([tokens.global_motion_ids for tokens in single]))


def test_saved_weights_give_the_same_ids(tokenizer, fields, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_stages"] == 5
    loaded = MotionTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.encode(*fields)
    assert torch.equal(loaded.encode(*fields).ids, tokens.ids)
    assert torch.equal(loaded.decode(tokens), tokenizer.decode(tokens))


def test_published_size_is_a_configuration():
    with torch.device("meta"):
        model = MotionTokenizer(**PUBLISHED_CONFIG)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert model.tokens_per_quantizer == 135
    assert model.num_quantizers == 1
    assert model.num_global_motion_ids == 0
    assert 158e6 < sum(parameter.numel() for parameter in model.parameters()) < 159e6
    assert shapes["encoder.pos_embed"] == (1, 720, 512)
    assert shapes["encoder.temp_pos"] == (1, 24, 512)
    assert shapes["encoder.down_sample_layers.3.conv.weight"] == (512, 512, 3, 3, 3)
    assert shapes["encoder.stages.3.2.mlp.0.weight"] == (2048, 512)
    assert shapes["encode_task_layer.2.weight"] == (32, 512)
    assert shapes["decode_task_layer.2.weight"] == (2, 512)


def test_strided_stages_and_a_normalized_codebook_work(fields):
    strides = {"encoder_strides": ((2, 2, 2), (2, 2, 2)), "decoder_strides": ((2, 2, 2), (2, 2, 2))}
    widths = {f"{side}_{what}": (16, 16, 16) for side in ("encoder", "decoder") for what in ("widths",)}
    depths = {"encoder_depths": (1, 1, 0), "decoder_depths": (1, 1, 0)}
    like_published = {
        "patch": (1, 1, 1),
        "num_quantizers": 1,
        "num_stages": 1,
        "default_num_quantizers": 1,
        "linear_path": False,
    }
    torch.manual_seed(0)
    model = MotionTokenizer(
        **{**TINY, **strides, **widths, **depths, **like_published}, normalized_codebook=True, valid_channel=False
    )
    decoded, quantized = model.train()(*fields, 1)
    assert decoded.shape == fields[0].shape
    assert torch.allclose(quantized.latents.norm(dim=-1), torch.ones(6, 12), atol=1e-5)
    tokens = model.eval().encode(*fields)
    assert tokens.ids.shape == (6, 1, 12)
    assert model.decode(tokens).shape == fields[0].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda vectors, valid: (vectors[:, :, :6], valid[:, :, :6]),
            r"must be \[B, 8, 8, 12, 2\].*got \[6, 8, 6, 12, 2\]",
        ),
        (lambda vectors, valid: (vectors, valid.float()), "`valid` must be bool"),
    ],
)
def test_refuses_a_wrong_field(tokenizer, fields, change, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(*change(*fields))


def test_refuses_wrong_ids(tokenizer, fields):
    tokens = tokenizer.encode(*fields)
    with pytest.raises(ValueError, match=r"`num_quantizers` \(=4\) must be 0 to 3"):
        tokenizer.encode(*fields, 4)
    with pytest.raises(ValueError, match=r"`num_quantizers` \(=3\) must be 0 to 2"):
        tokens.first_quantizers(3)
    with pytest.raises(ValueError, match="`ids` must be 0 to 31, got 0 to 32"):
        tokenizer.decode(
            MotionTokens(tokens.ids * 0 + torch.arange(12) * 0 + 32 * (torch.arange(12) == 3), tokens.global_motion_ids)
        )
    with pytest.raises(ValueError, match=r"`ids` must be \[B, 0 to 3, 12\]"):
        tokenizer.decode(MotionTokens(tokens.ids[..., :5], tokens.global_motion_ids))
    with pytest.raises(ValueError, match=r"`global_motion_ids` must be \[B, 10\]"):
        tokenizer.decode(MotionTokens(tokens.ids, tokens.global_motion_ids[:, :4]))


def test_refuses_a_configuration_that_cannot_be():
    with pytest.raises(ValueError, match="must divide a field"):
        MotionTokenizer(**{**TINY, "grid": (9, 12)})
    with pytest.raises(ValueError, match="`num_stages`"):
        MotionTokenizer(**{**TINY, "num_stages": 2})
    with pytest.raises(ValueError, match="must divide `width`"):
        MotionTokenizer(**{**TINY, "num_heads": 3})
