"""The ladder of rebuilt clips: what each step of the system is worth, from the keyframe held still upward."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet3d.warp import one_way, two_way


@dataclass(frozen=True)
class Ends:
    """The pictures a clip lies between."""

    keyframe: Tensor
    """float32 [1, 3, H, W] in [-1, 1]."""
    next_keyframe: Tensor | None
    """The next clip's, same shape; None at the end of a video."""


def still_rungs(ends: Ends, steps: int) -> dict[str, np.ndarray]:
    """Rungs that use no motion: name -> uint8 [T, H, W, 3]. `hold`: the keyframe, still. `crossfade`: into the next."""
    hold = ends.keyframe[:, None].expand(-1, steps, -1, -1, -1)
    rungs = {"hold": pixels(hold)}
    if ends.next_keyframe is not None:
        weight = (torch.arange(steps) / steps).view(1, steps, 1, 1, 1)
        rungs["crossfade"] = pixels(hold * (1 - weight) + ends.next_keyframe[:, None] * weight)
    return rungs


def warp_rungs(
    ends: Ends, vectors: Tensor, next_vectors: Tensor | None, suffix: str = ""
) -> Iterator[tuple[str, np.ndarray]]:
    """Rungs along a motion field: (name, uint8 [T, H, W, 3]), each made when it is asked for.

    `warp`: the keyframe along the field. `two_way`: the next keyframe too, where there is one.

    Args:
        vectors: float32 [1, T, h, w, 2]; next_vectors: the next clip's field, whose slot 0 is used.
        suffix: added to the names ("_raw" for vectors that were not coded).
    """
    yield f"warp{suffix}", pixels(one_way(ends.keyframe, vectors).pictures)
    if ends.next_keyframe is not None and next_vectors is not None:
        both = two_way(ends.keyframe, vectors, ends.next_keyframe, next_vectors)
        yield f"two_way{suffix}", pixels(both.pictures)


def pixels(frames: Tensor) -> np.ndarray:
    """float [1, T, 3, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    values = ((frames[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())


def tensor(picture: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
