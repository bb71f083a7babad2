"""The shipped motion tokenizer: its size, and known motion that comes back."""

from pathlib import Path

import pytest
import torch
from motion_fields import PIXELS, moving_fields, pan
from safetensors import safe_open

import videotok.weights
from motion_vq import MotionTokenizer

FOLDER = Path(videotok.weights.__file__).parent / "motion"


@pytest.fixture(scope="module")
def tokenizer() -> MotionTokenizer:
    return MotionTokenizer.from_pretrained(FOLDER, torch_dtype=torch.float64).eval()


def test_is_small(tokenizer):
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) <= 3_000_000
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 8_000_000
    assert (tokenizer.tokens_per_quantizer, tokenizer.codebook_size) == (135, 1024)
    assert (tokenizer.num_quantizers, tokenizer.default_num_quantizers, tokenizer.num_global_motion_ids) == (4, 2, 24)


def test_codes_of_a_codebook_differ(tokenizer):
    # equal codes would leave the choice between them to rounding
    for stage in tokenizer.quantize.stages:
        distances = torch.cdist(stage.codes, stage.codes) + torch.eye(len(stage.codes))
        assert distances.min() > 1e-3


def test_weights_of_an_earlier_layout_load_completely(tokenizer):
    """The shipped file has fused attention and codebooks of vector-quantize-pytorch under their names of then."""
    with safe_open(FOLDER / "diffusion_pytorch_model.safetensors", "pt") as file:
        fused = file.get_tensor("encoder.stages.0.0.spatial_attention.qkv.weight").double()
        codes = file.get_tensor("quantize.stages.3._codebook.embed").double()
    attention = tokenizer.encoder.stages[0][0].spatial_attention
    assert torch.equal(torch.cat([attention.query.weight, attention.key_value.weight]), fused)
    assert torch.equal(tokenizer.quantize.stages[3].codes, codes[0])
    assert tokenizer.quantize.initialized
    _, report = MotionTokenizer.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize("pixels", [(2.0, -1.0), (-6.0, 0.5), (0.25, 3.0)])
@pytest.mark.parametrize("num_quantizers", [0, 1, 4])
def test_a_pan_comes_back_with_its_sign_and_size(tokenizer, pixels, num_quantizers):
    vectors, valid = pan(1, 24, (20, 36), pixels)
    decoded = tokenizer.decode(tokenizer.encode(vectors, valid, num_quantizers)) * PIXELS
    assert torch.allclose(decoded.mean((0, 1, 2, 3)), torch.tensor(pixels), atol=0.05 + 0.03 * max(map(abs, pixels)))
    assert (decoded - torch.tensor(pixels)).norm(dim=-1).quantile(0.95) < 0.5


def test_a_still_picture_stays_still(tokenizer):
    vectors, valid = pan(1, 24, (20, 36), (0.0, 0.0))
    tokens = tokenizer.encode(vectors, valid)
    decoded = tokenizer.decode(tokens) * PIXELS
    assert (tokens.global_motion_ids == 127).all()
    assert decoded[:, 1:].cumsum(1).norm(dim=-1).mean() < 0.25


def test_more_quantizers_are_nearer(tokenizer):
    vectors, valid = moving_fields(4, 24, (20, 36))
    tokens = tokenizer.encode(vectors, valid, tokenizer.num_quantizers)
    errors = [
        ((tokenizer.decode(tokens.first_quantizers(number)) - vectors) * PIXELS)[:, 1:].cumsum(1).norm(dim=-1).mean()
        for number in (0, 1, 2, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.7 * errors[0]


def test_ids_do_not_depend_on_batch_or_threads(tokenizer):
    vectors, valid = moving_fields(3, 24, (20, 36), seed=1)
    whole = tokenizer.encode(vectors, valid)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        single = [tokenizer.encode(vectors[i : i + 1], valid[i : i + 1]) for i in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole.ids, torch.cat([tokens.ids for tokens in single]))
    assert torch.equal(whole.global_motion_ids, torch.cat([tokens.global_motion_ids for tokens in single]))
