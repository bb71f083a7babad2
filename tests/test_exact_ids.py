"""Ids do not depend on rounding: float32 and float64, batches, threads, and pictures that are off within the bound."""

import numpy as np
import pytest
import torch
from torch import nn

from codec import Clip, MotionField
from motion_vq.attention import Linear
from motion_vq.model_base import double_precision
from motion_vq.vector_quantizer import nearest_by_angle, nearest_of_inexact
from tests.conftest import make_bundle
from tests.keyframe_sizes import SIZES
from tests.test_keyframes_tokenizer import randomized
from videotok import VideoTokenizer
from videotok.clip_encoder import FixedLayoutEncoder
from videotok.config import EncodeConfig
from videotok.keyframe_prediction import PredictiveKeyframeEncoder, _is_at_most, _UncertainError
from videotok.keyframes import KeyframeTokenizer, KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes import tokenizer as tokenizer_module
from videotok.keyframes.selector import ERROR_EXPONENT, GreedyState, Selector, certain_selection
from videotok.virtual_camera import photograph

ERROR = 1e-3
STILL = torch.zeros(1, 24, 20, 36, 2)


def pictures(count, size=64):
    """Return crops of a photograph, each two pixels further right: float32 [count, 3, size, size]."""
    wide = torch.from_numpy(photograph("chelsea")[40 : 40 + 4 * size : 4, ::4].copy()).float() / 127.5 - 1
    return torch.stack([wide[:, 2 * i : 2 * i + size] for i in range(count)]).permute(0, 3, 1, 2)


class RoundedPatches(nn.Module, KeyframeTokenizerProtocol):
    """A tokenizer with an id for each 8 x 8 patch, whose decoded pictures are off by up to `noise` in float32."""

    image_size, grid, num_patches, codebook_size, drops_patches = 64, (8, 8), 64, 16, True
    encoding_dtype = torch.float32

    def __init__(self, noise, bound):
        super().__init__()
        self.weight, self.noise, self.bound, self.exact_decodes = nn.Parameter(torch.zeros(1)), noise, bound, 0

    @property
    def dtype(self):
        return self.weight.dtype

    @property
    def device(self):
        return self.weight.device

    @property
    def decode_error(self):
        return self.bound

    def encode(self, images, **options):
        del options
        levels = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
        ids = ((levels + 1) * 7.5).round().clamp(0, 15).long()
        return KeyframeTokens(list(ids), torch.ones(len(images), 64, dtype=torch.bool))

    def decode(self, ids, keep_mask):
        grey = (torch.stack(ids).double() / 7.5 - 1).view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
        images = torch.nn.functional.interpolate(grey, scale_factor=8, mode="nearest")
        if self.dtype == torch.float64:
            self.exact_decodes += len(ids)
            return images
        return images + (2 * torch.rand_like(images) - 1) * self.noise


def near_ties():
    """Return two keyframes: 1.1 times the error of own tokens is that of the prediction, to the third digit."""
    torch.manual_seed(0)
    ids = torch.arange(64) % 15
    first = RoundedPatches(0, 0).double().decode([ids], None)
    share = 1.1**0.5 / (1 + 1.1**0.5) * (1 + 1e-3 * (torch.rand(64) - 0.5))
    step = (2 / 15 * share).view(1, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.cat([first, first + step]).float()


def encoded(tokenizer, images, batch=1):
    encoder, done = PredictiveKeyframeEncoder(tokenizer), []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        done += encoder.push(part, STILL.expand(len(part), -1, -1, -1, -1))
    return [(one.ids.tolist(), one.skip_mask.tolist()) for one in done + encoder.finish()]


@pytest.mark.parametrize("images", [pictures(6), near_ties()], ids=["photographs", "near ties"])
@pytest.mark.parametrize("batch", [1, 4])
def test_rounding_within_the_bound_changes_no_decision(images, batch):
    expected = encoded(RoundedPatches(0, 0).double(), images)
    for seed in range(5):
        torch.manual_seed(seed)
        assert encoded(RoundedPatches(ERROR, ERROR), images, batch) == expected


def test_without_a_bound_rounding_would_decide():
    """The pictures of the test above are such that it can fail."""
    expected = encoded(RoundedPatches(0, 0).double(), near_ties())
    assert any(any(mask) for _, mask in expected)
    torch.manual_seed(0)
    assert encoded(RoundedPatches(ERROR, 0), near_ties()) != expected


def test_pictures_are_decoded_in_float64_only_where_a_decision_is_near():
    sure, unsure = RoundedPatches(1e-9, 1e-9), RoundedPatches(0, 0.5)
    assert encoded(sure, pictures(6)) == encoded(unsure, pictures(6))
    assert (sure.exact_decodes, unsure.exact_decodes) == (0, 6)
    assert sure.dtype == unsure.dtype == torch.float32


def test_further_attempts_with_the_same_tokens_do_not_decode_them_again():
    images, unsure = pictures(2), RoundedPatches(0, 0.5)
    encoder, scores = PredictiveKeyframeEncoder(unsure), torch.zeros(1, 64, dtype=torch.float64)
    encoder.push_ranked(images[:1], scores, 64, STILL)
    rules = []
    decide = encoder._skipped_patches
    encoder._skipped_patches = lambda *arguments: rules.append(arguments[-1]) or decide(*arguments)
    # of all patches some are predicted: fewer tokens are left than are aimed at, and stricter rules are tried
    encoder.push_ranked(images[1:], scores, 64, STILL, aim=64)
    assert len(set(rules)) >= 2
    assert unsure.exact_decodes == 2


def test_errors_are_compared_with_the_bound():
    errors, others = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert _is_at_most(errors, others, 1.0, 0.0).tolist() == [False, True]
    assert _is_at_most(errors, others, 1.0, 0.1).tolist() == [False, True]
    with pytest.raises(_UncertainError):
        _is_at_most(errors, others, 1.0, 0.3)
    # exact: equal is at most
    assert _is_at_most(errors, errors, 1.0, 0.0).all()


@pytest.fixture(scope="module")
def model():
    return randomized(KeyframeTokenizer(**SIZES)).eval()


@pytest.mark.parametrize(
    "options", [{}, {"keep_ratio": 0.3}, {"num_tokens": 9}, {"refinement_steps": 1}], ids=lambda options: str(options)
)
def test_a_float32_model_gives_the_ids_of_float64(model, options):
    size = model.image_size
    images = torch.nn.functional.interpolate(pictures(5), size=(size, size))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with double_precision(model):
        expected, scores = model.encode(images, **options), model.scores(images)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            many = model.encode(images, **options)
            single = [model.encode(image[None], **options) for image in images]
            assert torch.equal(many.keep_mask, expected.keep_mask)
            assert torch.equal(torch.cat([one.keep_mask for one in single]), expected.keep_mask)
            for together, alone, right in zip(many.ids, single, expected.ids, strict=True):
                assert torch.equal(together, right)
                assert torch.equal(alone.ids[0], right)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(model.scores(images), scores, rtol=0, atol=1e-12)
    assert model.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_return_to_float32_after_an_error(model):
    with pytest.raises(ValueError, match="num_tokens"):
        model.encode(torch.zeros(1, 3, model.image_size, model.image_size), num_tokens=10**6)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_where_rounding_may_have_decided_a_picture_is_encoded_in_float64(model, monkeypatch):
    images = torch.nn.functional.interpolate(pictures(3), size=(model.image_size,) * 2)
    expected, exact = model.encode(images), []
    encode_exactly = KeyframeTokenizer._encode_exactly

    def counted(self, images, rule, steps):
        exact.append(len(images))
        return encode_exactly(self, images, rule, steps)

    monkeypatch.setattr(KeyframeTokenizer, "_encode_exactly", counted)
    for name in ("GAIN_ERROR", "VECTOR_ERROR"):
        with monkeypatch.context() as patch:
            patch.setattr(tokenizer_module, name, 10.0)
            tokens = model.encode(images)
        assert torch.equal(tokens.keep_mask, expected.keep_mask)
        assert all(torch.equal(*pair) for pair in zip(tokens.ids, expected.ids, strict=True))
        assert exact.pop() == 3
        assert not exact


def on_sphere(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def vectors_near_borders(codes, distance):
    """Return unit vectors halfway between two codes, off by up to `distance`, and the same without being off."""
    pairs = torch.cdist(codes, codes).fill_diagonal_(9).argmin(dim=1)
    exact = torch.nn.functional.normalize(codes + codes[pairs] + 1e-7 * torch.randn_like(codes), dim=-1)
    off = exact + distance * on_sphere(*exact.shape) * torch.rand(len(exact), 1, dtype=torch.float64)
    return off, exact


def test_codes_that_are_called_certain_do_not_depend_on_errors():
    torch.manual_seed(0)
    codes, error = on_sphere(500, 8), 1e-3
    (off, exact), anywhere = vectors_near_borders(codes, error), on_sphere(500, 8)
    vectors, exact = torch.cat([off, anywhere]), torch.cat([exact, anywhere])
    right, found = nearest_by_angle(exact, codes), nearest_of_inexact(vectors, codes.float(), error)
    assert torch.equal(found.ids[found.is_certain], right[found.is_certain])
    assert found.is_certain[500:].double().mean() > 0.9
    assert not found.is_certain[:500].all()
    # the test can fail: without a bound codes are called certain that are not
    unbounded = nearest_of_inexact(vectors, codes.float(), 0.0)
    assert not torch.equal(unbounded.ids[unbounded.is_certain], right[unbounded.is_certain])


def test_codes_of_exact_vectors_are_those_of_float64():
    torch.manual_seed(0)
    codes = on_sphere(300, 16)
    _, exact = vectors_near_borders(codes, 0.0)
    found = nearest_of_inexact(exact, codes, 0.0)
    assert torch.equal(found.ids, nearest_by_angle(exact, codes))
    assert found.is_certain.all()
    assert nearest_of_inexact(exact[:0], codes, 0.0).ids.shape == (0,)


def selections(log_saving, redundancy, error, **rule):
    distances = Selector(8, 8).distances.double()
    return certain_selection(GreedyState(log_saving, redundancy, distances), error, **rule)


@pytest.mark.parametrize("rule", [{"count": 20}, {"threshold": torch.tensor(-1.2, dtype=torch.float64)}], ids=str)
def test_selections_that_are_called_certain_do_not_depend_on_errors(rule):
    torch.manual_seed(0)
    exact = torch.randn(40, 64, dtype=torch.float64)
    # many patches save about as much
    exact[:20] = (exact[:20] * 4).round() / 4 + 1e-4 * torch.rand(20, 64, dtype=torch.float64)
    redundancy, error = torch.rand(40, 64, dtype=torch.float64), 2e-3
    right = selections(exact, redundancy, 0.0, **rule)
    called_certain = wrong = 0
    for _ in range(5):
        off = exact + (2 * torch.rand_like(exact) - 1) * error / ERROR_EXPONENT
        found = selections(off, redundancy, error, **rule)
        differs = (found.keep_mask != right.keep_mask).any(dim=1)
        assert not (differs & found.is_certain).any()
        called_certain, wrong = called_certain + int(found.is_certain.sum()), wrong + int(differs.sum())
    assert called_certain > 0
    assert wrong > 0


def test_a_tie_of_patches_far_from_each_other_decides_nothing():
    log_saving = torch.full((1, 64), -9.0, dtype=torch.float64)
    log_saving[0, [0, 63]] = torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64)
    redundancy = torch.ones(1, 64, dtype=torch.float64)
    found = selections(log_saving, redundancy, 1e-6, count=2)
    assert found.is_certain.all()
    assert found.keep_mask[0].nonzero()[:, 0].tolist() == [0, 63]
    # the next turn is not asked for: then either of the two is kept
    assert not selections(log_saving, redundancy, 1e-6, count=1).is_certain.any()


@pytest.mark.parametrize("rows", [3, 16, 135])
def test_linear_layers_agree_with_those_of_torch(rows):
    torch.manual_seed(0)
    layer, x = Linear(24, 10), torch.randn(2, rows, 24)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        assert layer(x).shape == (2, rows, 10)
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("is_near", [False, True], ids=["float32", "all decided in float64"])
def test_two_threads_give_the_ids_of_one(tmp_path, monkeypatch, is_near):
    """Both cast weights where all is decided in float64: then neither may find those of the other."""
    tokenizer = VideoTokenizer.from_pretrained(make_bundle(tmp_path, seed=3))
    rng, spec = np.random.default_rng(0), tokenizer.spec()
    steps = rng.normal(0, 0.01, (6, spec.frames, *spec.grid, 2)).astype(np.float32)
    keyframes = (pictures(6).permute(0, 2, 3, 1) * 127 + 127).to(torch.uint8).numpy()
    clips = [
        Clip(keyframe, MotionField(vectors, np.ones(vectors.shape[:3], bool)), 0.0, spec.frames, "native")
        for keyframe, vectors in zip(keyframes, steps, strict=True)
    ]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            if is_near and count == 2:
                monkeypatch.setattr(tokenizer_module, "GAIN_ERROR", 10.0)
                monkeypatch.setattr(KeyframeTokenizer, "decode_error", 10.0)
            torch.set_num_threads(count)
            encoder, done = FixedLayoutEncoder(tokenizer, EncodeConfig()), []
            with tokenizer.encoding():
                for clip in clips:
                    done += encoder.push([clip])
                waiting = len(clips) - len(done)
                done += encoder.finish()
            assert torch.get_num_threads() == count
            assert waiting == 2  # one is decoded beside the next, and one is completed
            found.append([(one.keyframe.ids.tolist(), one.keyframe.skip_mask.tolist()) for one in done])
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
    assert len(found[0]) == len(clips)
    assert tokenizer.keyframes.dtype == torch.float32
