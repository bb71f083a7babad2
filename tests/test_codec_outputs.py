"""Outputs: links are followed, devices and FIFOs written to, and what cannot be written is refused before the work."""

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from codec import MediaError, VideoWriter, atomic_path, check_writable, probe


def write(path, text="new"):
    check_writable(path)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    for name in ("a", "not-yet"):
        link = tmp_path / f"{name}.link"
        link.symlink_to(tmp_path / "real" / name)
        (tmp_path / "real" / "a").write_text("old")
        write(link)
        assert link.is_symlink()
        assert (tmp_path / "real" / name).read_text() == "new"
    assert names(tmp_path / "real") == ["a", "not-yet"]


def test_links_to_links_and_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("c")
    write(tmp_path / "a")
    assert (tmp_path / "c").read_text() == "new"
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(MediaError, match="cannot write"):
        check_writable(tmp_path / "x")
    assert (tmp_path / "x").is_symlink()


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("nowhere/b")
    with pytest.raises(MediaError, match="No such file"):
        check_writable(tmp_path / "a")


def test_a_device_stays_a_device(tmp_path):
    """A link to the null device: writing must neither replace the device nor the link."""
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    for path in (link, Path(os.devnull)):
        write(path)
        assert stat.S_ISCHR(path.stat().st_mode)
    assert link.is_symlink()


def test_a_full_device_is_one_line(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(MediaError, match="cannot write /dev/full: No space left on device"):
        write("/dev/full", "x" * 100)


def test_a_fifo_is_written_to(tmp_path):
    fifo = tmp_path / "out.mp4"
    os.mkfifo(fifo)
    received = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()), daemon=True)
    reader.start()
    check_writable(fifo)
    with VideoWriter(fifo, 12, (64, 48)) as writer:
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    reader.join(20)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    (tmp_path / "copy.mp4").write_bytes(received[0])
    assert probe(tmp_path / "copy.mp4").duration_seconds == pytest.approx(0.25)
    assert names(tmp_path) == ["copy.mp4", "out.mp4"]


def test_a_video_without_a_suffix_is_mp4(tmp_path):
    with VideoWriter(tmp_path / "out", 12, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert (tmp_path / "out").read_bytes()[4:8] == b"ftyp"


def test_folders_and_sockets_are_refused(tmp_path, monkeypatch):
    with pytest.raises(MediaError, match="it is a folder"):
        check_writable(tmp_path)
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(MediaError, match="it is a socket"):
            write("socket")


@pytest.mark.parametrize("length", [247, 251, 255])
def test_names_as_long_as_they_may_be(length, tmp_path):
    path = tmp_path / ("n" * (length - 4) + ".mp4")
    with VideoWriter(path, 12, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["n" * 256, "é" * 128, "a." + "s" * 254])
def test_names_that_are_too_long_are_refused_before(name, tmp_path):
    with pytest.raises(MediaError, match="too long"):
        check_writable(tmp_path / name)


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"caf\xe9.mp4"), "2024-01-01T10:30:00.mp4", "50%d [a]*?.mp4", " ", "a\nb.mp4"]
)
def test_odd_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 12, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["nowhere/a.vtok", "file/a.vtok", "a\0b"])
def test_places_that_do_not_exist(name, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError, match="cannot write"):
        check_writable(tmp_path / name)


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write(os.devnull)
    with pytest.raises(KeyError), atomic_path(os.devnull):
        raise KeyError
    assert not list(tmp_path.iterdir())
