"""Language model and evaluation on a GPU that is simulated on the CPU: as on the CPU."""

import numpy as np
import pytest
import torch

from tests.fake_device import fake_device
from videotok import VideoTokenizer
from videotok.config import DecodeConfig, EncodeConfig
from videotok.evaluation import EvaluationConfig, evaluate
from videotok.lm.data import EncodedVideo
from videotok.lm.generated_video import video_tokens
from videotok.lm.generation import answer
from videotok.lm.loading import new_tiny_model
from videotok.lm.model import VideoSettings
from videotok.lm.video_generation import VideoGenerator, VideoPrompt

SIZE = (64, 48)


def loaded(model):
    """Return a tokenizer whose models are in memory: the simulated device cannot load any."""
    tokenizer = VideoTokenizer.from_pretrained(model, dtype=torch.float32)
    assert all(getattr(tokenizer, part) for part in ("keyframes", "motion", "detokenizer"))
    return tokenizer


@pytest.fixture
def language_model(tiny_model):
    torch.manual_seed(0)
    tokenizer = loaded(tiny_model)
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    settings = VideoSettings("12", 1, max_clips=3, models=weights)
    return new_tiny_model(tokenizer, settings, False, width=32, layers=2).eval()


def generated(model, tokenizer, video):
    """Return tokens and frames of a video that continues another one, as a text says."""
    generator = VideoGenerator(model, tokenizer)
    prompt = VideoPrompt(("the camera moves left",), start=video)
    videos = generator.begin([prompt], SIZE)
    clips = list(generator.generate([prompt], 4, videos=videos))
    frames = np.concatenate([clip.frames for clip in generator.frames(clips)])
    return video_tokens(clips, videos[0]), frames


def test_a_gpu_generates_the_same_video(language_model, tiny_model, clip_mp4):
    tokenizer = loaded(tiny_model)
    video = tokenizer.encode(clip_mp4, EncodeConfig(max_clips=1, motion_quantizers=1))
    tokens, frames = generated(language_model, tokenizer, video)
    question = "where does it go?"
    text = answer(language_model, question, EncodedVideo(video), max_new_tokens=4)
    with fake_device("cuda") as device:
        language_model.to("cuda")
        language_model.model.tie_weights()  # the simulation moves tied weights one by one
        found, found_frames = generated(language_model, tokenizer.to("cuda"), video)
        found_text = answer(language_model, question, EncodedVideo(video), max_new_tokens=4)
    assert device.launches.total() > 100
    np.testing.assert_array_equal(found.visual_ids, tokens.visual_ids)
    np.testing.assert_array_equal(found.motion_ids, tokens.motion_ids)
    # OpenCV reads and resizes on a CPU, torch on a GPU
    assert np.abs(frames.astype(int) - found_frames.astype(int)).max() <= 4
    assert found_text == text


def test_a_gpu_gives_the_same_figures(tiny_model, clip_mp4):
    config = EvaluationConfig((1,), ("tokens",), EncodeConfig(max_clips=2), DecodeConfig(size=SIZE))
    expected = list(evaluate(loaded(tiny_model), clip_mp4, config))
    tokenizer = loaded(tiny_model)
    with fake_device("cuda"):
        found = list(evaluate(tokenizer.to("cuda"), clip_mp4, config))
    assert len(found) == len(expected) == 2
    for clip, other in zip(found, expected, strict=True):
        for row, wanted in zip(clip.result.rows(), other.result.rows(), strict=True):
            assert row == pytest.approx(wanted, abs=0.02)
