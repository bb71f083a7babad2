"""What the video detokenizer is trained on: motion of every number of quantizers, and brightness that changes."""

import numpy as np
import pytest
import torch
from motion_fields import TINY, moving_fields

from motion_vq import MotionTokenizer
from unet3d.train import TrainingClip, fade_clip
from videotok.training.dataset import CodedMotion


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
    clip = TrainingClip(frames, torch.zeros(1), torch.zeros(1), frames[:, 0], torch.zeros(1))
    faded = fade_clip(clip, np.random.default_rng(3))
    assert faded.next_keyframe is not None
    brightness = torch.cat((faded.frames, faded.next_keyframe[:, None]), dim=1)[0, :, 0, 0, 0]
    assert brightness[0] == pytest.approx(0.1)
    assert abs(brightness[-1] - 0.1) > 0.01
    assert torch.allclose(brightness.diff(), brightness.diff().mean().expand(8), atol=1e-6)
