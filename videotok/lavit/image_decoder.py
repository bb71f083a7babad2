"""WordCondition: visual words to what an SDXL-shaped U-Net is conditioned on (LaVIT, arXiv 2309.04669).

ImageDecoder: visual words to a picture, through an SDXL-shaped latent diffusion U-Net
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from motion_vq.attention import tanh_head
from unet3d.diffusion import device_of
from videotok.keyframes.vit import Attention
from videotok.lavit.modeling_keyframes import CrossBlock


class WordCondition(ModelMixin, ConfigMixin):
    """codes [n_i, code_dim] a picture -> features of its patches, and from them

        tokens [B, patches, sum(token_widths)]   768 + 1280 = 2048, where SDXL has two text encoders' features
        pooled [B, pooled_width]                 1280, where it has the second one's summary

    Queries, one a patch, attend to each other and to the codes in their order; where a code stood is not told.
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
        self.blocks = nn.ModuleList(CrossBlock(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_features = tanh_head(width, width)
        self.to_tokens = nn.ModuleList(nn.Linear(width, size) for size in token_widths)
        self.pool_positions = nn.Parameter(torch.zeros(patches + 1, width))
        self.pool = Attention(width, heads)
        self.pool.out = nn.Linear(width, pooled_width)

    @torch.no_grad()
    def forward(self, codes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(tokens, pooled), see above.

        Raises:
            ValueError: a picture with no code, or with more than there are patches.
        """
        device = device_of(self)
        counts = torch.tensor([len(row) for row in codes], device=device)
        if not 1 <= int(counts.min()) <= int(counts.max()) <= len(self.positions):
            raise ValueError(f"a picture has 1 to {len(self.positions)} codes, got {counts.tolist()}")
        told = self.in_proj(pad_sequence(list(codes), batch_first=True).to(device, self.dtype))
        told = told + self.positions[: told.shape[1]]
        there = (torch.arange(told.shape[1], device=device) < counts[:, None])[:, None, None]
        x = self.queries.expand(len(codes), -1, -1)
        for block in self.blocks:
            x = block(x, told, there)
        features = self.to_features(self.norm(x))
        tokens = torch.cat([project(features) for project in self.to_tokens], dim=-1)
        whole = torch.cat([features.mean(1, keepdim=True), features], dim=1) + self.pool_positions
        return tokens, self.pool(whole[:, :1], whole)[:, 0]


class ImageDecoder:
    """codes ── WordCondition ──► tokens, pooled ──► U-Net, guided away from zeros ──► latents ── decoder ──► picture

    Args:
        condition, unet, vae, scheduler: as published.
        size: (height, width) of pictures, multiples of 8 times the U-Net's shrinking.
        steps: evaluations of the U-Net.
        guidance: 1 = none.
        seed: of the noise; every picture of a call has its own.
    """

    def __init__(
        self,
        condition: WordCondition,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        *,
        size: tuple[int, int] = (1024, 1024),
        steps: int = 50,
        guidance: float = 3.0,
        seed: int = 0,
    ) -> None:
        self.condition, self.unet, self.vae, self.scheduler = condition, unet, vae, scheduler
        self.size, self.steps, self.guidance, self.seed = size, steps, guidance, seed

    @torch.no_grad()
    def paint(self, codes: list[Tensor]) -> Tensor:
        """codes [n_i, code_dim] a picture, in their order -> images float32 [B, 3, *size] in [-1, 1]."""
        return torch.cat([self._painted(row) for row in codes])

    def _painted(self, codes: Tensor) -> Tensor:
        tokens, pooled = (both.to(device_of(self.unet), self.unet.dtype) for both in self.condition([codes]))
        tokens, pooled = torch.cat([torch.zeros_like(tokens), tokens]), torch.cat([torch.zeros_like(pooled), pooled])
        # SDXL's: size of the original, of what was cropped, of the picture
        ids = torch.tensor([[*self.size, 0, 0, *self.size]] * 2, dtype=tokens.dtype, device=tokens.device)
        told = {"text_embeds": pooled, "time_ids": ids}
        scheduler = self.scheduler
        scheduler.set_timesteps(self.steps, device=tokens.device)  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(self.seed)
        shrink = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        shape = (1, self.unet.config["in_channels"], self.size[0] // shrink, self.size[1] // shrink)
        latents = torch.randn(shape, generator=generator).to(tokens.device) * scheduler.init_noise_sigma  # type: ignore[attr-defined]
        for timestep in scheduler.timesteps:  # type: ignore[attr-defined]
            noisy = scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1).to(tokens)  # type: ignore[attr-defined]
            guess = self.unet(noisy, timestep, tokens, added_cond_kwargs=told, return_dict=False)[0]
            plain, led = guess.float().chunk(2)
            guided = plain + self.guidance * (led - plain)
            # ancestral schedulers draw noise at every step
            extra = {"generator": generator} if "Ancestral" in type(scheduler).__name__ else {}
            latents = scheduler.step(guided, timestep, latents, return_dict=False, **extra)[0]  # type: ignore[attr-defined]
        latents = latents.to(device_of(self.vae), self.vae.dtype) / self.vae.config["scaling_factor"]
        return self.vae.decode(latents, return_dict=False)[0].float().clamp(-1, 1).cpu()
