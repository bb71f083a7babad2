"""LatentVideoDetokenizer: a keyframe and motion to frames through an autoencoder's latents, as in Video-LaVIT."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor, nn

from motion_vq.attention import split_fused_attention
from motion_vq.model_base import VideotokModel, register_to_config
from unet3d.diffusion import MotionEncoder, MotionUNet, build_unet, device_of, randn_tensor
from unet3d.warping import resize_fields

PUBLISHED_SCALE = (-1 / 0.0993703, -1 / 0.1130276)
"""From vectors in fractions of the frame to what the published weights see: the opposite sign, and in standard
deviations of x and y."""
MOTION_BUCKET = 127.0
"""The added id for the amount of motion, the same for every clip."""

_PIXEL_OPTIONS = (
    "patch_size",
    "residual_std_floor",
    "residual_scale",
    "forward_residual_scale",
    "bicubic_mix",
    "inverse_temperature",
    "sigma_min",
    "sigma_max",
    "stride",
    "crispness",
    "restraint",
    "forward_restraint",
    "selectivity",
    "spread_floor",
)


class LatentDenoiser(VideotokModel):
    """The networks of `LatentVideoDetokenizer` without its autoencoder: a 3D U-Net and its motion encoder.

    The U-Net predicts the velocity (v-prediction) of latents. Its input channels are noisy latents, the keyframe's
    latents and the motion; its positions attend to features of the motion.
    """

    # configs were written by one class for pixels and latents; the options of pixels say nothing here
    renamed_options: ClassVar = dict.fromkeys(_PIXEL_OPTIONS)
    renamed_parameters: ClassVar = {"mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 4,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        attention: tuple[bool, ...] = (True, True, True, False),
        attention_heads: tuple[int, ...] | None = (5, 10, 20, 20),
        layers_per_block: int = 2,
        attention_width: int = 1024,
        time_ids_width: int = 256,
        motion_grid: tuple[int, int, int] = (24, 16, 16),
        motion_layers: int = 12,
        motion_width: int = 512,
        motion_heads: int = 8,
        num_inference_steps: int = 25,
        fps: float = 6.0,
    ) -> None:
        """Build the networks; the defaults are the published ones.

        Args:
            latent_channels: of the autoencoder.
            block_out_channels, attention, attention_heads, layers_per_block: of the U-Net, see `build_unet`.
            attention_width: channels of the motion features that the U-Net attends to.
            time_ids_width: of the embedding of each added id.
            motion_grid, motion_layers, motion_width, motion_heads: of the `MotionEncoder`.
            num_inference_steps: evaluations of the U-Net where the caller gives no number.
            fps: frames per second in training, one of the added ids.
        """
        super().__init__()
        self.unet = build_unet(
            in_channels=2 * latent_channels + 2,
            out_channels=latent_channels,
            block_out_channels=block_out_channels,
            attention=attention,
            layers_per_block=layers_per_block,
            attention_width=attention_width,
            time_ids_width=time_ids_width,
            attention_heads=attention_heads,
            kind=MotionUNet,
        )
        self.motion_encoder = MotionEncoder(
            motion_grid, motion_layers, motion_width, motion_heads, attention_width, every_step=True
        )

    def upgrade_weights(self, state_dict: dict[str, Any]) -> None:
        """Convert weights whose motion encoder had fused attention."""
        split_fused_attention(state_dict)


class LatentVideoDetokenizer:
    """Video-LaVIT's video detokenizer (arXiv 2402.03161): a denoiser, a temporal autoencoder and an Euler scheduler.

        keyframe ── + a little noise ── encoder ──► latents, repeated over time ──┐
        vectors ───┬─ bicubic, at the latents' size ──────────────────────────────┤
                   └─ MotionEncoder ──► features of each step ──► attention ──┐   │
        noise ──────── Euler, guidance rising over the frames ────────────► MotionUNet ──► latents ── decoder ──► frames

    It uses one keyframe and goes forward from it. For classifier-free guidance, the keyframe, motion and features of
    the unconditional prediction are zero. A folder has the denoiser's config.json and weights, and the folders vae and
    scheduler.

    Args:
        denoiser, vae, scheduler: as published; the scheduler must predict v.
        guidance: scale at the first and the last frame; linear in between.
        noise_std: standard deviation of the noise added to the keyframe, pictures in [-1, 1].
        motion_scale: factor from vectors in fractions of the frame to what the weights see, in x and y.
        decode_chunk_size: frames that go through the autoencoder's decoder at once.
    """

    def __init__(
        self,
        denoiser: LatentDenoiser,
        vae: AutoencoderKLTemporalDecoder,
        scheduler: EulerDiscreteScheduler,
        *,
        guidance: tuple[float, float] = (1.0, 3.0),
        noise_std: float = 0.02,
        motion_scale: tuple[float, float] = PUBLISHED_SCALE,
        decode_chunk_size: int = 8,
    ) -> None:
        self.denoiser, self.vae, self.scheduler = denoiser, vae, scheduler
        self.guidance, self.noise_std, self.motion_scale = guidance, noise_std, motion_scale
        self.decode_chunk_size = decode_chunk_size

    @staticmethod
    def is_saved_in(folder: str | Path) -> bool:
        """Return whether the config.json in a folder is that of a detokenizer that works on latents."""
        path = Path(folder) / "config.json"
        return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("latent_channels"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, torch_dtype: torch.dtype | None = None) -> Self:
        """Load the denoiser from a folder, the autoencoder and the scheduler from its folders vae and scheduler.

        Raises:
            OSError: a file is missing.
            ValueError: weights that work on pixels.
        """
        if not cls.is_saved_in(folder):
            raise ValueError(f"{folder} holds no weights that work on latents; load them with VideoDetokenizer")
        denoiser = LatentDenoiser.from_pretrained(folder, torch_dtype=torch_dtype)
        # not `subfolder`: with it diffusers takes a file of the same name that is in the folder itself
        vae = AutoencoderKLTemporalDecoder.from_pretrained(Path(folder) / "vae", torch_dtype=torch_dtype)
        scheduler: Any = EulerDiscreteScheduler.from_pretrained(Path(folder) / "scheduler")
        return cls(denoiser, vae.eval(), scheduler)

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Write what `from_pretrained` reads; keyword arguments as for `diffusers.ModelMixin.save_pretrained`."""
        self.denoiser.save_pretrained(folder, **kwargs)
        self.vae.save_pretrained(Path(folder) / "vae", **kwargs)
        self.scheduler.save_pretrained(Path(folder) / "scheduler")

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Cast or move denoiser and autoencoder in place; see `torch.nn.Module.to`."""
        self.denoiser.to(*args, **kwargs)
        nn.Module.to(self.vae, *args, **kwargs)  # the one of diffusers warns at every cast
        return self

    @property
    def config(self) -> dict[str, Any]:
        """The denoiser's configuration."""
        return self.denoiser.config  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """The device that the denoiser computes on."""
        return device_of(self.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's type."""
        return self.denoiser.dtype

    @property
    def size_multiple(self) -> int:
        """Sides of pictures inside are multiples of this; others are resized."""
        pixels_per_latent = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        return pixels_per_latent * 2 ** (len(self.config["block_out_channels"]) - 1)

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
        refine: bool = True,
    ) -> Tensor:
        """Return the frames of a clip; arguments as for `VideoDetokenizer.reconstruct`. There is no refiner here.

        The neighbouring clips are not used: the published weights know one keyframe. Frame 0 is rebuilt as all others.

        Raises:
            ValueError: tensors that do not fit together; less than one step.
        """
        del next_keyframe, next_vectors, previous_frame, noise_rate
        if keyframe.ndim != 4 or vectors.ndim != 5 or len(keyframe) != len(vectors):
            raise ValueError(
                f"`keyframe` must be [B, 3, H, W] and `vectors` [B, T, h, w, 2], got {tuple(keyframe.shape)} and "
                f"{tuple(vectors.shape)}"
            )
        steps = self.config["num_inference_steps"] if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise ValueError(f"`num_inference_steps` (={steps}) must be at least 1")
        generator = generator or torch.Generator().manual_seed(seed)
        size = list(keyframe.shape[-2:])
        inner = [max(self.size_multiple, round(side / self.size_multiple) * self.size_multiple) for side in size]
        picture = keyframe.float() if size == inner else F.interpolate(keyframe.float(), inner, mode="bicubic")
        picture = picture + self.noise_std * _noise(picture.shape, generator, picture)
        frames = self.decode_latents(self.sample_latents(self.encode_picture(picture), vectors, steps, generator))
        if size != inner:
            frames = F.interpolate(frames.flatten(0, 1), size, mode="bicubic").unflatten(0, vectors.shape[:2])
        return frames.clamp(-1, 1).to(keyframe.device)

    def encode_picture(self, pictures: Tensor) -> Tensor:
        """Return the latents [B, C, h, w] of pictures [B, 3, H, W] in [-1, 1], not scaled."""
        pictures = pictures.to(device_of(self.vae), self.vae.dtype)
        return self.vae.encode(pictures).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]

    def sample_latents(self, keyframe: Tensor, vectors: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
        """Return the latents [B, T, C, h, w] of a clip.

        Args:
            keyframe: [B, C, h, w], latents of the keyframe.
            vectors: [B, T, y, x, 2] in fractions of the frame.
            num_steps: evaluations of the U-Net.
            generator: of the noise.
        """
        unet, encoder = self.denoiser.unet, self.denoiser.motion_encoder
        batch, steps = vectors.shape[:2]
        scaled = (vectors * vectors.new_tensor(self.motion_scale)).float()
        motion = resize_fields(scaled, *keyframe.shape[-2:]).movedim(-1, 2).to(self.device, self.dtype)
        features = _with_unconditional(encoder(motion))
        keyframes = keyframe.to(motion)[:, None].expand(-1, steps, -1, -1, -1)
        conditions = _with_unconditional(torch.cat((keyframes, motion), dim=2))
        ids = motion.new_tensor([[self.config["fps"], MOTION_BUCKET, self.noise_std]]).expand(2 * batch, -1)
        guidance = torch.linspace(*self.guidance, steps, device=motion.device)[:, None, None, None]
        self.scheduler.set_timesteps(num_steps, device=motion.device)
        noise = _noise((batch, steps, *keyframe.shape[1:]), generator, motion)
        latents = noise.float() * self.scheduler.init_noise_sigma
        for timestep in self.scheduler.timesteps:
            noisy = self.scheduler.scale_model_input(latents, timestep).repeat(2, 1, 1, 1, 1)  # type: ignore[arg-type]
            sample = torch.cat((noisy.to(conditions), conditions), dim=2)
            velocity = unet.velocity(sample, timestep.to(conditions), features, encoder.grid[1:], ids)
            unconditional, conditional = velocity.float().chunk(2)
            guided = unconditional + guidance * (conditional - unconditional)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False)[0]  # type: ignore[arg-type]
        return latents

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return the frames float32 [B, T, 3, H, W], about in [-1, 1], of latents [B, T, C, h, w]."""
        flat = latents.flatten(0, 1).to(device_of(self.vae), self.vae.dtype) / self.vae.config["scaling_factor"]
        chunks = flat.split(self.decode_chunk_size)
        frames = [self.vae.decode(chunk, num_frames=len(chunk), return_dict=False)[0] for chunk in chunks]
        return torch.cat(frames).float().unflatten(0, latents.shape[:2])


def _with_unconditional(conditions: Tensor) -> Tensor:
    """Return the conditions of the unconditional prediction (zeros), then those given, along the batch."""
    return torch.cat((torch.zeros_like(conditions), conditions))


def _noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw standard normal noise in float32 on the generator's device: one seed is one noise on every machine."""
    return randn_tensor(shape, generator, like.device, torch.float32).to(like)
