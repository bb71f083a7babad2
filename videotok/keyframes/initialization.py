"""Initialization of a training run: the best linear code of patches, written into the networks' weights.

Networks with random weights need tens of thousands of images to get where principal components and k-means are at once
(about 25 dB with 16,384 codes). So training starts there: the transformers add nothing yet, and a straight path through
them takes each patch's leading components to a unit vector, to a code, and back to pixels.
"""

import torch
from torch import Tensor, nn

from motion_vq.attention import zero_module
from motion_vq.train import PrincipalComponents, principal_components
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.keyframes.vit import patchify

COMPONENT_NORM = 0.2
"""Root mean square norm of the principal components in a code vector, beside a constant component of 1: how far apart
codes lie on the unit sphere."""


@torch.no_grad()
def initialize_linear(model: KeyframeTokenizer, images: Tensor) -> None:
    """Write the principal components of the patches of images [B, 3, S, S] into `model`, and initialize its codebook.

    Raises:
        ValueError: fewer patches than codes.
    """
    patches = patchify(images, model.config["patch_size"]).flatten(0, 1)
    components = principal_components(patches, model.config["code_dim"] - 1)
    _write_encoder(model, components)
    _write_detokenizer(model, components)
    keep_all = torch.ones(1, model.num_patches, dtype=torch.bool, device=images.device)
    vectors = [model.code_vectors(model.features(image[None]), keep_all)[0][0] for image in images]
    model.codebook.initialize(torch.cat(vectors))


def _write_encoder(model: KeyframeTokenizer, components: PrincipalComponents) -> None:
    count, embed, to_code = len(components.directions), model.vit.patches, model.to_code
    model.vit.positions[:, :count] = 0
    zero_module(embed)
    embed.weight[:count] = components.directions / _feature_scales(components)[:, None]
    embed.bias[:count] = -(embed.weight[:count] @ components.mean)
    zero_module(to_code)
    to_code.weight[:count, :count] = torch.diag(_feature_scales(components)) * (
        COMPONENT_NORM / components.scales.norm()
    )
    to_code.bias[-1] = 1.0


def _write_detokenizer(model: KeyframeTokenizer, components: PrincipalComponents) -> None:
    count, detokenizer = len(components.directions), model.detokenizer
    detokenizer.positions[:, :count] = 0
    zero_module(detokenizer.code_embedding)
    # scaling to unit length has shortened the components by this factor, on average
    shrink = (1 + COMPONENT_NORM**2) ** -0.5
    gains = components.scales.norm() / (COMPONENT_NORM * shrink * _feature_scales(components))
    detokenizer.code_embedding.weight[:count, :count] = torch.diag(gains)
    nn.init.zeros_(detokenizer.pixel_head.weight)
    detokenizer.pixel_head.weight[:, :count] = components.directions.T * _feature_scales(components)
    detokenizer.pixel_head.bias.copy_(components.mean)


def _feature_scales(components: PrincipalComponents) -> Tensor:
    """Return what components are divided by in the features, [count].

    Half-way to equal size, so that fine detail counts beside brightness.
    """
    return (components.scales * components.scales[0]).sqrt()
