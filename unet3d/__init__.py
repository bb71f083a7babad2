"""Keyframes and motion to frames: warping, and a 3D U-Net diffusion model on what warping gets wrong."""

from unet3d.chaining import decode_chain
from unet3d.detokenizer import VideoDetokenizer
from unet3d.latent_detokenizer import LatentDetokenizer
from unet3d.train import DetokenizerTraining
from unet3d.warping import Guess, bidirectional, one_way

__all__ = [
    "DetokenizerTraining",
    "Guess",
    "LatentDetokenizer",
    "VideoDetokenizer",
    "bidirectional",
    "decode_chain",
    "one_way",
]
