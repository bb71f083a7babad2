"""Video files taken apart in a child process that serves one file after another: what dies or hangs there is one
MediaError here, and the next file gets a new child.

The child is started without multiprocessing's spawn, which would import the parent's main module (Ray's worker) again;
this module knows neither torch nor Ray.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import cv2
import numpy as np

from codec import ClipSpec, MediaError, iter_clips, probe
from codec.probe import check_length, expected_seconds

PATIENCE_SECONDS = 120.0
"""Longer without a clip is a decoder that hangs."""


@dataclass(frozen=True)
class Part:
    """What to read of which file."""

    path: str
    """A local file."""
    start_seconds: float = 0.0
    duration_seconds: float | None = None


@dataclass(frozen=True)
class SmallClip:
    """A clip as the tokenizers need it: the keyframe squashed to their size, and the motion field."""

    keyframe: np.ndarray
    """uint8 [side, side, 3] RGB."""
    vectors: np.ndarray
    """float32 [T, h, w, 2], fractions of the frame."""
    valid: np.ndarray
    """bool [T, h, w]."""
    pts_seconds: float
    num_frames: int
    damaged: bool
    motion_source: str
    codec: str
    width: int
    """Of the video as displayed."""
    height: int
    cpu_seconds: float
    """What it took to get it, of the child's processor time and that of its own children."""


class Decoder:
    """Reads files in a child process, which lives as long as it behaves.

    Args:
        spec: how videos are cut into clips.
        side: of the squashed keyframes, in pixels.
        motion_source: as for `codec.iter_clips`.
        patience_seconds: how long to wait for a clip.
    """

    def __init__(
        self, spec: ClipSpec, side: int, motion_source: str = "auto", patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._settings = (spec, side, motion_source)
        self.patience_seconds = patience_seconds
        self._child: subprocess.Popen | None = None
        self._pipe: Connection | None = None

    @property
    def child_id(self) -> int:
        """Process id of the child; 0 where there is none."""
        return self._child.pid if self._child else 0

    def clips(self, part: Part) -> Iterator[SmallClip]:
        """The clips of a file, one by one.

        Raises:
            MediaError: as `VideoTokenizer.encode`; and where the child died, or gave nothing for `patience_seconds`.
        """
        pipe, finished = self._started(), False
        try:
            pipe.send((part, *self._settings))
            while isinstance(message := self._received(pipe, part.path), SmallClip):
                yield message
            finished = True
        except (EOFError, OSError) as error:
            code = self._child.wait() if self._child else None
            raise MediaError(
                f"cannot read {part.path}: its decoder died (exit code {code}); the file is damaged"
            ) from error
        finally:
            if not finished:  # it died or hangs, or nobody wants the rest
                self.close()
        if message is not None:
            raise MediaError(message)

    def _received(self, pipe: Connection, path: str) -> Any:
        if not pipe.poll(self.patience_seconds):
            raise MediaError(f"cannot read {path}: no clip for {self.patience_seconds:g} s; the file is damaged")
        return pipe.recv()

    def _started(self) -> Connection:
        if self._pipe is None or self._child is None or self._child.poll() is not None:
            self.close()
            self._pipe, there = Pipe()
            command = [sys.executable, "-c", f"from videotok.corpus import decoder; decoder.serve({there.fileno()})"]
            self._child = subprocess.Popen(command, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL)
            there.close()
        return self._pipe

    def close(self) -> None:
        """Ends the child, whatever it is doing."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._pipe = self._child = None

    def __del__(self) -> None:
        self.close()


def serve(handle: int) -> None:
    """What the child does: answers each request with clips and then None, or with the words of a MediaError."""
    cv2.setNumThreads(1)
    pipe = Connection(handle)
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            try:
                for clip in _read(*pipe.recv()):
                    pipe.send(clip)
                pipe.send(None)
            except MediaError as error:
                pipe.send(str(error))


def _read(part: Part, spec: ClipSpec, side: int, motion_source: Any) -> Iterator[SmallClip]:
    info = probe(part.path)
    expected = expected_seconds(info, spec, part.start_seconds, part.duration_seconds)
    num_frames, spent = 0, sum(os.times()[:4])
    for clip in iter_clips(
        part.path,
        spec,
        motion_source=motion_source,
        start_seconds=part.start_seconds,
        duration_seconds=part.duration_seconds,
    ):
        num_frames += clip.num_frames
        before, spent = spent, sum(os.times()[:4])
        yield SmallClip(
            # what videotok.image_utils.squashed does, without torch
            keyframe=cv2.resize(clip.keyframe, (side, side), interpolation=cv2.INTER_AREA),
            vectors=clip.motion.vectors,
            valid=clip.motion.valid,
            pts_seconds=clip.pts_seconds,
            num_frames=clip.num_frames,
            damaged=clip.damaged,
            motion_source=clip.motion_source,
            codec=info.codec,
            width=info.width,
            height=info.height,
            cpu_seconds=spent - before,
        )
    check_length(part.path, spec, num_frames, expected)
