"""Published models with little memory: half precision, shards, offloaded weights, images in tiles."""

from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from diffusers.hooks import apply_group_offloading
from lavit_files import small_parts, write_checkpoint

from benchmarks.lavit_parity_cases import SCHEDULER, VAE, RandomWeights
from unet3d import LatentVideoDetokenizer
from unet3d.diffusion import device_of
from videotok.lavit.conversion import convert
from videotok.lavit.weight_map import PARTS, build_model, checkpoint_shapes
from videotok.pipeline import VideoTokenizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in small_parts().items():
        monkeypatch.setitem(PARTS, name, part)


def detokenizer() -> LatentVideoDetokenizer:
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(**VAE).eval().requires_grad_(False)
    return LatentVideoDetokenizer(random_model("detokenizer"), vae, EulerDiscreteScheduler(**SCHEDULER))


def random_model(part: str):
    return build_model(PARTS[part], RandomWeights(checkpoint_shapes(PARTS[part])))


def frames(model: LatentVideoDetokenizer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    keyframe = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    vectors = 0.1 * torch.randn(1, 4, 20, 36, 2, generator=generator)
    return model.reconstruct(keyframe, vectors, num_inference_steps=2)


def offload_by_accelerate(model: LatentVideoDetokenizer, folder: Path) -> None:
    accelerate.cpu_offload(model.denoiser, execution_device=CPU)


def offload_to_disk_by_accelerate(model: LatentVideoDetokenizer, folder: Path) -> None:
    accelerate.disk_offload(model.denoiser, str(folder / "model"), execution_device=CPU)
    accelerate.disk_offload(model.vae, str(folder / "vae"), execution_device=CPU)
    assert {value.device.type for value in model.denoiser.parameters()} == {"meta"}
    assert device_of(model.denoiser) == CPU


def offload_to_disk_by_diffusers(model: LatentVideoDetokenizer, folder: Path) -> None:
    options = {"onload_device": CPU, "offload_type": "leaf_level", "offload_to_disk_path": str(folder)}
    apply_group_offloading(model.denoiser, **options)


def chunk_feed_forward(model: LatentVideoDetokenizer, folder: Path) -> None:
    model.denoiser.unet.enable_forward_chunking(1, 1)


@pytest.mark.parametrize("part", PARTS)
def test_no_tensor_stays_on_the_meta_device(part: str):
    model = random_model(part)
    assert not [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]


@pytest.mark.parametrize(
    "offload", [offload_by_accelerate, offload_to_disk_by_accelerate, offload_to_disk_by_diffusers, chunk_feed_forward]
)
def test_offloading_does_not_change_frames(offload: Callable[[LatentVideoDetokenizer, Path], None], tmp_path: Path):
    whole, offloadd = detokenizer(), detokenizer()
    offload(offloadd, tmp_path)
    assert (frames(whole) - frames(offloadd)).abs().max() < 1e-4


def test_weights_stored_in_fewer_bits():
    offloadd = detokenizer()
    offloadd.denoiser.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    difference = frames(offloadd) - frames(detokenizer())
    assert offloadd.denoiser.unet.conv_in.weight.dtype == torch.bfloat16
    assert 0 < difference.square().mean().sqrt() < 0.02


def test_keyframes_from_weights_on_disk(tmp_path: Path):
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, offloadd = random_model("keyframes"), random_model("keyframes")
    accelerate.disk_offload(offloadd, str(tmp_path / "keyframes"), execution_device=CPU)
    assert [row.tolist() for row in offloadd.encode(images).ids] == [row.tolist() for row in whole.encode(images).ids]
    codes = [torch.randn(3, 32), torch.randn(16, 32)]
    condition, kept = random_model("keyframes/condition"), random_model("keyframes/condition")
    accelerate.disk_offload(kept, str(tmp_path / "condition"), execution_device=CPU)
    for one, other in zip(condition(codes), kept(codes), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_from_shards(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("videotok.lavit.conversion.SHARD_BYTES", 80_000)
    convert(write_checkpoint(tmp_path / "published"), tmp_path / "bundle", half=True)
    assert len(list((tmp_path / "bundle" / "detokenizer").glob("*.safetensors"))) > 2
    whole = frames(VideoTokenizer.from_pretrained(tmp_path / "bundle").detokenizer)  # type: ignore[arg-type]
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "bundle", dtype=dtype)
    assert {value.dtype for value in tokenizer.detokenizer.denoiser.parameters()} == {dtype}
    rebuilt = frames(tokenizer.detokenizer)  # type: ignore[arg-type]
    assert rebuilt.dtype == torch.float32
    assert (rebuilt - whole).square().mean().sqrt() < 0.03
    keyframes = tokenizer.bundle.load_keyframes(dtype)
    assert len(keyframes.encode(torch.zeros(1, 3, 56, 56)).ids) == 1


def test_images_in_tiles_and_frames_in_chunks(tmp_path: Path):
    """The image autoencoder can work in tiles; the temporal one cannot, its frames go through in chunks."""
    folder = write_checkpoint(tmp_path / "published", image_decoder=True)
    model = VideoTokenizer.from_pretrained(folder).keyframes
    model.image_decoder.size, model.image_decoder.num_inference_steps = (64, 64), 1
    codes = [torch.randn(5, 32, generator=torch.Generator().manual_seed(0))]
    whole = model.image_decoder.decode(codes)
    assert isinstance(model.image_decoder.vae, AutoencoderKL)
    model.image_decoder.vae.enable_tiling()
    model.image_decoder.vae.tile_sample_min_size, model.image_decoder.vae.tile_latent_min_size = 32, 16
    tiled = model.image_decoder.decode(codes)
    assert tiled.shape == whole.shape == (1, 3, 64, 64)
    assert not torch.equal(tiled, whole)
    frame_by_frame = detokenizer()
    frame_by_frame.decode_chunk_size = 1
    assert frames(frame_by_frame).shape == (1, 4, 3, 64, 64)
    with pytest.raises(NotImplementedError, match="Tiling"):
        frame_by_frame.vae.enable_tiling()
