"""Photographs moved by a virtual camera: footage whose motion is known exactly.

A layer is a photograph on a plane of its own, continued beyond its borders by reflection. A camera path gives the pose
of the camera over that plane at any time. Because a path is a function of time, a scene has a frame at every instant,
whatever the frame rate, and the motion between any two instants is a closed formula.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

PhotographName = Literal["astronaut", "coffee", "chelsea", "rocket"]
OVERSAMPLING = 2
VIEW_SHARE = 0.8
"""At zoom 1 the frame covers this share of the largest frame that fits into the photograph."""


def photograph(name: PhotographName) -> np.ndarray:
    """Return one of the photographs that come with scikit-image, uint8 [H, W, 3] RGB; nothing is downloaded."""
    from skimage import data  # slow to import, and only samples and tests need it

    return getattr(data, name)()


@dataclass(frozen=True)
class Pose:
    """The pose of the camera over a layer."""

    x: float = 0.0
    """Centre of the view, right of the photograph's centre, in frame widths at zoom 1."""
    y: float = 0.0
    """Centre of the view, below the photograph's centre, in frame heights at zoom 1."""
    zoom: float = 1.0
    """Magnification; above 1 the content looks larger."""
    degrees: float = 0.0
    """Rotation of the camera, clockwise in the picture; the content rotates the other way."""


Path = Callable[[float], Pose]
"""The camera's pose at a time in seconds."""


def constant_speed(
    pan: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0, degrees: float = 0.0, start: Pose | None = None
) -> Path:
    """Return a path of constant speed from `start`.

    Args:
        pan: frame widths and heights per second at zoom 1. A camera that pans right (positive) moves the content left,
            so the content was further right before: `MotionField` vectors have the sign of `pan`, and at f frames per
            second their value is `pan / f`.
        zoom: factor per second; 1.2 enlarges the content by a fifth every second.
        degrees: rotation per second, clockwise.
        start: the pose at time 0.
    """
    origin = start or Pose()

    def pose(seconds: float) -> Pose:
        return Pose(
            origin.x + pan[0] * seconds,
            origin.y + pan[1] * seconds,
            origin.zoom * zoom**seconds,
            origin.degrees + degrees * seconds,
        )

    return pose


def hand_held_path(seed: int, strength: float = 1.0) -> Path:
    """Return a smooth hand-held path: every degree of freedom is a sum of three slow sines with random phases.

    At `strength` 1 the pan reaches about a third of a frame per second, the rotation about ten degrees per second.
    """
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.1, 0.6, (4, 3))  # cycles a second
    phases = rng.uniform(0, 2 * math.pi, (4, 3))
    reach = np.array([0.09, 0.09, 0.10, 4.0]) * strength  # x, y, log zoom, degrees

    def pose(seconds: float) -> Pose:
        x, y, log_zoom, degrees = reach * np.sin(2 * math.pi * rates * seconds + phases).sum(axis=1)
        return Pose(float(x), float(y), math.exp(log_zoom), float(degrees))

    return pose


@dataclass(frozen=True)
class Layer:
    """A photograph and the path of the camera over it."""

    picture: np.ndarray = field(repr=False)
    """uint8 [H, W, 3] RGB."""
    path: Path
    """The path over this layer: layers nearer to the camera move faster, or independently."""
    oval: tuple[float, float] | None = None
    """None: the layer fills the frame. Else an oval part around the photograph's centre, (width, height) in frame
    widths and heights at zoom 1, in front of the layers behind."""

    def __post_init__(self) -> None:
        if self.picture.ndim != 3 or self.picture.shape[-1] != 3 or self.picture.dtype != np.uint8:
            raise ValueError(f"`picture` must be uint8 [H, W, 3], got {self.picture.dtype} {list(self.picture.shape)}")

    def matrix(self, seconds: float, size: tuple[int, int]) -> np.ndarray:
        """Return the matrix from points of the frame to those of the photograph, float64 [3, 3].

        Points of the frame are fractions from 0 to 1, those of the photograph pixels, counted from its edge.
        """
        height, width = self.picture.shape[:2]
        unit = self._unit(size)
        pose = self.path(seconds)
        cos, sin = math.cos(math.radians(pose.degrees)), math.sin(math.radians(pose.degrees))
        turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag(size) * unit / pose.zoom
        centre = np.array([width / 2 + pose.x * unit * size[0], height / 2 + pose.y * unit * size[1]])
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = centre - turn @ [0.5, 0.5]
        return matrix

    def covers(self, points: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return whether the points [..., 2] of the frame show the layer, whose matrix is given: bool [...]."""
        if self.oval is None:
            return np.ones(points.shape[:-1], bool)
        height, width = self.picture.shape[:2]
        radii = np.multiply(self.oval, size) * self._unit(size) / 2
        to_circle = (matrix[:2] - [[0, 0, width / 2], [0, 0, height / 2]]) / radii[:, None]
        x, y = points[..., 0], points[..., 1]
        (a, b, c), (d, e, f) = to_circle
        return (a * x + b * y + c) ** 2 + (d * x + e * y + f) ** 2 <= 1

    def _unit(self, size: tuple[int, int]) -> float:
        """Return the pixels of the photograph per pixel of the frame at zoom 1."""
        height, width = self.picture.shape[:2]
        return VIEW_SHARE * min(width / size[0], height / size[1])


@dataclass(frozen=True)
class Scene:
    """Layers from back to front, seen through a frame of `size` (width, height) pixels."""

    layers: Sequence[Layer]
    """The first must fill the frame."""
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if not self.layers or self.layers[0].oval is not None:
            raise ValueError("`layers` must begin with one that fills the frame: `oval=None`")

    def frame(self, seconds: float) -> np.ndarray:
        """Return the frame at a time, uint8 [H, W, 3] RGB."""
        width, height = self.size[0] * OVERSAMPLING, self.size[1] * OVERSAMPLING
        canvas = np.empty((height, width, 3), np.uint8)
        # cv2 counts pixels at their centres; the layer's matrix takes fractions of the frame and pixels at their edges
        to_fractions = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
        to_centres = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
        for layer in self.layers:
            matrix = layer.matrix(seconds, self.size)
            warped = cv2.warpAffine(
                layer.picture,
                (to_centres @ matrix @ to_fractions)[:2],
                (width, height),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            if layer.oval is None:
                canvas = warped
            else:
                mask = layer.covers(cell_centres(height, width), matrix, self.size)
                np.copyto(canvas, warped, where=mask[..., None])
        return cv2.resize(canvas, self.size, interpolation=cv2.INTER_AREA)

    def frames(self, pts_seconds: Iterable[float]) -> Iterator[np.ndarray]:
        """Return the frames at some times, uint8 [H, W, 3] RGB each."""
        return (self.frame(float(seconds)) for seconds in pts_seconds)

    def motion(
        self, seconds: float, before_seconds: float, grid: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact motion between two instants, in `MotionField`'s convention.

        Args:
            seconds: the time of the frame whose content is followed.
            before_seconds: the time of the frame it came from.
            grid: (height, width) in cells, sampled at their centres; the frame's pixels where None.

        Returns:
            vectors: float32 [h, w, 2], (dx, dy) in fractions of the frame: the content at (x, y) at `seconds` was at
                (x + dx, y + dy) at `before_seconds`.
            visible: bool [h, w]; False where that content was hidden by another layer or outside the frame, so that no
                search could have found it.
        """
        height, width = grid or (self.size[1], self.size[0])
        centres = cell_centres(height, width)
        owner = self._owner(centres, seconds)
        origin = np.empty_like(centres)
        for index, layer in enumerate(self.layers):
            back = np.linalg.inv(layer.matrix(before_seconds, self.size)) @ layer.matrix(seconds, self.size)
            origin = np.where((owner == index)[..., None], transform(back, centres), origin)
        inside = ((origin >= 0) & (origin <= 1)).all(axis=-1)
        visible = inside & (self._owner(origin, before_seconds) == owner)
        return (origin - centres).astype(np.float32), visible

    def _owner(self, points: np.ndarray, seconds: float) -> np.ndarray:
        """Return the index of the front-most layer at points [..., 2] of the frame (fractions): int [...]."""
        owner = np.zeros(points.shape[:-1], int)
        for index, layer in enumerate(self.layers):
            owner[layer.covers(points, layer.matrix(seconds, self.size), self.size)] = index
        return owner


def cell_centres(height: int, width: int) -> np.ndarray:
    """Return (x, y) of the centres of a grid's cells, in fractions of the frame: float64 [height, width, 2]."""
    centres = np.empty((height, width, 2))
    centres[..., 0] = (np.arange(width) + 0.5) / width
    centres[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
    return centres


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply an affine matrix [3, 3] to points [..., 2]."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def sample_scene(size: tuple[int, int] = (480, 270)) -> Scene:
    """Return the scene of `videotok sample`: a slow zoom over one photograph, while another one moves past in front."""
    background = Layer(
        photograph("coffee"), constant_speed(pan=(0.05, -0.02), zoom=1.04, degrees=1.5, start=Pose(x=-0.1))
    )
    drifting = constant_speed(pan=(-0.12, 0.03), start=Pose(x=0.36, y=-0.12, zoom=0.75))
    return Scene((background, Layer(photograph("chelsea"), drifting, oval=(0.6, 0.8))), size)
