"""Refiner: a small convolutional network that adds detail to frames mixed from warped keyframes."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motion_vq.attention import zero_module
from unet3d.candidates import MAPS, MotionCandidates, average_pool, space_to_depth

FOLD = 2
"""Pixels along each side that become channels at the finest level."""
NUM_MAPS = MAPS.index("has_next") + 1
"""The refiner sees the first maps only: both confidences, nearness, and whether there is a next keyframe."""


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), [N, C, h, w]. Without norms: they would hide how large differences are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zero_module(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with the block's correction added."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Refiner(nn.Module):
    """Predict what a mixture of warped keyframes lacks, each frame by itself.

    Mixing blurs, and keyframes decoded from tokens lack detail. The network is a convolutional U-Net without attention
    on frames folded to half of their size. Its last layer starts at zero: untrained, it adds nothing.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        """Build the network.

        Args:
            widths: channels at 1/2, 1/4, 1/8, … of the frame's size.
            blocks: residual blocks of each level before downsampling, and again after upsampling (the coarsest level:
                once).

        Raises:
            ValueError: not one number of blocks a level.
        """
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"`blocks` (={tuple(blocks)}) must give one number for each of `widths` {tuple(widths)}")
        self.read = nn.Conv2d(9 * FOLD**2 + NUM_MAPS, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)

        def level(index: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(widths[index]) for _ in range(blocks[index])))

        self.before = nn.ModuleList(level(index) for index in range(len(widths)))
        self.after = nn.ModuleList(level(index) for index in range(len(pairs)))
        self.write = zero_module(nn.Conv2d(widths[0], 3 * FOLD**2, 3, padding=1))

    def forward(self, mixture: Tensor, warps: Tensor, candidates: MotionCandidates) -> Tensor:
        """Return what to add to the mixture, [B, T, 3, H, W].

        Args:
            mixture: [B, T, 3, H, W] in [-1, 1]; sides are multiples of `2 ** len(widths)`.
            warps: [B, T, 2, 3, H, W], both keyframes as they were warped for the mixture.
            candidates: of the same frames; only their maps are used.
        """
        dtype = self.read.weight.dtype
        # channels-last convolutions are a third faster on a CPU, in float64 slower
        layout = torch.contiguous_format if dtype == torch.float64 else torch.channels_last
        pictures = torch.cat((mixture, (warps - mixture[:, :, None]).flatten(2, 3)), dim=2)
        maps = average_pool(candidates.maps[:, :, :NUM_MAPS], FOLD)
        # rounded before pixels become channels, which then moves fewer bytes
        inputs = torch.cat((space_to_depth(pictures.to(dtype), FOLD), maps.to(dtype)), dim=2).flatten(0, 1)
        x = self.read(inputs.contiguous(memory_format=layout))
        skips = []
        for index, blocks in enumerate(self.before):
            x = blocks(x)
            if index < len(self.down):
                skips.append(x)
                x = self.down[index](x)
        for index in reversed(range(len(self.up))):
            x = self.after[index](F.pixel_shuffle(self.up[index](x), 2) + skips[index])
        return F.pixel_shuffle(self.write(F.silu(x)), FOLD).unflatten(0, mixture.shape[:2]).float()
