"""Keyframe tokenizer with a tiny, untrained model: shapes, files, budgets, determinism, what it refuses."""

from itertools import pairwise

import pytest
import torch
from keyframe_sizes import SIZES
from torch import Tensor

from videotok.cli.console import Refusal
from videotok.cli.encode import search_words
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.selector import Selector, Thresholds, greedy_selection, keep_above, keep_best


def lively(model: KeyframeTokenizer) -> KeyframeTokenizer:
    """Every branch does something: a new model's transformers add nothing yet."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pictures = torch.rand(8, 3, model.image_size, model.image_size) * 2 - 1
    scores = model.selector.scores(model.features(pictures)).detach()
    levels = torch.linspace(1, 0, len(model.thresholds.values))
    model.thresholds.values.copy_(torch.quantile(scores, levels))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> KeyframeTokenizer:
    torch.manual_seed(0)
    return lively(KeyframeTokenizer(**SIZES)).double()


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


def test_decode_gives_pictures(model: KeyframeTokenizer, images: Tensor):
    tokens = model.encode(images)
    restored = model.decode(tokens.ids, tokens.keep_mask)
    assert restored.shape == images.shape
    assert restored.abs().max() <= 1
    assert torch.equal(model(images), restored)


@pytest.mark.parametrize("count", [1, 20, 64])
def test_a_budget_is_exact(model: KeyframeTokenizer, images: Tensor, count: int):
    assert model.encode(images, num_tokens=count).keep_mask.sum(dim=1).tolist() == [count] * 5


def test_keeping_more_keeps_what_was_kept(model: KeyframeTokenizer, images: Tensor):
    masks = [model.encode(images, keep).keep_mask for keep in (0.01, 0.1, 0.35, 0.6, 0.9, 1.0)]
    for fewer, more in pairwise(masks):
        assert (more | ~fewer).all()
        assert more.sum() > fewer.sum()
    assert masks[0].any(dim=1).all()
    assert masks[-1].all()


def test_the_keep_rate_is_met_over_many_pictures(model: KeyframeTokenizer):
    pictures = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(7)) * 2 - 1
    kept = model.encode(pictures, 0.35).keep_mask.double().mean()
    assert 0.3 < kept < 0.4


def test_a_mask_of_the_callers_is_obeyed(model: KeyframeTokenizer, images: Tensor):
    mask = torch.zeros(5, 64, dtype=torch.bool)
    mask[:, ::3] = True
    assert torch.equal(model.encode(images, keep_mask=mask).keep_mask, mask)


def test_ids_do_not_depend_on_batch_or_threads(model: KeyframeTokenizer, images: Tensor):
    together = model.encode(images, 0.35)
    assert len({len(ids) for ids in together.ids}) > 1, "the pictures should differ in length, so that there is padding"
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        for i, image in enumerate(images):
            alone = model.encode(image[None], 0.35)
            assert torch.equal(alone.keep_mask[0], together.keep_mask[i])
            assert torch.equal(alone.ids[0], together.ids[i])
    torch.set_num_threads(threads)


def test_padding_stays_out_of_sight(model: KeyframeTokenizer, images: Tensor):
    few, many = torch.zeros(64, dtype=torch.bool), torch.ones(64, dtype=torch.bool)
    few[[3, 17, 40]] = True
    padded = model.encode(images[:2], keep_mask=torch.stack([few, many]))
    alone = model.encode(images[:1], keep_mask=few[None])
    assert torch.equal(padded.ids[0], alone.ids[0])
    together, single = model.decode(padded.ids, padded.keep_mask), model.decode(alone.ids, alone.keep_mask)
    torch.testing.assert_close(together[:1], single)


def test_a_token_sees_kept_patches_before_it_and_dropped_ones_anywhere(model: KeyframeTokenizer, images: Tensor):
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
    assert dict(loaded.config)["cell_width"] == 8
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
            cells=2,
        )
    assert shipped.num_patches == published.num_patches == 256
    assert sum(p.numel() for p in shipped.state_dict().values()) < 12e6
    assert 0.9e9 < sum(p.numel() for p in published.vit.parameters()) < 1.1e9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (dict(keep=0.0), "`keep`"),
        (dict(keep=1.5), "`keep`"),
        (dict(num_tokens=65), "`num_tokens`"),
        (dict(keep=0.5, num_tokens=3), "only one"),
        (dict(search=-1), "`search`"),
        (dict(keep_mask=torch.zeros(5, 64, dtype=torch.bool)), "`keep_mask`"),
    ],
)
def test_wrong_rules_are_refused(model: KeyframeTokenizer, images: Tensor, arguments: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        model.encode(images, **arguments)


def test_wrong_pictures_ids_and_sizes_are_refused(model: KeyframeTokenizer):
    with pytest.raises(ValueError, match="`images`"):
        model.encode(torch.zeros(1, 3, 32, 32))
    mask = torch.ones(1, 64, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"words 0\.\.127"):
        model.decode([torch.full((64,), 128)], mask)
    with pytest.raises(ValueError, match="one id a kept patch"):
        model.decode([torch.zeros(3, dtype=torch.long)], mask)
    with pytest.raises(ValueError, match="`patch_size`"):
        KeyframeTokenizer(**{**SIZES, "patch_size": 7})


def test_equal_scores_go_to_the_earlier_patch():
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    assert keep_best(scores, torch.tensor([2])).tolist() == [[False, True, True, False]]
    assert keep_above(scores, torch.tensor(9.0)).tolist() == [[False, True, False, False]]


def test_kept_patches_spread_over_a_plain_picture_and_gather_where_it_is_not():
    distances = Selector(32, 8).distances
    plain = torch.full((1, 64), -4.0)
    kept = keep_best(greedy_selection(plain, torch.ones(1, 64), distances), torch.tensor([13]))[0].view(8, 8)
    assert not (kept[1:] & kept[:-1]).any()
    assert not (kept[:, 1:] & kept[:, :-1]).any()
    busy = plain.view(8, 8).clone()
    busy[:4, :4] = 0.0
    reach = torch.where(busy < 0, 1.0, 0.1).view(1, 64)
    kept = keep_best(greedy_selection(busy.view(1, 64), reach, distances), torch.tensor([13]))[0].view(8, 8)
    assert kept[:4, :4].sum() > 6


def test_turns_fall_and_are_taken_as_far_as_asked():
    torch.manual_seed(0)
    saving, reach = torch.randn(3, 64, dtype=torch.float64), torch.rand(3, 64, dtype=torch.float64)
    distances = Selector(32, 8).distances
    scores = greedy_selection(saving, reach, distances)
    assert scores.isfinite().all()
    first = greedy_selection(saving, reach, distances, count=10)
    assert first.isfinite().sum(dim=1).tolist() == [10] * 3
    assert torch.equal(keep_best(scores, torch.tensor([10] * 3)), first.isfinite())


def test_search_finds_words_of_a_nearer_picture(model: KeyframeTokenizer, images: Tensor):
    found = [model.encode(images, num_tokens=40, search=steps) for steps in (0, 3)]
    assert torch.equal(found[0].keep_mask, found[1].keep_mask)
    errors = [(model.decode(t.ids, t.keep_mask) - images).square().mean(dim=(1, 2, 3)) for t in found]
    assert (errors[1] <= errors[0]).all()
    assert errors[1].mean() < errors[0].mean()
    alone = model.encode(images[2:3], num_tokens=40, search=3)
    assert torch.equal(alone.ids[0], found[1].ids[2])


def test_search_is_switched_on_by_the_command(model: KeyframeTokenizer, images: Tensor):
    other = KeyframeTokenizer(**SIZES)
    other.load_state_dict(model.state_dict())
    other.double().eval()
    search_words(other, 3)
    switched, told = other.encode(images[:2], num_tokens=40), model.encode(images[:2], num_tokens=40, search=3)
    assert all(torch.equal(a, b) for a, b in zip(switched.ids, told.ids, strict=True))
    with pytest.raises(Refusal, match="--search 3"):
        search_words(torch.nn.Identity(), 3)  # pyright: ignore[reportArgumentType]


def test_thresholds_follow_the_scores():
    torch.manual_seed(0)
    thresholds = Thresholds()
    for step in range(1500):
        thresholds.follow(torch.randn(400) - 5, step=0.2 if step < 1000 else 0.02)
    for keep in (0.1, 0.35, 0.8):
        assert (torch.randn(100_000) - 5 >= thresholds(keep)).double().mean().item() == pytest.approx(keep, abs=0.02)
