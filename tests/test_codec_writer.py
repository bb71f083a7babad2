"""VideoWriter and atomic_path: files can be read back, and appear whole or not at all."""

from fractions import Fraction

import av
import numpy as np
import pytest

from codec import MediaError, VideoWriter, atomic_path, iter_clips
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

SIZE = (160, 96)


@pytest.fixture(scope="module")
def pictures():
    scene = Scene((Layer(photograph("coffee"), constant_speed(pan=(0.1, 0.0))),), SIZE)
    return list(scene.frames(index / 12 for index in range(12)))


def times(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        pts = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        return pts, float(container.duration / av.time_base), stream.average_rate


def test_pictures_read_back_have_the_same_brightness_and_detail(pictures, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12, SIZE, options={"crf": "1"}) as writer:
        for picture in pictures:
            writer.write(picture)
    frames = next(iter_clips(tmp_path / "a.mp4", frames=True)).frames
    assert frames is not None
    error = frames.astype(float) - np.stack(pictures)
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.5
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 35  # what 4:2:0 leaves of so small a picture


@pytest.mark.parametrize(
    ("name", "codec", "found"),
    [("a.mp4", "libx264", "h264"), ("a.avi", "mpeg4", "mpeg4"), ("a.mpg", "mpeg2video", "mpeg2video")],
)
def test_encoders_and_containers(pictures, tmp_path, name, codec, found):
    with VideoWriter(tmp_path / name, 25, SIZE, codec) as writer:
        for picture in pictures:
            writer.write(picture)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.name == found
        assert sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.parametrize("fps", [12, Fraction(30000, 1001), 60])
def test_the_duration_includes_the_last_frame(pictures, tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", fps, SIZE) as writer:
        for picture in pictures:
            writer.write(picture)
    pts, duration, rate = times(str(tmp_path / "a.mp4"))
    assert rate == fps
    assert duration == pytest.approx(12 / fps, abs=2e-3)
    np.testing.assert_allclose(pts, np.arange(12) / float(fps), atol=1e-6)


def test_variable_frame_rate(pictures, tmp_path):
    wanted = np.cumsum([0, *([0.02, 0.05] * 6)])[:12]
    with VideoWriter(tmp_path / "a.mp4", 30, SIZE, time_base=Fraction(1, 60000)) as writer:
        for picture, seconds in zip(pictures, wanted, strict=True):
            writer.write(picture, seconds)
    np.testing.assert_allclose(times(str(tmp_path / "a.mp4"))[0], wanted, atol=1e-4)


def test_odd_sides_become_even_only_with_yuv420p(pictures, tmp_path):
    for pixel_format, size in (("yuv420p", (32, 22)), ("yuv444p", (31, 21))):
        path = str(tmp_path / f"{pixel_format}.mp4")
        with VideoWriter(path, 12, (31, 21), pixel_format=pixel_format) as writer:
            writer.write(pictures[0][:21, :31])
        with av.open(path) as container:
            frame = next(container.decode(video=0))
            assert (frame.width, frame.height) == size


def test_the_index_comes_first(pictures, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12, SIZE) as writer:
        writer.write(pictures[0])
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "no-such-encoder", {}),
        ("a.nothing", "libx264", {}),
        ("no-folder/a.mp4", "libx264", {}),
        ("a.mp4", "mpeg4", {"flags": "no-such-flag"}),
    ],
)
def test_outputs_that_cannot_be_written(pictures, tmp_path, name, codec, options):
    with (
        pytest.raises(MediaError, match="cannot write") as caught,
        VideoWriter(tmp_path / name, 12, SIZE, codec, options) as writer,
    ):
        writer.write(pictures[0])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_the_old_file(pictures, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("before")

    def interrupted():
        with VideoWriter(path, 12, SIZE) as writer:
            writer.write(pictures[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_frames_are_refused(pictures, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12, SIZE) as writer:
        with pytest.raises(ValueError, match=r"must be uint8 \[96, 160, 3\], got float64 \[96, 160, 3\]"):
            writer.write(pictures[0].astype(float))
        with pytest.raises(ValueError, match=r"got uint8 \[48, 160, 3\]"):
            writer.write(pictures[0][:48])
        writer.write(pictures[0], 1.0)
        with pytest.raises(ValueError, match="later than the frame before"):
            writer.write(pictures[1], 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        VideoWriter(tmp_path / "b.mp4", 0, SIZE)


@pytest.mark.parametrize("durable", [False, True])
def test_atomic_path_renames_or_leaves_nothing(durable, tmp_path):
    path = tmp_path / "a.json"
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".json"
        assert not path.exists()
    assert path.read_text() == "new"

    def fail() -> None:
        with atomic_path(path, durable=durable) as temporary:
            temporary.write_text("newer")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_durable_files_and_their_folders_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("codec.atomic_files.sync_to_disk", synced.append)
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
    assert not synced
    with atomic_path(tmp_path / "a.json", durable=True) as temporary:
        temporary.write_text("newer")
    assert synced == [temporary, tmp_path]
