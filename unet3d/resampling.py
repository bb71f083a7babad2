"""Read and resize pictures and fields on a CPU by OpenCV, for frames that are shown: two to ten times as fast as torch.

Results are those of torch but for rounding (some 1e-6), so nothing that decides an id may use them. Where OpenCV is no
help, on a GPU, in float64 and in training, torch does the same.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.warping import resize_fields, sample_frames


def read_bicubic(picture: Tensor, grid: Tensor) -> Tensor:
    """Read a picture [B, 3, H, W] bicubically through a sampling grid [B, T, h, w, 2]: [B, T, 3, h, w]."""
    import cv2

    # OpenCV 4 rounds positions to 1/32 of a pixel
    if not _suits_opencv(picture, grid) or int(cv2.__version__.partition(".")[0]) < 5:
        return sample_frames(picture, grid, "bicubic")
    height, width = picture.shape[-2:]
    pixels = (grid * grid.new_tensor((width, height))).sub_(0.5).numpy()
    images = picture.movedim(1, -1).contiguous().numpy()
    found = np.empty((*grid.shape[:-1], 3), np.float32)
    for image, positions, frames in zip(images, pixels, found, strict=True):
        for at, frame in zip(positions, frames, strict=True):
            # one map with both coordinates, which cv2's types do not know
            cv2.remap(image, at, None, cv2.INTER_CUBIC, frame, cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return torch.from_numpy(found).movedim(-1, 2).contiguous()


def resize_fields_bicubic(values: Tensor, height: int, width: int) -> Tensor:
    """Do `warping.resize_fields`: [B, T, h, w, C] to [B, T, height, width, C], C up to 4."""
    if not _suits_opencv(values):
        return resize_fields(values, height, width)
    import cv2

    return _resized(values.flatten(0, 1), height, width, cv2.INTER_CUBIC).unflatten(0, values.shape[:2])


def enlarge_bilinear(values: Tensor, height: int, width: int) -> Tensor:
    """Enlarge values [..., C, h, w] bilinearly to [..., C, height, width]; C is at least one dimension."""
    if not _suits_opencv(values):
        planes = F.interpolate(values.flatten(0, -4), (height, width), mode="bilinear", align_corners=False)
        return planes.unflatten(0, values.shape[:-3])
    import cv2

    return _resized(values.flatten(0, -3), height, width, cv2.INTER_LINEAR).unflatten(0, values.shape[:-2])


def enlarge_vectors_bilinear(vectors: Tensor, height: int, width: int) -> Tensor:
    """Enlarge vectors [..., h, w, 2] bilinearly to [..., height, width, 2]."""
    if not _suits_opencv(vectors):
        return enlarge_bilinear(vectors.movedim(-1, -3), height, width).movedim(-3, -1)
    import cv2

    return _resized(vectors.flatten(0, -4), height, width, cv2.INTER_LINEAR).unflatten(0, vectors.shape[:-3])


def _resized(values: Tensor, height: int, width: int, interpolation: int) -> Tensor:
    """Resize planes [N, h, w] or [N, h, w, C]."""
    import cv2

    found = np.empty((len(values), height, width, *values.shape[3:]), np.float32)
    for small, large in zip(values.contiguous().numpy(), found, strict=True):
        cv2.resize(small, (width, height), dst=large, interpolation=interpolation)
    return torch.from_numpy(found)


def _suits_opencv(*tensors: Tensor) -> bool:
    return all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in tensors
    )
