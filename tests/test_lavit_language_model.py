"""The published language models: converted with their embedded tokenizers, which they read videos with."""

import shutil
from pathlib import Path

import pytest
import torch
from lavit_files import small_parts, write_checkpoint, write_language_model

from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.errors import ModelError, TokensError
from videotok.lavit.conversion import convert
from videotok.lavit.modeling_keyframes import LavitKeyframeTokenizer
from videotok.lavit.weight_map import PARTS
from videotok.lm.chat import Prompt, Turn
from videotok.lm.data import TokenCache
from videotok.lm.generation import model_input
from videotok.lm.loading import load_language_model
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import conversation_document, pack
from videotok.pipeline import VideoTokenizer
from videotok.vocabulary import Vocabulary

SIZES = {"keyframes": 16384, "motion": 1024}
"""Codebooks of the published vocabulary."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in small_parts(SIZES).items():
        monkeypatch.setitem(PARTS, name, part)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The published folder, with an understanding model, converted."""
    published = write_checkpoint(tmp_path / "published")
    write_language_model(published / "language_model_sft")
    convert(published, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_embedded_tokenizers_are_converted(tmp_path: Path):
    published = tmp_path / "published"
    weights = write_language_model(published / "language_model_sft")
    done = {made.part: made.num_parameters for made in convert(published, tmp_path / "bundle")}
    folder = tmp_path / "bundle" / "language_model_sft"
    model = VideoLanguageModel.from_pretrained(folder)
    assert model.vocabulary == Vocabulary.published()
    assert model.prompt == Prompt.video_lavit()
    assert (model.settings.fps, model.settings.max_clips, model.settings.motion_source) == ("6", 16, "mpeg4")
    assert model.feature_kinds == ("visual",)
    read = model.model.state_dict()
    assert all(torch.equal(read[key], value) for key, value in weights.items())
    assert done["language_model_sft/keyframes"] > done["language_model_sft/motion"] > 0
    state = torch.load(published / "language_model_sft" / "pytorch_model-00001-of-00002.bin")
    tokenizer = VideoTokenizer.from_pretrained(folder).keyframes
    assert isinstance(tokenizer, LavitKeyframeTokenizer)
    assert tokenizer.to_language is not None
    assert torch.equal(tokenizer.to_language.weight, state["model.visual_tokenizer.vit_proj.weight"])
    assert torch.equal(
        tokenizer.vit.blocks[0].mlp[0].bias, state["model.visual_tokenizer.encoder.blocks.0.mlp.fc1.bias"]
    )
    with pytest.raises(ModelError, match="pickled weights"):
        VideoLanguageModel.from_pretrained(published / "language_model_sft")


def test_reads_keyframes_as_features_and_motion_as_ids(bundle: Path, clip_mp4: Path, tmp_path: Path):
    loaded = load_language_model(bundle / "language_model_sft")
    assert loaded.note is None
    assert loaded.inputs == "features"
    model = loaded.model
    cache = TokenCache(tmp_path / "encoded", loaded.tokenizer, model.settings, model.feature_kinds)
    encoded = cache.get(clip_mp4)
    assert encoded.tokens.motion_source == "mpeg4"
    video = model_input(model, encoded)
    assert video is not None
    document = conversation_document(model.tokenizer, model.prompt, [Turn("user", "what is it")], video)
    batch = pack([[document]], model.vocabulary, model.padding_id)
    given = model.embed(batch.ids, batch.features)[0]
    table = model.model.get_input_embeddings().weight
    visual = (document.ids >= 32002) & (document.ids < 48386)
    features = encoded.features
    assert features is not None
    assert torch.equal(given[visual], torch.cat([row["visual"] for row in features]))
    assert torch.equal(given[~visual], table[document.ids[~visual]])
    # of the tokenizer it was trained with, which is not the one beside it
    ours, other = loaded.tokenizer.keyframes, VideoTokenizer.from_pretrained(bundle).keyframes
    picture = torch.zeros(1, 3, 56, 56)
    mask = torch.ones(1, 16, dtype=torch.bool)
    assert not torch.allclose(ours.patch_features(picture, mask)[0], other.patch_features(picture, mask)[0])


def test_ids_are_read_where_there_are_no_features(bundle: Path, clip_mp4: Path, capsys: pytest.CaptureFixture):
    folder = bundle / "language_model_sft"
    ask = ["lm", "ask", str(clip_mp4), "what", "--lm", str(folder), "--max-tokens", "3"]
    assert main(ask) == 0
    assert capsys.readouterr().err == ""
    assert main([*ask, "--inputs", "ids", "--precision", "bfloat16"]) == 0
    assert "reads keyframes as ids, not as features: as asked for" in capsys.readouterr().err
    shutil.rmtree(folder / "keyframes")
    assert main([*ask, "--video-model", str(bundle)]) == 0
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "those of" in note
    assert "inputs features" in note
    assert main([*ask, "--video-model", str(bundle), "--inputs", "features"]) == 0
    capsys.readouterr()
    assert main([*ask, "--inputs", "features"]) == 2  # the weights that ship have none
    assert "have no features of 24 dimensions" in capsys.readouterr().err
    assert load_language_model(folder).note == (
        "language_model_sft reads keyframes as ids, not as features: the visual tokenizer it was trained with is not "
        "in its folder (videotok convert puts it there)"
    )


def test_a_file_of_tokens_has_no_features(bundle: Path, clip_mp4: Path, tmp_path: Path):
    loaded = load_language_model(bundle / "language_model_sft")
    tokens = loaded.tokenizer.encode(
        clip_mp4, EncodeConfig(max_clips=1, predict_keyframes=False, motion_source="mpeg4")
    )
    tokens.save(tmp_path / "clip.vtok")
    cache = TokenCache(tmp_path / "encoded", loaded.tokenizer, loaded.model.settings, loaded.model.feature_kinds)
    with pytest.raises(TokensError, match="or read ids"):
        cache.get(tmp_path / "clip.vtok")


def test_without_the_projection_there_are_ids_alone(tmp_path: Path):
    """The public code reads tokenizer_encoder.bin whatever it lacks."""
    published = write_checkpoint(tmp_path / "published")
    path = published / "visual_tokenizer" / "tokenizer_encoder.bin"
    state = torch.load(path)
    torch.save({key: value for key, value in state.items() if not key.startswith("vit_proj.")}, path)
    convert(published, tmp_path / "bundle")
    for place in (published, tmp_path / "bundle"):
        model = VideoTokenizer.from_pretrained(place).keyframes
        assert model.encode(torch.zeros(1, 3, 56, 56)).ids
        with pytest.raises(ModelError, match="vit_proj"):
            model.patch_features(torch.zeros(1, 3, 56, 56), torch.ones(1, 16, dtype=torch.bool))


def test_a_missing_or_damaged_shard(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder, out = tmp_path / "published" / "language_model_sft", tmp_path / "bundle"
    write_language_model(folder)
    shard = folder / "pytorch_model-00001-of-00002.bin"
    whole = shard.read_bytes()
    shard.unlink()
    done = {made.part: made.missing for made in convert(tmp_path / "published", out)}
    assert done["language_model_sft"] == ("language_model_sft/pytorch_model-00001-of-00002.bin",)
    assert not (out / "language_model_sft").exists()
    shard.write_bytes(whole[: len(whole) // 2])
    assert main(["convert", str(tmp_path / "published"), str(out)]) == 2
    error = capsys.readouterr().err
    assert shard.name in error
    assert error.count("\n") == 1
    state = unpickled(whole, tmp_path)
    del state["model.visual_tokenizer.causal_encoder.norm.weight"]
    torch.save(state, shard)
    with pytest.raises(ModelError, match=r"language_model_sft: causal_encoder.norm.weight is missing"):
        convert(tmp_path / "published", tmp_path / "again")


def unpickled(whole: bytes, folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "whole.bin"
    path.write_bytes(whole)
    return torch.load(path)
