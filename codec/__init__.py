"""Read a video as clips: keyframes, and motion fields from the stream's own motion vectors."""

from codec.atomic_files import atomic_path, check_writable
from codec.clips import iter_clips
from codec.container import Source, local_file
from codec.diagnostics import Check, run_diagnostics
from codec.errors import MediaError
from codec.probe import MediaInfo, probe
from codec.stream_motion import FrameMotion, FrameVectors, StreamMotion, iter_motion, iter_vectors, read_motion
from codec.subprocess_reader import SubprocessReader, iter_clips_isolated, probe_isolated
from codec.types import Clip, ClipSpec, MotionField, MotionSource, VectorShares
from codec.video_writer import REPRODUCIBLE, VideoWriter

__all__ = [
    "REPRODUCIBLE",
    "Check",
    "Clip",
    "ClipSpec",
    "FrameMotion",
    "FrameVectors",
    "MediaError",
    "MediaInfo",
    "MotionField",
    "MotionSource",
    "Source",
    "StreamMotion",
    "SubprocessReader",
    "VectorShares",
    "VideoWriter",
    "atomic_path",
    "check_writable",
    "iter_clips",
    "iter_clips_isolated",
    "iter_motion",
    "iter_vectors",
    "local_file",
    "probe",
    "probe_isolated",
    "read_motion",
    "run_diagnostics",
]
