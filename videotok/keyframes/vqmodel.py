"""VQModelTokenizer: image tokenizers of diffusers' VQModel class, with a code for every cell of their latent grid."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import VQModel
from einops import rearrange
from torch import Tensor, nn

from videotok.keyframes.protocol import KeyframeTokenizerProtocol, KeyframeTokens, check_ids, check_images

SETTINGS = "videotok.json"
"""Optional file beside config.json, with what a VQModel's own config does not say."""
DEFAULT_IMAGE_SIZE = 256
"""`sample_size` in config.json is not used: its default in diffusers, 32, says nothing of the training images."""
DEFAULT_PIXEL_RANGE = (-1.0, 1.0)


class VQModelTokenizer(KeyframeTokenizerProtocol):
    """A VQModel (VQGAN, Esser et al., arXiv 2012.09841, and its kin) as a keyframe tokenizer.

        images [B, 3, S, S] ──► encoder ──► nearest code of each cell ──► ids int64 [rows * columns] an image

    No cell can be dropped, so every keyframe costs rows * columns tokens.
    """

    def __init__(
        self,
        model: VQModel,
        image_size: int = DEFAULT_IMAGE_SIZE,
        pixel_range: tuple[float, float] = DEFAULT_PIXEL_RANGE,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: any VQModel of three colour channels.
            image_size: side of its images, in pixels; the network is convolutional, so this is a choice.
            pixel_range: values of black and white in its images, (-1, 1) or (0, 1).

        Raises:
            ValueError: not three channels, or `image_size` is no multiple of the network's downsampling factor.
        """
        channels = (model.config["in_channels"], model.config["out_channels"])
        if channels != (3, 3):
            raise ValueError(f"a VQModel with {channels[0]} channels in and {channels[1]} out; keyframes have 3")
        factor = 2 ** (len(model.config["block_out_channels"]) - 1)
        if image_size < factor or image_size % factor:
            raise ValueError(
                f"`image_size` (={image_size}) must be a multiple of {factor}, this VQModel's downsampling factor"
            )
        if not pixel_range[0] < pixel_range[1]:
            raise ValueError(f"`pixel_range` (={pixel_range}) must be (black, white), black below white")
        self.model = model.eval().requires_grad_(False)
        self.pixel_range = pixel_range
        self._image_size, self._side = image_size, image_size // factor

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype) -> Self:
        """Load a folder written by `VQModel.save_pretrained`.

        A file `videotok.json` beside config.json may hold `{"image_size": 256, "pixel_range": [-1, 1]}`, for
        checkpoints made for other sizes, or for pixels in [0, 1]. These are the values without it.
        """
        path = Path(folder) / SETTINGS
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        low, high = settings.get("pixel_range", DEFAULT_PIXEL_RANGE)
        model = VQModel.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
        return cls(model, int(settings.get("image_size", DEFAULT_IMAGE_SIZE)), (float(low), float(high)))

    @property
    def image_size(self) -> int:
        """Side of the square images it takes and returns, in pixels."""
        return self._image_size

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of cells of the latent grid."""
        return self._side, self._side

    @property
    def drops_patches(self) -> bool:
        """False: every cell has a token."""
        return False

    @property
    def chooses_rate(self) -> bool:
        """False: the number of tokens is fixed."""
        return False

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids lie in [0, codebook_size)."""
        return self.model.config["num_vq_embeddings"]

    @property
    def codebook_vectors(self) -> Tensor:
        """The codes, [codebook_size, dim]."""
        return self.model.quantize.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype

    def to(self, *, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Move or cast the weights in place, and return the tokenizer."""
        # the one of diffusers warns at every cast
        nn.Module.to(self.model, device=device or self.device, dtype=dtype or self.dtype)
        return self

    def scores(self, images: Tensor) -> Tensor:
        """Return zeros [B, N]: no cell can be dropped."""
        return torch.zeros(len(images), self.num_patches)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        keep_ratio: float | None = None,
        num_tokens: int | None = None,
        keep_mask: Tensor | None = None,
        refinement_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> KeyframeTokens:
        """Return a token for every cell of images [B, 3, S, S] in [-1, 1]; see `KeyframeTokenizerProtocol`.

        Raises:
            ValueError: images of another size, or an option that would drop a cell, refine or sample.
        """
        drops = (keep_ratio or 1) < 1 or (num_tokens or self.num_patches) < self.num_patches
        if drops or (keep_mask is not None and not keep_mask.all()):
            raise ValueError(f"a VQModel has a code for each of its {self.num_patches} cells and can drop none")
        if refinement_steps or generator is not None:
            raise ValueError("a VQModel neither refines its codes nor samples; leave out what asks for it")
        check_images(images, self.image_size)
        low, high = self.pixel_range
        values = (images.to(self.model.device, self.model.dtype) + 1) / 2 * (high - low) + low
        latents = self.model.encode(values).latents  # pyright: ignore[reportAttributeAccessIssue]
        _, _, (_, _, nearest) = self.model.quantize(latents)
        ids = nearest.view(len(images), self.num_patches).cpu()
        return KeyframeTokens(list(ids), torch.ones(ids.shape, dtype=torch.bool))

    @torch.no_grad()
    def decode(self, ids: list[Tensor], keep_mask: Tensor) -> Tensor:
        """Return the images of ids int64 [N] an image, [B, 3, S, S] in [-1, 1]; `keep_mask` [B, N] must be all True.

        Raises:
            ValueError: an id outside the codebook, or a dropped cell.
        """
        if keep_mask.shape != (len(ids), self.num_patches) or not keep_mask.all():
            raise ValueError(
                f"`keep_mask` {tuple(keep_mask.shape)} must be all True, {(len(ids), self.num_patches)}: "
                "a VQModel decodes no keyframe with dropped cells"
            )
        stacked = torch.stack(ids).to(self.model.device)
        check_ids(stacked, self.codebook_size)
        embedded = self.model.quantize.embedding(stacked)
        codes = rearrange(embedded, "b (rows columns) c -> b c rows columns", rows=self.grid[0]).contiguous()
        latents = self.model.post_quant_conv(codes)
        guide = codes if self.model.config["norm_type"] == "spatial" else None
        low, high = self.pixel_range
        return ((self.model.decoder(latents, guide) - low) / (high - low) * 2 - 1).clamp(-1, 1)
