"""The evaluator: rate and distortion of the same tokens, figures that agree with the frames; and `videotok eval`."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from videotok import VideoTokenizer
from videotok.cli.main import main
from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import ModelError, TokensError
from videotok.evaluation import (
    SIZE,
    EvaluationConfig,
    evaluate,
    exact_keyframes,
    inner_frames,
    reconstruct,
    source_clips,
    uncoded_motion,
)
from videotok.metrics import mean_figures, measure, ms_ssim, psnr
from videotok.perceptual import LPIPS
from videotok.report.html import CHART_HEIGHT, NAME_HEIGHT, Curve, chart


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def outputs(clip_mp4: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict], str]:
    """The page, its rows, and the name of a file that is no video."""
    folder = tmp_path_factory.mktemp("eval")
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    page, rows = folder / "report.html", folder / "rows.json"
    request = ["eval", str(clip_mp4), str(broken), "-o", str(page), "--json", str(rows), "--motion-quantizers", "2,1"]
    assert main([*request, "--model", str(tiny_model)]) == 0
    return page.read_text(), json.loads(rows.read_text()), broken.name


def test_detokenized_frames_are_those_of_decode(tokenizer, clip_mp4):
    tokens, config = tokenizer.encode(clip_mp4), DecodeConfig(size=(64, 48), seed=3)
    clips = list(reconstruct(tokenizer, tokens, clip_mp4, config))
    frames = np.concatenate([clip.frames["detokenized"] for clip in clips])
    np.testing.assert_array_equal(frames, np.stack(list(tokenizer.decode(tokens, config))))
    assert [clip.has_next for clip in clips] == [True, False]
    assert all(made.shape == clip.source.shape for clip in clips for made in clip.frames.values())


@pytest.mark.parametrize("predict_keyframes", [True, False])
def test_rate_and_distortion_are_of_the_same_tokens(tokenizer, clip_mp4, predict_keyframes):
    """The tokens that the rate is read from are those whose decoded frames are measured."""
    encode = EncodeConfig(predict_keyframes=predict_keyframes)
    config = EvaluationConfig(motion_quantizers=(1,), keyframes=("tokens",), encode=encode)
    first = next(evaluate(tokenizer, clip_mp4, config)).result
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(predict_keyframes=predict_keyframes, motion_quantizers=1))
    assert first.tokens_per_second == tokens.tokens_per_second
    assert first.bits_per_second == sum(tokens.bits_per_second().values())
    decoded = np.stack(list(tokenizer.decode(tokens, DecodeConfig(size=SIZE))))[:24]
    source = next(source_clips(tokens, clip_mp4, SIZE)).frames
    assert first.figures["detokenized"].psnr == measure(source[1:23], decoded[1:23]).psnr


def test_the_bit_rate_counts_both_masks(tokenizer, clip_mp4):
    tokens = tokenizer.encode(clip_mp4)
    ids = len(tokens.visual_ids) * np.log2(64) + tokens.motion_ids.size * 5 + tokens.global_motion_ids.size * 8
    masks = tokens.keep_mask.size * (1 + bool(tokens.skip_mask.any()))
    config = EvaluationConfig(motion_quantizers=(2,), keyframes=("tokens",))
    result = next(evaluate(tokenizer, clip_mp4, config)).result
    assert result.bits_per_second == pytest.approx((ids + masks) / tokens.duration_seconds)


def test_exact_keyframes_replace_those_of_the_tokens(tokenizer, clip_mp4):
    tokens, config = tokenizer.encode(clip_mp4), DecodeConfig(size=SIZE)
    exact = exact_keyframes(tokens, clip_mp4, SIZE)
    motion = {"uncoded": uncoded_motion}
    clip = next(reconstruct(tokenizer, tokens, clip_mp4, config, keyframes=exact, other_motion=motion))
    np.testing.assert_array_equal(clip.frames["repeat"][5], clip.source[0])
    mean = {name: mean_figures([clip.figures(name)]).psnr for name in clip.frames}
    assert mean["repeat"] < mean["warp_uncoded"] < mean["bidirectional_uncoded"]


def test_tokens_of_another_video_are_refused(tokenizer, clip_mp4):
    tokens = tokenizer.encode(clip_mp4)
    later = replace(tokens, pts_seconds=tokens.pts_seconds + 0.5)
    with pytest.raises(TokensError, match="name the video"):
        next(reconstruct(tokenizer, later, clip_mp4))


def test_every_method_of_every_clip_has_its_row(outputs):
    _, rows, _ = outputs
    methods = ["source", "repeat", "crossfade", "warp_uncoded", "bidirectional_uncoded"]
    methods += ["warp", "bidirectional", "detokenized"]
    for keyframes in ("tokens", "exact"):
        for quantizers in (1, 2):
            own = [row for row in rows if row["keyframes"] == keyframes and row["motion_quantizers"] == quantizers]
            assert sorted(row["method"] for row in own if row["clip"] == 0) == sorted(methods)
            assert not any("bidirectional" in row["method"] for row in own if row["clip"] == 1)
    assert all(("bits_per_second" in row) == (row["keyframes"] == "tokens") for row in rows)


def test_the_page_shows_the_figures_of_its_rows(outputs):
    page, rows, broken = outputs
    (row,) = (
        row
        for row in rows
        if (row["clip"], row["keyframes"], row["method"], row["motion_quantizers"]) == (0, "tokens", "detokenized", 2)
    )
    flat = page.replace("\n", "")
    assert f"<td>{row['psnr']:.2f}</td><td>{row['ssim']:.3f}</td><td>{row['ms_ssim']:.3f}</td>" in flat
    assert f"<td>{row['tokens_per_second']:.0f}</td><td>{row['bits_per_second'] / 1000:.2f}</td>" in flat
    assert broken in page
    assert page.count("<svg") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_videos_of_the_page_hold_the_whole_clip_side_by_side(outputs):
    page, _, _ = outputs
    coarser, video = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)  # the slider chooses one of the rates
    assert coarser != video
    with av.open(io.BytesIO(base64.b64decode(video))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 24
    assert frames[0].shape == (144, 4 * 256, 3)
    source, exact = frames[0][30:, :256].astype(int), frames[0][30:, 768:].astype(int)
    assert np.abs(source - exact).mean() < 4  # the first frame from an exact keyframe is that keyframe


def test_inner_frames_leave_out_the_ends():
    assert range(24)[inner_frames(24)] == range(1, 23)
    assert range(10)[inner_frames(10)] == range(1, 9)
    assert range(2)[inner_frames(2)] == range(1, 2)
    assert not range(1)[inner_frames(1)]


def test_figures_of_equal_frames():
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    figures = mean_figures([measure(frames, frames)])
    assert (figures.psnr, figures.ssim, figures.ms_ssim, figures.lpips) == (100, 1, 1, None)


def test_psnr_is_the_textbook_formula():
    black, grey = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 10, np.uint8)
    assert psnr(black, grey) == pytest.approx(10 * np.log10(255**2 / 100))


def test_ms_ssim_of_one_scale_is_ssim():
    """Below 22 pixels only the finest scale has room: then it is SSIM with Gaussian windows."""
    generator = np.random.default_rng(0)
    source = generator.integers(0, 256, (21, 21, 3), dtype=np.uint8)
    noisy = np.clip(source + generator.normal(0, 30, source.shape), 0, 255).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(source, noisy, data_range=255, channel_axis=2, full=True, **options)
    assert ms_ssim(source, noisy) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)


def test_ms_ssim_falls_with_blur():
    source = np.random.default_rng(0).integers(0, 256, (144, 256, 3), dtype=np.uint8)
    blurred = [
        np.asarray(np.stack([np.roll(source, step, 1) for step in range(size)]).mean(0), np.uint8) for size in (2, 4)
    ]
    assert 1 > ms_ssim(source, blurred[0]) > ms_ssim(source, blurred[1]) > 0


def test_lpips_weights_of_another_network_are_refused(tmp_path):
    from safetensors.torch import save_file

    network = LPIPS()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "own.safetensors")
    assert LPIPS.load(tmp_path / "own.safetensors").state_dict().keys() == network.state_dict().keys()
    save_file({"conv.weight": network.lin0}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="does not hold LPIPS weights"):
        LPIPS.load(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="cannot read"):
        LPIPS.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("text", ["", "0", "1;2", "two"])
def test_numbers_that_are_none_are_refused(text, clip_mp4, tmp_path, capsys):
    assert main(["eval", str(clip_mp4), "-o", str(tmp_path / "a.html"), "--motion-quantizers", text]) == 2
    assert "such as 1,2,4" in capsys.readouterr().err


def test_nothing_to_measure_is_one_line(tmp_path, capsys):
    assert main(["eval", str(tmp_path), "-o", str(tmp_path / "a.html")]) == 2
    assert "no video in" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def test_names_of_curves_do_not_lie_on_each_other():
    curves = [Curve(f"curve {index}", [(0, 20), (1, 20 + index / 100)], "warp") for index in range(9)]
    text = str(chart(curves, "nine curves", "x"))
    heights = sorted(float(y) for y in re.findall(r'class="name"[^>]* y="([\d.]+)"', text))
    assert len(heights) == 9
    assert min(np.diff(heights)) >= NAME_HEIGHT - 0.2
    assert heights[0] > 0
    assert heights[-1] < CHART_HEIGHT


def test_a_chart_alone_is_an_svg_file():
    text = str(chart([Curve("a", [(0, 0.2), (1, 0.4)], "warp")], "one curve", "x", standalone=True))
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "--warp:" in text
