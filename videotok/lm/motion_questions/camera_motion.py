"""The camera's motion in real footage, measured between its pictures, and the questions that it clearly answers.

Points are tracked from frame to frame (pyramidal Lucas-Kanade), and a similarity is fitted to them robustly (RANSAC),
so that what moves by itself does not count. Neither motion vectors nor ids are used: this is what answers from those
are compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from av import VideoFrame

from codec.optical_flow import OpticalFlow, is_scene_cut
from videotok.lm.motion_questions.scenes import CAMERA, FPS, ZOOM

MOVES = "does the camera move"
"""Question that is only asked about footage and scenes whose camera is known: `yes` or `no`."""
STANDS_STILL = "it stands still"
"""Answer to `CAMERA` and `ZOOM` where the camera does."""
SIZE = (256, 144)
"""(width, height) of the pictures that are compared."""
MAX_POINTS, MIN_POINTS = 300, 24
MAX_ERROR_PIXELS = 0.8
"""Of a point that follows the camera, between its place and the one that the fit says."""
MIN_INLIERS = 0.5
"""Share of points that must follow the camera: else something large moves, or the pictures are not comparable."""
MIN_COVER, MIN_SHARE_OF_COVER = 0.2, 0.6
"""Share of the picture within the hull of the points that follow the camera, and what share of the hull of
all tracked points that is: else they may all lie on one object."""
MIN_KNOWN = 0.7
"""Share of the steps of a path that must be known."""
MIN_SPEED = 0.02
"""Slowest clear pan, in frame widths a second."""
MIN_GROWTH = 0.014
"""Slowest clear zoom: what the picture grows at either side, in frame widths a second."""
MAX_STILL = 0.01
"""Of a still camera, how far the picture strays, in frame widths: 2.5 pixels of 256."""
DOMINANCE = 2.0
"""How many times the other kinds of motion a clear motion is."""
MIN_CHANGE = 1.6
"""Least factor between the mean speeds of both halves of a clear change of speed."""
MIN_STEADINESS = 0.8
"""Of a clear motion: the way from beginning to end, over the way that was gone (in means over `SMOOTHED` steps)."""
SMOOTHED = FPS // 2


@dataclass(frozen=True)
class CameraPath:
    """How the picture's content moves as a whole, step by step, at 12 steps a second."""

    steps: np.ndarray
    """float32 [n, 3]: to the right, downwards, and growth at either side; all in fractions of the frame's width. NaN
    where it is not known: too few points, or too few of them move alike. Infinite at a cut."""

    def known(self) -> np.ndarray:
        """Return the steps with the mean of all where one is not known; empty where too many are not, or at a cut."""
        is_known = np.asarray(np.isfinite(self.steps).all(axis=1))
        if not len(self.steps) or is_known.mean() < MIN_KNOWN or np.isinf(self.steps).any():
            return self.steps[:0]
        return np.where(is_known[:, None], self.steps, self.steps[is_known].mean(axis=0))

    def answers(self) -> dict[str, str]:
        """Return question -> answer for what the path clearly shows; empty where it is between two answers.

        A camera moves against its content.
        """
        steps = self.known()
        if not len(steps):
            return {}
        seconds = len(steps) / FPS
        places = np.cumsum(steps, axis=0)
        if np.ptp(np.concatenate([np.zeros((1, 3)), places]), axis=0).max() < MAX_STILL:
            return {MOVES: "no", CAMERA: STANDS_STILL, ZOOM: STANDS_STILL}
        x, y, growth = (float(value) for value in places[-1])
        sizes = np.abs([x, y, growth])
        largest = int(sizes.argmax())
        others = np.delete(sizes, largest)
        if sizes[largest] < DOMINANCE * others.max() or _steadiness(steps[:, largest]) < MIN_STEADINESS:
            return {}
        if sizes[largest] < (MIN_GROWTH if largest == 2 else MIN_SPEED) * seconds:
            return {}
        if largest == 2:
            return {MOVES: "yes", ZOOM: "closer" if growth > 0 else "away"}
        return {MOVES: "yes", CAMERA: ("left" if x > 0 else "right") if largest == 0 else ("up" if y > 0 else "down")}

    def speed_change(self) -> str | None:
        """Return whether a clear motion gets `faster` or `slower` from its first to its second half; None: neither."""
        answers = self.answers()
        if answers.get(MOVES) != "yes":
            return None
        steps = self.known()
        kind = int(np.abs(steps.sum(axis=0)).argmax())
        before, after = (float(abs(part[:, kind].mean())) for part in np.array_split(steps, 2))
        ratio = max(after, 1e-9) / max(before, 1e-9)
        return "faster" if ratio > MIN_CHANGE else "slower" if ratio < 1 / MIN_CHANGE else None


def _steadiness(steps: np.ndarray) -> float:
    """Return how far steps [n] lead over how far they go, in sums of `SMOOTHED` steps: 0 to 1."""
    sums = [part.sum() for part in np.array_split(steps, max(len(steps) // SMOOTHED, 1))]
    return abs(float(np.sum(sums))) / max(float(np.abs(sums).sum()), 1e-9)


def camera_path(frames: np.ndarray) -> CameraPath:
    """Return the path of the camera, n - 1 steps, between frames uint8 [n, H, W, 3] at 12 a second."""
    pictures = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), SIZE, interpolation=cv2.INTER_AREA) for frame in frames
    ]
    steps = [_step(before, after) for before, after in pairwise(pictures)]
    return CameraPath(np.array(steps, np.float32).reshape(-1, 3))


def _step(before: np.ndarray, after: np.ndarray) -> Sequence[float]:
    """Return one step of `CameraPath.steps`, from pictures uint8 [H, W]."""
    unknown = (np.nan,) * 3
    points = cv2.goodFeaturesToTrack(before, MAX_POINTS, 0.01, 6)
    if points is None or len(points) < MIN_POINTS:
        return unknown
    moved, found = _track(before, after, points)
    back, found_back = _track(after, before, moved)
    is_tracked = (found & found_back)[:, 0].astype(bool) & (np.abs(back - points).max(axis=(1, 2)) < 0.5)
    if is_tracked.sum() < max(MIN_POINTS, len(points) / 4):
        return (np.inf,) * 3 if _is_cut(before, after) else unknown
    matrix, inliers = cv2.estimateAffinePartial2D(
        points[is_tracked], moved[is_tracked], method=cv2.RANSAC, ransacReprojThreshold=MAX_ERROR_PIXELS
    )
    if matrix is None or inliers.mean() < MIN_INLIERS:
        return (np.inf,) * 3 if _is_cut(before, after) else unknown
    covered = _cover(points[is_tracked][inliers[:, 0].astype(bool)])
    if covered < max(MIN_COVER, MIN_SHARE_OF_COVER * _cover(points[is_tracked])):
        return unknown
    centre = np.array([SIZE[0] / 2, SIZE[1] / 2])
    x, y = matrix[:, :2] @ centre + matrix[:, 2] - centre
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return x / SIZE[0], y / SIZE[0], (scale - 1) / 2


def _track(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where points, float32 [n, 1, 2], went from one picture to another, and which were found, uint8 [n, 1]."""
    nowhere: Any = None  # OpenCV's stubs want an array
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, nowhere, winSize=(15, 15), maxLevel=3)
    return moved, found


def _cover(points: np.ndarray) -> float:
    """Return the share of the picture within the convex hull of points, float32 [n, 1, 2]."""
    return cv2.contourArea(cv2.convexHull(points)) / (SIZE[0] * SIZE[1])


def _is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether two pictures, uint8 [H, W], show two scenes."""
    now, previous = (VideoFrame.from_ndarray(np.ascontiguousarray(picture), "gray") for picture in (after, before))
    return OpticalFlow().measure(now, previous, (1, 1), is_scene_cut).is_cut
