"""Two warps of one frame, brought together: what coded motion got wrong shows as a shift between them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unet3d.cells import luma
from unet3d.warp import cell_centres, sample

SCALES = (8, 4, 2)
"""Flow is found coarse to fine, on pictures smaller by these factors; a finer one costs much and gains nothing."""
ITERATIONS = 2
WINDOW = 7
"""Cells whose brightness decides together."""
DAMPING = 0.01
"""Of the flow where the picture is flat; brightness is in -1..1."""
SMOOTHING = 9
OUTLIER = 0.2
"""A difference in brightness of this size counts half: it is no shift but something hidden."""


def align(first: Tensor, second: Tensor, nearness: Tensor) -> tuple[Tensor, Tensor]:
    """Moves both pictures to the place between them where they agree.

    Finds w with first(x - s w) = second(x + (1 - s) w), s the nearness to the second, by damped least squares over
    windows (Lucas and Kanade 1981), linearised at the place between, so that no flow need be inverted.

    Args:
        first: [N, 3, H, W] in [-1, 1], a picture trusted at s = 0; second: the same, trusted at s = 1.
        nearness: [N], s in 0..1.

    Returns:
        first and second, moved; [N, 3, H, W] each.
    """
    height, width = first.shape[-2:]
    share = nearness.view(-1, 1, 1, 1)
    flow = _flow(luma(first)[:, None], luma(second)[:, None], share)
    flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    shift = flow.permute(0, 2, 3, 1)
    places = cell_centres(height, width, first)
    return sample(first, places - share * shift), sample(second, places + (1 - share) * shift)


def _flow(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """w of `align` from brightness [N, 1, H, W]: [N, 2, h, w] in fractions of the frame, at half the size."""
    flow = first.new_zeros(len(first), 2, 1, 1)
    for scale in SCALES:
        size = [max(2, round(length / scale)) for length in first.shape[-2:]]
        a, b = (F.interpolate(picture, size, mode="area") for picture in (first, second))
        flow = F.interpolate(flow, size, mode="bilinear", align_corners=False)
        places = cell_centres(*size, like=flow)
        cells = flow.new_tensor(size[::-1]).view(1, 2, 1, 1)
        for _ in range(ITERATIONS):
            shift = flow.permute(0, 2, 3, 1)
            step = _step(sample(a, places - share * shift), sample(b, places + (1 - share) * shift), share)
            flow = _mean(flow + step.clamp(-1, 1) / cells, SMOOTHING)
    return flow


def _step(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """The change of w that makes both agree best in each window: [N, 1, h, w] each, to [N, 2, h, w] in cells."""
    difference = first - second
    slope = -(share * _slope(first) + (1 - share) * _slope(second))
    weight = 1 / (1 + (difference / OUTLIER).square())
    sums = torch.cat((slope.square(), slope[:, :1] * slope[:, 1:], slope * difference), dim=1) * weight
    xx, yy, xy, xe, ye = _mean(sums, WINDOW).unbind(1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy.square()
    return torch.stack((xy * ye - yy * xe, xy * xe - xx * ye), dim=1) / determinant[:, None]


def _slope(picture: Tensor) -> Tensor:
    """Derivatives of [N, 1, h, w] by x and y, in cells: [N, 2, h, w]."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.cat((across, down), dim=1)


def _mean(values: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(values, window, stride=1, padding=window // 2, count_include_pad=False)
