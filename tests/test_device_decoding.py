"""Decoding on a GPU that is simulated on the CPU: the same frames but for rounding, and few waits for the GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motion_vq.fields import apple_gpu_reads_borders
from tests.fake_device import fake_device
from unet3d import ClipInput, VideoDetokenizer, decode_chain
from videotok import VideoTokenizer
from videotok.config import DecodeConfig, EncodeConfig
from videotok.models import apple_gpu_rebuilds_frames
from videotok.pipeline import DetokenizerInput

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
    assert all(getattr(tokenizer, part) for part in ("keyframes", "motion", "detokenizer"))
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


def test_batches_of_clips_are_halved_where_memory_is_short(tokenizer, tokens, monkeypatch):
    inputs = [*tokenizer.detokenizer_inputs(tokens, DecodeConfig(size=SIZE, keyframe_source="tokens"))] * 3
    clips = [ClipInput(clip.keyframe, clip.vectors) for clip in inputs]
    alone = [frames for frames in decode_chain(tokenizer.detokenizer, clips)]
    reconstruct, sizes = VideoDetokenizer.reconstruct, []

    def reconstruct_few(model, keyframe, *arguments, **options):
        sizes.append(len(keyframe))
        if len(keyframe) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return reconstruct(model, keyframe, *arguments, **options)

    monkeypatch.setattr(VideoDetokenizer, "reconstruct", reconstruct_few)
    found = list(decode_chain(tokenizer.detokenizer, clips, batch_size=8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 1]  # the last clip has no next keyframe
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    monkeypatch.setattr(VideoDetokenizer, "reconstruct", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        list(decode_chain(tokenizer.detokenizer, clips, batch_size=8))


def test_a_gpu_rebuilds_fewer_clips_at_once_where_frames_are_large(tiny_model):
    tokenizer = loaded(tiny_model, torch.float32)

    def clips_at_once(width, height):
        keyframe = torch.zeros(1, 3, height, width)
        return tokenizer._clips_at_once(DetokenizerInput(keyframe, torch.zeros(1, 24, 20, 36, 2), 24, None))

    assert clips_at_once(256, 144) == 1
    with fake_device("cuda"):
        tokenizer.to("cuda")
        assert [clips_at_once(*size) for size in ((256, 144), (512, 288), (1280, 720))] == [8, 4, 1]


@pytest.mark.parametrize("missing", ["grid_sample", "adaptive_avg_pool2d"])
def test_operations_that_apples_gpus_lack_run_on_the_cpu(missing, tiny_model, tokenizer, tokens, monkeypatch):
    operation = getattr(torch.nn.functional, missing)

    def refused(values, *arguments, **options):
        if values.device.type == "mps":
            raise RuntimeError("MPS: Unsupported Border padding mode")
        return operation(values, *arguments, **options)

    config = DecodeConfig(size=SIZE, keyframe_source="tokens")
    expected = list(tokenizer.decode(tokens, config))
    on_gpu = loaded(tiny_model, torch.float32)
    probes = apple_gpu_rebuilds_frames, apple_gpu_reads_borders
    for probe in probes:
        probe.cache_clear()
    try:
        monkeypatch.setattr(torch.nn.functional, missing, refused)
        with fake_device("mps") as device:
            found = list(on_gpu.to("mps").decode(tokens, config))
            assert on_gpu.detokenizer.device.type == "cpu"
            assert on_gpu.keyframes.device.type == "mps"
        assert device.launches.total() > 100
    finally:
        for probe in probes:
            probe.cache_clear()
    assert largest_difference(expected, found) <= 1


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
