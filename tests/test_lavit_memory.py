"""Published models where memory is short: half precision, shards, weights kept elsewhere, pictures in tiles"""

from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from diffusers.hooks import apply_group_offloading
from lavit_files import small_parts, write_published

from benchmarks.parity_cases import SCHEDULER, VAE, Drawn
from unet3d import LatentDetokenizer
from unet3d.diffusion import device_of
from videotok.lavit.conversion import convert
from videotok.lavit.weight_map import PARTS, build, published_shapes
from videotok.pipeline import VideoTokenizer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in small_parts().items():
        monkeypatch.setitem(PARTS, name, part)


def detokenizer() -> LatentDetokenizer:
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(**VAE).eval().requires_grad_(False)
    return LatentDetokenizer(drawn("detokenizer"), vae, EulerDiscreteScheduler(**SCHEDULER))


def drawn(part: str):
    return build(PARTS[part], Drawn(published_shapes(PARTS[part])))


def frames(model: LatentDetokenizer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    keyframe = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    vectors = 0.1 * torch.randn(1, 4, 20, 36, 2, generator=generator)
    return model.reconstruct(keyframe, vectors, num_inference_steps=2)


def kept_by_accelerate(model: LatentDetokenizer, folder: Path) -> None:
    accelerate.cpu_offload(model.model, execution_device=CPU)


def kept_on_disk_by_accelerate(model: LatentDetokenizer, folder: Path) -> None:
    accelerate.disk_offload(model.model, str(folder / "model"), execution_device=CPU)
    accelerate.disk_offload(model.vae, str(folder / "vae"), execution_device=CPU)
    assert {value.device.type for value in model.model.parameters()} == {"meta"}
    assert device_of(model.model) == CPU


def kept_on_disk_by_diffusers(model: LatentDetokenizer, folder: Path) -> None:
    options = {"onload_device": CPU, "offload_type": "leaf_level", "offload_to_disk_path": str(folder)}
    apply_group_offloading(model.model, **options)


def fed_in_chunks(model: LatentDetokenizer, folder: Path) -> None:
    model.model.unet.enable_forward_chunking(1, 1)


@pytest.mark.parametrize("part", PARTS)
def test_all_of_a_model_can_be_moved(part: str):
    model = drawn(part)
    assert not [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]


@pytest.mark.parametrize(
    "spare", [kept_by_accelerate, kept_on_disk_by_accelerate, kept_on_disk_by_diffusers, fed_in_chunks]
)
def test_frames_stay_the_same(spare: Callable[[LatentDetokenizer, Path], None], tmp_path: Path):
    whole, spared = detokenizer(), detokenizer()
    spare(spared, tmp_path)
    assert (frames(whole) - frames(spared)).abs().max() < 1e-4


def test_weights_kept_in_fewer_bits_than_are_computed_with():
    spared = detokenizer()
    spared.model.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    difference = frames(spared) - frames(detokenizer())
    assert spared.model.unet.conv_in.weight.dtype == torch.bfloat16
    assert 0 < difference.square().mean().sqrt() < 0.02


def test_keyframes_from_weights_on_disk(tmp_path: Path):
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole, spared = drawn("keyframes"), drawn("keyframes")
    accelerate.disk_offload(spared, str(tmp_path / "keyframes"), execution_device=CPU)
    assert [row.tolist() for row in spared.encode(images).ids] == [row.tolist() for row in whole.encode(images).ids]
    codes = [torch.randn(3, 32), torch.randn(16, 32)]
    condition, kept = drawn("keyframes/condition"), drawn("keyframes/condition")
    accelerate.disk_offload(kept, str(tmp_path / "condition"), execution_device=CPU)
    for one, other in zip(condition(codes), kept(codes), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_from_shards(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("videotok.lavit.conversion.SHARD", 20000)
    convert(write_published(tmp_path / "published"), tmp_path / "bundle", half=True)
    assert len(list((tmp_path / "bundle" / "detokenizer").glob("*.safetensors"))) > 2
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "bundle")
    whole = frames(tokenizer.detokenizer)  # type: ignore[arg-type]
    tokenizer.detokenizer = tokenizer.bundle.load_detokenizer(dtype)
    assert {value.dtype for value in tokenizer.detokenizer.model.parameters()} == {dtype}
    rebuilt = frames(tokenizer.detokenizer)  # type: ignore[arg-type]
    assert rebuilt.dtype == torch.float32
    assert (rebuilt - whole).square().mean().sqrt() < 0.03
    keyframes = tokenizer.bundle.load_keyframes(dtype)
    assert len(keyframes.encode(torch.zeros(1, 3, 56, 56)).ids) == 1


def test_pictures_in_tiles_and_frames_in_chunks(tmp_path: Path):
    """The picture's autoencoder has tiles, the temporal one has none: its frames go through in chunks."""
    folder = write_published(tmp_path / "published", drawing=True)
    model = VideoTokenizer.from_pretrained(folder).keyframes
    model.painter.size, model.painter.steps = (64, 64), 1
    codes = [torch.randn(5, 32, generator=torch.Generator().manual_seed(0))]
    whole = model.painter.paint(codes)
    assert isinstance(model.painter.vae, AutoencoderKL)
    model.painter.vae.enable_tiling()
    model.painter.vae.tile_sample_min_size, model.painter.vae.tile_latent_min_size = 32, 16
    tiled = model.painter.paint(codes)
    assert tiled.shape == whole.shape == (1, 3, 64, 64)
    assert not torch.equal(tiled, whole)
    frame_by_frame = detokenizer()
    frame_by_frame.chunk = 1
    assert frames(frame_by_frame).shape == (1, 4, 3, 64, 64)
    with pytest.raises(NotImplementedError, match="Tiling"):
        frame_by_frame.vae.enable_tiling()
