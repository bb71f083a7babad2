"""Where training begins: the best linear code of patches, written into the networks' weights.

A network of random weights needs tens of thousands of pictures to get where principal components and k-means are at
once (about 25 dB with 16,384 words). So it begins there: the transformers add nothing yet, and a straight path through
them carries each patch's leading components to a vector of length one, to a word, and back to pixels.
"""

import torch
from torch import Tensor, nn

from videotok.keyframes.patches import patchify
from videotok.keyframes.tokenizer import KeyframeTokenizer

REACH = 0.2
"""Root mean square length of the components beside the constant one: how far apart words lie on the sphere."""


@torch.no_grad()
def start_linear(model: KeyframeTokenizer, images: Tensor) -> None:
    """Writes principal components of the patches of `images` [B, 3, S, S] into `model`, starts its codebook on them.

    Raises:
        ValueError: fewer patches than words.
    """
    patches = patchify(images, model.config["patch_size"]).flatten(0, 1)
    mean, components, lengths = principal_components(patches, model.config["code_dim"] - 1)
    _write_encoder(model, mean, components, lengths)
    _write_detokenizer(model, mean, components, lengths)
    keep_all = torch.ones(1, model.num_patches, dtype=torch.bool, device=images.device)
    vectors = [model.code_vectors(model.features(image[None]), keep_all)[0][0] for image in images]
    model.codebook.start(torch.cat(vectors))


def principal_components(patches: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """patches [n, V] -> mean [V], `count` orthonormal directions [count, V], rms length along each [count]."""
    mean = patches.mean(dim=0)
    centred = (patches - mean).double()
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(1).T
    lengths = (centred @ directions.T).square().mean(dim=0).sqrt()
    return mean, directions.to(patches.dtype), lengths.to(patches.dtype)


def _write_encoder(model: KeyframeTokenizer, mean: Tensor, components: Tensor, lengths: Tensor) -> None:
    count, embed, code = len(components), model.vit.patches, model.to_code
    model.vit.positions[:, :count] = 0
    nn.init.zeros_(embed.weight)
    nn.init.zeros_(embed.bias)
    embed.weight[:count] = components / _balance(lengths)[:, None]
    embed.bias[:count] = -(embed.weight[:count] @ mean)
    nn.init.zeros_(code.weight)
    nn.init.zeros_(code.bias)
    code.weight[:count, :count] = torch.diag(_balance(lengths)) * (REACH / lengths.norm())
    code.bias[-1] = 1.0


def _write_detokenizer(model: KeyframeTokenizer, mean: Tensor, components: Tensor, lengths: Tensor) -> None:
    count, words, pixels = len(components), model.detokenizer.words, model.detokenizer.pixels
    model.detokenizer.positions[:, :count] = 0
    nn.init.zeros_(words.weight)
    nn.init.zeros_(words.bias)
    # vectors of length one have lost this part of their components, on the average
    shrink = (1 + REACH**2) ** -0.5
    words.weight[:count, :count] = torch.diag(lengths.norm() / (REACH * shrink * _balance(lengths)))
    nn.init.zeros_(pixels.weight)
    pixels.weight[:, :count] = components.T * _balance(lengths)
    pixels.bias.copy_(mean)


def _balance(lengths: Tensor) -> Tensor:
    """What components are divided by among the features: half-way to equal size, so detail is seen beside light."""
    return (lengths * lengths[0]).sqrt()
