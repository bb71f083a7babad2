"""The way from noise to a clip: Euler steps along the noise levels of Karras et al. 2022."""

from collections.abc import Callable

import torch
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor

RHO = 7.0
"""How the levels are spaced (Karras et al. 2022)."""


def noise_like(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the generator's device: one seed is one noise on every machine."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)


def level_at(rate: float, sigma_min: float, sigma_max: float) -> float:
    """The noise level at `rate` of the way from none to all: 1 is sigma_max (Karras et al. 2022, eq. 5)."""
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)
    return (low + rate * (high - low)) ** RHO


def euler(
    denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, num_steps: int, sigma_min: float, sigma_max: float
) -> Tensor:
    """Solves the probability flow of EDM (Karras et al. 2022, eq. 1) from sigma_max down to 0.

    Args:
        denoise: (noisy [B, …], sigma []) -> the clean variable, of unit variance, as expected there.
        noisy: the variable at sigma_max: standard normal noise times that, or something with such noise added.
        num_steps: evaluations of `denoise`; one is the conditional mean itself.

    Raises:
        ValueError: less than one step.
    """
    if num_steps < 1:
        raise ValueError(f"`num_inference_steps` (={num_steps}) must be at least 1")
    scheduler = EDMEulerScheduler(sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=1.0, rho=RHO)
    scheduler.set_timesteps(num_steps, device=noisy.device)
    scheduler.is_scale_input_called = True  # `denoise` scales its input itself
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        expected = denoise(noisy, sigma.to(noisy))
        noisy = scheduler.step(expected, timestep, noisy, return_dict=False, pred_original_sample=expected)[0]
    return noisy
