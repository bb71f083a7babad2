"""The shipped weights: small, in half precision, described by a card, and of some quality."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from codec import REPRODUCIBLE, VideoWriter, iter_clips
from videotok import VideoTokenizer
from videotok.bundle import PARTS, SHIPPED
from videotok.config import DecodeConfig, EncodeConfig
from videotok.evaluation import SIZE, exact_keyframes, reconstruct
from videotok.metrics import mean_figures
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

MAX_PARAMETERS = {"keyframes": 22e6, "motion": 3e6, "detokenizer": 12e6}
"""Parameters."""
VIDEO_SIZE, FPS = (320, 180), 24
PAN = (0.15, -0.06)
"""Frame widths and heights a second."""


@pytest.fixture(scope="module")
def tokenizer():
    return VideoTokenizer.from_pretrained()


@pytest.fixture(scope="module")
def panned(tmp_path_factory):
    """Four seconds, two clips, of a camera that pans steadily over a photograph."""
    path = tmp_path_factory.mktemp("panned") / "panned.mp4"
    scene = Scene((Layer(photograph("coffee"), constant_speed(pan=PAN)),), VIDEO_SIZE)
    with VideoWriter(path, FPS, VIDEO_SIZE, options={"crf": "20", **REPRODUCIBLE}) as writer:
        for frame in scene.frames(index / FPS for index in range(4 * FPS)):
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def tokens(tokenizer, panned):
    return tokenizer.encode(panned)


@pytest.mark.parametrize("part", PARTS)
def test_weights_are_small_in_half_precision_and_described(part):
    parameters = 0
    for path in (SHIPPED / part).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                assert tensor.get_dtype() in ("F16", "BF16", "I64", "I32", "BOOL"), name
                parameters += int(np.prod(tensor.get_shape()))
    assert 0 < parameters <= MAX_PARAMETERS[part]
    assert "\n# " in (SHIPPED / part / "README.md").read_text()  # after what the hub reads
    assert json.loads((SHIPPED / part / "config.json").read_text())["_class_name"]


def test_all_weights_together_are_below_90_megabytes():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors")) <= 90e6


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 1), (2, 2)])
def test_ids_do_not_depend_on_threads_or_batch(tokenizer, tokens, panned, threads, batch_size):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = tokenizer.encode(panned, EncodeConfig(batch_size=batch_size))
    finally:
        torch.set_num_threads(before)
    for name in ("visual_ids", "keep_mask", "motion_ids", "global_motion_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tokens, name), err_msg=name)


@pytest.mark.parametrize("num_quantizers", [1, 4])
def test_motion_survives_its_tokens(tokenizer, panned, num_quantizers):
    """Sign, size and unit, through the codec, the tokenizer and back: content moves against the camera's pan."""
    field = next(iter_clips(panned)).motion
    decoded = tokenizer.reconstruct_motion(field, num_quantizers)[0, 1:].numpy()
    middle = np.median(decoded[:, 4:16, 6:30], axis=(0, 1, 2))
    np.testing.assert_allclose(middle, np.array(PAN) / 12, rtol=0.25)


def test_a_still_camera_stays_still(tokenizer, panned):
    field = next(iter_clips(panned)).motion
    still = type(field)(np.zeros_like(field.vectors), np.ones_like(field.valid))
    assert np.abs(tokenizer.reconstruct_motion(still, 4).numpy()).max() < 0.5 / 256  # half a pixel


def mean_psnr(tokenizer, tokens, video, config):
    """Mean PSNR of each method, with exact keyframes, over the clips that have a next one."""
    keyframes = exact_keyframes(tokens, video, SIZE)
    clips = [clip for clip in reconstruct(tokenizer, tokens, video, config, keyframes=keyframes) if clip.has_next]
    return {method: mean_figures([clip.figures(method) for clip in clips]).psnr for method in clips[0].frames}


def test_every_step_improves_on_the_one_before(tokenizer, tokens, panned):
    """On a clip that nobody trained on; the bounds are windows, not records."""
    psnr = mean_psnr(tokenizer, tokens, panned, DecodeConfig(size=SIZE))
    assert psnr["warp"] > psnr["repeat"] + 3
    assert psnr["bidirectional"] > psnr["warp"]
    assert psnr["detokenized"] > psnr["bidirectional"]
    assert 22 < psnr["detokenized"] < 45


def test_the_detokenizer_without_next_keyframes(tokenizer, tokens, panned):
    both = mean_psnr(tokenizer, tokens, panned, DecodeConfig(size=SIZE))
    forward = mean_psnr(tokenizer, tokens, panned, DecodeConfig(size=SIZE, bidirectional=False))
    assert both["detokenized"] > forward["detokenized"] > both["warp"] - 0.2


def test_keyframes_are_recognisable(tokenizer, panned, tokens):
    picture = next(iter_clips(panned)).keyframe
    rebuilt = tokenizer.reconstruct_keyframe(picture, VIDEO_SIZE)
    truth = torch.from_numpy(picture).permute(2, 0, 1) / 127.5 - 1
    psnr = float(10 * torch.log10(4 / (rebuilt[0] - truth).square().mean()))
    assert 17 < psnr < 40
    assert 8 <= tokens.visual_counts.mean() <= 160
