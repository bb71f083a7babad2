"""Files of every kind: rotation, odd sizes, short last clips, parts, damage, and files that are no video."""

import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from codec import Clip, ClipSpec, MediaError, VideoWriter, iter_clips, probe
from codec.clips import EXACT_AREA, RgbConverter
from codec.container import open_video
from codec.side_data import UPRIGHT
from tests.videos import even, scenes, write

SPEC = ClipSpec(frames=6)
SIZE = (160, 96)


@pytest.fixture(scope="module")
def pan_mp4(tmp_path_factory) -> Path:
    """2.25 s at 24 fps: 27 frames at 12 fps."""
    path = tmp_path_factory.mktemp("codec") / "pan.mp4"
    return write(path, scenes(SIZE)["pan"], even(2.25, 24), "medium", 24)


def same(one: list[Clip], other: list[Clip]) -> bool:
    return len(one) == len(other) and all(
        a.num_frames == b.num_frames
        and a.pts_seconds == b.pts_seconds
        and np.array_equal(a.motion.vectors, b.motion.vectors)
        and np.array_equal(a.motion.valid, b.motion.valid)
        and np.array_equal(a.keyframe, b.keyframe)
        for a, b in zip(one, other, strict=True)
    )


def test_the_last_clip_is_short(pan_mp4):
    clips = list(iter_clips(pan_mp4, SPEC, frames=True, frame_size=(64, 36)))
    assert [clip.num_frames for clip in clips] == [6, 6, 6, 6, 3]
    assert [clip.pts_seconds for clip in clips] == pytest.approx([0, 0.5, 1, 1.5, 2])
    for clip in clips:
        assert clip.keyframe.shape == (96, 160, 3)
        assert clip.frames is not None
        assert clip.frames.shape == (clip.num_frames, 36, 64, 3)
        assert clip.motion.vectors.shape == (6, 20, 36, 2)
        assert not clip.motion.vectors[clip.num_frames :].any()
        assert not clip.damaged


def test_frames_show_the_scene_at_their_times(pan_mp4):
    scene = scenes(SIZE)["pan"]
    for clip in iter_clips(pan_mp4, SPEC, frames=True):
        assert clip.frames is not None
        assert np.array_equal(clip.frames[0], clip.keyframe)
        for step, frame in enumerate(clip.frames):
            exact = scene.frame(clip.pts_seconds + step / 12).astype(float)
            assert np.abs(frame - exact).mean() < 6


def test_probe(pan_mp4):
    facts = probe(pan_mp4)
    assert (facts.codec, facts.width, facts.height, facts.rotation_degrees) == ("h264", 160, 96, 0)
    assert facts.duration_seconds == pytest.approx(2.25)
    assert facts.average_fps == 24
    assert facts.has_native_vectors
    assert not facts.is_interlaced


def test_parts_are_parts_of_the_whole(pan_mp4):
    whole = list(iter_clips(pan_mp4, SPEC))
    assert same(list(iter_clips(pan_mp4, SPEC, max_clips=2)), whole[:2])
    assert same(list(iter_clips(pan_mp4, SPEC, duration_seconds=1.0)), whole[:2])
    later = list(iter_clips(pan_mp4, SPEC, start_seconds=1.5))
    assert [clip.pts_seconds for clip in later] == pytest.approx([1.5, 2.0])
    assert np.array_equal(later[0].keyframe, whole[3].keyframe)
    assert later[0].motion.vectors == pytest.approx(whole[3].motion.vectors, abs=1e-6)
    with pytest.raises(MediaError, match="after 9"):
        list(iter_clips(pan_mp4, SPEC, start_seconds=9.0))
    with pytest.raises(MediaError, match="0 or more"):
        list(iter_clips(pan_mp4, SPEC, start_seconds=-1.0))


def test_reading_twice_gives_the_same_clips(pan_mp4):
    for source in ("native", "reencode"):
        first = list(iter_clips(pan_mp4, SPEC, motion_source=source))
        assert same(first, list(iter_clips(pan_mp4, SPEC, motion_source=source)))


@pytest.mark.parametrize("size", [(161, 97), (33, 50), (16, 16)])
def test_odd_and_small_sizes(size, tmp_path):
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, 12, size, options={"preset": "medium"}) as writer:
        for frame in scenes(size)["pan"].frames(map(float, even(0.5, 12))):
            writer.write(frame)
    clip = next(iter_clips(path, SPEC, frames=True))
    even_size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert clip.keyframe.shape == (even_size[1], even_size[0], 3)
    assert np.median(clip.motion.vectors[1:, :, :, 0]) == pytest.approx(0.24 / 12, abs=0.02)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation(turns, pan_mp4, tmp_path):
    """Pictures and vectors are upright if the file has a display matrix."""
    rotated = tmp_path / "rotated.mp4"
    remux_rotated(pan_mp4, rotated, turns)
    facts = probe(rotated)
    assert facts.rotation_degrees == 90 * turns
    assert (facts.width, facts.height) == (SIZE if turns == 2 else SIZE[::-1])
    plain, upright = next(iter_clips(pan_mp4, SPEC)), next(iter_clips(rotated, SPEC, frames=True))
    assert np.array_equal(upright.keyframe, np.rot90(plain.keyframe, turns))
    x, y = np.median(plain.motion.vectors[1:], axis=(0, 1, 2))
    expected = {1: (y, -x), 2: (-x, -y), 3: (-y, x)}[turns]
    assert np.median(upright.motion.vectors[1:], axis=(0, 1, 2)) == pytest.approx(expected, abs=0.003)


def remux_rotated(source: Path, target: Path, turns: int) -> None:
    """Copy a file with a display matrix that rotates it counter-clockwise (the matrix stands in the track header)."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    one = 1 << 16
    a, b, c, d = {1: (0, -one, one, 0), 2: (-one, 0, 0, -one), 3: (0, one, -one, 0)}[turns]
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    content = bytearray(target.read_bytes())
    header = content.index(b"tkhd")
    content[header + 44 : header + 80] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    target.write_bytes(content)


def test_a_video_of_one_frame_is_one_clip(tmp_path):
    path = tmp_path / "one.mp4"
    with VideoWriter(path, 25, SIZE) as writer:
        writer.write(scenes(SIZE)["pan"].frame(0.0))
    (clip,) = iter_clips(path, SPEC)
    assert clip.num_frames == 1
    assert not clip.motion.vectors.any()
    assert not clip.motion.valid.any()


def test_files_that_are_no_video(tmp_path):
    for name, content, message in [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"This is not a video.\n" * 50, "cannot read"),
        ("text.txt", b"This is not a video.\n" * 50, "cannot read"),
        ("zeros.mp4", bytes(5000), "cannot read"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:3,\nhttp://example.org/a.ts\n", "cannot read"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=message) as raised:
            list(iter_clips(path))
        assert "\n" not in str(raised.value)
        with pytest.raises(MediaError):
            probe(path)
    with pytest.raises(MediaError, match="no such file"):
        list(iter_clips(tmp_path / "missing.mp4"))
    with pytest.raises(MediaError, match="directory"):
        probe(tmp_path)


def test_a_file_with_sound_only(tmp_path):
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no video stream"):
        list(iter_clips(path))


def test_a_file_cut_short_is_damaged(pan_mp4, tmp_path):
    short = tmp_path / "short.mp4"
    content = pan_mp4.read_bytes()
    short.write_bytes(content[: len(content) * 6 // 10])
    clips = list(iter_clips(short, SPEC))
    assert 1 <= sum(clip.num_frames for clip in clips) < 27
    assert clips[-1].damaged
    assert "damaged" in repr(clips[-1])


def test_lost_packets_are_damage(pan_mp4, tmp_path):
    raw = tmp_path / "lost.h264"
    with av.open(str(pan_mp4)) as given, av.open(str(raw), "w", format="h264") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None and number not in (5, 6, 7):
                packet.stream = stream
                made.mux(packet)
    assert any(clip.damaged for clip in iter_clips(raw, SPEC))


def test_a_stream_that_begins_without_a_keyframe_is_damaged(tmp_path):
    whole, late = tmp_path / "whole.mp4", tmp_path / "late.mp4"
    options = {"preset": "ultrafast", "x264-params": "keyint=20:scenecut=0"}
    with VideoWriter(whole, 25, SIZE, options=options) as writer:
        for frame in scenes(SIZE)["pan"].frames(map(float, even(2.0, 25))):
            writer.write(frame)
    with av.open(str(whole)) as given, av.open(str(late), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in [packet for packet in given.demux(video=0) if packet.dts is not None][3:]:
            packet.stream = stream
            made.mux(packet)
    first, *others = iter_clips(late, SPEC)
    assert first.damaged
    assert not any(clip.damaged for clip in others)


def mutated(content: bytes, seed: int) -> bytes:
    """Return the file with bits flipped, a piece cut out, or two pieces swapped."""
    rng, data = random.Random(seed), bytearray(content)
    kind = seed % 3
    if kind == 0:
        for _ in range(rng.choice([1, 10, 100])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        begin = rng.randrange(len(data))
        del data[begin : begin + rng.randrange(1, len(data))]
    else:
        a, b, length = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, 2000)
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]
    return bytes(data)


def with_packets_swapped(source: Path, target: Path, seed: int) -> None:
    """Copy a file with the contents of two packets swapped."""
    rng = random.Random(seed)
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
        contents = [bytes(packet) for packet in packets]
        one, other = rng.randrange(len(packets)), rng.randrange(len(packets))
        contents[one], contents[other] = contents[other], contents[one]
        for packet, content in zip(packets, contents, strict=True):
            moved = av.Packet(content)
            moved.pts, moved.dts, moved.time_base = packet.pts, packet.dts, packet.time_base
            moved.is_keyframe, moved.stream = packet.is_keyframe, stream
            made.mux(moved)


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 2100), marks=pytest.mark.slow)], ids=["100", "2000"]
)
def test_mutations_give_clips_or_one_error(seeds, tmp_path, capfd):
    whole, path = tmp_path / "whole.mp4", tmp_path / "mutated.mp4"
    content = write(whole, scenes(SIZE)["pan"], even(1.0, 24), "medium", 24).read_bytes()
    for seed in seeds:
        if seed % 5 == 4:
            with_packets_swapped(whole, path, seed)
        else:
            path.write_bytes(mutated(content, seed))
        try:
            clips = list(iter_clips(path, SPEC))
        except MediaError:
            continue
        # half a second may be missing unnoticed: headers are not exact
        assert any(clip.damaged for clip in clips) or sum(clip.num_frames for clip in clips) >= 6
    assert capfd.readouterr().err == ""


def test_times_that_jump_do_not_make_endless_video(pan_mp4, tmp_path):
    path = tmp_path / "jump.mkv"
    with VideoWriter(path, 12, SIZE, time_base=Fraction(1, 1000)) as writer:
        for number, frame in enumerate(scenes(SIZE)["pan"].frames(map(float, even(1.0, 12)))):
            writer.write(frame, pts_seconds=Fraction(number, 12) + (100_000 if number >= 6 else 0))
    assert sum(clip.num_frames for clip in iter_clips(path, SPEC)) == pytest.approx(12, abs=1)


def test_clips_follow_each_other_without_gaps(pan_mp4):
    for one, other in pairwise(iter_clips(pan_mp4, SPEC)):
        assert other.pts_seconds - one.pts_seconds == pytest.approx(float(SPEC.duration_seconds))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p", "rgb24"])
@pytest.mark.parametrize("size", [(64, 48), (65, 46), (64, 47), (2, 2)])
@pytest.mark.parametrize("scale", [(1, 1), (2, 1), (1, 2), (0.5, 0.75)])
def test_keyframes_are_those_of_a_conversion_to_packed_rgb(pixel_format, size, scale, pan_mp4):
    """Planar RGB, which is faster, is only used where it has the same values."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=pixel_format)
    width, height = (max(1, round(length * factor)) for length, factor in zip(size, scale, strict=True))
    with open_video(pan_mp4) as (_, stream):
        found = RgbConverter(stream).convert(picture, UPRIGHT, (width, height))
    packed = picture.reformat(width, height, "rgb24", interpolation=EXACT_AREA)
    assert np.array_equal(found, packed.to_ndarray())
