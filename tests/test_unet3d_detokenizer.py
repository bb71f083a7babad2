"""The video detokenizer in a tiny size: untrained, shapes, seeds, files, and chains of clips."""

import json
import threading

import pytest
import torch
from detokenizer_sizes import fuse_attention, random_clip, tiny_detokenizer, trained_detokenizer
from safetensors.torch import load_file, save_file

from unet3d import ClipInput, VideoDetokenizer, decode_chain
from unet3d.candidates import make_candidates, space_to_depth
from unet3d.detokenizer import depth_to_space
from unet3d.diffusion import TemporalConv


def test_untrained_it_is_the_prior_at_any_number_of_steps():
    model, (keyframe, vectors), (other, next_vectors) = tiny_detokenizer(), random_clip(0), random_clip(1)
    next_keyframe = keyframe.lerp(other, 0.2)  # near enough to be the same scene: between scenes there is no network
    both = make_candidates(keyframe, vectors, next_keyframe=next_keyframe, next_vectors=next_vectors).prior
    alone = make_candidates(keyframe, vectors).prior
    for steps in (1, 3):
        rebuilt = model.reconstruct(
            keyframe, vectors, next_keyframe=next_keyframe, next_vectors=next_vectors, num_inference_steps=steps
        )
        assert torch.allclose(rebuilt, both.clamp(-1, 1), atol=1e-5)
        assert torch.allclose(
            model.reconstruct(keyframe, vectors, num_inference_steps=steps), alone.clamp(-1, 1), atol=1e-5
        )


@pytest.mark.parametrize(("height", "width", "steps"), [(32, 48, 6), (33, 51, 3), (20, 34, 1)])
def test_any_size_and_length_in_range_and_from_the_keyframe(height: int, width: int, steps: int):
    keyframe, vectors = random_clip(2, steps, height, width)
    rebuilt = trained_detokenizer().reconstruct(
        keyframe, vectors, next_keyframe=keyframe.flip(-1), next_vectors=vectors
    )
    assert rebuilt.shape == (1, steps, 3, height, width)
    assert rebuilt.abs().max() <= 1
    assert torch.equal(rebuilt[:, 0], keyframe)


def test_one_seed_is_one_video():
    model, (keyframe, vectors) = trained_detokenizer(), random_clip()
    first, again, other = (model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=s) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_next_keyframe_is_used():
    model, (keyframe, vectors) = trained_detokenizer(), random_clip()
    alone = model.reconstruct(keyframe, vectors)
    between = model.reconstruct(keyframe, vectors, next_keyframe=keyframe.flip(-2), next_vectors=vectors)
    assert not torch.allclose(alone, between, atol=1e-3)


def test_the_noise_constraint_starts_from_the_previous_frame():
    model, (keyframe, vectors) = trained_detokenizer(), random_clip()
    alone = model.reconstruct(keyframe, vectors)
    previous = {"previous_frame": keyframe.flip(-1)}
    assert torch.equal(alone, model.reconstruct(keyframe, vectors, **previous))
    constrained = [model.reconstruct(keyframe, vectors, **previous, noise_rate=rate) for rate in (0.85, 0.4)]
    far, farther = ((frames - alone).abs().mean() for frames in constrained)
    assert 1e-6 < far < farther
    with pytest.raises(ValueError, match="noise_rate"):
        model.reconstruct(keyframe, vectors, **previous, noise_rate=0.0)


def test_half_the_residual_scale_is_half_the_correction():
    (keyframe, vectors), prior = random_clip(), make_candidates(*random_clip()).prior
    whole, half = (
        trained_detokenizer(forward_residual_scale=share).reconstruct(keyframe, vectors) for share in (1.0, 0.5)
    )
    assert torch.allclose((half - prior)[:, 1:], (whole - prior)[:, 1:] / 2, atol=1e-3)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, (keyframe, vectors) = trained_detokenizer(num_inference_steps=2), random_clip()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    loaded = VideoDetokenizer.from_pretrained(tmp_path)
    assert loaded.config["num_inference_steps"] == 2
    assert torch.allclose(model.reconstruct(keyframe, vectors), loaded.reconstruct(keyframe, vectors), atol=1e-5)


def test_wrong_inputs_are_named():
    model, (keyframe, vectors) = tiny_detokenizer(), random_clip()
    with pytest.raises(ValueError, match="next_vectors"):
        model.reconstruct(keyframe, vectors, next_keyframe=keyframe)
    with pytest.raises(ValueError, match="num_inference_steps"):
        model.reconstruct(keyframe, vectors, num_inference_steps=0)
    with pytest.raises(ValueError, match="keyframe"):
        model.reconstruct(keyframe[0], vectors)
    with pytest.raises(ValueError, match="next_keyframe"):
        model.reconstruct(keyframe, vectors, next_keyframe=keyframe[..., :16], next_vectors=vectors)
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny_detokenizer(block_out_channels=(24, 32))


def test_a_chain_uses_each_next_keyframe_and_ends_with_a_short_clip():
    model = trained_detokenizer()
    clips = [random_clip(0), random_clip(1), random_clip(2, steps=2)]
    rebuilt = list(decode_chain(model, iter(clips), seed=5))
    assert [frames.shape[1] for frames in rebuilt] == [6, 6, 2]
    for (keyframe, _), frames in zip(clips, rebuilt, strict=True):
        assert torch.equal(frames[:, 0], keyframe)
    again = list(decode_chain(model, clips, seed=5))
    assert all(torch.equal(a, b) for a, b in zip(rebuilt, again, strict=True))
    forward = list(decode_chain(model, clips, bidirectional=False, seed=5))
    assert not torch.allclose(rebuilt[0], forward[0], atol=1e-3)
    constrained = list(decode_chain(model, clips, bidirectional=False, noise_rate=0.5, seed=5))
    assert torch.equal(constrained[0], forward[0])
    assert not torch.allclose(constrained[1], forward[1], atol=1e-6)
    assert list(decode_chain(model, [])) == []


def test_a_chain_reads_one_clip_ahead_and_no_more():
    read = []

    def source():
        for index in range(4):
            read.append(index)
            yield random_clip(index, steps=2)

    chain = decode_chain(tiny_detokenizer(), source())
    next(chain)
    assert read == [0, 1]
    next(chain)
    assert read == [0, 1, 2]


def test_frames_that_are_not_shown_are_not_made():
    """The first frames of a clip that ends early are what they are of the whole clip, but for what the network sees."""
    keyframe, vectors = random_clip(0, steps=8)
    untrained, trained = tiny_detokenizer(), trained_detokenizer()
    first, whole = untrained.reconstruct(keyframe, vectors, num_frames=4), untrained.reconstruct(keyframe, vectors)
    torch.testing.assert_close(first, whole[:, :4], rtol=0, atol=1e-5)
    assert trained.reconstruct(keyframe, vectors, num_frames=1).shape[1] == 1
    previous = {"previous_frame": keyframe.flip(-1), "noise_rate": 0.5}
    assert trained.reconstruct(keyframe, vectors, num_frames=3, **previous).shape == (1, 3, *keyframe.shape[1:])
    clips = [ClipInput(keyframe, vectors), ClipInput(keyframe, vectors, 3)]
    assert [frames.shape[1] for frames in decode_chain(trained, clips, batch_size=2)] == [8, 3]


def test_a_chain_in_batches_has_the_same_frames():
    """Of several lengths, and the last one without a next keyframe; each with its own noise."""
    model = trained_detokenizer()
    clips = [random_clip(index, steps=steps) for index, steps in enumerate((4, 4, 4, 3, 4))]
    single = list(decode_chain(model, clips, seed=5))
    for size in (2, 8):
        batched = list(decode_chain(model, iter(clips), seed=5, batch_size=size))
        assert [frames.shape for frames in batched] == [frames.shape for frames in single]
        for together, alone in zip(batched, single, strict=True):
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_a_chain_by_several_threads_has_the_same_frames_in_order():
    """Of several lengths, and the last one without a next keyframe; torch's number of threads stays as it was."""
    model, before = trained_detokenizer(), torch.get_num_threads()
    clips = [random_clip(index, steps=steps) for index, steps in enumerate((4, 4, 4, 3, 4))]
    single = list(decode_chain(model, clips, seed=5))
    threaded = list(decode_chain(model, iter(clips), seed=5, num_workers=2))
    for together, alone in zip(threaded, single, strict=True):
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert torch.get_num_threads() == before
    assert list(decode_chain(model, [], num_workers=2)) == []
    # each clip after the first starts from the one before, and waits for it
    constrained = list(decode_chain(model, clips, noise_rate=0.5, num_workers=2))
    expected = list(decode_chain(model, clips, noise_rate=0.5))
    assert all(torch.equal(one, other) for one, other in zip(constrained, expected, strict=True))


def test_threads_end_with_the_chain_and_pass_errors_on():
    damaged = (torch.zeros(1, 2, 8, 8), random_clip(2)[1])
    count, clips = threading.active_count(), [random_clip(0), random_clip(1), random_clip(3), damaged]
    chain = decode_chain(tiny_detokenizer(), clips, num_workers=2)
    next(chain)
    assert threading.active_count() == count + 2
    chain.close()
    assert threading.active_count() == count
    with pytest.raises(ValueError, match="next_keyframe"):
        list(decode_chain(tiny_detokenizer(), clips, num_workers=2))
    assert threading.active_count() == count


def test_convolutions_over_time_are_those_of_three_dimensions():
    model = tiny_detokenizer()
    convolutions = [module for module in model.unet.modules() if isinstance(module, torch.nn.Conv3d)]
    assert convolutions
    assert {type(module) for module in convolutions if module.kernel_size == (3, 1, 1)} == {TemporalConv}
    for module in convolutions:
        x = torch.randn(2, module.in_channels, 5, 3, 4)
        torch.testing.assert_close(module(x), torch.nn.Conv3d.forward(module, x))


def test_space_to_depth_holds_every_pixel():
    frames = torch.randn(2, 3, 3, 8, 12)
    values = space_to_depth(frames, 4)
    assert values.shape == (2, 3, 48, 2, 3)
    assert torch.equal(depth_to_space(values, 4), frames)


def test_options_and_weights_under_older_names_load(tmp_path):
    model, (keyframe, vectors) = trained_detokenizer(residual_scale=0.7), random_clip()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["restraint"] = config.pop("residual_scale")
    config["latent_channels"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    save_file(fuse_attention(state), tmp_path / "diffusion_pytorch_model.safetensors")
    loaded, report = VideoDetokenizer.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] + report["unexpected_keys"]
    assert loaded.config["residual_scale"] == 0.7
    assert torch.allclose(loaded.reconstruct(keyframe, vectors), model.reconstruct(keyframe, vectors), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_only_the_network_rounds(dtype):
    (keyframe, vectors), (next_keyframe, next_vectors) = random_clip(0), random_clip(1)
    inputs = {"next_keyframe": next_keyframe, "next_vectors": next_vectors}
    expected = trained_detokenizer().reconstruct(keyframe, vectors, **inputs)
    frames = trained_detokenizer().to(dtype).reconstruct(keyframe, vectors, **inputs)
    assert frames.dtype == torch.float32
    assert torch.equal(frames[:, 0], keyframe)
    assert (frames - expected).abs().mean() < 0.01


def test_an_untrained_refiner_changes_no_frame_and_a_trained_one_all_the_keyframe_too():
    plain = trained_detokenizer()
    refined = trained_detokenizer(refiner_widths=(8, 16), refiner_blocks=(1, 1))
    refined.load_state_dict(plain.state_dict(), strict=False)
    keyframe, vectors = random_clip()
    before = plain.reconstruct(keyframe, vectors)
    untrained = refined.reconstruct(keyframe, vectors)
    assert torch.equal(untrained[:, 1:], before[:, 1:])
    torch.nn.init.normal_(refined.refiner.write.weight, std=0.05)
    after = refined.reconstruct(keyframe, vectors)
    assert ((after - untrained).abs().amax((2, 3, 4)) > 1e-3).all()
    assert torch.equal(refined.reconstruct(keyframe, vectors, refine=False), before)
    assert torch.equal(before[:, 0], keyframe)


def test_refiner_sizes_must_agree():
    with pytest.raises(ValueError, match="must give one number for each"):
        tiny_detokenizer(refiner_widths=(8, 16), refiner_blocks=(1,))


def test_the_refiner_can_be_left_out_for_keyframes_that_lack_nothing():
    model = trained_detokenizer(refiner_widths=(8, 16), refiner_blocks=(1, 1))
    torch.nn.init.normal_(model.refiner.write.weight, std=0.05)
    plain = trained_detokenizer()
    plain.load_state_dict(model.state_dict(), strict=False)
    clip = random_clip()
    (left_out,) = decode_chain(model, [clip], refine=False)
    (without,) = decode_chain(plain, [clip])
    (refined,) = decode_chain(model, [clip])
    assert torch.equal(left_out, without)
    assert not torch.equal(refined, without)
