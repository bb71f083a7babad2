"""Films of photographs under a virtual camera, to be learned from like other footage."""

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from codec import ClipSpec, MediaError, iter_clips
from videotok.cli.main import main
from videotok.training import synthetic as film
from videotok.virtual_camera import photograph

NAMES = sorted((f"{number}.png" for number in range(60)), key=lambda name: zlib.crc32(name.encode()) % 20 != 0)
"""Photographs' names, those first that are held back."""


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, of in ((NAMES[0], "coffee"), (NAMES[-1], "chelsea")):
        cv2.imwrite(str(folder / name), np.ascontiguousarray(photograph(of)[::2, ::2, ::-1]))
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(film, "SECONDS", 1.0)


def test_films_move_and_are_made_once(photos, tmp_path, capsys):
    folder = tmp_path / "films"
    assert main(["train", "film", str(photos), str(folder), "--count", "2"]) == 0
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == ["film0000.mp4", "film0001.mp4"]
    clip = next(iter_clips(paths[0], ClipSpec(), frames=True))
    assert clip.frames is not None
    assert clip.frames.shape[1:] == (144, 256, 3)
    assert len(np.unique(clip.frames[[0, 6, -1]].mean((1, 2, 3)))) > 1
    written = [path.stat().st_mtime_ns for path in paths]
    assert main(["train", "film", str(photos), str(folder), "--count", "2"]) == 0
    assert [path.stat().st_mtime_ns for path in paths] == written


def test_what_is_held_back_stays_apart(photos, tmp_path, monkeypatch):
    shown: dict[str, str] = {}
    monkeypatch.setattr(film, "film", lambda path, pictures, videos, seed: shown.update({path.name: pictures[0].name}))
    film.films(photos, None, tmp_path / "films", 60)
    held = {name for name in shown if film.is_validation(name)}
    assert 0 < len(held) < 60
    assert {shown[name] for name in held} == {NAMES[0]}
    assert {shown[name] for name in shown if name not in held} == {NAMES[-1]}


def test_too_few_photographs_are_refused_in_one_line(photos, tmp_path):
    (photos / NAMES[0]).unlink()
    with pytest.raises(MediaError, match=r"has 1 photographs; a part is held back"):
        film.films(photos, None, tmp_path / "films", 1)
    (photos / NAMES[-1]).write_bytes(b"no picture")
    with pytest.raises(MediaError, match="not a picture"):
        film.film(tmp_path / "a.mp4", [photos / NAMES[-1]], [], seed=0)
    assert not list(tmp_path.glob("*.mp4"))
