"""Predictive coding of keyframes and rate control."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.keyframe_prediction import main as benchmark
from codec import VideoWriter
from videotok import TokensError, VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.config import DecodeConfig, EncodeConfig
from videotok.keyframe_decoding import decode_predicted_keyframe, feathered_mask, predict_keyframe
from videotok.keyframe_prediction import MAX_CHAIN_LENGTH, RATE_WINDOW, PredictiveKeyframeEncoder, RateController
from videotok.keyframes import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.keyframes.selector import keep_best
from videotok.virtual_camera import photograph


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


STILL = torch.zeros(1, 24, 20, 36, 2, dtype=torch.float64)


def pictures(count, size=64, step=0):
    """Return crops of a photograph, each `step` pixels further right: float32 [count, 3, size, size]."""
    wide = photograph("chelsea")[40 : 40 + 4 * size : 4, ::4]
    cut = [wide[:size, step * i : step * i + size] for i in range(count)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


class GreyPatches(KeyframeTokenizerProtocol):
    """A tokenizer whose codes are the mean grey levels of 8 x 8 patches; dropped patches are grey."""

    image_size, grid, num_patches, codebook_size, drops_patches = 64, (8, 8), 64, 256, True

    def scores(self, images):
        return images.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).var(-1).mean(1).flatten(1).double()

    def encode(self, images, *, keep_ratio=None, keep_mask=None, **options):
        mask = keep_mask
        if mask is None:
            count = max(1, round((keep_ratio or 0.5) * 64))
            mask = keep_best(self.scores(images), torch.full((len(images),), count))
        levels = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8).flatten(1)
        ids = ((levels + 1) * 127.5).round().clamp(0, 255).long()
        return KeyframeTokens([row[kept] for row, kept in zip(ids, mask, strict=True)], mask)

    def decode(self, ids, keep_mask):
        levels = torch.zeros(keep_mask.shape, dtype=torch.float64)
        levels[keep_mask] = torch.cat(ids).double() / 127.5 - 1
        grey = levels.view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
        return torch.nn.functional.interpolate(grey, scale_factor=8, mode="nearest")


def encoded(images, *, vectors=STILL, damaged=(), batch_size=1, **options):
    encoder, done = PredictiveKeyframeEncoder(GreyPatches(), **options), []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        done += encoder.push(batch, vectors.expand(len(batch), -1, -1, -1, -1), damaged[start : start + batch_size])
    return done + encoder.finish()


def test_allocation_follows_the_scores_and_keeps_the_total():
    scores = torch.stack([torch.full((64,), -5.0), torch.arange(64.0), torch.full((64,), 0.5)])
    shares = RateController(10).allocate(scores)
    assert sum(shares) == 30
    assert shares[0] == 1  # nothing in it is worth a token, but without one it could not be decoded
    assert shares[1] > shares[2]
    assert RateController(64).allocate(scores) == [64, 64, 64]
    assert RateController(1).allocate(scores) == [1, 1, 1]


def test_unspent_tokens_go_to_later_keyframes():
    rate = RateController(10)
    rate.spend(10, 2)
    assert rate.limit(10, 64) == 18
    assert rate.limit(60, 64) == 64


@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_the_rate_is_kept_at_every_keyframe(tokens, predict):
    images = torch.cat([pictures(RATE_WINDOW, step=2), pictures(9)])
    counts = [
        len(keyframe.ids) for keyframe in encoded(images, tokens_per_keyframe=tokens, predict=predict, batch_size=4)
    ]
    assert len(counts) == len(images)
    assert sum(counts[:RATE_WINDOW]) <= tokens * RATE_WINDOW
    assert sum(counts) <= tokens * len(images)
    if not predict:
        assert sum(counts) == tokens * len(images)
    assert min(counts) >= (0 if predict else 1)


def test_detailed_keyframes_get_more_tokens():
    plain, busy = pictures(1) * 0.1, pictures(1)
    few, many = encoded(torch.cat([plain, busy]), tokens_per_keyframe=20, predict=False)
    assert len(few.ids) < 20 < len(many.ids)
    assert len(few.ids) + len(many.ids) == 40


@pytest.mark.parametrize("aim", [3, 10, 20, 40, 60])
@pytest.mark.parametrize("first_guess", [1, 30, 64])
def test_a_number_of_tokens_is_aimed_at(aim, first_guess):
    """Of the second keyframe much is predicted; its number of patches is changed until so many tokens are left."""
    images = pictures(2, step=2)
    encoder, scores = PredictiveKeyframeEncoder(GreyPatches()), GreyPatches().scores(images)
    first = encoder.push_ranked(images[:1], scores[:1], 32, STILL)
    second = encoder.push_ranked(images[1:], scores[1:], first_guess, STILL, aim=aim, slack=aim // 20)
    assert len(first.ids) == 32
    assert second.skip_mask.any()
    assert len(second.ids) <= aim
    most = 64 - second.skip_mask.sum()
    assert len(second.ids) >= min(0.8 * aim, most) - 1
    # what comes next is predicted from the attempt that was taken
    assert len(encoder._chain) == 2
    assert (encoder._chain[1].keep_mask & ~encoder._chain[1].skip_mask).sum() == len(second.ids)


@pytest.mark.parametrize("options", [{"tokens_per_keyframe": 9}, {"keep_ratio": 0.3}])
@pytest.mark.parametrize("predict", [False, True])
def test_ids_do_not_depend_on_the_batch(options, predict):
    images = pictures(RATE_WINDOW + 3, step=1)
    one, many = (encoded(images, batch_size=size, predict=predict, **options) for size in (1, 5))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.keep_mask, b.keep_mask)
        np.testing.assert_array_equal(a.skip_mask, b.skip_mask)


def test_a_still_picture_is_encoded_once():
    keyframes = encoded(pictures(1).expand(5, -1, -1, -1))
    assert [len(keyframe.ids) for keyframe in keyframes] == [32, 0, 0, 0, 0]
    assert all(keyframe.skip_mask.all() for keyframe in keyframes[1:])


def test_changed_patches_are_kept():
    images = pictures(1).repeat(2, 1, 1, 1)
    images[1, :, 8:24, 8:16] *= -1
    _, second = encoded(images, keep_ratio=1.0)
    assert second.keep_mask.reshape(8, 8)[1:3, 1].all()
    assert len(second.ids) == 2


def test_a_moved_picture_is_predicted_along_its_motion():
    """It moves two patches to the left in a clip; patches that enter at the right are kept."""
    images, vectors = pictures(2, step=16), torch.zeros_like(STILL)
    vectors[:, 12:, :, :, 0] = vectors[:, :1, :, :, 0] = 16 / 64 / 13
    along = encoded(images, vectors=vectors, keep_ratio=1.0)
    skipped = along[1].skip_mask.reshape(8, 8)
    assert skipped[:, :5].all()
    assert skipped[:, 6:].mean() < 0.7
    assert len(encoded(images, keep_ratio=1.0)[1].ids) > 2 * len(along[1].ids)  # without motion


def test_after_a_cut_a_keyframe_is_independent():
    images = torch.cat([pictures(1), -pictures(1)])
    assert not encoded(images, keep_ratio=1.0)[1].skip_mask.any()


def test_damage_and_length_end_a_chain():
    images = pictures(1).expand(MAX_CHAIN_LENGTH + 4, -1, -1, -1)
    damaged = [False, True, False, *[False] * (MAX_CHAIN_LENGTH + 1)]
    independent = [not keyframe.skip_mask.any() for keyframe in encoded(images, damaged=damaged)]
    assert independent[:4] == [True, True, True, False]
    assert [index for index, is_independent in enumerate(independent) if is_independent] == [
        0,
        1,
        2,
        2 + MAX_CHAIN_LENGTH,
    ]


def test_errors_do_not_accumulate():
    """However long the chain, a skipped patch is hardly worse than its own token would be."""
    predicted, tokenizer = encoded(pictures(14, step=1), keep_ratio=1.0), GreyPatches()
    independent = encoded(pictures(14, step=1), keep_ratio=1.0, predict=False)
    decoded = None
    for keyframe, own, source in zip(predicted, independent, pictures(14, step=1), strict=True):
        ids, kept, skipped = (torch.from_numpy(part) for part in (keyframe.ids, keyframe.keep_mask, keyframe.skip_mask))
        if skipped.any():
            prediction = predict_keyframe(decoded, STILL, STILL)
            decoded = decode_predicted_keyframe(tokenizer, ids, kept, skipped, prediction)
        else:
            decoded = tokenizer.decode([ids], kept[None])
        best = tokenizer.decode([torch.from_numpy(own.ids)], torch.from_numpy(own.keep_mask)[None])
        assert (decoded - source).square().mean() <= 1.03 * (best - source).square().mean()


def test_borders_of_the_mask_are_blended():
    weights = feathered_mask(torch.tensor([True, False, False, False]), (2, 2), 24)
    assert weights.shape == (1, 1, 24, 24)
    assert weights[0, 0, 0, 0] == 1
    assert weights[0, 0, -1, -1] == 0
    across = weights[0, 0, 4, 6:18]
    assert (across.diff() <= 0).all()
    assert ((across > 0) & (across < 1)).sum() >= 3


def test_options_that_cannot_be_followed():
    for options, message in (
        ({"tokens_per_keyframe": 65}, r"in 1\.\.64"),
        ({"tokens_per_keyframe": 0}, r"in 1\.\.64"),
        ({"tokens_per_keyframe": 5, "keep_ratio": 0.5}, "only one"),
    ):
        with pytest.raises(ValueError, match=message):
            PredictiveKeyframeEncoder(GreyPatches(), **options)
    with pytest.raises(ValueError, match="predict=False"):
        PredictiveKeyframeEncoder(GreyPatches()).push(pictures(1))


@pytest.fixture(scope="module")
def still_mp4(tmp_path_factory):
    """Five seconds of a photograph in which one corner changes once: three clips."""
    path = tmp_path_factory.mktemp("still") / "still.mp4"
    picture = np.ascontiguousarray(photograph("coffee")[:96, :160])
    with VideoWriter(path, 12, (160, 96)) as writer:
        for index in range(60):
            shown = picture.copy()
            if index > 30:
                shown[:20, :30] = 255 - shown[:20, :30]
            writer.write(shown)
    return path


def test_decoding_follows_the_encoder(tokenizer, tiny_model, still_mp4, tmp_path):
    tokens = tokenizer.encode(still_mp4)
    assert tokens.skip_mask.any()
    tokens.save(tmp_path / "still.vtok")
    again = VideoTokens.load(tmp_path / "still.vtok")
    np.testing.assert_array_equal(again.skip_mask, tokens.skip_mask)
    # decoded in the precision of the encoder, and in that of the caller
    exact, single = (
        VideoTokenizer.from_pretrained(tiny_model, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    for a, b in zip(exact.detokenizer_inputs(tokens), single.detokenizer_inputs(again), strict=True):
        assert (a.square.dtype, b.square.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(b.square.double(), a.square, rtol=0, atol=1e-3)
    assert sum(1 for _ in tokenizer.decode(again, DecodeConfig(size=(64, 48), num_inference_steps=1))) == 60


def test_independent_keyframes_on_request(tokenizer, still_mp4):
    chained, alone = tokenizer.encode(still_mp4), tokenizer.encode(still_mp4, EncodeConfig(predict_keyframes=False))
    assert alone.independent.all()
    assert not alone.skip_mask.any()
    assert chained.independent.tolist()[0]
    assert len(chained.visual_ids) < len(alone.visual_ids)


def test_tokens_per_keyframe_of_a_file(tokenizer, still_mp4):
    tokens = tokenizer.encode(still_mp4, EncodeConfig(tokens_per_keyframe=3, predict_keyframes=False))
    assert len(tokens.visual_ids) == 9
    again = tokenizer.encode(still_mp4, EncodeConfig(tokens_per_keyframe=3, predict_keyframes=False, batch_size=2))
    np.testing.assert_array_equal(again.visual_ids, tokens.visual_ids)


def test_fewer_quantizers_change_the_motion_but_not_the_keyframes(tokenizer, still_mp4):
    tokens = tokenizer.encode(still_mp4)
    whole, coarse = (
        list(tokenizer.detokenizer_inputs(tokens, DecodeConfig(size=(64, 48), motion_quantizers=quantizers)))
        for quantizers in (None, 0)
    )
    for a, b in zip(whole, coarse, strict=True):
        torch.testing.assert_close(a.keyframe, b.keyframe, rtol=0, atol=0)
    assert any(not torch.equal(a.vectors, b.vectors) for a, b in zip(whole, coarse, strict=True))


def test_stored_pictures_replace_the_ids(tokenizer, still_mp4, tmp_path, monkeypatch, capsys, tiny_model):
    monkeypatch.chdir(tmp_path)
    model = ["--model", str(tiny_model)]
    assert main(["encode", str(still_mp4), "-o", "a.vtok", "--keyframe-storage", "jpeg", *model]) == 0
    tokens = VideoTokens.load("a.vtok")
    assert len(tokens.pictures) == 3
    source = photograph("coffee")[:96, :160] / 127.5 - 1
    shown = (
        next(tokenizer.detokenizer_inputs(tokens, DecodeConfig(size=(160, 96)))).keyframe[0].permute(1, 2, 0).numpy()
    )
    assert np.abs(shown - source).mean() < 0.05
    ids_only = DecodeConfig(size=(160, 96), keyframe_source="tokens")
    from_ids = next(tokenizer.detokenizer_inputs(tokens, ids_only)).keyframe[0].permute(1, 2, 0).numpy()
    assert np.abs(from_ids - source).mean() > 0.1  # the weights are random
    assert tokens.bits_per_second()["pictures"] == pytest.approx(8 * sum(map(len, tokens.pictures)) / 5)
    capsys.readouterr()
    assert main(["info", "a.vtok"]) == 0
    assert "pictures" in capsys.readouterr().out
    smaller = tokenizer.encode(still_mp4, EncodeConfig(keyframe_storage="jpeg", jpeg_quality=30))
    assert sum(map(len, smaller.pictures)) < sum(map(len, tokens.pictures)) / 2
    plain = replace(tokens, pictures=())
    with pytest.raises(TokensError, match="no pictures are stored"):
        tokenizer.detokenizer_inputs(plain, DecodeConfig(size=(160, 96), keyframe_source="jpeg"))
    broken = replace(tokens, pictures=(b"no jpeg",) * 3)
    with pytest.raises(TokensError, match="keyframe 0"):
        next(tokenizer.detokenizer_inputs(broken, DecodeConfig(size=(160, 96))))


def test_the_benchmark_compares_both_ways(still_mp4, tiny_model, tmp_path):
    rows_file = tmp_path / "rows.json"
    benchmark([str(still_mp4), "--model", str(tiny_model), "--json", str(rows_file)])
    independent, predicted = json.loads(rows_file.read_text())
    assert (independent["mode"], predicted["mode"]) == ("independent", "predicted")
    assert (independent["keyframes"], independent["independent_keyframes"]) == (3, 3)
    assert (independent["skipped"], independent["worst_psnr"]) == (0, 0)
    assert predicted["tokens"] < independent["tokens"]
    assert predicted["tokens_per_second"] == pytest.approx(predicted["tokens"] / 5)
    assert predicted["skipped"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--keep-ratio 0.5 --tokens-per-keyframe 9", "give one of them"),
        ("--tokens-per-keyframe 17", "has 16 patches"),
        ("--tokens-per-keyframe 0", "--tokens-per-keyframe"),
        ("--jpeg-quality 101", "--jpeg-quality"),
        ("--keyframe-storage painting", "painting"),
    ],
)
def test_bad_requests(still_mp4, tiny_model, tmp_path, capsys, options, message):
    out = tmp_path / "a.vtok"
    assert main(["encode", str(still_mp4), "-o", str(out), "--model", str(tiny_model), *options.split()]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
