"""Photographs moved by a virtual camera: footage whose motion is known exactly.

A layer is a photograph on a plane of its own, continued beyond its borders by reflection; a camera path says where over
that plane the frame lies at any time. Because a path is a function of time, a scene has a picture at every instant (any
frame rate, any timestamps), and the motion between any two instants is a closed formula.
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
    """uint8 [H, W, 3] RGB: one of the photographs that scikit-image carries in its wheel (nothing is downloaded)."""
    from skimage import data  # slow to import, and only samples and tests need it

    return getattr(data, name)()


@dataclass(frozen=True)
class Pose:
    """Where the camera stands over a layer."""

    x: float = 0.0
    """Centre of the view, right of the photograph's centre, in frame widths at zoom 1."""
    y: float = 0.0
    """Centre of the view, below the photograph's centre, in frame heights at zoom 1."""
    zoom: float = 1.0
    """Magnification; above 1 the content looks larger."""
    degrees: float = 0.0
    """Turn of the camera, clockwise as seen in the picture; the content seems to turn the other way."""


Path = Callable[[float], Pose]
"""The camera's pose at a time in seconds."""


def steady(
    pan: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0, degrees: float = 0.0, start: Pose | None = None
) -> Path:
    """Constant speed from `start`.

    Args:
        pan: frame widths and heights a second at zoom 1. A camera that pans right (positive) moves the content left, so
            the content stood further right before: `MotionField` vectors have the sign of `pan`, and at f frames a
            second their value is `pan / f`.
        zoom: factor a second; 1.2 grows the content by a fifth every second.
        degrees: turn a second, clockwise.
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


def wandering(seed: int, strength: float = 1.0) -> Path:
    """A smooth hand-held path: every degree of freedom is a sum of three slow sines with random phases.

    At `strength` 1 the pan reaches about a third of a frame a second, the turn some ten degrees a second.
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
    """A photograph, and the path of the camera over it."""

    picture: np.ndarray = field(repr=False)
    """uint8 [H, W, 3] RGB."""
    path: Path
    """One path for each layer: layers nearer to the camera move faster, or on their own."""
    oval: tuple[float, float] | None = None
    """None: the layer fills the frame. Else an oval cut-out around the photograph's centre, (width, height) in frame
    widths and heights at zoom 1, that hides what lies behind it."""

    def __post_init__(self) -> None:
        if self.picture.ndim != 3 or self.picture.shape[-1] != 3 or self.picture.dtype != np.uint8:
            raise ValueError(f"`picture` must be uint8 [H, W, 3], got {self.picture.dtype} {list(self.picture.shape)}")

    def matrix(self, seconds: float, size: tuple[int, int]) -> np.ndarray:
        """float64 [3, 3]: from a point of the frame (fractions, 0..1) to one of the photograph (pixels, edges at 0)."""
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
        """bool [...]: whether the points [..., 2] of the frame show the layer, which lies at `matrix`."""
        if self.oval is None:
            return np.ones(points.shape[:-1], bool)
        height, width = self.picture.shape[:2]
        radii = np.multiply(self.oval, size) * self._unit(size) / 2
        to_circle = (matrix[:2] - [[0, 0, width / 2], [0, 0, height / 2]]) / radii[:, None]
        x, y = points[..., 0], points[..., 1]
        (a, b, c), (d, e, f) = to_circle
        return (a * x + b * y + c) ** 2 + (d * x + e * y + f) ** 2 <= 1

    def _unit(self, size: tuple[int, int]) -> float:
        """Pixels of the photograph to a pixel of the frame at zoom 1."""
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
        """uint8 [H, W, 3] RGB: the picture at this time."""
        width, height = self.size[0] * OVERSAMPLING, self.size[1] * OVERSAMPLING
        canvas = np.empty((height, width, 3), np.uint8)
        # from pixels counted at their centres, cv2's way, to fractions of the frame; and the layer's side likewise
        to_fractions = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
        to_centres = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
        for layer in self.layers:
            matrix = layer.matrix(seconds, self.size)
            seen = cv2.warpAffine(
                layer.picture,
                (to_centres @ matrix @ to_fractions)[:2],
                (width, height),
                flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            if layer.oval is None:
                canvas = seen
            else:
                mask = layer.covers(cell_centres(height, width), matrix, self.size)
                np.copyto(canvas, seen, where=mask[..., None])
        return cv2.resize(canvas, self.size, interpolation=cv2.INTER_AREA)

    def frames(self, pts_seconds: Iterable[float]) -> Iterator[np.ndarray]:
        """The pictures at these times, uint8 [H, W, 3] each."""
        return (self.frame(float(seconds)) for seconds in pts_seconds)

    def motion(
        self, seconds: float, before_seconds: float, grid: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exact motion between two instants, in `MotionField`'s convention.

        Args:
            seconds: the time of the frame whose content is followed.
            before_seconds: the time of the frame it came from.
            grid: (height, width) in cells, sampled at their centres; the frame's pixels where None.

        Returns:
            vectors: float32 [h, w, 2], (dx, dy) in fractions of the frame: the content at (x, y) at `seconds` stood at
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
        """int [...]: the front-most layer at each point [..., 2] of the frame (fractions)."""
        owner = np.zeros(points.shape[:-1], int)
        for index, layer in enumerate(self.layers):
            owner[layer.covers(points, layer.matrix(seconds, self.size), self.size)] = index
        return owner


def cell_centres(height: int, width: int) -> np.ndarray:
    """float64 [height, width, 2]: (x, y) of the centres of a grid's cells, in fractions of the frame."""
    centres = np.empty((height, width, 2))
    centres[..., 0] = (np.arange(width) + 0.5) / width
    centres[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
    return centres


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine matrix [3, 3] applied to points [..., 2]."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def sample_scene(size: tuple[int, int] = (480, 270)) -> Scene:
    """What `videotok sample` writes: a slow turning zoom over one photograph while another drifts through in front."""
    background = Layer(photograph("coffee"), steady(pan=(0.05, -0.02), zoom=1.04, degrees=1.5, start=Pose(x=-0.1)))
    drifting = steady(pan=(-0.12, 0.03), start=Pose(x=0.36, y=-0.12, zoom=0.75))
    return Scene((background, Layer(photograph("chelsea"), drifting, oval=(0.6, 0.8))), size)
