"""KeyframeTokenizer, tiny and untrained: shapes, saving, rates, determinism, errors."""

import json
from itertools import pairwise

import pytest
import torch
from keyframe_sizes import SIZES, UPSAMPLER
from safetensors.torch import load_file, save_file
from torch import Tensor

from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.vit import pack


def randomized(model: KeyframeTokenizer) -> KeyframeTokenizer:
    """Give every branch an effect: the transformers of a new model add nothing yet."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pictures = torch.rand(8, 3, model.image_size, model.image_size) * 2 - 1
    scores = model.selector.scores(model.features(pictures)).detach()
    shares = torch.linspace(1, 0, len(model.thresholds.values))
    model.thresholds.values.copy_(torch.quantile(scores, shares))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> KeyframeTokenizer:
    torch.manual_seed(0)
    return randomized(KeyframeTokenizer(**SIZES)).double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(5, 3, 64, 64) * 2 - 1


def test_ids_and_masks_agree(model: KeyframeTokenizer, images: Tensor):
    tokens = model.encode(images)
    assert tokens.keep_mask.shape == (5, 64)
    assert tokens.keep_mask.dtype == torch.bool
    assert [len(ids) for ids in tokens.ids] == tokens.keep_mask.sum(dim=1).tolist()
    assert all(ids.dtype == torch.int64 and ids.min() >= 0 and ids.max() < 128 for ids in tokens.ids)
    assert repr(tokens).endswith("of 64 patches)")


def test_decode_returns_images(model: KeyframeTokenizer, images: Tensor):
    tokens = model.encode(images)
    restored = model.decode(tokens.ids, tokens.keep_mask)
    assert restored.shape == images.shape
    assert restored.abs().max() <= 1
    assert torch.equal(model(images), restored)


@pytest.mark.parametrize("count", [1, 20, 64])
def test_num_tokens_is_exact(model: KeyframeTokenizer, images: Tensor, count: int):
    assert model.encode(images, num_tokens=count).keep_mask.sum(dim=1).tolist() == [count] * 5


def test_keeping_more_keeps_what_was_kept(model: KeyframeTokenizer, images: Tensor):
    masks = [model.encode(images, keep_ratio=ratio).keep_mask for ratio in (0.01, 0.1, 0.35, 0.6, 0.9, 1.0)]
    for fewer, more in pairwise(masks):
        assert (more | ~fewer).all()
        assert more.sum() > fewer.sum()
    assert masks[0].any(dim=1).all()
    assert masks[-1].all()


def test_keep_ratio_is_met_over_many_images(model: KeyframeTokenizer):
    pictures = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(7)) * 2 - 1
    kept = model.encode(pictures, keep_ratio=0.35).keep_mask.double().mean()
    assert 0.3 < kept < 0.4


def test_keep_mask_is_obeyed(model: KeyframeTokenizer, images: Tensor):
    mask = torch.zeros(5, 64, dtype=torch.bool)
    mask[:, ::3] = True
    assert torch.equal(model.encode(images, keep_mask=mask).keep_mask, mask)


def test_ids_do_not_depend_on_batch_or_threads(model: KeyframeTokenizer, images: Tensor):
    together = model.encode(images, keep_ratio=0.35)
    assert len({len(ids) for ids in together.ids}) > 1, "the images should differ in length, so that there is padding"
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        for i, image in enumerate(images):
            alone = model.encode(image[None], keep_ratio=0.35)
            assert torch.equal(alone.keep_mask[0], together.keep_mask[i])
            assert torch.equal(alone.ids[0], together.ids[i])
    torch.set_num_threads(threads)


def test_padding_has_no_effect(model: KeyframeTokenizer, images: Tensor):
    few, many = torch.zeros(64, dtype=torch.bool), torch.ones(64, dtype=torch.bool)
    few[[3, 17, 40]] = True
    padded = model.encode(images[:2], keep_mask=torch.stack([few, many]))
    alone = model.encode(images[:1], keep_mask=few[None])
    assert torch.equal(padded.ids[0], alone.ids[0])
    together, single = model.decode(padded.ids, padded.keep_mask), model.decode(alone.ids, alone.keep_mask)
    torch.testing.assert_close(together[:1], single)


def test_a_token_attends_to_kept_patches_before_it_and_to_all_dropped_ones(model: KeyframeTokenizer, images: Tensor):
    features = model.features(images[:1])
    mask = torch.ones(1, 64, dtype=torch.bool)
    mask[0, 50] = False
    before = model.code_vectors(features, mask)[0]
    later, dropped = features.clone(), features.clone()
    later[0, 30, 0] += 1
    dropped[0, 50, 0] += 1
    changed = (model.code_vectors(later, mask)[0] - before).abs().amax(dim=-1)[0]
    assert changed[:30].max() == 0
    assert changed[30:].min() > 0
    assert (model.code_vectors(dropped, mask)[0] - before).abs().amax(dim=-1).min() > 0


def test_saved_and_loaded_is_the_same(model: KeyframeTokenizer, images: Tensor, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = KeyframeTokenizer.from_pretrained(tmp_path, torch_dtype=torch.float64)
    assert dict(loaded.config)["seam_width"] == 8
    tokens, again = model.encode(images), loaded.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens.ids, again.ids, strict=True))
    restored = model.decode(tokens.ids, tokens.keep_mask)
    torch.testing.assert_close(loaded.decode(again.ids, again.keep_mask), restored)


def test_shipped_and_published_sizes_are_configurations():
    with torch.device("meta"):
        shipped = KeyframeTokenizer()
        published = KeyframeTokenizer(
            image_size=224,
            patch_size=14,
            width=1408,
            depth=40,
            heads=16,
            hidden=6144,
            merger_depth=12,
            decoder_width=1408,
            decoder_depth=12,
            decoder_heads=16,
            decoder_hidden=6144,
            seam_cells=2,
        )
    assert shipped.num_patches == published.num_patches == 256
    assert sum(p.numel() for p in shipped.state_dict().values()) < 12e6
    assert 0.9e9 < sum(p.numel() for p in published.vit.parameters()) < 1.1e9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (dict(keep_ratio=0.0), "`keep_ratio`"),
        (dict(keep_ratio=1.5), "`keep_ratio`"),
        (dict(num_tokens=65), "`num_tokens`"),
        (dict(keep_ratio=0.5, num_tokens=3), "only one"),
        (dict(refinement_steps=-1), "`refinement_steps`"),
        (dict(generator=torch.Generator()), "`generator`"),
        (dict(keep_mask=torch.zeros(5, 64, dtype=torch.bool)), "`keep_mask`"),
    ],
)
def test_wrong_options_are_refused(model: KeyframeTokenizer, images: Tensor, arguments: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        model.encode(images, **arguments)


def test_wrong_images_ids_and_sizes_are_refused(model: KeyframeTokenizer):
    with pytest.raises(ValueError, match="`images`"):
        model.encode(torch.zeros(1, 3, 32, 32))
    mask = torch.ones(1, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"codes 0\.\.127"):
        model.decode([torch.full((64,), 128)], mask)
    with pytest.raises(ValueError, match="one id for each kept patch"):
        model.decode([torch.zeros(3, dtype=torch.long)], mask)
    with pytest.raises(ValueError, match="`patch_size`"):
        KeyframeTokenizer(**{**SIZES, "patch_size": 7})


def test_refinement_finds_codes_of_a_nearer_image(model: KeyframeTokenizer, images: Tensor):
    found = [model.encode(images, num_tokens=40, refinement_steps=steps) for steps in (0, 3)]
    assert torch.equal(found[0].keep_mask, found[1].keep_mask)
    errors = [(model.decode(t.ids, t.keep_mask) - images).square().mean(dim=(1, 2, 3)) for t in found]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].mean() < errors[0].mean()
    alone = model.encode(images[2:3], num_tokens=40, refinement_steps=3)
    assert torch.equal(alone.ids[0], found[1].ids[2])


@pytest.fixture(scope="module", params=[{}, UPSAMPLER], ids=["seams", "upsampler"])
def either(request: pytest.FixtureRequest) -> KeyframeTokenizer:
    """A tokenizer with each of the two heads."""
    torch.manual_seed(0)
    return randomized(KeyframeTokenizer(**SIZES, **request.param)).double()


def test_either_head_decodes_and_saves(either: KeyframeTokenizer, images: Tensor, tmp_path):
    tokens = either.encode(images, num_tokens=20)
    decoded = either.decode(tokens.ids, tokens.keep_mask)
    assert decoded.shape == images.shape
    either.save_pretrained(tmp_path)
    loaded = KeyframeTokenizer.from_pretrained(tmp_path, torch_dtype=torch.float64)
    torch.testing.assert_close(loaded.decode(tokens.ids, tokens.keep_mask), decoded, rtol=0, atol=0)


@pytest.mark.parametrize("head", [{}, UPSAMPLER], ids=["seams", "upsampler"])
def test_fast_decoding_rounds_the_head_alone(head: dict, images: Tensor):
    torch.manual_seed(0)
    model = randomized(KeyframeTokenizer(**SIZES, **head)).float()
    tokens = model.encode(images, num_tokens=20)
    decoded, fast = (model.decode(tokens.ids, tokens.keep_mask, fast=fast) for fast in (False, True))
    difference = (fast - decoded).abs()
    assert fast.dtype == torch.float32
    assert 0 < difference.mean() < 0.01
    again = model.encode(images, num_tokens=20)
    assert all(torch.equal(ids, others) for ids, others in zip(tokens.ids, again.ids, strict=True))


def test_the_head_of_a_new_model_adds_nothing():
    for head in ({}, UPSAMPLER):
        detokenizer = KeyframeTokenizer(**SIZES, **head).detokenizer
        features, coarse = torch.randn(2, 64, 32), torch.randn(2, 3, 64, 64)
        assert detokenizer.refiner(features, coarse).abs().max() == 0


def test_the_upsampler_sees_neighbouring_patches():
    """A change of one patch's features reaches pixels of the patch beside it: there are no seams of their own."""
    torch.manual_seed(0)
    detokenizer = randomized(KeyframeTokenizer(**SIZES, **UPSAMPLER)).detokenizer.double()
    features = torch.randn(1, 64, 32, dtype=torch.float64)
    changed = features.clone()
    changed[0, 27] += 1  # row 3, column 3
    difference = (detokenizer.to_pixels(changed) - detokenizer.to_pixels(features)).abs().amax(dim=(0, 1))
    assert difference[24:32, 32:40].max() > 0


def test_unpacked_training_path_gives_the_same_values(either: KeyframeTokenizer, images: Tensor):
    features = either.features(images)
    mask = either.encode(images, keep_ratio=0.35).keep_mask
    vectors, present = either.code_vectors(features, mask)
    in_place = either.code_vectors_in_place(features, mask)
    torch.testing.assert_close(pack(in_place, mask)[0][present], vectors[present])
    packed = either.detokenizer.fill(vectors, mask)
    torch.testing.assert_close(either.detokenizer.fill_in_place(in_place, mask), packed)


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        (dict(upsampler_widths=(16,), upsampler_blocks=(1, 1)), "`upsampler_widths`"),
        (dict(upsampler_widths=(16, 16, 8), upsampler_blocks=(1, 1, 1)), "`patch_size` \\(=8\\)"),
        (dict(upsampler_widths=(16, 12), upsampler_blocks=(1, 1)), "8 must divide"),
    ],
)
def test_wrong_upsampler_sizes_are_refused(sizes: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        KeyframeTokenizer(**SIZES, **sizes)


def test_configs_and_weights_under_older_names_load(model: KeyframeTokenizer, images: Tensor, tmp_path):
    """A folder as the first version wrote it: other option names in config.json, other parameter names."""
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    options = {new: old for old, new in KeyframeTokenizer.renamed_options.items()}
    old_config = {options.get(name, name): value for name, value in config.items() if not name.startswith("upsampler")}
    assert "cells" in old_config
    (tmp_path / "config.json").write_text(json.dumps(old_config))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for name, tensor in load_file(weights).items():
        for old, new in KeyframeTokenizer.renamed_parameters.items():
            name = f"{name}.".replace(f"{new}.", f"{old}.")[:-1]
        tensors[name] = tensor
    assert {"codebook.words", "detokenizer.words.weight", "selector.judge.0.weight"} <= set(tensors)
    save_file(tensors, weights, metadata={"format": "pt"})
    loaded = KeyframeTokenizer.from_pretrained(tmp_path, torch_dtype=torch.float64)
    tokens, again = model.encode(images), loaded.encode(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens.ids, again.ids, strict=True))
    decoded = model.decode(tokens.ids, tokens.keep_mask)
    torch.testing.assert_close(loaded.decode(again.ids, again.keep_mask), decoded, rtol=0, atol=0)
