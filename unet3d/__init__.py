"""Video detokenizers: keyframes and motion to frames, by warping and a 3D U-Net diffusion model."""

from unet3d.chaining import decode_chain
from unet3d.detokenizer import VideoDetokenizer
from unet3d.latent_detokenizer import LatentDenoiser, LatentVideoDetokenizer
from unet3d.train import DetokenizerTraining
from unet3d.warping import WarpedFrames, warp_bidirectional, warp_forward

__all__ = [
    "DetokenizerTraining",
    "LatentDenoiser",
    "LatentVideoDetokenizer",
    "VideoDetokenizer",
    "WarpedFrames",
    "decode_chain",
    "warp_bidirectional",
    "warp_forward",
]
