"""DiffusionPainter: visual words to a picture, through an SDXL-shaped latent diffusion U-Net"""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from unet3d.placement import device_of
from videotok.published.condition import WordCondition


class DiffusionPainter:
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
