"""The latent video detokenizer (Video-LaVIT) in a tiny size: shapes, guidance, folders of its own and of before."""

import json

import pytest
import torch
from detokenizer_sizes import TINY_MOTION, TINY_UNET, fuse_attention, random_clip, tiny_detokenizer
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from unet3d import LatentDenoiser, LatentVideoDetokenizer, VideoDetokenizer, decode_chain
from unet3d.diffusion import features_over_time

WEIGHTS = "diffusion_pytorch_model.safetensors"


def latent_detokenizer(**changes) -> LatentVideoDetokenizer:
    torch.manual_seed(1)
    vae = AutoencoderKLTemporalDecoder(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2)
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        sigma_max=700.0,
        sigma_min=0.002,
        use_karras_sigmas=True,
    )
    sizes = {**TINY_UNET, **TINY_MOTION, "layers_per_block": 1, "attention_heads": None}
    return LatentVideoDetokenizer(LatentDenoiser(**sizes).eval(), vae.eval(), scheduler, **changes)


def test_the_published_shapes_are_the_defaults():
    with torch.device("meta"):
        model = LatentDenoiser()
    assert model.unet.conv_in.weight.shape == (320, 10, 3, 3)
    assert model.unet.conv_out.weight.shape == (4, 320, 3, 3)
    assert model.unet.add_embedding.linear_1.in_features == 768
    shapes = {name: tuple(value.shape) for name, value in model.motion_encoder.state_dict().items()}
    assert shapes["pos_embed"] == (1, 256, 512)
    assert shapes["blocks.11.temporal_attention.key_value.weight"] == (1024, 512)
    assert shapes["blocks.0.mlp.0.weight"] == (2048, 512)
    assert shapes["out_proj.weight"] == (1024, 512)


def test_frames_have_the_keyframes_size_and_depend_on_the_seed():
    model, (keyframe, vectors) = latent_detokenizer(), random_clip(steps=3, height=30, width=50)
    frames = model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=3)
    assert frames.shape == (1, 3, 3, 30, 50)
    assert torch.equal(frames, model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=3))
    assert not torch.equal(frames, model.reconstruct(keyframe, vectors, num_inference_steps=2, seed=4))
    (chained,) = decode_chain(model, [(keyframe, vectors)], num_inference_steps=1)
    assert chained.shape == frames.shape


def test_guidance_is_towards_the_keyframe_and_its_motion():
    keyframe, vectors = random_clip(steps=3)
    frames = [
        latent_detokenizer(guidance=guidance).reconstruct(keyframe, motion, num_inference_steps=1)
        for guidance, motion in (((0.0, 0.0), vectors), ((0.0, 0.0), 0 * vectors), ((1.0, 3.0), vectors))
    ]
    assert torch.allclose(frames[0], frames[1], atol=1e-6)  # guidance 0 is the unconditional prediction
    assert (frames[2] - frames[0]).abs().max() > 1e-3


def test_each_position_attends_to_its_own_motion():
    motion = torch.arange(2 * 2 * 3).view(1, 2, 2, 3, 1).float()
    features = features_over_time(motion, 4, 3)
    assert features.shape == (12, 2, 1)
    assert features[:3, 0, 0].tolist() == features[3:6, 0, 0].tolist() == [0, 1, 2]
    assert features[6:9, 1, 0].tolist() == [9, 10, 11]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, (keyframe, vectors) = latent_detokenizer(), random_clip(steps=2)
    model.save_pretrained(tmp_path)
    assert LatentVideoDetokenizer.is_saved_in(tmp_path)
    loaded = LatentVideoDetokenizer.from_pretrained(tmp_path, torch_dtype=torch.float32)
    expected = model.reconstruct(keyframe, vectors, num_inference_steps=2)
    assert torch.allclose(loaded.reconstruct(keyframe, vectors, num_inference_steps=2), expected, atol=1e-5)


@pytest.mark.parametrize("shard_size", ["1GB", "200KB"])
def test_folders_written_as_a_video_detokenizer_load(tmp_path, shard_size):
    """Earlier versions named the class VideoDetokenizer and wrote options of pixels, weights in one file or several."""
    model, (keyframe, vectors) = latent_detokenizer(), random_clip(steps=2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"_class_name": "VideoDetokenizer", "patch_size": 8, "restraint": 1.0, "sigma_min": 0.05, "stride": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = fuse_attention(load_file(tmp_path / WEIGHTS))
    (tmp_path / WEIGHTS).unlink()
    pattern = "diffusion_pytorch_model{suffix}.safetensors"
    save_torch_state_dict(state, tmp_path, filename_pattern=pattern, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "200KB")
    loaded = LatentVideoDetokenizer.from_pretrained(tmp_path)
    expected = model.reconstruct(keyframe, vectors, num_inference_steps=1)
    assert torch.allclose(loaded.reconstruct(keyframe, vectors, num_inference_steps=1), expected, atol=1e-4)


def test_weights_of_pixels_and_of_latents_are_not_mixed_up(tmp_path):
    latent_detokenizer().save_pretrained(tmp_path / "latents")
    tiny_detokenizer().save_pretrained(tmp_path / "pixels")
    with pytest.raises(ValueError, match="load them with LatentVideoDetokenizer"):
        VideoDetokenizer.from_pretrained(tmp_path / "latents")
    with pytest.raises(ValueError, match="load them with VideoDetokenizer"):
        LatentVideoDetokenizer.from_pretrained(tmp_path / "pixels")


def test_no_step_is_refused():
    with pytest.raises(ValueError, match=r"\(=0\) must be at least 1"):
        latent_detokenizer().reconstruct(*random_clip(steps=3), num_inference_steps=0)
