"""What the video detokenizer is trained on (decoded motion and keyframes, fades), and its training by command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from keyframe_sizes import SIZES
from motion_fields import TINY, moving_fields
from safetensors.torch import load_file, save_file

from codec import ClipSpec
from motion_vq import MotionTokenizer
from unet3d import DetokenizerPerceptualTraining, PerceptualOptions, VideoDetokenizer
from unet3d.train import TrainingClip, fade_clip
from videotok.bundle import load_keyframes
from videotok.cli.main import main
from videotok.keyframes import KeyframeTokenizer
from videotok.perceptual import LPIPS
from videotok.training.dataset import Batches, Cache, CodedKeyframes, CodedMotion, Row
from videotok.training.prepare import prepare
from videotok.training.trainer import Plan, train


def test_every_number_of_quantizers_is_drawn(monkeypatch):
    torch.manual_seed(0)
    tokenizer = MotionTokenizer(**TINY)
    assert tokenizer.config["default_num_quantizers"] < tokenizer.num_quantizers
    vectors, valid = moving_fields(1, 8, (8, 12))
    drawn, decode = set(), tokenizer.decode

    def record(tokens):
        drawn.add(tokens.num_quantizers)
        return decode(tokens)

    monkeypatch.setattr(tokenizer, "decode", record)
    coded, rng = CodedMotion(tokenizer), np.random.default_rng(0)
    for _ in range(40):
        assert coded(vectors, valid, rng).shape == vectors.shape
    assert drawn == set(range(1, tokenizer.num_quantizers + 1))


def test_brightness_changes_evenly_from_the_keyframe_on():
    frames = torch.full((1, 8, 3, 4, 4), 0.1)
    clip = TrainingClip(
        frames,
        torch.zeros(1),
        torch.zeros(1),
        frames[:, 0],
        torch.zeros(1),
        square=frames[:, 0],
        next_square=frames[:, 0],
    )
    faded = fade_clip(clip, np.random.default_rng(3))
    assert faded.next_keyframe is not None
    brightness = torch.cat((faded.frames, faded.next_keyframe[:, None]), dim=1)[0, :, 0, 0, 0]
    assert brightness[0] == pytest.approx(0.1)
    assert abs(brightness[-1] - 0.1) > 0.01
    assert torch.allclose(brightness.diff(), brightness.diff().mean().expand(8), atol=1e-6)
    assert faded.square is not None
    assert torch.equal(faded.square, frames[:, 0])
    assert faded.next_square is not None
    assert torch.equal(faded.next_square, faded.next_keyframe), "the keyframe tokenizer sees what the frames fade to"


def test_keyframes_are_decoded_at_many_rates(monkeypatch):
    torch.manual_seed(0)
    tokenizer = KeyframeTokenizer(**SIZES).eval()
    kept, decode = [], tokenizer.decode

    def record(ids, keep_mask):
        kept.append(keep_mask.sum(1).tolist())
        return decode(ids, keep_mask)

    monkeypatch.setattr(tokenizer, "decode", record)
    coded, rng = CodedKeyframes(tokenizer), np.random.default_rng(0)
    squares = torch.rand(2, 3, 96, 96) * 2 - 1
    for _ in range(12):
        keyframes = coded(squares, (40, 72), rng)
        assert keyframes.shape == (2, 3, 40, 72)
        assert keyframes.abs().max() <= 1
    assert all(first == second for first, second in kept), "both keyframes of a clip have one rate"
    rates = [first / tokenizer.num_patches for first, _ in kept]
    assert 0.25 <= min(rates) < 0.5 < 0.8 < max(rates) <= 1


@pytest.fixture(scope="module")
def cache(clip_mp4: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Two clips, one after the other."""
    footage = tmp_path_factory.mktemp("footage")
    shutil.copy(clip_mp4, footage / "clip.mp4")
    folder = tmp_path_factory.mktemp("cache")
    assert prepare(footage, folder, ClipSpec()).clips == 2
    return Cache(folder)


def test_a_clip_comes_with_both_keyframes_as_squares(cache: Cache):
    first, second = (row.clip() for row in cache.clips())
    assert first["keyframe"].shape == (256, 256, 3)
    np.testing.assert_array_equal(first["next_keyframe"], second["keyframe"])
    assert "next_keyframe" not in second


def refiner_task(tiny_model: Path) -> DetokenizerPerceptualTraining:
    torch.manual_seed(0)
    model = VideoDetokenizer.from_pretrained(tiny_model / "detokenizer")
    model.add_refiner((8, 16), (1, 1))
    coded = CodedKeyframes(load_keyframes(tiny_model / "keyframes", torch.float32))
    options = PerceptualOptions(refiner_only=True, frames_per_crop=1)
    return DetokenizerPerceptualTraining(model, options, code_keyframes=coded)


def test_a_resumed_run_of_the_refiner_ends_where_an_uninterrupted_one_does(cache, tiny_model, tmp_path):
    plan = Plan(steps=4, batch_size=1, learning_rate=1e-3, warmup_steps=0, save_every=2)

    def run(out: Path, *, stop_at: int = 0, resume: bool = False) -> None:
        def report(step, figures):
            if step == stop_at:
                raise KeyboardInterrupt

        task = refiner_task(tiny_model)
        batches = Batches(cache.clips(), Row.clip, task.prepare, plan.batch_size, plan.steps, plan.seed)
        train(task, batches, [], plan, out, resume=resume, report=report)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=3)
    run(tmp_path / "broken", resume=True)
    whole, broken = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())


def test_a_refiner_is_trained_and_exported_by_command(cache, tiny_model, tmp_path, capsys):
    """On decoded keyframes, with LPIPS, added to weights that otherwise stay as they are."""
    save_file(LPIPS().state_dict(), tmp_path / "lpips.safetensors")
    command = ["train", "detokenizer", str(cache.folder), "--out", str(tmp_path / "run"), "--workers", "0"]
    command += ["--tokenizer", str(tiny_model / "motion"), "--from", str(tiny_model / "detokenizer")]
    command += ["--keyframes", str(tiny_model / "keyframes"), "--exact-share", "0.5", "--refiner-only"]
    command += ["--steps", "2", "--batch-size", "1", "--max-minutes", "10"]
    assert main(command) == 2
    assert "have no refiner" in capsys.readouterr().err
    assert main([*command, "--refiner-widths", "8;16"]) == 2
    assert "--refiner-widths takes whole numbers" in capsys.readouterr().err
    assert main([*command, "--refiner-widths", "8,16", "--refiner-blocks", "1"]) == 2
    assert "must give one number for each" in capsys.readouterr().err
    command += ["--refiner-widths", "8,16"]
    assert main([*command, "--lpips", str(tmp_path / "lpips.safetensors")]) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {"score", "lpips", "sharpness", "psnr"} <= set(record["validation"][-1])

    weights = tmp_path / "weights"
    assert main(["train", "export", "detokenizer", str(tmp_path / "run"), str(weights)]) == 0
    before = VideoDetokenizer.from_pretrained(tiny_model / "detokenizer").half().state_dict()
    after = VideoDetokenizer.from_pretrained(weights, torch_dtype=torch.float16).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    added = {name for name in after if name not in before}
    assert added
    assert all(name.startswith("refiner.") for name in added)
    assert after["refiner.write.weight"].abs().max() > 0
