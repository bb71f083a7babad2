"""Decoding on a GPU that is simulated on the CPU: the same frames but for rounding, and few waits for the GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.fake_device import fake_device
from unet3d import VideoDetokenizer
from videotok import VideoTokenizer
from videotok.config import DecodeConfig, EncodeConfig

SIZE = (80, 48)
CASES = {
    "between keyframes": DecodeConfig(size=SIZE),
    "forward": DecodeConfig(size=SIZE, bidirectional=False),
    "one after another": DecodeConfig(size=SIZE, noise_rate=0.85, num_inference_steps=2),
    "odd size, fewer quantizers": DecodeConfig(size=(75, 51), motion_quantizers=1, num_inference_steps=2),
    "pictures": DecodeConfig(size=SIZE, keyframe_source="jpeg"),
}


def loaded(model, dtype):
    """Return a tokenizer whose models are in memory: the simulated device cannot load any."""
    tokenizer = VideoTokenizer.from_pretrained(model, dtype=dtype)
    assert tokenizer.keyframes and tokenizer.motion and tokenizer.detokenizer
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return loaded(tiny_model, torch.float32)


@pytest.fixture(scope="module")
def tokens(tokenizer, clip_mp4):
    """Three clips of which the second is predicted from the first; with pictures."""
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(fps=24, keyframe_storage="jpeg"))
    assert tokens.num_clips == 3
    assert tokens.skip_mask[1].any()
    return tokens


def largest_difference(first, second):
    pairs = zip(first, second, strict=True)
    return max(int(np.abs(one.astype(int) - other.astype(int)).max()) for one, other in pairs)


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_same_frames(case, tokenizer, tiny_model, tokens):
    config = replace(CASES[case], keyframe_source="tokens") if case != "pictures" else CASES[case]
    expected = list(tokenizer.decode(tokens, config))
    on_gpu = loaded(tiny_model, torch.float32)
    with fake_device("cuda") as device:
        found = list(on_gpu.to("cuda").decode(tokens, config))
    assert len(found) == 72
    assert largest_difference(expected, found) <= 1
    assert device.launches.total() > 100


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_cuts_and_bfloat16(kind, tiny_model, tokens):
    tokens = replace(tokens, num_frames=np.array([24, 10, 24], np.int32))
    config = DecodeConfig(size=SIZE, keyframe_source="tokens")
    expected = list(loaded(tiny_model, torch.bfloat16).decode(tokens, config))
    on_gpu = loaded(tiny_model, torch.bfloat16)
    with fake_device(kind):
        found = list(on_gpu.to(kind).decode(tokens, config))
    assert len(found) == 58
    # other products are rounded to 8 bits in between
    assert largest_difference(expected, found) <= 8


def test_waits_do_not_grow_with_frames_or_clips(tiny_model):
    model = loaded(tiny_model, torch.float32).detokenizer
    assert isinstance(model, VideoDetokenizer)

    def waits(clips, frames):
        torch.manual_seed(0)
        keyframes, vectors = torch.rand(2, clips, 3, 48, 80) - 0.5, 0.02 * torch.randn(clips, frames, 20, 36, 2)
        with fake_device("cuda") as device:
            model.to("cuda")
            first, second, vectors = (values.to("cuda") for values in (*keyframes, vectors))
            device.clear()
            model.reconstruct(first, vectors, next_keyframe=second, next_vectors=vectors)
            return device.waits.total() + device.uploads

    few = waits(1, 4)
    assert few < 60
    assert waits(1, 12) == few
    assert waits(3, 4) == few
