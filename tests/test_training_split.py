"""The training and the validation split: the same for a file's name and its path, and never mixed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from codec import ClipSpec, MediaError, iter_clips
from videotok.cli.main import main
from videotok.training import synthetic
from videotok.training.dataset import is_validation
from videotok.virtual_camera import photograph

NAMES = sorted((f"photo{number}x.png" for number in range(60)), key=lambda name: not is_validation(name))
"""Names of photographs, those of the validation split first."""


def test_names_and_paths_agree():
    """The same photograph is held back whether it is asked for by name, by path, or by a cache's relative source."""
    names = [f"picture{number * 7919}x" for number in range(4000)]
    held_back = {name for name in names if is_validation(name)}
    assert 120 < len(held_back) < 280
    for place in ("{}.jpg", "photos/{}.jpg", "/data/train/photos/{}.webp", "{}_2.mp4", "droid/{}-17.mp4"):
        assert {name for name in names if is_validation(place.format(name))} == held_back
        assert {name for name in names if is_validation(Path(place.format(name)))} == held_back


def test_parts_of_one_recording_stay_on_one_side():
    for name in ("droid/tri_1", "camera/walk-3", "misc/dog"):
        assert len({is_validation(f"{name}{part}.mp4") for part in ("", "_2", "-17", "_2-4")}) == 1


def test_long_numbers_are_ids_of_their_own():
    """Pictures of COCO are no parts of one recording, but photographs of one flight are."""
    assert 10 < sum(is_validation(f"COCO_val2014_{number:012}.jpg") for number in range(400)) < 40
    assert len({is_validation(f"DJI_{number:04}.JPG") for number in range(400)}) == 1


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, picture in ((NAMES[0], "coffee"), (NAMES[-1], "chelsea")):
        cv2.imwrite(str(folder / name), np.ascontiguousarray(photograph(picture)[::2, ::2, ::-1]))
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(synthetic, "SECONDS", 1.0)


def test_synthetic_videos_move_and_are_made_once(photos, tmp_path):
    folder = tmp_path / "videos"
    command = ["train", "synthesize", str(photos), str(folder), "--count", "2"]
    assert main(command) == 0
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == ["synthetic0000.mp4", "synthetic0001.mp4"]
    clip = next(iter_clips(paths[0], ClipSpec(), frames=True))
    assert clip.frames is not None
    assert clip.frames.shape[1:] == (144, 256, 3)
    assert len(np.unique(clip.frames[[0, 6, -1]].mean((1, 2, 3)))) > 1
    written = [path.stat().st_mtime_ns for path in paths]
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in paths] == written


def test_synthetic_videos_of_a_split_show_photographs_of_that_split(photos, tmp_path, monkeypatch):
    shown: dict[str, str] = {}

    def record(path, sources, seed):
        shown[path.name] = sources.photos[0].name

    monkeypatch.setattr(synthetic, "write_video", record)
    synthetic.synthesize(photos, None, tmp_path / "videos", 60)
    held_back = {name for name in shown if is_validation(name)}
    assert 0 < len(held_back) < 60
    assert {shown[name] for name in held_back} == {NAMES[0]}
    assert {shown[name] for name in shown if name not in held_back} == {NAMES[-1]}


def test_too_few_photographs_are_refused_in_one_line(photos, tmp_path):
    (photos / NAMES[0]).unlink()
    with pytest.raises(MediaError, match="has 1 photographs, too few"):
        synthetic.synthesize(photos, None, tmp_path / "videos", 1)
    (photos / NAMES[-1]).write_bytes(b"no picture")
    with pytest.raises(MediaError, match="not a picture"):
        synthetic.write_video(tmp_path / "a.mp4", synthetic.Sources([photos / NAMES[-1]], []), seed=0)
    assert not list(tmp_path.glob("*.mp4"))
