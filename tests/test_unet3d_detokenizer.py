"""The detokenizer in a tiny size: what it starts as, shapes, seeds, files, chains, and that it learns."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler

from unet3d import DetokenizerTraining, LatentDetokenizer, VideoDetokenizer, decode_chain
from unet3d.candidates import apart, gather, together, warped
from unet3d.detokenizer import depth_to_space, space_to_depth
from unet3d.diffusion import over_time

GRID = (20, 36)


def tiny(**changes) -> VideoDetokenizer:
    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 32), "attention": (False, True), "attention_width": 16, "time_ids_width": 8}
    motion = {"motion_grid": (2, 2, 2), "motion_layers": 1, "motion_width": 16, "motion_heads": 2}
    return VideoDetokenizer(**{"bicubic_mix": 0.0, **sizes, **motion, **changes}).eval()


def awake(**changes) -> VideoDetokenizer:
    """A tiny model that is no longer its prior."""
    model = tiny(**changes)
    with torch.no_grad():
        for layer in (model.unet.conv_in, model.unet.conv_out):
            layer.weight.normal_(std=0.02)
    return model


def clip(seed: int = 0, steps: int = 6, height: int = 32, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A keyframe [1, 3, height, width] and a field [1, steps, 20, 36, 2]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 6, generator=random) * 2 - 1
    keyframe = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    drift = torch.rand(1, steps, 1, 1, 2, generator=random) * 0.04 - 0.02
    return keyframe, drift.expand(1, steps, *GRID, 2).clone()


def test_untrained_it_is_the_prior_at_any_number_of_steps():
    model, (keyframe, vectors), (next_keyframe, next_vectors) = tiny(), clip(0), clip(1)
    both = gather(keyframe, vectors, next_keyframe=next_keyframe, next_vectors=next_vectors).prior
    alone = gather(keyframe, vectors).prior
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
    keyframe, vectors = clip(2, steps, height, width)
    rebuilt = awake().reconstruct(keyframe, vectors, next_keyframe=keyframe.flip(-1), next_vectors=vectors)
    assert rebuilt.shape == (1, steps, 3, height, width)
    assert rebuilt.abs().max() <= 1
    assert torch.equal(rebuilt[:, 0], keyframe)


def test_one_seed_is_one_video():
    model, (keyframe, vectors) = awake(), clip()
    first, again, other = (model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=s) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_next_keyframe_is_seen():
    model, (keyframe, vectors) = awake(), clip()
    alone = model.reconstruct(keyframe, vectors)
    between = model.reconstruct(keyframe, vectors, next_keyframe=keyframe.flip(-2), next_vectors=vectors)
    assert not torch.allclose(alone, between, atol=1e-3)


def test_the_way_from_noise_begins_at_the_previous_frame_where_it_is_asked_for():
    model, (keyframe, vectors) = awake(), clip()
    alone = model.reconstruct(keyframe, vectors)
    told = {"previous_frame": keyframe.flip(-1)}
    assert torch.equal(alone, model.reconstruct(keyframe, vectors, **told))
    led = [model.reconstruct(keyframe, vectors, **told, noise_rate=rate) for rate in (0.85, 0.4)]
    far, farther = ((frames - alone).abs().mean() for frames in led)
    assert 1e-6 < far < farther
    with pytest.raises(ValueError, match="noise_rate"):
        model.reconstruct(keyframe, vectors, **told, noise_rate=0.0)


def test_warps_come_together_by_nearness_and_stay_in_the_mix():
    """A shared shift of 2 pixels: the forward warp moves by what is near to it, the backward one by the rest."""
    keyframe, vectors = clip(steps=4)
    still = torch.zeros_like(vectors)
    known = gather(keyframe, still, next_keyframe=keyframe, next_vectors=still)
    shifts = torch.zeros(1, 4, 2, 32, 48, 2)
    shifts[..., 0] = torch.tensor([1.0, -1.0]).view(1, 1, 2, 1, 1) / 48
    forward, backward = warped(known, shifts).unbind(2)
    assert torch.allclose(forward[..., :-1], keyframe[:, None, ..., 1:].expand(-1, 4, -1, -1, -1), atol=1e-5)
    assert torch.allclose(backward[..., 1:], keyframe[:, None, ..., :-1].expand(-1, 4, -1, -1, -1), atol=1e-5)


def test_frames_are_taken_apart_and_put_together():
    values = torch.arange(5).view(1, 5, 1).repeat(2, 1, 1)
    parts = apart(values, 2)
    assert parts[:2, :, 0].tolist() == [[0, 2, 4], [1, 3, 4]]
    assert torch.equal(together(parts, 2, 5), values)


def test_half_of_a_correction_is_half_the_way():
    (keyframe, vectors), prior = clip(), gather(*clip()).prior
    whole, half = (awake(forward_residual_scale=share).reconstruct(keyframe, vectors) for share in (1.0, 0.5))
    assert torch.allclose((half - prior)[:, 1:], (whole - prior)[:, 1:] / 2, atol=1e-3)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, (keyframe, vectors) = awake(num_inference_steps=2), clip()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    loaded = VideoDetokenizer.from_pretrained(tmp_path)
    assert loaded.config["num_inference_steps"] == 2
    assert torch.allclose(model.reconstruct(keyframe, vectors), loaded.reconstruct(keyframe, vectors), atol=1e-5)


def test_wrong_inputs_are_named():
    model, (keyframe, vectors) = tiny(), clip()
    with pytest.raises(ValueError, match="next_vectors"):
        model.reconstruct(keyframe, vectors, next_keyframe=keyframe)
    with pytest.raises(ValueError, match="num_inference_steps"):
        model.reconstruct(keyframe, vectors, num_inference_steps=0)
    with pytest.raises(ValueError, match="keyframe"):
        model.reconstruct(keyframe[0], vectors)
    with pytest.raises(ValueError, match="next_keyframe"):
        model.reconstruct(keyframe, vectors, next_keyframe=keyframe[..., :16], next_vectors=vectors)
    with pytest.raises(ValueError, match="multiples of 32"):
        tiny(block_out_channels=(24, 32))


def test_a_chain_uses_each_next_keyframe_and_ends_with_a_short_clip():
    model = awake()
    clips = [clip(0), clip(1), clip(2, steps=2)]
    rebuilt = list(decode_chain(model, iter(clips), seed=5))
    assert [frames.shape[1] for frames in rebuilt] == [6, 6, 2]
    for (keyframe, _), frames in zip(clips, rebuilt, strict=True):
        assert torch.equal(frames[:, 0], keyframe)
    again = list(decode_chain(model, clips, seed=5))
    assert all(torch.equal(a, b) for a, b in zip(rebuilt, again, strict=True))
    forward = list(decode_chain(model, clips, bidirectional=False, seed=5))
    assert not torch.allclose(rebuilt[0], forward[0], atol=1e-3)
    bound = list(decode_chain(model, clips, bidirectional=False, noise_rate=0.5, seed=5))
    assert torch.equal(bound[0], forward[0])
    assert not torch.allclose(bound[1], forward[1], atol=1e-6)
    assert list(decode_chain(model, [])) == []


def test_a_chain_reads_one_clip_ahead_and_no_more():
    read = []

    def source():
        for index in range(4):
            read.append(index)
            yield clip(index, steps=2)

    chain = decode_chain(tiny(), source())
    next(chain)
    assert read == [0, 1]
    next(chain)
    assert read == [0, 1, 2]


def test_cells_hold_every_pixel():
    frames = torch.randn(2, 3, 3, 8, 12)
    cells = space_to_depth(frames, 4)
    assert cells.shape == (2, 3, 48, 2, 3)
    assert torch.equal(depth_to_space(cells, 4), frames)


def test_the_published_shapes_are_a_configuration():
    with torch.device("meta"):
        model = VideoDetokenizer(
            latent_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            attention=(True, True, True, False),
            layers_per_block=2,
            attention_width=1024,
            time_ids_width=256,
            motion_grid=(24, 16, 16),
            motion_layers=12,
            motion_width=512,
            motion_heads=8,
        )
    assert model.unet.conv_in.weight.shape == (320, 10, 3, 3)
    assert model.unet.conv_out.weight.shape == (4, 320, 3, 3)
    assert model.unet.add_embedding.linear_1.in_features == 768
    shapes = {name: tuple(value.shape) for name, value in model.motion_encoder.state_dict().items()}
    assert len(shapes) == 247
    assert shapes["pos_embed"] == (1, 256, 512)
    assert shapes["blocks.11.temporal_attention.qkv.weight"] == (1536, 512)
    assert shapes["blocks.0.mlp.fc1.weight"] == (2048, 512)
    assert shapes["out_proj.weight"] == (1024, 512)


def latent_detokenizer(**changes) -> LatentDetokenizer:
    torch.manual_seed(1)
    vae = AutoencoderKLTemporalDecoder(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2)
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        sigma_max=700.0,
        sigma_min=0.002,
        use_karras_sigmas=True,
    )
    return LatentDetokenizer(tiny(latent_channels=4), vae.eval(), scheduler, **changes)


def test_latents_become_frames_of_the_keyframes_size():
    model, (keyframe, vectors) = latent_detokenizer(), clip(steps=3, height=30, width=50)
    frames = model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=3)
    assert frames.shape == (1, 3, 3, 30, 50)
    assert torch.equal(frames, model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=3))
    assert not torch.equal(frames, model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=4))
    (chained,) = decode_chain(model, [(keyframe, vectors)], num_inference_steps=1)
    assert chained.shape == frames.shape


def test_guidance_is_towards_the_keyframe_and_its_motion():
    keyframe, vectors = clip(steps=3)
    frames = [
        latent_detokenizer(guidance=guidance).reconstruct(keyframe, motion, num_inference_steps=1)
        for guidance, motion in (((0.0, 0.0), vectors), ((0.0, 0.0), 0 * vectors), ((1.0, 3.0), vectors))
    ]
    assert torch.allclose(frames[0], frames[1], atol=1e-6)  # none of it is looked at
    assert (frames[2] - frames[0]).abs().max() > 1e-3


def test_each_place_attends_to_its_own_motion():
    motion = torch.arange(2 * 2 * 3).view(1, 2, 2, 3, 1).float()
    found = over_time(motion, 4, 3)
    assert found.shape == (12, 2, 1)
    assert found[:3, 0, 0].tolist() == found[3:6, 0, 0].tolist() == [0, 1, 2]
    assert found[6:9, 1, 0].tolist() == [9, 10, 11]


def test_pictures_and_latents_are_not_mixed_up():
    keyframe, vectors = clip(steps=3)
    with pytest.raises(ValueError, match="LatentDetokenizer"):
        tiny(latent_channels=4).reconstruct(keyframe, vectors)
    with pytest.raises(ValueError, match="latent_channels"):
        LatentDetokenizer(tiny(), None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(=0\) must be at least 1"):
        latent_detokenizer().reconstruct(keyframe, vectors, num_inference_steps=0)


def items(count: int = 2) -> list[dict[str, np.ndarray]]:
    """Items as the training cache has them: a pan over noise, with motion that is a little wrong."""
    random = np.random.default_rng(0)
    found = []
    for index in range(count):
        coarse = torch.rand(1, 3, 12, 32, generator=torch.Generator().manual_seed(index))
        wide = torch.nn.functional.interpolate(coarse, size=(96, 256), mode="bilinear")[0]
        wide = (wide * 255).byte().permute(1, 2, 0).numpy()
        frames = np.stack([wide[:, 3 * t : 3 * t + 128] for t in range(25)])
        vectors = np.zeros((24, *GRID, 2), np.float32)
        vectors[..., 0] = 2 / 128
        item = {"frames": frames[:24], "vectors": vectors, "valid": random.random(vectors.shape[:3]) < 0.9}
        item |= {"num_frames": np.int64(24 if index else 5)}
        if index:
            item |= {"next_keyframe_frame": frames[24], "next_vectors0": vectors[0]}
        found.append(item)
    return found


def test_training_lowers_the_loss_and_says_what_it_gains():
    torch.manual_seed(0)
    task = DetokenizerTraining(tiny())
    batch = task.prepare(items(), np.random.default_rng(0))
    assert batch["frames"].shape == (4, 12, 3, 80, 128)
    before = task.validate([batch])
    assert before["psnr"] == pytest.approx(before["prior_psnr"], abs=1e-3)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    losses = []
    for step in range(8):
        torch.manual_seed(1)
        loss, figures = task.loss(batch, step / 8)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert figures["gain"] > 0
    after = task.validate([batch])
    assert after["gain"] == pytest.approx(after["psnr"] - after["prior_psnr"], abs=1e-3)


def test_the_same_draw_gives_the_same_crops():
    task = DetokenizerTraining(tiny())
    first, again = (task.prepare(items(), np.random.default_rng(7)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
