"""The keyframe tokenizer protocol: diffusers' VQModel and tokenizers of other packages, through the whole pipeline."""

import json
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel

from videotok import ModelError, TokensError, VideoTokenizer, VideoTokens
from videotok.bundle import ENTRY_POINTS, load_keyframes
from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.keyframes import KeyframeTokenizer, KeyframeTokenizerProtocol, KeyframeTokens, VQModelTokenizer


def vqmodel(**sizes) -> VQModel:
    torch.manual_seed(0)
    given: dict[str, Any] = dict(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        num_vq_embeddings=40,
        mid_block_add_attention=False,
    )
    return VQModel(**given | sizes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A VQModel for images of 24 x 24, which it downsamples to 6 x 6 cells."""
    folder = tmp_path_factory.mktemp("vqmodel")
    vqmodel().save_pretrained(folder)
    (folder / "videotok.json").write_text('{"image_size": 24}')
    return folder


@pytest.fixture(scope="module")
def bundle(folder, tiny_model, tmp_path_factory):
    """A bundle with a VQModel as keyframe tokenizer."""
    bundle = tmp_path_factory.mktemp("bundle")
    (bundle / "keyframes").symlink_to(folder)
    for part in ("motion", "detokenizer"):
        (bundle / part).symlink_to(tiny_model / part)
    return bundle


def test_shipped_class_and_vqmodel_implement_the_protocol(tiny_model, folder):
    own, vq = load_keyframes(tiny_model / "keyframes", torch.float32), load_keyframes(folder, torch.float32)
    assert isinstance(own, KeyframeTokenizer)
    assert isinstance(vq, VQModelTokenizer)
    for tokenizer in (own, vq):
        assert isinstance(tokenizer, KeyframeTokenizerProtocol)
        assert tokenizer.num_patches == tokenizer.grid[0] * tokenizer.grid[1]
        images = torch.rand(2, 3, tokenizer.image_size, tokenizer.image_size) * 2 - 1
        assert tokenizer.scores(images).shape == (2, tokenizer.num_patches)
        tokens = tokenizer.encode(images)
        restored = tokenizer.decode(tokens.ids, tokens.keep_mask)
        assert restored.shape == images.shape
        assert restored.abs().max() <= 1
        assert len(tokenizer.codebook_vectors) == tokenizer.codebook_size
        assert (tokenizer.device.type, tokenizer.dtype) == ("cpu", torch.float32)
        assert tokenizer.to(dtype=torch.float64) is tokenizer
        assert tokenizer.dtype == torch.float64


def test_capabilities_are_what_encode_takes(tiny_model, folder):
    """What a tokenizer says of itself is what `encode` does: options are refused where it says so, and only there."""
    for place in (tiny_model / "keyframes", folder):
        tokenizer = load_keyframes(place, torch.float64)
        images = torch.rand(1, 3, tokenizer.image_size, tokenizer.image_size) * 2 - 1
        some = torch.ones(1, tokenizer.num_patches, dtype=torch.bool)
        some[0, 0] = False
        cases: list[tuple[bool, dict[str, Any]]] = [
            (tokenizer.drops_patches, {"keep_mask": some}),
            (tokenizer.drops_patches, {"num_tokens": 1}),
            (tokenizer.chooses_rate, {"keep_ratio": 0.5}),
            (tokenizer.refines_codes, {"refinement_steps": 1}),
            (tokenizer.samples_patches, {"generator": torch.Generator()}),
        ]
        for capability, options in cases:
            if capability:
                tokenizer.encode(images, **options)
            else:
                with pytest.raises(ValueError, match=r"drop|sample|refine"):
                    tokenizer.encode(images, **options)


def test_features_of_kept_patches(tiny_model, folder):
    own, vq = load_keyframes(tiny_model / "keyframes", torch.float32), load_keyframes(folder, torch.float32)
    images = torch.rand(2, 3, own.image_size, own.image_size) * 2 - 1
    mask = own.encode(images).keep_mask
    features = own.patch_features(images, mask)
    assert [rows.shape for rows in features] == [(n, own.feature_width) for n in mask.sum(1).tolist()]
    assert vq.feature_width == 0
    with pytest.raises(ModelError, match="VQModelTokenizer has no features"):
        vq.patch_features(torch.zeros(1, 3, 24, 24), torch.ones(1, 36, dtype=torch.bool))


@pytest.mark.parametrize("pixel_range", [(-1, 1), (0, 1)])
def test_vqmodel_round_trip_equals_the_model_itself(pixel_range):
    model = vqmodel()
    tokenizer = VQModelTokenizer(model, 24, pixel_range)
    images = torch.rand(2, 3, 24, 24) * 2 - 1
    tokens = tokenizer.encode(images)
    assert [len(ids) for ids in tokens.ids] == [36, 36]
    low, high = pixel_range
    with torch.no_grad():
        own = model((images + 1) / 2 * (high - low) + low).sample
    wanted = ((own - low) / (high - low) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(tokens.ids, tokens.keep_mask), wanted, rtol=0, atol=1e-4)


def test_vqmodel_refuses_to_drop_cells():
    tokenizer = VQModelTokenizer(vqmodel(), 24)
    images, mask = torch.zeros(1, 3, 24, 24), torch.zeros(1, 36, dtype=torch.bool)
    rules: list[dict[str, Any]] = [{"keep_ratio": 0.5}, {"num_tokens": 35}, {"keep_mask": mask}]
    for rule in rules:
        with pytest.raises(ValueError, match="36 cells"):
            tokenizer.encode(images, **rule)
    with pytest.raises(ValueError, match="all True"):
        tokenizer.decode([torch.zeros(0, dtype=torch.long)], mask)
    with pytest.raises(ValueError, match=r"40\.\.40.*0\.\.39"):
        tokenizer.decode([torch.full((36,), 40)], ~mask)
    with pytest.raises(ValueError, match="multiple of 4"):
        VQModelTokenizer(vqmodel(), 30)
    with pytest.raises(ValueError, match="4 channels in"):
        VQModelTokenizer(vqmodel(in_channels=4), 24)


def test_vqmodel_in_the_pipeline(bundle, clip_mp4, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["encode", str(clip_mp4), "-o", "a.vtok", "--model", str(bundle)]) == 0
    tokens = VideoTokens.load("a.vtok")
    assert tokens.visual_counts.tolist() == [36, 36]
    assert tokens.keep_mask.all()
    assert tokens.codebooks["visual"] == 40
    assert main(["decode", "a.vtok", "-o", "a.mp4", "--size", "64x48", "--steps", "1", "--model", str(bundle)]) == 0
    assert main(["info", "a.vtok"]) == 0
    assert "of 36 patches" in capsys.readouterr().out


def test_keyframe_model_from_another_folder(folder, tiny_model, clip_mp4, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ["--model", str(tiny_model), "--keyframe-model", str(folder)]
    assert main(["encode", str(clip_mp4), "-o", "a.vtok", "--max-clips", "1", *models]) == 0
    tokens = VideoTokens.load("a.vtok")
    assert tokens.models["keyframes"].name == folder.name
    assert tokens.models["motion"].name == tiny_model.name
    assert main(["decode", "a.vtok", "-o", "a.mp4", "--size", "64x48", "--steps", "1", *models]) == 0


def test_vqmodel_ids_do_not_depend_on_the_batch(bundle, clip_mp4):
    tokenizer = VideoTokenizer.from_pretrained(bundle)
    one, two = (tokenizer.encode(clip_mp4, EncodeConfig(batch_size=size)) for size in (1, 2))
    np.testing.assert_array_equal(one.visual_ids, two.visual_ids)


def test_tokens_of_another_image_size_are_refused(bundle, folder, tiny_model, clip_mp4, tmp_path):
    tokens = VideoTokenizer.from_pretrained(bundle).encode(clip_mp4, EncodeConfig(max_clips=1))
    other = tmp_path / "other"
    vqmodel().save_pretrained(other)
    (other / "videotok.json").write_text('{"image_size": 32}')
    with pytest.raises(TokensError, match=r"36 patches.* 64"):
        VideoTokenizer.from_pretrained(tiny_model, keyframes=other).decode(tokens)


class Gray(KeyframeTokenizerProtocol):
    """The least that another package has to implement: one code, one patch."""

    image_size = property(lambda self: 8)
    grid = property(lambda self: (1, 1))
    codebook_size = property(lambda self: 1)
    drops_patches = property(lambda self: False)
    device = property(lambda self: torch.device("cpu"))
    dtype = property(lambda self: self._dtype)

    def __init__(self, folder, dtype):
        self._dtype = dtype

    def scores(self, images):
        return torch.zeros(len(images), 1)

    def to(self, *, device=None, dtype=None):
        self._dtype = dtype or self._dtype
        return self

    def encode(self, images, **options):
        return KeyframeTokens([torch.zeros(1, dtype=torch.long)] * len(images), torch.ones(len(images), 1).bool())

    def decode(self, ids, keep_mask):
        return torch.zeros(len(ids), 3, 8, 8)


@pytest.fixture
def third_party(tmp_path, tiny_model, monkeypatch):
    """A bundle whose keyframe class is registered by an entry point only."""
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{value}", ENTRY_POINTS) for name, value in (("Gray", "Gray"), ("Odd", "vqmodel"))
    )
    monkeypatch.setattr("videotok.bundle.entry_points", lambda group: points.select(group=group))
    (tmp_path / "keyframes").mkdir()
    name_class(tmp_path, "Gray")
    source = tiny_model / "keyframes/diffusion_pytorch_model.safetensors"
    (tmp_path / "keyframes/any.safetensors").write_bytes(source.read_bytes())
    (tmp_path / "motion").symlink_to(tiny_model / "motion")
    return tmp_path


def name_class(bundle, name):
    (bundle / "keyframes/config.json").write_text(json.dumps({"_class_name": name}))


def test_classes_of_other_packages_are_loaded_by_entry_point(third_party, clip_mp4):
    tokens = VideoTokenizer.from_pretrained(third_party).encode(clip_mp4, EncodeConfig(max_clips=1))
    assert tokens.visual_ids.tolist() == [0]
    assert tokens.keep_mask.shape == (1, 1)


def test_unknown_class_is_refused(third_party):
    name_class(third_party, "Odder")
    with pytest.raises(ModelError, match=r"class Odder; .* Gray, KeyframeTokenizer,.* Odd, VQModel"):
        _ = VideoTokenizer.from_pretrained(third_party).keyframes


def test_entry_point_without_the_protocol_is_refused(third_party, monkeypatch):
    name_class(third_party, "Odd")
    monkeypatch.setattr(f"{__name__}.vqmodel", lambda folder, dtype: "a text")
    with pytest.raises(ModelError, match=r"it has no .*codebook_size"):
        _ = VideoTokenizer.from_pretrained(third_party).keyframes
