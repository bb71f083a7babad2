"""Perceptual losses: LPIPS, a distance between pictures that follows what people see; and a patch discriminator.

LPIPS: Zhang et al. 2018 (arXiv 1801.03924), version 0.1 with SqueezeNet 1.1. The weights are the user's own file: they
were trained on ImageNet and are not part of videotok.
"""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from videotok.errors import ModelError

FEATURE_LAYERS = (1, 4, 7, 9, 10, 11, 12)
"""Layers of SqueezeNet 1.1 whose outputs are compared."""
FEATURE_WIDTHS = (64, 128, 256, 384, 384, 512, 512)
"""Channels of those outputs."""


class Fire(nn.Module):
    """SqueezeNet's block: few channels by a 1x1 convolution, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """[B, channels, h, w] -> [B, 2 * expanded, h, w]."""
        squeezed = F.relu(self.squeeze(values))
        return torch.cat((F.relu(self.expand1x1(squeezed)), F.relu(self.expand3x3(squeezed))), dim=1)


class LPIPS(nn.Module):
    """The LPIPS distance, frozen: gradients reach the pictures, never the network.

    pictures ─► SqueezeNet ─► 7 feature maps ─► unit length per place ─► squared difference ─► weights per channel
                                                                   ─► mean over places ─► sum over the 7 maps
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                {
                    "0": nn.Conv2d(3, 64, 3, stride=2),
                    "1": nn.ReLU(),
                    "2": nn.MaxPool2d(3, 2, ceil_mode=True),
                    "3": Fire(64, 16, 64),
                    "4": Fire(128, 16, 64),
                    "5": nn.MaxPool2d(3, 2, ceil_mode=True),
                    "6": Fire(128, 32, 128),
                    "7": Fire(256, 32, 128),
                    "8": nn.MaxPool2d(3, 2, ceil_mode=True),
                    "9": Fire(256, 48, 192),
                    "10": Fire(384, 48, 192),
                    "11": Fire(384, 64, 256),
                    "12": Fire(512, 64, 256),
                }
            )
        )
        for index, width in enumerate(FEATURE_WIDTHS):
            self.register_buffer(f"lin{index}", torch.zeros(1, width, 1, 1))
        # ImageNet's mean and standard deviation, for pictures in [-1, 1]
        self.register_buffer("mean", torch.tensor((-0.030, -0.088, -0.188)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor((0.458, 0.448, 0.450)).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: str | Path) -> "LPIPS":
        """Load the network from a safetensors file.

        Args:
            path: torchvision's names for SqueezeNet 1.1 (`features.0.weight` …) and `lin0` to `lin6` for the weights of
                the channels, [1, C, 1, 1] each.

        Raises:
            ModelError: the file cannot be read, or holds other parameters.
        """
        network = cls()
        try:
            network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read the LPIPS weights {path}: {error}") from error
        except RuntimeError as error:
            raise ModelError(f"{path} does not hold LPIPS weights for SqueezeNet 1.1") from error
        # a third faster on a CPU, and the same to the last digits
        return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance of each pair of pictures.

        Args:
            first, second: float [B, 3, H, W] in [-1, 1], at least 32 pixels on each side.

        Returns:
            float32 [B], 0 for equal pictures.
        """
        total = first.new_zeros(len(first), dtype=torch.float32)
        for index, (one, other) in enumerate(zip(self._features(first), self._features(second), strict=True)):
            difference = (_unit_length(one) - _unit_length(other)).square()
            total = total + (difference * getattr(self, f"lin{index}")).sum(1).mean((1, 2))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        values, found = (pictures - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            values = layer(values)
            if index in FEATURE_LAYERS:
                found.append(values)
        return found


def _unit_length(values: Tensor) -> Tensor:
    # the small number keeps the gradient finite where a place has no feature at all
    values = values.float()
    return values * torch.rsqrt(values.square().sum(1, keepdim=True) + 1e-10)


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
