"""Rate control: choices of quantizers and patches, their costs, and videos that keep a rate."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.rate_allocation import main as benchmark
from codec import Clip, MotionField, VideoWriter
from tests.conftest import make_bundle
from videotok import VideoTokenizer, VideoTokens, clip_encoder
from videotok.cli.main import main
from videotok.config import DecodeConfig, EncodeConfig
from videotok.keyframes import KeyframeTokenizer
from videotok.keyframes.protocol import ExpectedErrors
from videotok.rate_control import (
    ClipCosts,
    KeyframeErrors,
    _log_errors,
    keyframe_costs,
    levels_of,
    motion_errors,
    plan,
    prediction_errors,
)
from videotok.virtual_camera import photograph


def random_costs(seed, *, has_next=True, quantizers=2, levels=4):
    """Return costs that fall with every token, by random steps."""
    rng = np.random.default_rng(seed)
    patches = np.arange(1, levels + 1) * 16
    return ClipCosts(
        num_frames=int(rng.integers(2, 25)),
        has_next=has_next,
        motion_tokens=24 + 135 * np.arange(quantizers + 1),
        motion_errors=np.sort(rng.uniform(0.001, 0.05, quantizers + 1))[::-1],
        keyframe_patches=patches,
        keyframe_tokens=patches,
        keyframe_errors=np.sort(rng.uniform(0.002, 0.05, levels))[::-1],
    )


def all_plans(clips):
    """Yield the tokens and the cost of every possible plan."""
    logs = [_log_errors(clip, after) for clip, after in zip(clips, [*clips[1:], None], strict=True)]
    choices = [list(itertools.product(range(len(c.motion_tokens)), range(len(c.keyframe_tokens)))) for c in clips]
    for chosen in itertools.product(*choices):
        levels = [level for _, level in chosen[1:]] + [0]
        cost = sum(log[q, level, after] for log, (q, level), after in zip(logs, chosen, levels, strict=True))
        tokens = sum(c.motion_tokens[q] + c.keyframe_tokens[level] for c, (q, level) in zip(clips, chosen, strict=True))
        yield tokens, cost, [(q, int(c.keyframe_patches[level])) for c, (q, level) in zip(clips, chosen, strict=True)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [250, 500, 900])
def test_plans_are_within_the_budget_and_nearly_the_best(seed, budget):
    clips = [random_costs(seed), random_costs(seed + 10, has_next=seed % 2 == 0), random_costs(seed + 20)]
    chosen = plan(clips, budget)
    wanted = [(choice.quantizers, choice.patches) for choice in chosen]
    found = {str(plan): (tokens, cost) for tokens, cost, plan in all_plans(clips)}
    tokens, cost = found[str(wanted)]
    assert tokens == sum(choice.tokens for choice in chosen) <= budget
    least = found[str([(0, 16)] * 3)][1]
    best = min(other for count, other in found.values() if count <= budget)
    assert cost - best <= 0.1 * (least - best)


def test_a_budget_that_is_too_small_takes_the_least():
    clips = [random_costs(seed) for seed in range(3)]
    assert [(choice.quantizers, choice.patches) for choice in plan(clips, 10)] == [(0, 16)] * 3
    assert (plan(clips[:1], 10)[0].quantizers, plan(clips[:1], 10)[0].patches) == (0, 16)


def test_a_budget_that_is_more_than_enough_takes_what_helps():
    useless = replace(random_costs(0), motion_errors=np.full(3, 0.01))
    assert [(choice.quantizers, choice.patches) for choice in plan([useless, useless], 1e6)] == [(0, 64)] * 2


@pytest.mark.parametrize("budget", [60, 200, 300, 340])
def test_the_last_clip_takes_the_best_that_fits(budget):
    clip = random_costs(5, has_next=False)
    (choice,) = plan([clip], budget)
    _, best = min((cost, chosen) for tokens, cost, chosen in all_plans([clip]) if tokens <= budget)
    assert [(choice.quantizers, choice.patches)] == best


def test_tokens_go_where_they_help():
    """Of two clips one moves and the other has detail."""
    detail = np.array([0.2, 0.1, 0.05, 0.025])
    plain = np.full(4, 0.0101) - np.arange(4) * 1e-6
    moving = replace(random_costs(0), motion_errors=np.array([0.1, 0.02, 0.01]), keyframe_errors=plain, num_frames=24)
    detailed = replace(moving, motion_errors=np.full(3, 0.0011), keyframe_errors=detail, has_next=False)
    first, second = plan([replace(moving, has_next=False), detailed], 2 * 24 + 2 * 135 + 16 + 64)
    assert (first.quantizers, first.patches) == (2, 16)
    assert (second.quantizers, second.patches) == (0, 64)


def panned_clip(num_frames=24, step=2):
    """Return a clip that pans over a photograph, its true vectors, and the clip after it."""
    wide = photograph("coffee")[::4, ::2]
    frames = np.stack([wide[:72, step * t : step * t + 128] for t in range(2 * num_frames)])
    vectors = np.zeros((24, 20, 36, 2), np.float32)
    vectors[..., 0] = step / 128
    motion = MotionField(vectors, np.ones((24, 20, 36), np.bool_))
    clips = [
        Clip(part[0], motion, 2.0 * number, num_frames, frames=part)
        for number, part in enumerate((frames[:num_frames], frames[num_frames:]))
    ]
    return clips[0], torch.from_numpy(vectors)[None].double(), clips[1]


def test_true_vectors_leave_the_least_error():
    clip, true, following = panned_clip()
    vectors = [0 * true, true / 2, true]
    for next_clip in (None, following):
        none, half, whole = motion_errors(clip, vectors, next_clip, vectors)
        assert whole < 0.2 * half < 0.2 * none
    assert motion_errors(clip, vectors, following, vectors)[1] < motion_errors(clip, vectors, None, None)[1]


def test_clips_of_few_frames_have_motion_errors():
    clip, true, _ = panned_clip(num_frames=1)
    assert motion_errors(clip, [0 * true, true], None, None).tolist() == [0, 0]
    clip, true, _ = panned_clip(num_frames=2)
    still, moved = motion_errors(clip, [0 * true, true], None, None)
    assert moved < still


def test_a_still_keyframe_is_expected_to_take_few_tokens():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(1, 64, generator=generator, dtype=torch.float64)
    patches = levels_of(64)
    expected = torch.rand(len(patches), 64, generator=generator, dtype=torch.float64) * 0.01 + 0.02
    own = KeyframeErrors(scores, patches, expected)
    alone, errors = keyframe_costs(own, None, None)
    assert alone.tolist() == patches.tolist()
    still, still_errors = keyframe_costs(own, own, torch.zeros(64, dtype=torch.float64))
    assert still.tolist() == [0] * len(patches)
    np.testing.assert_allclose(still_errors, errors)
    changed, _ = keyframe_costs(own, own, torch.full((64,), 0.5, dtype=torch.float64))
    assert changed.tolist() == patches.tolist()


def test_prediction_errors_follow_the_motion():
    clip, true, following = panned_clip()
    images = [
        torch.from_numpy(one.keyframe[:64, :64].copy()).permute(2, 0, 1)[None] / 127.5 - 1 for one in (clip, clip)
    ]
    still = prediction_errors(images[1], 0 * true, images[0], 0 * true, (8, 8))
    moved = prediction_errors(images[1], true, images[0], true, (8, 8))
    assert still.max() < 1e-12
    assert moved.shape == (64,)
    assert moved.mean() > 0.01
    assert following.pts_seconds == 2.0


def test_levels_rise_to_all_patches():
    assert levels_of(256).tolist() == list(range(16, 257, 16))
    assert levels_of(5).tolist() == [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle with random weights whose keyframes have 256 patches."""
    folder = make_bundle(tmp_path_factory.mktemp("rate"), seed=3)
    torch.manual_seed(3)
    keyframes = KeyframeTokenizer(
        image_size=64,
        patch_size=4,
        width=32,
        depth=1,
        heads=2,
        hidden=32,
        codebook_size=64,
        code_dim=8,
        decoder_width=32,
        decoder_depth=1,
        decoder_heads=2,
        decoder_hidden=32,
        seam_width=8,
    )
    keyframes.half().save_pretrained(folder / "keyframes")
    return folder


@pytest.fixture(scope="module")
def tokenizer(model):
    return VideoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def moving_mp4(tmp_path_factory):
    """Ten seconds of a picture that shakes and pans: five clips."""
    path = tmp_path_factory.mktemp("moving") / "moving.mp4"
    picture = photograph("coffee")
    with VideoWriter(path, 12, (160, 96)) as writer:
        for index in range(120):
            left, top = 2 * index, round(10 + 10 * np.sin(index))
            writer.write(np.ascontiguousarray(picture[top : top + 96, left : left + 160]))
    return path


@pytest.fixture
def trained(monkeypatch):
    """Random weights make nothing better with more tokens; here they seem to, as trained ones do."""

    def seeming_errors(clip, vectors, next_clip, next_vectors):
        moved = motion_errors(clip, [0 * vectors[0]], None, None)[0]
        return moved * 0.5 ** np.arange(len(vectors))

    def seeming_expectation(model, images, counts):
        errors = [0.3 * torch.full((len(images), 256), 0.99).double() ** count for count in counts]
        return ExpectedErrors(model.scores(images), torch.stack(errors, dim=1))

    monkeypatch.setattr(clip_encoder, "motion_errors", seeming_errors)
    monkeypatch.setattr(KeyframeTokenizer, "expected_errors", seeming_expectation)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("rate", "predict"), [(60, False), (110, True), (170, True)])
def test_the_rate_is_met(tokenizer, moving_mp4, rate, predict):
    tokens = tokenizer.encode(moving_mp4, EncodeConfig(tokens_per_second=rate, predict_keyframes=predict))
    assert tokens.tokens_per_second == pytest.approx(rate, rel=0.05)
    assert tokens.config.tokens_per_second == rate


@pytest.mark.usefixtures("trained")
def test_ids_do_not_depend_on_the_batch(tokenizer, moving_mp4):
    one, many = (tokenizer.encode(moving_mp4, EncodeConfig(tokens_per_second=110, batch_size=size)) for size in (1, 4))
    for name in ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "motion_quantizers", "global_motion_ids"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name), err_msg=name)


@pytest.mark.usefixtures("trained")
def test_few_clips_wait(tokenizer, moving_mp4, monkeypatch):
    """Memory does not grow with the video; with a window of two of its five clips, its rate is met less well."""
    monkeypatch.setattr(clip_encoder, "WINDOW", 2)
    waiting = []
    push = clip_encoder.RateControlledEncoder.push

    def counted(encoder, clips):
        done = push(encoder, clips)
        waiting.append(len(encoder._waiting))
        return done

    monkeypatch.setattr(clip_encoder.RateControlledEncoder, "push", counted)
    tokens = tokenizer.encode(moving_mp4, EncodeConfig(tokens_per_second=110, batch_size=1))
    assert waiting == [1, 2, 2, 2, 2]
    assert tokens.tokens_per_second == pytest.approx(110, rel=0.1)


@pytest.mark.usefixtures("trained")
def test_clips_of_a_file_keep_their_quantizers(model, moving_mp4, tmp_path, capsys):
    out = tmp_path / "moving.vtok"
    options = ["--tokens-per-second", "110", "--motion-quantizers", "2", "--model", str(model)]
    assert main(["encode", str(moving_mp4), "-o", str(out), *options]) == 0
    capsys.readouterr()
    tokens = VideoTokens.load(out)
    assert tokens.motion_quantizers.max() <= 2
    assert len(set(tokens.motion_quantizers.tolist())) > 1
    assert main(["info", str(out)]) == 0
    assert f"0 to {tokens.motion_quantizers.max()} quantizers of 135 ids" in capsys.readouterr().out.replace("\n", " ")
    frames = VideoTokenizer.from_pretrained(model).decode(tokens, DecodeConfig(size=(64, 48), num_inference_steps=1))
    assert sum(1 for _ in frames) == 120


@pytest.mark.usefixtures("trained")
def test_a_picture_gets_the_tokens_of_a_clip(tokenizer, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), photograph("chelsea")[:96, :160])
    tokens = tokenizer.encode(tmp_path / "a.png", EncodeConfig(tokens_per_second=100))
    assert tokens.num_motion_quantizers == 0
    assert 190 <= tokens.num_tokens <= 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tokens-per-second 100 --keep-ratio 0.5", "--keep-ratio and --tokens-per-second each set the rate"),
        ("--tokens-per-second 100 --tokens-per-keyframe 9", "give one of them"),
        ("--tokens-per-second 0", "above 0"),
        ("--tokens-per-second nan", "above 0"),
        ("--tokens-per-second 100 --patch-selection sample", "both select patches"),
    ],
)
def test_bad_requests(moving_mp4, model, tmp_path, capsys, options, message):
    out = tmp_path / "a.vtok"
    assert main(["encode", str(moving_mp4), "-o", str(out), "--model", str(model), *options.split()]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def test_a_tokenizer_that_expects_no_errors_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(KeyframeTokenizer, "expects_errors", False)
    with pytest.raises(ValueError, match="does not say which errors to expect"):
        tokenizer.check(EncodeConfig(tokens_per_second=100))


def test_the_benchmark_compares_layouts(moving_mp4, model, tmp_path, capsys):
    options = ["--model", str(model), "--max-clips", "2", "--rates", "90", "--stride", "8"]
    benchmark([str(moving_mp4), *options, "--json", str(tmp_path / "rows.json")])
    shown = capsys.readouterr().out
    assert "90/s" in shown
    assert "fixed" in shown
