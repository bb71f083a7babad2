"""The commands, called in this process: from video to tokens to video."""

import json
import re
import shlex
import shutil

import av
import numpy as np
import pytest

from codec import probe
from codec.diagnostics import Check
from videotok import VideoTokens
from videotok.cli.main import main


@pytest.fixture
def folder(tmp_path, clip_mp4, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(clip_mp4.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def encoded(folder, tiny_model):
    assert main(["encode", "clip.mp4", "--model", str(tiny_model)]) == 0
    return folder


def test_encode_prints_a_summary(folder, tiny_model, capsys):
    assert main(["encode", "clip.mp4", "--no-predict-keyframes", "--model", str(tiny_model)]) == 0
    tokens = VideoTokens.load("clip.vtok")
    counts = tokens.visual_counts
    output = capsys.readouterr().out
    assert output.startswith(
        f"clip.vtok: 2 clips, {len(tokens.visual_ids)} visual tokens "
        f"({counts.min()}/{counts.mean():.0f}/{counts.max()} per keyframe), "
        f"{tokens.motion_counts.sum()} motion tokens, {tokens.tokens_per_second:.0f} tokens/s of video, "
    )
    assert re.search(r"[\d.]+ s taken, [\d.]+ times real time\n$", output)


def test_encode_options(folder, tiny_model):
    options = "--fps 6 --keep-ratio 0.9 --motion-quantizers 1 --start 0.5 --duration 2 --max-clips 3 -o other.vtok"
    assert main(["encode", "clip.mp4", "--model", str(tiny_model), *shlex.split(options)]) == 0
    tokens = VideoTokens.load("other.vtok")
    assert tokens.spec.fps == 6
    assert tokens.num_motion_quantizers == 1
    assert (tokens.start_seconds, tokens.duration_seconds) == (0.5, 2.0)


def test_motion_of_a_reencoding(folder, tiny_model):
    command = "encode clip.mp4 --motion-source reencode --max-clips 1"
    assert main([*shlex.split(command), "--model", str(tiny_model)]) == 0
    assert VideoTokens.load("clip.vtok").motion_source == "reencode"


def test_doctor_checks_everything(capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for name in ("FFmpeg libraries", "FFmpeg program", "vectors exported", "threads", "backends", "torch"):
        assert f"ok  {name}" in output


def test_doctor_advises(monkeypatch, capsys):
    monkeypatch.setattr(
        "codec.diagnostics.run_diagnostics", lambda: [Check("vectors", False, "none", "install av again")]
    )
    assert main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert "BAD vectors" in printed.out
    assert "install av again" in printed.err


def test_decode_writes_a_playable_video(encoded, tiny_model, capsys):
    assert main(["decode", "clip.vtok", "-o", "out.mp4", "--model", str(tiny_model), "--steps", "1"]) == 0
    with av.open("out.mp4") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12
        assert float(stream.duration * stream.time_base) == pytest.approx(3.0)
        assert sum(1 for _ in container.decode(video=0)) == 36
    info = probe("out.mp4")
    assert info.width / info.height == pytest.approx(160 / 96, rel=0.02)
    assert "out.mp4: 36 frames" in capsys.readouterr().out


def test_compare_prints_figures_of_each_method(encoded, tiny_model, capsys):
    command = "decode clip.vtok -o out.mp4 --compare clip.mp4 --keyframes-from clip.mp4 --steps 1 --size 80x48"
    assert main([*shlex.split(command), "--model", str(tiny_model)]) == 0
    output = capsys.readouterr().out
    figures = [float(value) for value in re.findall(r"│ +(\d+\.\d+) │ +0\.\d+ │ +[\dn]", output)]
    assert len(figures) == 4
    assert 10 < figures[0] < 40
    for name in ("keyframe repeated", " warp ", "bidirectional warp", "detokenized", "keyframes from the source"):
        assert name in output
    info = probe("out-compare.mp4")
    assert (info.width, info.height) == (240, 48)
    assert info.duration_seconds == pytest.approx(3.0)


def test_seed_and_quantizers_when_decoding(encoded, tiny_model):
    for name, options in {"a": "", "same": "--seed 0", "seed": "--seed 1", "coarse": "--motion-quantizers 0"}.items():
        command = f"decode clip.vtok -o {name}.mp4 --steps 2 --size 64x48 {options}"
        assert main([*shlex.split(command), "--model", str(tiny_model)]) == 0
    assert (encoded / "a.mp4").read_bytes() == (encoded / "same.mp4").read_bytes()
    assert not np.array_equal(pictures("a.mp4"), pictures("seed.mp4"))
    assert not np.array_equal(pictures("a.mp4"), pictures("coarse.mp4"))


def pictures(path):
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_info_for_people_and_programs(encoded, capsys):
    capsys.readouterr()
    assert main(["info", "clip.vtok"]) == 0
    output = capsys.readouterr().out
    assert "h264, 160x96, 24 fps, 3.00 s" in output
    assert "native" in output
    assert main(["info", "clip.vtok", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tokens = VideoTokens.load("clip.vtok")
    assert facts["format"] == 3
    assert facts["tokens"] == tokens.num_tokens
    assert facts["source"]["average_fps"] == "24"
    assert facts["models"]["motion"]["sha256"] == tokens.models["motion"].sha256


def test_sample_is_six_seconds(folder, monkeypatch):
    import videotok.cli.sample as sample

    monkeypatch.setattr(sample, "SIZE", (64, 36))  # the scene costs by the pixel
    assert main(["sample", "new.mp4"]) == 0
    info = probe("new.mp4")
    assert info.duration_seconds == pytest.approx(6.0)
    assert info.has_native_vectors


def test_force_replaces(encoded, tiny_model):
    before = (encoded / "clip.vtok").read_bytes()
    assert main(["encode", "clip.mp4", "--model", str(tiny_model), "--max-clips", "1", "--force"]) == 0
    assert (encoded / "clip.vtok").read_bytes() != before
    assert not list(encoded.glob(".*"))


def test_a_noise_rate_that_does_nothing_is_refused(clip_mp4, tiny_model, tmp_path, capfd):
    model, tokens = tmp_path / "model", tmp_path / "clip.vtok"
    shutil.copytree(tiny_model, model)
    config = model / "detokenizer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"forward_residual_scale": 0.0}))
    assert main(["encode", str(clip_mp4), "-o", str(tokens), "--model", str(model), "--max-clips", "1"]) == 0
    capfd.readouterr()
    request = ["decode", str(tokens), "-o", str(tmp_path / "out.mp4"), "--model", str(model), "--noise-rate", "0.85"]
    assert main([*request, "--forward"]) == 2
    assert "does nothing with --forward" in capfd.readouterr().err
    assert not (tmp_path / "out.mp4").exists()
    assert main(request) == 0


def test_device_and_dtype(encoded, tiny_model):
    model = ["--model", str(tiny_model), "--device", "cpu"]
    assert main(["encode", "clip.mp4", "-o", "again.vtok", *model]) == 0
    assert (encoded / "again.vtok").read_bytes() == (encoded / "clip.vtok").read_bytes()
    command = "decode clip.vtok --steps 1 --size 64x48"
    for dtype in ("float32", "bfloat16"):
        assert main([*shlex.split(command), "-o", f"{dtype}.mp4", "--dtype", dtype, *model]) == 0
    difference = np.abs(pictures("float32.mp4").astype(int) - pictures("bfloat16.mp4"))
    assert 0 < difference.mean() < 8
