"""Check what the installed FFmpeg can do."""

import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import av
import cv2
import imageio_ffmpeg
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from codec.container import NATIVE_CODECS
from codec.errors import MediaError

FIELDS = ("source", "dst_x", "dst_y", "motion_x", "motion_y")
"""Fields of FFmpeg's vectors that are compared."""


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    ok: bool
    found: str
    """What was found, in a few words."""
    advice: str = ""
    """What to do if the check failed; empty if it passed."""


def run_diagnostics() -> list[Check]:
    """Run all checks. Takes a second or two and writes nothing to disk."""
    return [_run_check(name, check) for name, check in CHECKS.items()]


def _run_check(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (FFmpegError, MediaError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "reinstall av, imageio-ffmpeg and opencv-python")


def _libraries() -> Check:
    versions = ", ".join(f"{name} {'.'.join(map(str, number))}" for name, number in sorted(av.library_versions.items()))
    return Check("FFmpeg libraries", True, f"PyAV {av.__version__} ({versions})")


def _binary() -> Check:
    program = imageio_ffmpeg.get_ffmpeg_exe()
    encoders = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20)
    has_x264 = "libx264" in encoders.stdout
    advice = "" if has_x264 else "set IMAGEIO_FFMPEG_EXE to an ffmpeg built with x264: re-encoding needs it"
    found = f"version {imageio_ffmpeg.get_ffmpeg_version()}, {'with' if has_x264 else 'without'} x264"
    return Check("FFmpeg program", has_x264, found, advice)


def _vectors() -> Check:
    """Check that FFmpeg exports the vectors of a short video encoded with each encoder."""
    found = {}
    for codec, encoder in {"h264": "libx264", "mpeg4": "mpeg4", "mpeg2video": "mpeg2video"}.items():
        arrays = _read_vectors(_sample(encoder), "SLICE")
        found[codec] = any(array is not None and len(array) for array in arrays)
    good = [codec for codec, exported in found.items() if exported]
    others = [codec for codec in NATIVE_CODECS if codec not in found]
    advice = "" if len(good) == len(found) else "use motion source `reencode`, or install av from its own wheels"
    return Check(
        "vectors exported",
        not advice,
        f"{', '.join(good)} tried; {', '.join(others)} expected; all others are re-encoded",
        advice,
    )


def _threads() -> Check:
    """Check that slice threads export the same vectors of B frames as a single thread, every time."""
    sample = _sample("libx264")
    alone = _read_vectors(sample, "NONE")
    same = all(_have_same_vectors(alone, _read_vectors(sample, "SLICE")) for _ in range(5))
    framewise = sum(not _have_same_vectors(alone, _read_vectors(sample, "FRAME")) for _ in range(5))
    found = f"slice threads exact; frame threads differ in {framewise} of 5 readings (never used for vectors)"
    advice = "" if same else "vectors change from run to run: another build of av is needed"
    return Check("threads", same, found if same else "slice threads change the vectors", advice)


def _backends() -> Check:
    extractor = "motion-vector-extractor " + ("found" if find_spec("mvextractor") else "not installed")
    return Check("backends", True, f"av; {extractor}; OpenCV {cv2.__version__}")


def _sample(encoder: str) -> bytes:
    """Return a short video with motion, encoded in memory."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    picture = np.asarray(cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), np.uint8)
    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream = cast(Any, container.add_stream(encoder, rate=25, options={"bf": "2"}))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for number in range(24):
            crop = np.ascontiguousarray(picture[number * 2 : number * 2 + 96, number * 3 : number * 3 + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        container.mux(stream.encode(None))
    return memory.getvalue()


def _read_vectors(content: bytes, threads: str) -> list[np.ndarray | None]:
    """Return the vectors of each frame, None for a frame without."""
    with cast(InputContainer, av.open(io.BytesIO(content))) as container:
        context = container.streams.video[0].codec_context
        context.thread_type, context.options = threads, {"flags2": "+export_mvs"}
        data = [cast(Any, frame.side_data.get("MOTION_VECTORS")) for frame in container.decode(video=0)]
        return [None if vectors is None else vectors.to_ndarray() for vectors in data]


def _have_same_vectors(one: list[np.ndarray | None], other: list[np.ndarray | None]) -> bool:
    if len(one) != len(other):
        return False
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None or b is not None]
    return all(
        a is not None and b is not None and all(np.array_equal(a[name], b[name]) for name in FIELDS) for a, b in pairs
    )


CHECKS: dict[str, Callable[[], Check]] = {
    "FFmpeg libraries": _libraries,
    "FFmpeg program": _binary,
    "vectors exported": _vectors,
    "threads": _threads,
    "backends": _backends,
}
