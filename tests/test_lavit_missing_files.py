"""Conversion of a complete published folder, and with each of its files missing or damaged in turn."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lavit_files import small_parts, write_checkpoint, write_language_model

from videotok.cli.main import main
from videotok.lavit.checkpoint import HF_FOLDERS
from videotok.lavit.conversion import convert
from videotok.lavit.weight_map import PARTS

WEIGHTS = {
    "motion_tokenizer.bin": "motion",
    "visual_tokenizer/eva_vitg_psz14.bin": "keyframes",
    "visual_tokenizer/tokenizer_encoder.bin": "keyframes",
    "visual_tokenizer/highres_tokenizer_decoder.bin": "keyframes/condition",
    "video_3d_unet.bin": "detokenizer",
    "video_detokenizer/vae/diffusion_pytorch_model.bin": "detokenizer/vae",
    "image_detokenizer/unet/diffusion_pytorch_model.bin": "keyframes/unet",
    "image_detokenizer/vae/diffusion_pytorch_model.bin": "keyframes/vae",
    "language_model/pytorch_model-00002-of-00002.bin": "language_model",
    "language_model_sft/pytorch_model-00001-of-00002.bin": "language_model_sft",
}
"""Published file -> the part that needs it."""
OTHERS = {
    "video_detokenizer/scheduler/scheduler_config.json": "detokenizer/scheduler",
    "image_detokenizer/scheduler/scheduler_config.json": "keyframes/scheduler",
    "image_detokenizer/unet/config.json": "keyframes/unet",
    "language_model_sft/config.json": "language_model_sft",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name, part in small_parts().items():
            patch.setitem(PARTS, name, part)
        folder = write_checkpoint(tmp_path_factory.mktemp("whole") / "Video-LaVIT", image_decoder=True)
        write_language_model(folder / "language_model", embedded=False)
        write_language_model(folder / "language_model_sft")
    return folder


Linked = Callable[[str], Path]


@pytest.fixture
def linked(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Linked:
    """Return a function that links all files, or those below one folder, to a folder where any may be replaced."""
    for name, part in small_parts().items():
        monkeypatch.setitem(PARTS, name, part)

    def link(below: str = "") -> Path:
        folder = tmp_path / "Video-LaVIT"
        for path in (whole / below).rglob("*") if (whole / below).is_dir() else [whole / below]:
            if path.is_file():
                place = folder / path.relative_to(whole)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)
        return folder

    return link


def test_all_files(linked: Linked, tmp_path: Path):
    done = {made.part: made.missing for made in convert(linked(""), tmp_path / "bundle")}
    own = {"language_model_sft/keyframes", "language_model_sft/motion"}
    assert done == dict.fromkeys({*PARTS, *HF_FOLDERS, *own}, ())
    assert all(any((tmp_path / "bundle" / part).glob("*.json")) for part in done)
    assert not list((tmp_path / "bundle").rglob("*.bin"))


@pytest.mark.parametrize(("file", "part"), [*WEIGHTS.items(), *OTHERS.items()])
def test_one_missing_file(linked: Linked, tmp_path: Path, capsys: pytest.CaptureFixture, file: str, part: str):
    folder = linked("")
    (folder / file).unlink()
    for place in ("language_model", "language_model_sft"):  # converting them takes longest
        if not file.startswith(f"{place}/"):
            shutil.rmtree(folder / place)
    assert main(["convert", str(folder), str(tmp_path / "bundle")]) == 0
    missing = [line for line in capsys.readouterr().out.splitlines() if ": left out" in line]
    named = f"{part}: left out, {file} missing"
    if file.endswith("diffusion_pytorch_model.bin"):  # there may be another kind
        named = f"{part}: left out, {file.replace('diffusion_pytorch_model.bin', '*.safetensors or *.bin')} missing"
    left_out = [f"{place}: left out, {place}/ missing" for place in ("language_model", "language_model_sft")]
    assert [line for line in missing if line not in left_out] == [named]


@pytest.mark.parametrize("file", WEIGHTS)
def test_one_damaged_file(linked: Linked, tmp_path: Path, capsys: pytest.CaptureFixture, file: str):
    folder = linked(file if "/" not in file else file.rpartition("/")[0])
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    (folder / file).write_bytes(content[: len(content) // 2])
    assert main(["convert", str(folder), str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    assert file in error
    assert error.count("\n") == 1
    assert "is the download complete?" in error
