"""Files that people have, kind by kind: joined, paused, turned, encrypted, with several streams, with odd names …"""

import io
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from av.stream import Disposition

from codec import Clip, ClipSpec, MediaError, iter_clips, iter_clips_isolated, local_file, probe, probe_isolated
from codec.errors import media_errors
from codec.side_data import UPRIGHT, Orientation, orientation_from_matrix
from tests.numbered_videos import numbered_picture, shown_number, write_numbered
from tests.videos import even, scenes, write

RATE = 25
SPEC = ClipSpec(frames=10, fps=Fraction(RATE))
CLOSED = {"preset": "fast", "x264-params": "keyint=20:bframes=2:scenecut=0"}


def numbers(clips: list[Clip]) -> list[int]:
    return [shown_number(frame) for clip in clips for frame in (clip.frames if clip.frames is not None else ())]


def read(path: Any, spec: ClipSpec = SPEC, **options: Any) -> list[Clip]:
    return list(iter_clips(path, spec, frames=True, **options))


def joined(folder: Path, offset: float, suffix: str = "ts", codec: str = "libx264") -> Path:
    """Return two recordings of 2 s one after another; the timestamps of the second begin at `offset` seconds."""
    options = {"bf": "2", "g": "20", "b": "2M"} if codec == "mpeg2video" else CLOSED
    one = write_numbered(folder / f"one.{suffix}", range(50), codec, rate=RATE, options=options)
    shift = {"output_ts_offset": str(offset)}
    two = write_numbered(
        folder / f"two.{suffix}", range(50, 100), codec, rate=RATE, options=options, container_options=shift
    )
    path = folder / f"joined.{suffix}"
    path.write_bytes(one.read_bytes() + two.read_bytes())
    return path


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("offset", [0, 1.5, 1.92, 2.6, 12, 4000])
def test_joined_transport_streams_follow_each_other(offset, codec, tmp_path):
    path = joined(tmp_path, offset, codec=codec)
    clips = read(path)
    assert numbers(clips) == list(range(100))
    assert not any(clip.damaged for clip in clips)
    for start in (1.4, 2.4, 3.2):
        assert numbers(read(path, start_seconds=start)) == list(range(round(start * RATE), 100))


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_broadcast_whose_first_frame_has_no_time(codec, tmp_path):
    """FFmpeg gives such a frame its decoding time, some frames before it is shown."""
    options = {"bf": "2", "g": "20", "b": "2M"} if codec == "mpeg2video" else CLOSED
    path = write_numbered(tmp_path / "broadcast.ts", range(50), codec, rate=RATE, options=options)
    content = bytearray(path.read_bytes())
    times = content.index(b"\0\0\1\xe0") + 7  # flags, length, presentation and decoding time of the first packet
    content[times] &= 0x3F
    content[times + 2 : times + 2 + content[times + 1]] = b"\xff" * content[times + 1]
    path.write_bytes(content)
    assert numbers(read(path)) == list(range(50))


@pytest.mark.parametrize("start", [0.0, 1.2])
def test_mxf_with_b_frames_states_decoding_times_alone(start, tmp_path):
    path = write_numbered(tmp_path / "camera.mxf", range(50), rate=RATE, options=CLOSED)
    clips = read(path, start_seconds=start)
    assert numbers(clips) == list(range(round(start * RATE), 50))
    assert not any(clip.damaged for clip in clips)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_pause_is_held_still(suffix, tmp_path):
    """Screen recorders write nothing while nothing changes."""
    pts = [*range(25), *range(25 + 90 * RATE, 50 + 90 * RATE)]
    path = write_numbered(tmp_path / f"pause.{suffix}", range(50), rate=RATE, options=CLOSED, pts=pts)
    clips = read(path, ClipSpec(frames=25, fps=Fraction(5)))
    shown = numbers(clips)
    assert shown[:5] == [0, 5, 10, 15, 20]
    assert set(shown[5:455]) == {24}
    assert shown[455:] == [25, 30, 35, 40, 45]
    assert not any(clip.damaged or clip.is_truncated for clip in clips)
    assert numbers(read(path, ClipSpec(frames=25, fps=Fraction(5)), start_seconds=90.0))[:6] == [24] * 5 + [25]


def test_a_pause_before_the_last_frame(tmp_path):
    path = write_numbered(tmp_path / "end.mp4", range(25), rate=RATE, pts=[*range(24), 23 + 80 * RATE])
    shown = numbers(read(path, ClipSpec(frames=25, fps=Fraction(5))))
    assert len(shown) == pytest.approx(405, abs=1)
    assert shown[5:400] == [23] * 395


def test_joined_program_streams_follow_each_other(tmp_path):
    path = joined(tmp_path, 0, "mpg", "mpeg2video")
    assert numbers(read(path)) == list(range(100))
    assert numbers(read(path, start_seconds=2.4)) == list(range(60, 100))


def test_a_time_lapse_of_minutes(tmp_path):
    path = write_numbered(tmp_path / "lapse.mp4", range(6), rate=1, pts=[number * 300 for number in range(6)])
    shown = numbers(read(path, ClipSpec(frames=10, fps=Fraction(1, 60))))
    assert shown[:25] == [number for number in range(5) for _ in range(5)]
    assert shown[25] == 5


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm"])
def test_pictures_that_begin_after_the_sound(suffix, tmp_path):
    codec, sound = ("libvpx-vp9", "libopus") if suffix == "webm" else ("libx264", "aac")
    options = {"deadline": "realtime", "cpu-used": "8"} if suffix == "webm" else CLOSED
    path = write_numbered(
        tmp_path / f"late.{suffix}",
        range(50),
        codec,
        rate=RATE,
        options=options,
        pts=range(75, 125),
        sound_seconds=6,
        sound_codec=sound,
    )
    clips = read(path)
    assert numbers(clips) == list(range(50))
    assert not any(clip.damaged or clip.is_truncated for clip in clips)
    assert numbers(read(path, start_seconds=1.2)) == list(range(30, 50))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_file_is_truncated(suffix, tmp_path):
    movflags = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = write_numbered(
        tmp_path / f"cut.{suffix}", range(100), rate=RATE, options=CLOSED, sound_seconds=4, container_options=movflags
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    clips = read(path)
    assert 5 < sum(clip.num_frames for clip in clips) < 95
    assert clips[-1].damaged
    assert clips[-1].is_truncated
    assert not read(path, duration_seconds=0.4)[-1].is_truncated


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_wrong_duration_in_the_header_is_no_damage(suffix, tmp_path):
    path = write_numbered(tmp_path / f"whole.{suffix}", range(50), rate=RATE, options=CLOSED)
    content = bytearray(path.read_bytes())
    if suffix == "mkv":
        at = content.index(b"\x44\x89\x88") + 3
        content[at : at + 8] = struct.pack(">d", 20_000.0)
    else:
        for header, offset in ((b"avih", 24), (b"strh", 40)):  # number of frames
            at = content.index(header) + offset
            content[at : at + 4] = (500).to_bytes(4, "little")
    path.write_bytes(content)
    assert (probe(path).duration_seconds or 0) > 5
    clips = read(path)
    assert numbers(clips) == list(range(50))
    assert not any(clip.damaged or clip.is_truncated for clip in clips)


ORIENTATIONS = [
    Orientation(is_transposed, flips_x, flips_y)
    for is_transposed in (False, True)
    for flips_x in (False, True)
    for flips_y in (False, True)
]


def with_matrix(source: Path, target: Path, values: tuple[int, ...]) -> Path:
    """Copy an MP4 file with the display matrix `values` (a, b, c, d), multiples of 1."""
    a, b, c, d = (value << 16 for value in values)
    matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content = bytearray(source.read_bytes())
    header = content.index(b"tkhd")
    content[header + 44 : header + 80] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    target.write_bytes(content)
    return target


def matrix_of(orientation: Orientation) -> tuple[int, int, int, int]:
    x, y = -1 if orientation.flips_x else 1, -1 if orientation.flips_y else 1
    return (0, y, x, 0) if orientation.is_transposed else (x, 0, 0, y)


@pytest.fixture(scope="module")
def pan_mp4(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    return write(path, scenes((160, 96))["pan"], even(1.0, 24), "medium", 24)


@pytest.fixture(scope="module")
def pan_hevc(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("libx265", rate=24, options={"x265-params": "log-level=none"}))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for frame in scenes((160, 96))["pan"].frames(map(float, even(1.0, 24))):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("source", ["native", "reencode", "mpeg4", "hevc"])
def test_every_orientation_on_every_path(source, orientation, pan_mp4, pan_hevc, tmp_path):
    upright = pan_hevc if source == "hevc" else pan_mp4
    path = with_matrix(upright, tmp_path / "turned.mp4", matrix_of(orientation))
    spec, motion_source = ClipSpec(frames=12), "auto" if source == "hevc" else source
    (plain,) = iter_clips(upright, spec, motion_source=motion_source)
    (turned,) = iter_clips(path, spec, motion_source=motion_source, frames=True)
    assert np.array_equal(turned.keyframe, orientation.apply(plain.keyframe))
    assert turned.motion.vectors.shape == (12, 20, 36, 2)
    x, y = np.median(plain.motion.vectors[1:], axis=(0, 1, 2))
    if orientation.is_transposed:
        x, y = y, x
    expected = (-x if orientation.flips_x else x, -y if orientation.flips_y else y)
    assert np.abs(expected).min() > 0.004
    assert np.median(turned.motion.vectors[1:], axis=(0, 1, 2)) == pytest.approx(expected, abs=0.003)
    facts = probe(path)
    mirrored = plain.keyframe[:, ::-1] if facts.is_mirrored else plain.keyframe
    assert np.array_equal(np.rot90(mirrored, facts.rotation_degrees // 90), turned.keyframe)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_pictures_are_shown_as_ffmpeg_shows_them(orientation, tmp_path):
    plain = write_numbered(tmp_path / "plain.mp4", [0b00010110] * 3, rate=RATE)
    path = with_matrix(plain, tmp_path / "turned.mp4", matrix_of(orientation))
    keyframe = next(iter_clips(path)).keyframe
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-frames:v", "1"]
    shown = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    expected = np.frombuffer(shown.stdout, np.uint8).reshape(keyframe.shape)
    assert np.abs(keyframe.astype(int) - expected).mean() < 3


def test_degenerate_display_matrices_are_ignored(tmp_path):
    plain = write_numbered(tmp_path / "plain.mp4", [0b00010110] * 3, rate=RATE)
    for values in ((0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 1, 0), (1, 0, 0, 0)):
        path = with_matrix(plain, tmp_path / "flat.mp4", values)
        assert shown_number(next(iter_clips(path)).keyframe) == 0b00010110
        assert orientation_from_matrix(np.array([[*values[:2], 0], [*values[2:], 0], [0, 0, 1]])) == UPRIGHT


def two_streams(path: Path, default: int | None) -> Path:
    """Write a large still (numbers from 100) before a small video (numbers from 0); `default` marks one of them."""
    with av.open(str(path), "w") as container:
        still = cast(Any, container.add_stream("mjpeg", rate=1))
        still.width, still.height, still.pix_fmt = 256, 128, "yuvj420p"
        video = cast(Any, container.add_stream("libx264", rate=RATE, options=CLOSED))
        video.width, video.height, video.pix_fmt = 128, 64, "yuv420p"
        for index, stream in enumerate((still, video)):
            stream.disposition = 1 if default == index else 0
        packets: list[av.Packet] = []
        for stream, first, count, size in ((still, 100, 2, (256, 128)), (video, 0, 50, (128, 64))):
            for number in range(first, first + count):
                picture = av.VideoFrame.from_ndarray(numbered_picture(number, size), format="rgb24")
                packets += stream.encode(picture.reformat(format=stream.pix_fmt))
            packets += stream.encode(None)
        container.mux(packets)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_default_stream_is_read(suffix, tmp_path):
    path = two_streams(tmp_path / f"two.{suffix}", default=1)
    assert numbers(read(path)) == list(range(50))
    assert probe(path).codec == "h264"
    assert numbers(read(path, stream=0))[0] == 100
    assert probe(path, stream=0).codec == "mjpeg"
    assert probe_isolated(path, 1).codec == "h264"
    with pytest.raises(MediaError, match=r"its stream 5 is no video; video streams are 0 \(mjpeg 256x128\), 1 \(h264"):
        read(path, stream=5)


def test_an_attached_picture_is_never_read(tmp_path):
    path = two_streams(tmp_path / "cover.mkv", default=None)
    with av.open(str(path)) as given, av.open(str(tmp_path / "cover.mp4"), "w") as made:
        streams = {}
        for stream in given.streams.video:
            streams[stream.index] = made.add_stream_from_template(stream)
        streams[0].disposition = Disposition.attached_pic
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    facts = probe(tmp_path / "cover.mp4")
    assert (facts.codec, facts.width) == ("h264", 128)
    with pytest.raises(MediaError, match="is no video"):
        probe(tmp_path / "cover.mp4", stream=1)


def test_an_encrypted_video_is_called_encrypted(tmp_path):
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    for name, flags in (("whole.mp4", ""), ("fragments.mp4", "frag_keyframe+empty_moov")):
        path = write_numbered(
            tmp_path / name, range(30), rate=RATE, container_options=options | ({"movflags": flags} if flags else {})
        )
        for call in (probe, read):
            with pytest.raises(MediaError, match="its video is encrypted") as raised:
                call(path)
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("tag", "message"), [(b"zzzz", "no decoder for its video, .*zzzz"), (b"encv", "encrypted")])
def test_a_codec_that_ffmpeg_does_not_know(tag, message, tmp_path):
    path = write_numbered(tmp_path / "unknown.mp4", range(5))
    path.write_bytes(path.read_bytes().replace(b"avc1", tag))
    for call in (probe, read):
        with pytest.raises(MediaError, match=message):
            call(path)


def test_a_wrong_duration_of_the_last_frame_is_not_endless(tmp_path):
    path = write_numbered(tmp_path / "long.mp4", range(5), rate=RATE)
    content = bytearray(path.read_bytes())
    table = content.index(b"stts") + 8
    last = table + 8 * int.from_bytes(content[table : table + 4], "big")
    content[last : last + 4] = (2**31 - 1).to_bytes(4, "big")
    path.write_bytes(content)
    assert sum(clip.num_frames for clip in read(path)) <= 61 * RATE


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_texts_in_another_encoding_do_not_matter(suffix, tmp_path):
    path = tmp_path / f"latin.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata.update(title="XXXXXXXX", artist="XXXXXXXX", service_name="XXXXXXXX")
        stream = cast(Any, container.add_stream("libx264", rate=RATE))
        stream.metadata.update(title="XXXXXXXX", handler_name="XXXXXXXX")
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(20):
            picture = av.VideoFrame.from_ndarray(numbered_picture(number), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert suffix == "ts" or b"XXXXXXXX" in content
    path.write_bytes(content.replace(b"XXXXXXXX", "Café\xff été"[:8].encode("latin-1")))
    assert numbers(read(path)) == list(range(20))


@pytest.mark.parametrize("source", ["native", "reencode"])
def test_a_new_shape_begins_a_clip_of_the_first_shape(source, tmp_path):
    wide = write_numbered(tmp_path / "wide.ts", range(20), rate=RATE, options=CLOSED)
    tall = write_numbered(tmp_path / "tall.ts", range(20, 40), rate=RATE, options=CLOSED, size=(64, 128))
    path = tmp_path / "both.ts"
    path.write_bytes(wide.read_bytes() + tall.read_bytes())
    clips = read(path, ClipSpec(frames=12, fps=Fraction(RATE)), motion_source=source)
    assert [clip.num_frames for clip in clips] == [12, 8, 12, 8]
    assert numbers(clips) == list(range(40))
    assert {clip.keyframe.shape for clip in clips} == {(64, 128, 3)}
    assert 0 in clips[2].cuts
    assert not clips[2].motion.valid[0].any()


ROUNDS = """
import sys
from codec import iter_clips, probe
for number in range(int(sys.argv[2])):
    probe(sys.argv[1]) if number % 2 else next(iter_clips(sys.argv[1]))
"""


@pytest.mark.parametrize("rounds", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_closing_early_never_hangs(rounds, tmp_path):
    path = write_numbered(
        tmp_path / "film.webm", range(60), "libsvtav1", options={"preset": "8", "svtav1-params": "film-grain=8"}
    )
    command = [sys.executable, "-c", ROUNDS, str(path), str(rounds)]
    subprocess.run(command, check=True, timeout=60 + rounds)


@pytest.mark.parametrize(
    "name",
    [
        "2024-01-01T10:30:00.mp4",
        "http:video.mp4",
        "file:clip.mp4",
        "clip [abc].mp4",
        "-o.mp4",
        "concat:a|b.mp4",
        "100% #1?.mp4",
        "frame%03d.mp4",
        "été \u4e2d.mp4",
        os.fsdecode(b"caf\xe9.mp4"),
        "x" * 251 + ".mp4",
        "no suffix",
    ],
)
def test_a_path_that_exists_is_a_file(name, tmp_path, monkeypatch):
    plain = write_numbered(tmp_path / "plain.mp4", range(5), rate=RATE)
    monkeypatch.chdir(tmp_path)
    try:
        plain.rename(name)
    except OSError:
        pytest.skip("the file system does not take this name")
    assert numbers(read(Path(name))) == list(range(5))
    assert probe(name).width == 128
    assert len(list(iter_clips_isolated(name, SPEC))) == 1


def test_bytes_and_open_files(tmp_path):
    path = write_numbered(tmp_path / "plain.mp4", range(5), rate=RATE)
    content = path.read_bytes()
    for source in (content, io.BytesIO(content), bytearray(content)):
        assert numbers(read(source)) == list(range(5))
    with path.open("rb") as file:
        assert numbers(read(file)) == list(range(5))
    assert numbers(read(io.BytesIO(content), motion_source="reencode", start_seconds=0.12)) == [3, 4]
    assert probe(content).codec == "h264"
    assert len(list(iter_clips_isolated(io.BytesIO(content), SPEC))) == 1
    with local_file(content) as copy:
        assert copy.read_bytes() == content
    assert not copy.exists()
    with pytest.raises(MediaError, match=r"cannot read <4 bytes>: .*is it a video file") as raised:
        read(b"1234")
    assert "/videotok-" not in str(raised.value)
    with pytest.raises(MediaError, match="opened in binary mode"):
        read(io.StringIO("text"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff", "gif"])
def test_a_picture_is_one_keyframe(suffix, tmp_path):
    path = tmp_path / f"photo %02d.{suffix}"
    if suffix == "gif":
        write_numbered(path, [77], "gif", pixel_format="rgb8")
    else:
        path.write_bytes(cv2.imencode(f".{suffix}", numbered_picture(77)[..., ::-1])[1].tobytes())
    (clip,) = read(path)
    assert clip.num_frames == 1
    assert shown_number(clip.keyframe) == 77
    assert not clip.damaged
    assert not clip.motion.vectors.any()
    assert probe(path).is_still_image == (suffix != "gif")


@pytest.mark.parametrize(
    "error",
    [
        cv2.error("bad size"),
        MemoryError(),
        RecursionError("too deep"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
        OSError(5, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_file_causes_is_a_media_error(error):
    with pytest.raises(MediaError, match=r"cannot read a\.mp4: ") as raised, media_errors("a.mp4"):
        raise error
    assert "\n" not in str(raised.value)


def test_a_value_error_of_pyav_is_a_media_error_and_our_own_is_not():
    with pytest.raises(MediaError), media_errors("a.mp4"):
        av.VideoFrame.from_ndarray(np.zeros((4, 4, 3), np.uint8), format="no such format")
    for own in (ValueError("ours"), TypeError("ours"), KeyError("ours")):
        with pytest.raises(type(own)), media_errors("a.mp4"):
            raise own


def test_side_data_of_unknown_kinds_is_ignored(pan_mp4):
    from av.sidedata.sidedata import Type

    from codec.side_data import display_matrix

    with av.open(str(pan_mp4)) as container:
        assert display_matrix(next(container.decode(video=0))) is None
    kind = Type(1000)
    assert kind.name == "UNKNOWN_1000"
    assert Type["MOTION_VECTORS"].name == "MOTION_VECTORS"


@pytest.mark.parametrize(
    "options", [{"motion_source": "x"}, {"backend": "x"}, {"max_clips": -1}, {"decoders": 0}], ids=str
)
def test_arguments_that_are_not_allowed(options, pan_mp4):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}`"):
        list(iter_clips(pan_mp4, **options))


@pytest.mark.parametrize("start", [float("nan"), float("inf"), -1.0])
def test_starts_that_are_not_allowed(start, pan_mp4):
    with pytest.raises(MediaError, match="0 or more"):
        list(iter_clips(pan_mp4, start_seconds=start))
