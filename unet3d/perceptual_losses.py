"""Losses by what is seen: LPIPS under random augmentation, local sharpness, and the power spectrum beside the truth's.

A network that adds detail finds patterns that please a loss and not the eye: dots of two pixels on edges, a grid of
the size of its own upsampling. Three things are against it: LPIPS sees every picture moved by parts of a pixel,
mirrored and in another size, so that no pattern is tied to the pixels that LPIPS looks at; power is compared by
frequency and direction, so that detail has to be of the right coarseness; and a frequency that a whole crop has more of
than the truth, as a grid does, costs in addition.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unet3d.candidates import luma

ENERGY_SIDE, ENERGY_STEP = 16, 8
"""Sharpness is compared in squares of so many pixels, one every so many pixels."""
ENERGY_OFFSETS = ((1, 0.01, 1.0), (2, 0.02, 0.5))
"""Sharpness is compared at these reductions of the size; energy added before the log, so that flat squares count
little; weight."""

FLIPPED_SHARE, TURNED_SHARE = 0.5, 0.25
"""Shares of the pictures that LPIPS sees mirrored from left to right, and with rows and columns exchanged."""
PLAIN_SHARE = 0.6
"""Share of the pictures that LPIPS sees in their own size, from a random pixel on; the others are made smaller."""
LPIPS_SHIFT = 4
"""Pixels along each side of which one is the first that LPIPS sees."""
SMALLER, LARGER = (0.7, 1.0), (1.15, 1.75)
"""Limits of the factors by which pictures are made smaller and larger for LPIPS."""
ENLARGED_PART = 0.62
"""Share of each side of the part that LPIPS sees larger."""

WINDOW = 16
"""Pixels along each side of the windows in which power is compared; they overlap by half."""
PATTERN_WINDOW = 32
"""The same for patterns: large enough to tell waves that are one period in 32 pixels apart."""
PATTERN_MARGIN = 0.5
"""Excess of the log of a frequency's power that is no pattern: with so few windows it comes about by chance."""
BAND_LIMITS = (0.09, 0.16, 0.22, 0.29, 0.36, 0.44, 0.8)
"""Limits of the bands of frequencies, in cycles a pixel; below the first one squared error decides."""
OBLIQUE = 1.5
"""Waves whose frequencies along both sides differ by less than this factor are oblique ones."""
POWER_OFFSET = 2e-4
"""Added to the power of a band before its log: waves of two grey levels, which nobody sees."""


def augmented_lpips(lpips: nn.Module, frames: Tensor, truth: Tensor) -> Tensor:
    """Return LPIPS of pictures seen through one random augmentation, the same for both: [N].

    The mean of two distances: one of the whole pictures, from a random pixel on or made smaller, and one of a random
    part, made larger. Both are sampled at random positions between pixels, and at times mirrored or turned. LPIPS
    itself looks at every second pixel, and at this size misses patterns of two pixels.

    Args:
        lpips: (frames, truth) -> distances [N].
        frames, truth: [N, 3, H, W], at least 64 pixels a side for LPIPS.
    """
    both = torch.cat((frames, truth))
    if torch.rand(()) < FLIPPED_SHARE:
        both = both.flip(-1)
    if torch.rand(()) < TURNED_SHARE:
        both = both.transpose(-1, -2)
    if torch.rand(()) < PLAIN_SHARE:
        top, left = (_random_integer(LPIPS_SHIFT) for _ in range(2))
        whole = both[..., top:, left:]
    else:
        whole = resample(both, _random_number(*SMALLER))
    height, width = (int(side * ENLARGED_PART) for side in both.shape[-2:])
    top, left = (_random_integer(side - part + 1) for side, part in zip(both.shape[-2:], (height, width), strict=True))
    part = resample(both[..., top : top + height, left : left + width], _random_number(*LARGER))
    return (lpips(*whole.chunk(2)) + lpips(*part.chunk(2))) / 2


def resample(pictures: Tensor, scale: float) -> Tensor:
    """Return pictures [N, C, H, W] in another size, read bicubically from a random part of a pixel on."""
    steps = []
    for side in pictures.shape[-2:]:
        position = (torch.arange(int((side - 1) * scale), device=pictures.device) + torch.rand(()).item()) / scale
        steps.append((2 * position + 1) / side - 1)
    rows, columns = torch.meshgrid(*steps, indexing="ij")
    grid = torch.stack((columns, rows), dim=-1).expand(len(pictures), -1, -1, -1)
    return F.grid_sample(pictures.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)


def sharpness_difference(frames: Tensor, truth: Tensor) -> Tensor:
    """Return how far the local sharpness of pictures [N, 3, H, W] is from the truth's: [N].

    It is the mean absolute difference of logs of Laplacian energy, at full and at half size. It asks for as much detail
    as the truth has and not for the same detail, which squared error punishes twice if it lies a pixel beside.
    """
    total = frames.new_zeros(len(frames), dtype=torch.float32)
    for reduction, offset, weight in ENERGY_OFFSETS:
        own, wanted = (laplacian_energy(F.avg_pool2d(part.float(), reduction)) for part in (frames, truth))
        total = total + weight * ((own + offset).log() - (wanted + offset).log()).abs().mean((1, 2))
    return total


def laplacian_energy(pictures: Tensor) -> Tensor:
    """Return the mean absolute Laplacian of the luma of pictures [N, 3, H, W] in squares: [N, h, w]."""
    # by slices: autocast would run a convolution in half precision, which has too few digits for small differences
    values = luma(pictures.float())
    around = values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
    return F.avg_pool2d((around - 4 * values[:, 1:-1, 1:-1]).abs(), ENERGY_SIDE, ENERGY_STEP)


def spectrum_difference(frames: Tensor, truth: Tensor) -> Tensor:
    """Return how far the power of the luma of pictures [N, 3, H, W] is from the truth's: [N].

    The mean absolute difference of logs of power, by window, band of frequencies and direction of the waves. The phases
    of waves do not matter: like `sharpness_difference` it asks for detail of the same kind, not for the same detail.
    """
    groups = _frequency_groups().to(frames.device)
    own, wanted = ((power @ groups.T + POWER_OFFSET).log() for power in _powers(frames, truth, WINDOW))
    return (own - wanted).abs().mean((1, 2))


def pattern_excess(frames: Tensor, truth: Tensor) -> Tensor:
    """Return how much regular patterns stand out of pictures [N, 3, H, W] beside the truth: [N].

    The mean squared excess of the log of the power of single frequencies, averaged over all of a picture: what single
    windows have by chance averages out, and a grid does not.
    """
    powers = (power.mean(1) for power in _powers(frames, truth, PATTERN_WINDOW))
    own, wanted = ((power + POWER_OFFSET / 4).log() for power in powers)
    excess = (own - wanted - PATTERN_MARGIN).relu().square()
    return excess[:, (_frequencies(PATTERN_WINDOW)[2] >= BAND_LIMITS[0]).flatten().to(excess.device)].mean(1)


def _powers(frames: Tensor, truth: Tensor, window: int) -> Iterator[Tensor]:
    """Yield the power of the luma's waves in windows of both, from one random pixel on: [N, windows, frequencies]."""
    step = window // 2
    top, left = (_random_integer(step) for _ in range(2))
    for pictures in (frames, truth):
        values = luma(pictures[..., top:, left:].float())
        values = values.unfold(1, window, step).unfold(2, window, step).flatten(1, 2)
        taper = torch.hann_window(window, device=values.device)
        values = (values - values.mean((2, 3), keepdim=True)) * taper[:, None] * taper / taper.square().mean()
        yield torch.fft.rfft2(values, norm="ortho").abs().square().flatten(2)


def _frequencies(window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the frequencies of a window's waves along rows and columns and their length, in cycles a pixel."""
    rows, columns = torch.fft.fftfreq(window)[:, None].abs(), torch.fft.rfftfreq(window)[None]
    return rows, columns, (rows.square() + columns.square()).sqrt()


@cache
def _frequency_groups() -> Tensor:
    """Return the share of each frequency in each group, a band and a direction: [groups, frequencies]."""
    rows, columns, length = _frequencies(WINDOW)
    steep, flat = rows > OBLIQUE * columns, columns > OBLIQUE * rows
    groups = []
    for low, high in pairwise(BAND_LIMITS):
        band = (length >= low) & (length < high)
        groups += [(band & direction).flatten().float() for direction in (steep, flat, ~(steep | flat))]
    return torch.stack([group / group.sum() for group in groups if group.any()])


def _random_integer(limit: int) -> int:
    return int(torch.randint(limit, ()))


def _random_number(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()
