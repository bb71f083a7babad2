"""Kinds of files that are rare in data sets and common on disks: old codecs, pictures that move, many formats."""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from codec import ClipSpec, MediaError, VideoWriter, iter_clips, probe
from codec.h264 import IDR_SLICE, nal_unit_type, nal_units
from tests.heif_files import tiled_heic
from tests.videos import error_pixels, even, scenes, write
from videotok import VideoTokenizer

OLD = {
    "flv.flv": "flv",
    "h263.3gp": "h263",
    "h263p.avi": "h263p",
    "msmpeg4v2.avi": "msmpeg4v2",
    "msmpeg4v3.avi": "msmpeg4",
    "wmv1.wmv": "wmv1",
    "wmv2.wmv": "wmv2",
}
"""Files and their encoders."""


@pytest.mark.parametrize("name", OLD)
def test_old_codecs_bring_their_own_vectors(name, tmp_path):
    scene, spec, times = scenes((352, 288))["pan"], ClipSpec(frames=12, fps=Fraction(25)), even(0.48, 25)
    path = tmp_path / name
    with VideoWriter(path, 25, scene.size, codec=OLD[name], options={"b": "3M", "g": "100"}) as writer:
        for time in times:
            writer.write(scene.frame(float(time)))
    assert probe(path).has_native_vectors
    (clip,) = iter_clips(path, spec)
    assert clip.motion_source == "native"
    assert clip.shares.exact > 0.95
    assert clip.motion.valid[1:].mean() > 0.8
    assert error_pixels(scene, clip, [float(time) for time in times], spec) < 1.0


def test_animated_webp_is_refused_by_name(tmp_path):
    """FFmpeg decodes WebP, but not the animated kind."""
    path = tmp_path / "animated.webp"
    with VideoWriter(path, 10, (64, 36), codec="libwebp_anim") as writer:
        for level in range(0, 250, 50):
            writer.write(np.full((36, 64, 3), level, np.uint8))
    for call in (probe, lambda video: list(iter_clips(video))):
        with pytest.raises(MediaError, match="does not decode animated WebP; convert it to GIF"):
            call(path)


@pytest.mark.parametrize("quarter_turns", [0, 1, 3])
def test_a_picture_of_tiles_is_one_picture(quarter_turns, tmp_path):
    """Photographs of phones: HEIC files of tiles, turned by the header."""
    y, x = np.mgrid[:200, :330]
    picture = np.stack([x * 255 // 330, y * 255 // 200, np.full_like(x, 40)], -1).astype(np.uint8)
    path = tmp_path / "photo.heic"
    path.write_bytes(tiled_heic(picture, 128, quarter_turns))
    expected = np.rot90(picture, quarter_turns)
    facts = probe(path)
    assert (facts.width, facts.height) == (expected.shape[1], expected.shape[0])
    assert facts.is_still_image
    for source in (path, path.read_bytes()):
        (clip,) = iter_clips(source)
        assert clip.num_frames == 1
        assert clip.keyframe.shape == expected.shape
        assert np.abs(clip.keyframe.astype(int) - expected).mean() < 3


def test_tokens_of_a_picture_of_tiles(tiny_model, tmp_path):
    picture = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 256, 3)).reshape(256, 256, 3)
    path = tmp_path / "photo.heic"
    path.write_bytes(tiled_heic(picture, 128))
    tokens = VideoTokenizer.from_pretrained(tiny_model).encode(path)
    assert tokens.is_picture
    assert tokens.source.file == "photo.heic"
    assert (tokens.source.width, tokens.source.height) == (256, 256)


@pytest.mark.parametrize("length", [24, 600, -100])
def test_a_damaged_picture_of_tiles_is_refused(length, tmp_path):
    path = tmp_path / "half.heic"
    path.write_bytes(tiled_heic(np.zeros((200, 200, 3), np.uint8), 128)[:length])
    for call in (probe, lambda video: list(iter_clips(video))):
        with pytest.raises(MediaError, match=r"half.heic: FFmpeg cannot decode this HEIF picture") as raised:
            call(path)
        assert str(raised.value).isprintable()


CROPS = {"left": (20, 0), "top": (0, 12), "corner": (20, 12), "right": (0, 0)}
"""Columns at the left and rows at the top that are not shown."""


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("crop", CROPS)
def test_a_stream_crops_its_pictures(crop, codec, tmp_path):
    """FFmpeg rounds a crop at the left to whole vectors of the machine if it is not asked otherwise."""
    left, top = CROPS[crop]
    plain = write(tmp_path / "plain.mp4", scenes((160, 96))["pan"], even(1.0, 24), "medium", 24)
    if codec == "libx265":
        plain = run_ffmpeg(plain, tmp_path / "hevc.mp4", "-c:v", codec, "-x265-params", "log-level=none")
    name = "h264" if codec == "libx264" else "hevc"
    cropping = f"{name}_metadata=crop_left={left}:crop_right=10:crop_top={top}:crop_bottom=0"
    path = run_ffmpeg(plain, tmp_path / "cropped.mp4", "-c", "copy", "-bsf:v", cropping)
    whole, cropped = next(iter_clips(plain)).keyframe, next(iter_clips(path))
    assert cropped.keyframe.shape == (96 - top, 150 - left, 3)
    inside = whole[top:, left:150, :]
    assert np.abs(cropped.keyframe.astype(int) - inside)[2:-2, 2:-2].mean() < 1
    # vectors count from the coded picture's corner
    is_native = codec == "libx264" and not left and not top
    assert probe(path).has_native_vectors == is_native
    assert cropped.motion_source == ("native" if is_native else "reencode")


def test_lost_macroblocks_are_concealed_and_marked(tmp_path):
    """On any number of cores: FFmpeg's slice threads, which run on several, leave them green and say nothing."""
    plain = write(tmp_path / "plain.mp4", scenes((320, 192))["pan"], even(1.0, 12), "medium", 12)
    path = run_ffmpeg(plain, tmp_path / "slices.mp4", "-c:v", "libx264", "-x264-params", "slices=4:cabac=0")
    whole = next(iter_clips(path)).keyframe
    with av.open(str(path)) as container:
        packet = bytes(next(container.demux(video=0)))
    slices = [unit for unit in nal_units(packet, 4) if nal_unit_type(unit) == IDR_SLICE]
    assert len(slices) == 4
    lost = slices[2][:8] + b"\xff" * (len(slices[2]) - 8)
    path.write_bytes(path.read_bytes().replace(slices[2], lost))
    clip = next(iter_clips(path))
    assert clip.damaged
    error = np.abs(clip.keyframe.astype(int) - whole).mean(axis=(1, 2))
    assert error[:90].max() < 1
    assert error[96:144].mean() < 40  # 22; what is not concealed is green, and differs by 74


def run_ffmpeg(source: Path, target: Path, *options: str) -> Path:
    """Write a file with the FFmpeg program and return its path."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-i", str(source)]
    subprocess.run([*program, *options, str(target)], check=True)
    return target
