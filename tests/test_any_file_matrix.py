"""Containers x codecs x start x sound: each shows the right frame at the right time, to the frame."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from codec import Clip, ClipSpec, iter_clips, probe
from tests.numbered_videos import shown_number, write_numbered

RATE, NUM_FRAMES = 25, 80
SPEC = ClipSpec(frames=10, fps=Fraction(RATE))
STARTS = (0.4, 1.2, 1.64, 2.52)


@dataclass(frozen=True)
class Kind:
    """A kind of file: container, codec, encoder options."""

    suffix: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    container_format: str | None = None
    container_options: dict[str, str] = field(default_factory=dict)
    sound_codec: str | None = "aac"
    """None: the container takes no sound."""
    size: tuple[int, int] = (128, 64)

    def write(self, folder: Path, num_frames: int = NUM_FRAMES, sound_seconds: float = 0.0) -> Path:
        """Encode pictures that show 0, 1, 2, …"""
        return write_numbered(
            folder / f"video.{self.suffix}",
            range(num_frames),
            self.codec,
            rate=RATE,
            options=self.options,
            pixel_format=self.pixel_format,
            size=self.size,
            container_format=self.container_format,
            container_options=self.container_options,
            sound_seconds=sound_seconds,
            sound_codec=self.sound_codec or "",
        )


X264 = {"preset": "fast", "x264-params": "keyint=20:bframes=3:b-pyramid=normal:scenecut=0"}
OPEN_GOP = {"preset": "fast", "x264-params": "keyint=20:bframes=3:open-gop=1:scenecut=0"}
REFRESH = {"preset": "fast", "x264-params": "keyint=20:intra-refresh=1:bframes=0:scenecut=0"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=20:bframes=3:scenecut=0"}
MPEG_B = {"bf": "2", "g": "12", "b": "2M", "sc_threshold": "1000000000"}
AV1 = {"preset": "8", "g": "20", "crf": "20"}
VPX = {"deadline": "realtime", "cpu-used": "8", "g": "20", "auto-alt-ref": "1", "lag-in-frames": "10"}

QUICK = {
    "mp4-h264": Kind("mp4", "libx264", X264),
    "mp4-hevc": Kind("mp4", "libx265", X265),
    "mkv-open-gop": Kind("mkv", "libx264", OPEN_GOP),
    "avi-h264-b": Kind("avi", "libx264", X264, sound_codec="pcm_s16le"),
    "avi-mpeg4-b": Kind("avi", "mpeg4", MPEG_B, sound_codec="pcm_s16le"),
    "ts-h264": Kind("ts", "libx264", X264),
    "ts-refresh": Kind("ts", "libx264", REFRESH),
    "mpg-mpeg2-b": Kind("mpg", "mpeg2video", MPEG_B, sound_codec="mp2"),
    "webm-vp9": Kind("webm", "libvpx-vp9", VPX, sound_codec="libopus"),
    "raw-h264": Kind("h264", "libx264", X264, sound_codec=None),
}

WIDE = {
    "mp4-fragments": Kind("mp4", "libx264", X264, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "mp4-open-gop": Kind("mp4", "libx264", OPEN_GOP),
    "mp4-refresh": Kind("mp4", "libx264", REFRESH),
    "mp4-mpeg4-b": Kind("mp4", "mpeg4", MPEG_B),
    "mp4-av1": Kind("mp4", "libsvtav1", AV1, size=(256, 128)),
    "mov-h264": Kind("mov", "libx264", X264),
    "mov-mjpeg": Kind("mov", "mjpeg", pixel_format="yuvj420p"),
    "mov-prores": Kind("mov", "prores_ks", pixel_format="yuv422p10le"),
    "mkv-h264": Kind("mkv", "libx264", X264),
    "mkv-refresh": Kind("mkv", "libx264", REFRESH),
    "mkv-hevc": Kind("mkv", "libx265", X265),
    "mkv-mpeg4-b": Kind("mkv", "mpeg4", MPEG_B),
    "mkv-mpeg2-b": Kind("mkv", "mpeg2video", MPEG_B),
    "mkv-vp8": Kind("mkv", "libvpx", VPX),
    "mkv-ffv1": Kind("mkv", "ffv1"),
    "webm-av1": Kind("webm", "libsvtav1", AV1, size=(256, 128), sound_codec="libopus"),
    "avi-mpeg4": Kind("avi", "mpeg4", {"g": "12", "b": "2M"}, sound_codec="pcm_s16le"),
    "avi-mjpeg": Kind("avi", "mjpeg", pixel_format="yuvj420p", sound_codec="pcm_s16le"),
    "avi-msmpeg4": Kind("avi", "msmpeg4", {"g": "12", "b": "2M"}, sound_codec="pcm_s16le"),
    "ts-open-gop": Kind("ts", "libx264", OPEN_GOP),
    "ts-hevc": Kind("ts", "libx265", X265),
    "ts-mpeg2-b": Kind("ts", "mpeg2video", MPEG_B, sound_codec="mp2"),
    "mpg-mpeg1": Kind("mpg", "mpeg1video", {"g": "12", "b": "2M"}, sound_codec="mp2"),
    "flv-h264": Kind("flv", "libx264", X264),
    "flv-flv1": Kind("flv", "flv", {"g": "12", "b": "2M"}),
    "wmv-wmv2": Kind("wmv", "wmv2", {"g": "12", "b": "2M"}, sound_codec="aac"),
    "ogg-vp8": Kind("ogv", "libvpx", VPX, sound_codec="libopus"),
    "gif": Kind("gif", "gif", pixel_format="rgb8", sound_codec=None),
    "raw-hevc": Kind("h265", "libx265", X265, sound_codec=None),
    "raw-mpeg4-b": Kind("m4v", "mpeg4", MPEG_B, container_format="m4v", sound_codec=None),
    "raw-mpeg2-b": Kind("m2v", "mpeg2video", MPEG_B, sound_codec=None),
    "ivf-vp9": Kind("ivf", "libvpx-vp9", VPX, sound_codec=None),
}


def parameters(sound: bool = False) -> list[Any]:
    """Return all kinds, the wide ones marked slow; only those that take sound if `sound`."""
    return [
        pytest.param(kind, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, kind in (QUICK | WIDE).items()
        if kind.sound_codec or not sound
    ]


def numbers(clips: list[Clip]) -> list[int]:
    return [shown_number(frame) for clip in clips for frame in (clip.frames if clip.frames is not None else ())]


@pytest.mark.parametrize("kind", parameters())
def test_every_frame_is_shown_at_its_time(kind, tmp_path):
    path = kind.write(tmp_path)
    clips = list(iter_clips(path, SPEC, frames=True))
    assert numbers(clips) == list(range(NUM_FRAMES))
    assert not any(clip.damaged or clip.is_truncated for clip in clips)
    begin = clips[0].pts_seconds
    assert [clip.pts_seconds - begin for clip in clips] == pytest.approx([number * 0.4 for number in range(len(clips))])
    assert numbers(list(iter_clips(path, ClipSpec(frames=10, fps=Fraction(5)), frames=True))) == list(
        range(0, NUM_FRAMES, 5)
    )


@pytest.mark.parametrize("kind", parameters())
def test_a_start_shows_the_same_frames_as_a_pass_from_the_beginning(kind, tmp_path):
    path = kind.write(tmp_path)
    for start in STARTS:
        clips = list(iter_clips(path, SPEC, frames=True, start_seconds=start))
        assert numbers(clips) == list(range(round(start * RATE), NUM_FRAMES)), start
        assert not any(clip.damaged for clip in clips)


@pytest.mark.parametrize("kind", parameters(sound=True))
@pytest.mark.parametrize("sound_seconds", [1.0, 7.0], ids=["short sound", "long sound"])
def test_sound_of_another_length(kind, sound_seconds, tmp_path):
    path = kind.write(tmp_path, sound_seconds=sound_seconds)
    clips = list(iter_clips(path, SPEC, frames=True))
    assert numbers(clips) == list(range(NUM_FRAMES))
    assert not any(clip.damaged or clip.is_truncated for clip in clips)
    (clip,) = iter_clips(path, SPEC, frames=True, start_seconds=1.6, max_clips=1)
    assert numbers([clip]) == list(range(40, 50))


@pytest.mark.parametrize("kind", parameters())
def test_the_rate_is_the_stream_s_own(kind, tmp_path):
    facts = probe(kind.write(tmp_path, num_frames=30))
    if kind.suffix not in ("ivf", "ogv"):  # these do not state one
        assert facts.average_fps is not None
        assert float(facts.average_fps) == pytest.approx(RATE, rel=0.05)
    assert (facts.width, facts.height) == kind.size
