"""Keyframe tokenizers that are not ours: diffusers' VQModel and those of other packages, through the whole pipeline."""

import json
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch
from diffusers import VQModel

from videotok import ModelError, TokensError, VideoTokenizer, VideoTokens
from videotok.bundle import ENTRY_POINTS, load_keyframes
from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.keyframes import KeyframeTokenizer, KeyframeTokenizerProtocol, VQModelTokenizer


def vqmodel(**sizes) -> VQModel:
    torch.manual_seed(0)
    given = dict(
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
    """A VQModel for pictures of 24 x 24, which it shrinks to 6 x 6 cells."""
    folder = tmp_path_factory.mktemp("vqmodel")
    vqmodel().save_pretrained(folder)
    (folder / "videotok.json").write_text('{"image_size": 24}')
    return folder


@pytest.fixture(scope="module")
def bundle(folder, tiny_model, tmp_path_factory):
    """A bundle whose keyframes are a VQModel's."""
    bundle = tmp_path_factory.mktemp("bundle")
    (bundle / "keyframes").symlink_to(folder)
    for part in ("motion", "detokenizer"):
        (bundle / part).symlink_to(tiny_model / part)
    return bundle


def test_both_follow_the_protocol(tiny_model, folder):
    ours, theirs = load_keyframes(tiny_model / "keyframes", torch.float32), load_keyframes(folder, torch.float32)
    assert isinstance(ours, KeyframeTokenizer)
    assert isinstance(theirs, VQModelTokenizer)
    for tokenizer in (ours, theirs):
        assert isinstance(tokenizer, KeyframeTokenizerProtocol)
        assert tokenizer.num_patches == tokenizer.grid[0] * tokenizer.grid[1]
        images = torch.rand(2, 3, tokenizer.image_size, tokenizer.image_size) * 2 - 1
        assert tokenizer.scores(images).shape == (2, tokenizer.num_patches)
        tokens = tokenizer.encode(images)
        restored = tokenizer.decode(tokens.ids, tokens.keep_mask)
        assert restored.shape == images.shape
        assert restored.abs().max() <= 1


@pytest.mark.parametrize("pixel_range", [(-1, 1), (0, 1)])
def test_a_word_for_each_cell_is_what_the_vqmodel_itself_says(pixel_range):
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


def test_a_vqmodel_leaves_nothing_out():
    tokenizer = VQModelTokenizer(vqmodel(), 24)
    images, mask = torch.zeros(1, 3, 24, 24), torch.zeros(1, 36, dtype=torch.bool)
    for rule in ({"keep": 0.5}, {"keep_mask": mask}):
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


def test_the_whole_pipeline(bundle, clip_mp4, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["encode", str(clip_mp4), "-o", "a.vtok", "--model", str(bundle)]) == 0
    tokens = VideoTokens.load("a.vtok")
    assert tokens.visual_counts.tolist() == [36, 36]
    assert tokens.keep_mask.all()
    assert tokens.codebooks["visual"] == 40
    assert main(["decode", "a.vtok", "-o", "a.mp4", "--size", "64x48", "--steps", "1", "--model", str(bundle)]) == 0
    assert main(["info", "a.vtok"]) == 0
    assert "of 36 patches" in capsys.readouterr().out


def test_one_part_of_another_folder(folder, tiny_model, clip_mp4, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = ["--model", str(tiny_model), "--keyframe-model", str(folder)]
    assert main(["encode", str(clip_mp4), "-o", "a.vtok", "--max-clips", "1", *models]) == 0
    tokens = VideoTokens.load("a.vtok")
    assert tokens.models["keyframes"].name == folder.name
    assert tokens.models["motion"].name == tiny_model.name
    assert main(["decode", "a.vtok", "-o", "a.mp4", "--size", "64x48", "--steps", "1", *models]) == 0


def test_the_same_ids_however_it_is_run(bundle, clip_mp4):
    tokenizer = VideoTokenizer.from_pretrained(bundle)
    one, two = (tokenizer.encode(clip_mp4, EncodeConfig(batch_size=size)) for size in (1, 2))
    np.testing.assert_array_equal(one.visual_ids, two.visual_ids)


def test_weights_of_another_picture_size(bundle, folder, tiny_model, clip_mp4, tmp_path):
    tokens = VideoTokenizer.from_pretrained(bundle).encode(clip_mp4, max_clips=1)
    other = tmp_path / "other"
    vqmodel().save_pretrained(other)
    (other / "videotok.json").write_text('{"image_size": 32}')
    with pytest.raises(TokensError, match=r"36 patches.* 64"):
        VideoTokenizer.from_pretrained(tiny_model, keyframes=other).decode(tokens)


class Grey:
    """The least that a third party could bring: one word, one patch."""

    image_size, grid, num_patches, codebook_size, drops_patches = 8, (1, 1), 1, 1, False

    def __init__(self, folder, dtype):
        self.dtype = dtype

    def scores(self, images):
        return torch.zeros(len(images), 1)

    def encode(self, images, keep=None, *, keep_mask=None):
        from videotok.keyframes import KeyframeTokens

        return KeyframeTokens([torch.zeros(1, dtype=torch.long)] * len(images), torch.ones(len(images), 1).bool())

    def decode(self, ids, keep_mask):
        return torch.zeros(len(ids), 3, 8, 8)


@pytest.fixture
def third_party(tmp_path, tiny_model, monkeypatch):
    """A bundle with the weights of a class that only an entry point knows, and such entry points."""
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{value}", ENTRY_POINTS) for name, value in (("Grey", "Grey"), ("Odd", "vqmodel"))
    )
    monkeypatch.setattr("videotok.bundle.entry_points", lambda group: points.select(group=group))
    (tmp_path / "keyframes").mkdir()
    name_class(tmp_path, "Grey")
    source = tiny_model / "keyframes/diffusion_pytorch_model.safetensors"
    (tmp_path / "keyframes/any.safetensors").write_bytes(source.read_bytes())
    (tmp_path / "motion").symlink_to(tiny_model / "motion")
    return tmp_path


def name_class(bundle, name):
    (bundle / "keyframes/config.json").write_text(json.dumps({"_class_name": name}))


def test_third_parties_register_theirs(third_party, clip_mp4):
    tokens = VideoTokenizer.from_pretrained(third_party).encode(clip_mp4, max_clips=1)
    assert tokens.visual_ids.tolist() == [0]
    assert tokens.keep_mask.shape == (1, 1)


def test_unknown_classes_are_named(third_party):
    name_class(third_party, "Odder")
    with pytest.raises(ModelError, match=r"class Odder; .* Grey, KeyframeTokenizer,.* Odd, VQModel"):
        _ = VideoTokenizer.from_pretrained(third_party).keyframes


def test_what_is_no_tokenizer_is_refused(third_party, monkeypatch):
    name_class(third_party, "Odd")
    monkeypatch.setattr(f"{__name__}.vqmodel", lambda folder, dtype: "a text")
    with pytest.raises(ModelError, match=r"it has no .*codebook_size"):
        _ = VideoTokenizer.from_pretrained(third_party).keyframes
