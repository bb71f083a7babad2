"""Motion fields that could have been filmed as well: mirrored, played backwards or faster, by another camera."""

import numpy as np

from motion_vq.camera import PIXELS


def augment(vectors: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Field float32 [T, h, w, 2] in fractions of the frame, bool [T, h, w] -> the same kinds, changed at random."""
    vectors, valid = vectors.copy(), valid.copy()
    if rng.random() < 0.5:
        vectors, valid = vectors[:, :, ::-1] * (-1, 1), valid[:, :, ::-1]
    if rng.random() < 0.5:
        vectors, valid = vectors[:, ::-1] * (1, -1), valid[:, ::-1]
    if rng.random() < 0.5:
        vectors, valid = -vectors[::-1], valid[::-1]
    if rng.random() < 0.5:
        vectors = vectors * np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.25:
        vectors = vectors + camera_motion(valid.shape[0], valid.shape[1], valid.shape[2], rng)
    return np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(valid)


def camera_motion(num_steps: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Field [T, h, w, 2] of a camera that pans, tilts, zooms, rolls and shakes; fractions of the frame."""
    x = (np.arange(width) * 2 + 1) / width - 1
    y = ((np.arange(height) * 2 + 1) / height - 1)[:, None]
    time = np.linspace(0, np.pi, num_steps)[:, None]
    speed = np.exp(rng.normal(-1.0, 1.2, 6)) * rng.choice([-1, 1], 6) * (1, 0.6, 0.3, 0.3, 0.1, 0.1)
    waves = np.cos(time * np.arange(3)) @ (rng.normal(0, (1, 0.5, 0.25), (6, 3))).T * speed
    waves[:, :2] += rng.normal(0, np.exp(rng.normal(-2.5, 1.0)), (num_steps, 2))
    pan, tilt, zoom, roll, shear, stretch = (waves[:, i, None, None] for i in range(6))
    dx = pan + (zoom + stretch) * x - (roll - shear) * y
    dy = tilt + (zoom - stretch) * y + (roll + shear) * x
    return np.stack(np.broadcast_arrays(dx, dy), -1) / PIXELS
