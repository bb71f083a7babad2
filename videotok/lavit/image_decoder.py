"""ImageDecoder: codes of a keyframe to an image by an SDXL-shaped latent diffusion model (LaVIT, arXiv 2309.04669)."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from motion_vq.attention import Attention, Linear, TransformerBlock, tanh_head
from motion_vq.model_base import VideotokModel
from unet3d.diffusion import device_of

CONSTRAINT = 0.85
"""Share of the denoising steps that are left out where an image starts from the one before it."""


class CrossAttentionBlock(TransformerBlock):
    """Self-attention, cross-attention to a memory, feed-forward, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads, hidden)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, fused_kernel=False)

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return [B, n, D] of x [B, n, D], memory [B, m, D] and mask bool [B, 1, 1, m], True where memory is valid."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.cross(self.cross_norm(x), memory, mask)
        return x + self.mlp(self.mlp_norm(x))


class ImageConditionEncoder(VideotokModel):
    """Codes of an image -> the condition of an SDXL-shaped U-Net. SDXL itself has features of two text encoders there.

        tokens [B, num_patches, sum(token_widths)]   768 + 1280 = 2048 published
        pooled [B, pooled_width]                     1280, the summary of the second encoder

    One query a patch attends to all queries and to the codes in their order, without the codes' positions.

    Args:
        patches: number of queries, and the most codes of an image.
        code_dim: dimensions of a code.
        width, depth, heads, hidden: of the transformer.
        token_widths: of the two parts of `tokens`.
        pooled_width: of `pooled`.
    """

    @register_to_config
    def __init__(
        self,
        patches: int = 256,
        code_dim: int = 32,
        width: int = 1408,
        depth: int = 12,
        heads: int = 16,
        hidden: int = 6144,
        token_widths: tuple[int, ...] = (768, 1280),
        pooled_width: int = 1280,
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(code_dim, width)
        self.positions = nn.Parameter(torch.zeros(patches, width))
        self.queries = nn.Parameter(torch.zeros(patches, width))
        self.blocks = nn.ModuleList(CrossAttentionBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_features = tanh_head(width, width)
        self.to_tokens = nn.ModuleList(nn.Linear(width, size) for size in token_widths)
        self.pool_positions = nn.Parameter(torch.zeros(patches + 1, width))
        self.pool = Attention(width, heads, fused_kernel=False)
        self.pool.out = Linear(width, pooled_width)

    @torch.no_grad()
    def forward(self, codes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (tokens, pooled) of codes [n_i, code_dim] an image.

        Raises:
            ValueError: an image without a code, or with more codes than patches.
        """
        device = device_of(self)
        counts = torch.tensor([len(row) for row in codes], device=device)
        if not 1 <= int(counts.min()) <= int(counts.max()) <= len(self.positions):
            raise ValueError(f"an image has 1 to {len(self.positions)} codes, got {counts.tolist()}")
        memory = self.in_proj(pad_sequence(list(codes), batch_first=True).to(device, self.dtype))
        memory = memory + self.positions[: memory.shape[1]]
        is_valid = (torch.arange(memory.shape[1], device=device) < counts[:, None])[:, None, None]
        x = self.queries.expand(len(codes), -1, -1)
        for block in self.blocks:
            x = block(x, memory, is_valid)
        features = self.to_features(self.norm(x))
        tokens = torch.cat([project(features) for project in self.to_tokens], dim=-1)
        pool_input = torch.cat([features.mean(1, keepdim=True), features], dim=1) + self.pool_positions
        return tokens, self.pool(pool_input[:, :1], pool_input)[:, 0]


class ImageDecoder:
    """Codes to images by guided latent diffusion.

        codes ── ImageConditionEncoder ──► tokens, pooled ──► U-Net, guided ──► latents ── autoencoder ──► image

    Args:
        condition, unet, vae, scheduler: as published; any diffusers scheduler.
        size: (height, width) of images, multiples of 8 times the U-Net's downsampling.
        num_inference_steps: evaluations of the U-Net.
        guidance_scale: classifier-free guidance, away from a condition of zeros; 1: none.
        seed: of the noise; each image starts from the same noise.
    """

    def __init__(
        self,
        condition: ImageConditionEncoder,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: Any,
        *,
        size: tuple[int, int] = (1024, 1024),
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        seed: int = 0,
    ) -> None:
        self.condition, self.unet, self.vae, self.scheduler = condition, unet, vae, scheduler
        self.size, self.num_inference_steps = size, num_inference_steps
        self.guidance_scale, self.seed = guidance_scale, seed

    def to(self, device: torch.device) -> Self:
        """Move all models in place."""
        self.condition.to(device)
        self.unet.to(device)  # pyright: ignore[reportArgumentType]
        self.vae.to(device)  # pyright: ignore[reportArgumentType]
        return self

    @torch.no_grad()
    def decode(self, codes: list[Tensor], *, previous: Tensor | None = None) -> Tensor:
        """Return images float32 [B, 3, *size] in [-1, 1] of codes [n_i, code_dim] an image, in their order.

        Args:
            codes: of each image.
            previous: float [1, 3, H, W] in [-1, 1]: an image to stay close to, the last frame before. Each image is
                denoised from it, noised so far that `CONSTRAINT` of the steps are left out: the explicit noise
                constraint of Video-LaVIT (arXiv 2402.03161), as in its published code.
        """
        latents = None if previous is None else self._encode(previous)
        return torch.cat([self._decode_one(row, latents) for row in codes])

    def _encode(self, image: Tensor) -> Tensor:
        """Return the latents [1, C, h, w] of an image [1, 3, H, W] in [-1, 1], scaled."""
        image = F.interpolate(image.float(), self.size, mode="bicubic").clamp(-1, 1)
        encoded = self.vae.encode(image.to(device_of(self.vae), self.vae.dtype))
        latents = encoded.latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
        return latents.float() * self.vae.config["scaling_factor"]

    def _decode_one(self, codes: Tensor, previous: Tensor | None) -> Tensor:
        tokens, pooled = (each.to(device_of(self.unet), self.unet.dtype) for each in self.condition([codes]))
        # first the unconditional half of the batch, then the conditional one
        tokens, pooled = torch.cat([torch.zeros_like(tokens), tokens]), torch.cat([torch.zeros_like(pooled), pooled])
        latents = self._sample(tokens, pooled, previous).to(device_of(self.vae), self.vae.dtype)
        latents = latents / self.vae.config["scaling_factor"]
        return self.vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1).cpu()

    def _sample(self, tokens: Tensor, pooled: Tensor, previous: Tensor | None) -> Tensor:
        """Return latents [1, C, h, w] for tokens [2, N, D] and pooled [2, D]; `previous`: latents to start from."""
        device, scheduler = tokens.device, self.scheduler
        # SDXL's: size of the original, offset of the crop, size of the image
        time_ids = torch.tensor([[*self.size, 0, 0, *self.size]] * 2, dtype=tokens.dtype, device=device)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        scheduler.set_timesteps(self.num_inference_steps, device=device)
        generator = torch.Generator().manual_seed(self.seed)
        downsampling = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        shape = (1, self.unet.config["in_channels"], self.size[0] // downsampling, self.size[1] // downsampling)
        noise, timesteps = randn_tensor(shape, generator=generator, device=device), scheduler.timesteps
        latents = noise * scheduler.init_noise_sigma
        if previous is not None:
            timesteps = timesteps[int(CONSTRAINT * len(timesteps)) :]
            latents = scheduler.add_noise(previous.to(noise), noise, timesteps[:1])
        # ancestral schedulers add noise at every step
        extra = {"generator": generator} if "Ancestral" in type(scheduler).__name__ else {}
        for timestep in timesteps:
            model_input = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1).to(tokens)
            output = self.unet(model_input, timestep, tokens, added_cond_kwargs=added, return_dict=False)[0]
            unconditional, conditional = output.float().chunk(2)
            guided = unconditional + self.guidance_scale * (conditional - unconditional)
            latents = scheduler.step(guided, timestep, latents, return_dict=False, **extra)[0]
        return latents
