"""Image tokenizers of diffusers' VQModel class, with a word at every cell of their latent grid."""

import json
from pathlib import Path

import torch
from diffusers import VQModel
from torch import Tensor

from videotok.keyframes.tokenizer import KeyframeTokens

SETTINGS = "videotok.json"
"""A file that may lie beside config.json, with what a VQModel does not say of itself."""
DEFAULT_IMAGE_SIZE = 256
"""`sample_size` in config.json is not asked: diffusers' default, 32, says nothing of the pictures that were learned."""
DEFAULT_PIXEL_RANGE = (-1.0, 1.0)


class VQModelTokenizer:
    """A VQModel (VQGAN, Esser et al., arXiv 2012.09841, and its kin) behind `KeyframeTokenizerProtocol`.

        images [B, 3, S, S] ──► encoder ──► nearest word of each cell ──► ids int64 [rows * columns] a picture

    No cell can be left out, so `keep` has nothing to choose, and a keyframe always costs rows * columns words.
    """

    drops_patches = False

    def __init__(
        self,
        model: VQModel,
        image_size: int = DEFAULT_IMAGE_SIZE,
        pixel_range: tuple[float, float] = DEFAULT_PIXEL_RANGE,
    ) -> None:
        """Wraps a model that is loaded already.

        Args:
            model: any VQModel of three colour channels.
            image_size: side of its pictures, in pixels; the network is convolutional, so it is a choice.
            pixel_range: what black and white are in its pictures, (-1, 1) or (0, 1).

        Raises:
            ValueError: not three channels, or `image_size` is no multiple of what the network shrinks pictures by.
        """
        channels = (model.config["in_channels"], model.config["out_channels"])
        if channels != (3, 3):
            raise ValueError(f"a VQModel with {channels[0]} channels in and {channels[1]} out; keyframes have 3")
        shrink = 2 ** (len(model.config["block_out_channels"]) - 1)
        if image_size < shrink or image_size % shrink:
            raise ValueError(
                f"`image_size` (={image_size}) must be a multiple of {shrink}, by which this VQModel shrinks"
            )
        if not pixel_range[0] < pixel_range[1]:
            raise ValueError(f"`pixel_range` (={pixel_range}) must rise")
        self.model = model.eval().requires_grad_(False)
        self.image_size = image_size
        self.pixel_range = pixel_range
        self.grid = (image_size // shrink, image_size // shrink)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype) -> "VQModelTokenizer":
        """A folder as `VQModel.save_pretrained` writes it.

        A file `videotok.json` beside config.json may say more: `{"image_size": 256, "pixel_range": [-1, 1]}` is what
        holds where it does not; some checkpoints are made for other sizes, or for pixels in `[0, 1]`.
        """
        place = Path(folder) / SETTINGS
        settings = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
        low, high = settings.get("pixel_range", DEFAULT_PIXEL_RANGE)
        model = VQModel.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
        return cls(model, int(settings.get("image_size", DEFAULT_IMAGE_SIZE)), (float(low), float(high)))

    @property
    def num_patches(self) -> int:
        """Cells of the latent grid: the words of every keyframe."""
        return self.grid[0] * self.grid[1]

    @property
    def codebook_size(self) -> int:
        """Number of words; ids lie in [0, codebook_size)."""
        return self.model.config["num_vq_embeddings"]

    def scores(self, images: Tensor) -> Tensor:
        """All alike: no cell can be left out."""
        return torch.zeros(len(images), self.num_patches)

    @torch.no_grad()
    def encode(self, images: Tensor, keep: float | None = None, *, keep_mask: Tensor | None = None) -> KeyframeTokens:
        """images [B, 3, S, S] in [-1, 1] -> a word for every cell, in reading order.

        Raises:
            ValueError: pictures of another size, or a rule under which some cell has no word.
        """
        if (keep is not None and keep < 1) or (keep_mask is not None and not keep_mask.all()):
            raise ValueError(f"a VQModel has a word for each of its {self.num_patches} cells and can leave none out")
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"`images` must be [B, {', '.join(map(str, expected))}], got {list(images.shape)}")
        low, high = self.pixel_range
        values = (images.to(self.model.device, self.model.dtype) + 1) / 2 * (high - low) + low
        latents = self.model.encode(values).latents  # pyright: ignore[reportAttributeAccessIssue]
        _, _, (_, _, found) = self.model.quantize(latents)
        ids = found.view(len(images), self.num_patches).cpu()
        return KeyframeTokens(list(ids), torch.ones(ids.shape, dtype=torch.bool))

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """ids int64 [N] a picture and an all-True keep_mask [B, N] -> images [B, 3, S, S] in [-1, 1].

        Raises:
            ValueError: an id outside the codebook, or a cell without one.
        """
        if keep_mask.shape != (len(ids), self.num_patches) or not keep_mask.all():
            raise ValueError(
                f"`keep_mask` {tuple(keep_mask.shape)} must be all True, {(len(ids), self.num_patches)}: "
                "a VQModel decodes no keyframe with cells left out"
            )
        found = torch.stack(ids).to(self.model.device)
        if not 0 <= int(found.min()) <= int(found.max()) < self.codebook_size:
            span = f"{int(found.min())}..{int(found.max())}"
            raise ValueError(f"`ids` lie in {span}, this codebook has words 0..{self.codebook_size - 1}")
        words = self.model.quantize.embedding(found).view(len(ids), *self.grid, -1).permute(0, 3, 1, 2).contiguous()
        latents = self.model.post_quant_conv(words)
        guide = words if self.model.config["norm_type"] == "spatial" else None
        low, high = self.pixel_range
        return ((self.model.decoder(latents, guide) - low) / (high - low) * 2 - 1).clamp(-1, 1)
