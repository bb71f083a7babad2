"""Adversarial loss of detokenizers: a patch discriminator, and how much its gradient weighs."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Sequential):
    """Judges overlapping patches of images (PatchGAN, Isola et al., arXiv 1611.07004): higher is more real.

    Spectral norm (arXiv 1802.05957) on every layer keeps it from getting too far ahead of the detokenizer.
    """

    def __init__(self, width: int = 64) -> None:
        """Build five 4 x 4 convolutions, the first with `width` channels."""
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(channels)):
            stride = 2 if number < 3 else 1
            layers += [spectral_norm(nn.Conv2d(before, after, 4, stride, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(channels[-1], 1, 4, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return a map of judgements [B, 1, h, w] of images [B, 3, H, W] in [-1, 1], of at least 32 pixels a side."""
        return super().forward(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss [] of its judgements of real and decoded images."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return the factor [] that gives the adversarial loss as long a gradient as `loss` has, at most 10.

    VQGAN's adaptive weight (Esser et al., arXiv 2012.09841, eq. 7).

    Args:
        loss, adversarial: [].
        last_layer: weights whose gradients are compared.
    """
    (first,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
    (second,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (first.norm() / (second.norm() + 1e-6)).clamp(0, 10).detach()
