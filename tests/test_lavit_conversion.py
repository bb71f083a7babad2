"""Published files: complete or in part, refused by name where wrong, equal models before and after conversion."""

import json
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lavit_files import save, small_parts, write_checkpoint
from safetensors.torch import load_file, save_file

from codec import MotionField
from videotok.bundle import Bundle
from videotok.cli.main import main
from videotok.errors import ModelError
from videotok.lavit.conversion import convert
from videotok.lavit.weight_map import PARTS, checkpoint_shapes
from videotok.pipeline import VideoTokenizer
from videotok.tokens import VideoTokens

KEYS = Path(__file__).parent.parent.parent / "shared" / "published_keys.json"
SIZES = {"motion": 158.5, "keyframes": 1420.5, "keyframes/condition": 414.0, "detokenizer": 1560}


@pytest.mark.parametrize("name", PARTS)
def test_number_of_parameters_of_the_published_sizes(name: str):
    numbers = sum(int(np.prod(shape)) for shape in checkpoint_shapes(PARTS[name]).values()) / 1e6
    assert numbers == pytest.approx(SIZES[name], rel=0.03)


@pytest.mark.skipif(not KEYS.exists(), reason="the list of published keys is not part of the repository")
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("motion", {"motion_tokenizer.bin": ""}),
        ("keyframes", {"visual_tokenizer/eva_vitg_psz14.bin": "vit.", "visual_tokenizer/tokenizer_encoder.bin": ""}),
        ("keyframes/condition", {"visual_tokenizer/highres_tokenizer_decoder.bin": ""}),
        ("detokenizer", {"video_3d_unet.bin, keys motion_encoder.*": "motion_encoder."}),
    ],
)
def test_every_published_key_is_used_in_its_shape(name: str, files: dict[str, str]):
    known = json.loads(KEYS.read_text())
    listed = {prefix + key: tuple(shape) for file, prefix in files.items() for key, shape in known[file].items()}
    ours = {key: shape for key, shape in checkpoint_shapes(PARTS[name]).items() if not key.startswith("unet.")}
    assert {key: shape for key, shape in listed.items() if key in ours} == ours
    assert set(listed) - set(ours) <= {
        f"vit.{owner}.{kind}" for owner in ("norm", "head") for kind in ("weight", "bias")
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in small_parts().items():
        monkeypatch.setitem(PARTS, name, part)


@pytest.fixture
def published(tmp_path: Path, small: None) -> Path:
    return write_checkpoint(tmp_path / "Video-LaVIT")


def test_same_models_from_the_files_and_from_the_bundle(published: Path, tmp_path: Path):
    done = {made.part: made for made in convert(published, tmp_path / "bundle")}
    assert not done["motion"].missing
    assert done["language_model"].missing == ("language_model/",)
    files, bundle = VideoTokenizer.from_pretrained(published), VideoTokenizer.from_pretrained(tmp_path / "bundle")
    for part in ("keyframes", "motion"):
        assert files.bundle.identity(part).sha256 == bundle.bundle.identity(part).sha256
    for one, other in (
        (files.motion, bundle.motion),
        (files.keyframes, bundle.keyframes),
        (files.detokenizer.denoiser, bundle.detokenizer.denoiser),
    ):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_encodes_and_decodes(published: Path, clip_mp4: Path, tmp_path: Path):
    vtok, video = tmp_path / "clip.vtok", tmp_path / "out.mp4"
    arguments = ["--model", str(published), "-o"]
    options = ["--max-clips", "1", "--motion-source", "mpeg4", "--patch-selection", "sample", "--seed", "1"]
    assert main(["encode", str(clip_mp4), *options, *arguments, str(vtok)]) == 0
    tokens = VideoTokens.load(vtok)
    assert tokens.motion_source == "mpeg4"
    assert tokens.motion_ids.shape == (1, 1, 135)
    assert tokens.global_motion_ids.shape == (1, 0)
    exact = ["--keyframes-from", str(clip_mp4), "--size", "64x48"]
    assert main(["decode", str(vtok), *exact, *arguments, str(video)]) == 0


def test_decoding_without_an_image_decoder_is_refused(published: Path, clip_mp4: Path):
    model = VideoTokenizer.from_pretrained(published).keyframes
    found = model.encode(torch.zeros(1, 3, 56, 56))
    with pytest.raises(ModelError, match="image_detokenizer"):
        model.decode(found.ids, found.keep_mask)
    with pytest.raises(ValueError, match="leave it out"):
        model.encode(torch.zeros(1, 3, 56, 56), keep_ratio=0.5)


def test_a_generator_samples_the_kept_patches(published: Path):
    model = VideoTokenizer.from_pretrained(published).keyframes
    images = torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(model.encode(images).keep_mask, model.encode(images).keep_mask)
    masks = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        masks.append(torch.stack([model.encode(images, generator=generator).keep_mask for _ in range(20)]))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    kept = torch.cat([masks[0], masks[2]]).float().mean(0)
    assert (kept - model.scores(images).sigmoid()).abs().mean() < 0.12  # 40 draws: 0.06 expected


def test_keyframes_are_decoded_to_images(tmp_path: Path, small: None):
    folder = write_checkpoint(tmp_path / "whole", image_decoder=True)
    convert(folder, tmp_path / "bundle")
    pictures = []
    for place in (folder, tmp_path / "bundle"):
        model = VideoTokenizer.from_pretrained(place).keyframes
        model.image_decoder.size, model.image_decoder.num_inference_steps = (32, 32), 2
        pictures.append(model.decode([torch.arange(5)], torch.zeros(1, 16, dtype=torch.bool)))
    assert pictures[0].shape == (1, 3, 32, 32)
    assert (pictures[0] - pictures[1]).abs().max() < 1e-4


def test_a_missing_file_leaves_out_its_part_alone(published: Path, tmp_path: Path):
    (published / "visual_tokenizer" / "tokenizer_encoder.bin").unlink()
    done = {made.part: made.missing for made in convert(published, tmp_path / "bundle")}
    assert done["keyframes"] == ("visual_tokenizer/tokenizer_encoder.bin",)
    assert not done["motion"]
    tokenizer = VideoTokenizer.from_pretrained(published)
    still = MotionField(np.zeros((24, 20, 36, 2), np.float32), np.ones((24, 20, 36), bool))
    assert tokenizer.encode_motion([still], 1).ids.shape == (1, 1, 135)
    with pytest.raises(ModelError, match=r"no keyframes: visual_tokenizer/tokenizer_encoder.bin missing"):
        _ = tokenizer.keyframes
    with pytest.raises(ModelError, match="no keyframes"):
        _ = VideoTokenizer.from_pretrained(tmp_path / "bundle").keyframes


def test_a_motion_tokenizer_alone_works_with_other_keyframes(published: Path, tiny_model: Path, tmp_path: Path):
    alone = tmp_path / "alone"
    alone.mkdir()
    (published / "motion_tokenizer.bin").rename(alone / "motion_tokenizer.bin")
    bundle = Bundle.find(alone, tiny_model / "keyframes")
    assert bundle.load_keyframes(torch.float32).image_size == 64
    assert bundle.identity("motion").sha256 != bundle.identity("keyframes").sha256


def change(path: Path, **changes: torch.Tensor | None) -> None:
    weights = {**torch.load(path), **changes}
    save(path, {key: value for key, value in weights.items() if value is not None})


def test_wrong_keys_are_refused_by_name(published: Path, tmp_path: Path):
    path = published / "motion_tokenizer.bin"
    whole = path.read_bytes()
    for changes, message in (
        ({"encoder.in_proj.bias": None}, r"motion_tokenizer.bin: encoder.in_proj.bias is missing"),
        ({"encoder.in_proj.bias": torch.ones(3)}, r"encoder.in_proj.bias is \[3\], expected \[16\]"),
        ({"quantize.spare": torch.ones(3)}, r"quantize.spare is not known"),
    ):
        path.write_bytes(whole)
        change(path, **changes)
        with pytest.raises(ModelError, match=message):
            convert(published, tmp_path / "bundle")
        assert not (tmp_path / "bundle" / "motion").exists()
    assert convert(published, tmp_path / "bundle", allow_extra=True)[0].num_parameters


def test_damaged_and_hostile_files_are_one_line(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = published / "motion_tokenizer.bin"
    path.write_bytes(path.read_bytes()[:-500])
    assert main(["convert", str(published), str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert "motion_tokenizer.bin" in error
    assert error.count("\n") == 1
    torch.save({"weight": torch.ones(1), "more": Path("code")}, path)
    with pytest.raises(ModelError, match=r"cannot read .*motion_tokenizer.bin"):
        _ = VideoTokenizer.from_pretrained(published).motion


def test_half_precision_and_shards(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("videotok.lavit.conversion.SHARD_BYTES", 20_000)
    convert(published, tmp_path / "bundle", half=True)
    assert len(list((tmp_path / "bundle" / "motion").glob("*.safetensors"))) > 2
    half = Bundle.find(tmp_path / "bundle").load("motion", PARTS["motion"].model, torch.float16)
    assert {value.dtype for value in half.parameters()} == {torch.float16}
    whole = VideoTokenizer.from_pretrained(published).motion.state_dict()
    assert all(
        torch.allclose(value.float(), whole[name].float(), atol=1e-3) for name, value in half.state_dict().items()
    )


def test_old_pickles_and_a_separate_unet_are_read(published: Path):
    path = published / "motion_tokenizer.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert VideoTokenizer.from_pretrained(published).motion.num_quantizers == 1
    before = VideoTokenizer.from_pretrained(published).detokenizer.denoiser.state_dict()
    weights = torch.load(published / "video_3d_unet.bin")
    (published / "video_3d_unet.bin").unlink()
    unet = published / "video_detokenizer" / "unet"
    save(unet / "diffusion_pytorch_model.bin", {key.removeprefix("unet."): value for key, value in weights.items()})
    (unet / "config.json").write_text(json.dumps({"num_attention_heads": [4, 8]}))
    after = VideoTokenizer.from_pretrained(published).detokenizer.denoiser
    assert after.config["attention_heads"] == (4, 8)
    assert all(torch.equal(value, before[name]) for name, value in after.state_dict().items())


def test_folders_converted_under_older_names_still_load(published: Path, tmp_path: Path):
    convert(published, tmp_path / "bundle")
    folder = tmp_path / "bundle" / "keyframes"
    before = VideoTokenizer.from_pretrained(tmp_path / "bundle").keyframes.state_dict()
    path = folder / "diffusion_pytorch_model.safetensors"
    older = {"codes": "words", "selector.head": "selector.judge"}
    weights = load_file(path)
    for name in list(weights):
        for new, old in older.items():
            if name.startswith(new):
                weights[name.replace(new, old)] = weights.pop(name)
    save_file(weights, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "LavitKeyframes"}))
    after = VideoTokenizer.from_pretrained(tmp_path / "bundle").keyframes.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_only_the_needed_files_are_downloaded(published: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def snapshot(hub_id: str, allow_patterns: list[str], revision: str | None) -> str:
        asked.append((hub_id, *allow_patterns))
        return str(published)

    names = ["README.md", "motion_tokenizer.bin", "visual_tokenizer/eva_vitg_psz14.bin"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, hub_id, **options: info)
    tokenizer = VideoTokenizer.from_pretrained("rain1011/Video-LaVIT-v1")
    assert tokenizer.motion.codebook_size == 64
    assert asked == [("rain1011/Video-LaVIT-v1", "motion_tokenizer.bin")]
    assert tokenizer.bundle.name == "rain1011/Video-LaVIT-v1"


@pytest.mark.slow
def test_memory_stays_near_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The published motion tokenizer, 634 MB: the mapped file and one shard, which holds all of it."""
    from benchmarks.lavit_parity_cases import random_checkpoint

    save(tmp_path / "from" / "motion_tokenizer.bin", random_checkpoint("motion", PARTS["motion"].config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    convert(tmp_path / "from", tmp_path / "to")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.4e6
