"""LatentDetokenizer: a keyframe and motion to frames through an autoencoder's latents, as Video-LaVIT does it."""

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor

from unet3d.detokenizer import VideoDetokenizer
from unet3d.diffusion import device_of, noise_like
from unet3d.warping import resized

PUBLISHED_SCALE = (-1 / 0.0993703, -1 / 0.1130276)
"""From our vectors to what the published weights see: they point the other way, in standard deviations of x and y."""
MOTION_BUCKET = 127.0
"""One of the added ids, the same for every clip."""


class LatentDetokenizer:
    """Three models as one: a VideoDetokenizer with `latent_channels`, a temporal autoencoder, an Euler scheduler.

        keyframe ── + a little noise ── encoder ──► latents, repeated over time ──┐
        vectors ───┬─ bicubic, at the latents' size ──────────────────────────────┤
                   └─ MotionEncoder ──► features of each step ──► attention ──┐   │
        noise ──────── Euler, guidance rising over the frames ────────────► MotionUNet ──► latents ── decoder ──► frames

    It sees one keyframe and goes forward from it. Unconditional = zeros for keyframe, motion and features.

    Args:
        model, vae, scheduler: as published; the scheduler must predict v.
        guidance: of the first and the last frame; linear between.
        noise: standard deviation of what is added to the keyframe, pictures in [-1, 1].
        scale: from vectors in fractions of the frame to what the weights see, in x and y.
        chunk: frames that go through the decoder at once.
    """

    def __init__(
        self,
        model: VideoDetokenizer,
        vae: AutoencoderKLTemporalDecoder,
        scheduler: EulerDiscreteScheduler,
        *,
        guidance: tuple[float, float] = (1.0, 3.0),
        noise: float = 0.02,
        scale: tuple[float, float] = PUBLISHED_SCALE,
        chunk: int = 8,
    ) -> None:
        if not model.config["latent_channels"]:
            raise ValueError("`model` works on pictures (`latent_channels` = 0): call its own reconstruct()")
        self.model, self.vae, self.scheduler = model, vae, scheduler
        self.guidance, self.noise, self.scale, self.chunk = guidance, noise, scale, chunk

    @property
    def config(self) -> dict:
        """Of the model."""
        return self.model.config  # type: ignore[return-value]

    @property
    def shrink(self) -> int:
        """Pixels along each side of a latent."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        """Sides of pictures inside are multiples of this; others are resized."""
        return self.shrink * 2 ** (len(self.model.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def reconstruct(
        self,
        keyframe: Tensor,
        vectors: Tensor,
        *,
        next_keyframe: Tensor | None = None,
        next_vectors: Tensor | None = None,
        previous_frame: Tensor | None = None,
        noise_rate: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The frames of a clip; arguments as for `VideoDetokenizer.reconstruct`.

        The neighbours are not looked at: the published weights know one keyframe. Frame 0 is rebuilt like the others.

        Raises:
            ValueError: tensors that do not fit together; less than one step.
        """
        del next_keyframe, next_vectors, previous_frame, noise_rate
        if keyframe.ndim != 4 or vectors.ndim != 5 or len(keyframe) != len(vectors):
            raise ValueError(
                f"`keyframe` must be [B, 3, H, W] and `vectors` [B, T, h, w, 2], got {tuple(keyframe.shape)} and "
                f"{tuple(vectors.shape)}"
            )
        steps = self.model.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"`num_inference_steps` (={steps}) must be at least 1")
        generator = generator or torch.Generator().manual_seed(seed)
        shown = keyframe.shape[-2:]
        inner = [max(self.multiple, round(side / self.multiple) * self.multiple) for side in shown]
        picture = keyframe.float() if list(shown) == inner else F.interpolate(keyframe.float(), inner, mode="bicubic")
        picture = picture + self.noise * noise_like(picture, tuple(picture.shape), generator)
        frames = self.decoded(self.sampled(self.encoded(picture), vectors, steps, generator))
        if list(shown) != inner:
            frames = F.interpolate(frames.flatten(0, 1), shown, mode="bicubic").unflatten(0, vectors.shape[:2])
        return frames.clamp(-1, 1).to(keyframe.device)

    def encoded(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> latents [B, C, h, w], unscaled: the keyframe's are given as they are."""
        pictures = pictures.to(device_of(self.vae), self.vae.dtype)
        return self.vae.encode(pictures).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]

    def sampled(self, keyframe: Tensor, vectors: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
        """Latents [B, T, C, h, w] of a clip, from those of its keyframe [B, C, h, w] and vectors [B, T, y, x, 2]."""
        unet, encoder = self.model.unet, self.model.motion_encoder
        batch, steps = vectors.shape[:2]
        scaled = (vectors * vectors.new_tensor(self.scale)).movedim(-1, 2)
        motion = resized(scaled.float(), *keyframe.shape[-2:]).to(device_of(self.model), self.model.dtype)
        features = _both(encoder.of_steps(motion))
        keyframes = keyframe.to(motion)[:, None].expand(-1, steps, -1, -1, -1)
        given = _both(torch.cat((keyframes, motion), dim=2))
        ids = motion.new_tensor([[self.model.config["fps"], MOTION_BUCKET, self.noise]]).expand(2 * batch, -1)
        guidance = torch.linspace(*self.guidance, steps, device=motion.device)[:, None, None, None]
        self.scheduler.set_timesteps(num_steps, device=motion.device)
        noise = noise_like(motion, (batch, steps, keyframe.shape[1], *keyframe.shape[-2:]), generator)
        latents = noise.float() * self.scheduler.init_noise_sigma
        for timestep in self.scheduler.timesteps:
            noisy = self.scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1, 1)  # type: ignore[arg-type]
            whole = torch.cat((noisy.to(given), given), dim=2)
            plain, told = unet.velocity(whole, timestep.to(given), features, encoder.grid[1:], ids).float().chunk(2)
            guided = plain + guidance * (told - plain)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False)[0]  # type: ignore[arg-type]
        return latents

    def decoded(self, latents: Tensor) -> Tensor:
        """Latents [B, T, C, h, w] -> frames float32 [B, T, 3, H, W], about [-1, 1]."""
        flat = latents.flatten(0, 1).to(device_of(self.vae), self.vae.dtype) / self.vae.config["scaling_factor"]
        parts = [self.vae.decode(part, num_frames=len(part), return_dict=False)[0] for part in flat.split(self.chunk)]
        return torch.cat(parts).float().unflatten(0, latents.shape[:2])


def _both(told: Tensor) -> Tensor:
    """Without and with: zeros first."""
    return torch.cat((torch.zeros_like(told), told))
