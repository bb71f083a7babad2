"""Video detokenizers: keyframes and motion to frames, by warping and a 3D U-Net diffusion model."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet3d.chaining import ClipInput, decode_chain
    from unet3d.detokenizer import VideoDetokenizer
    from unet3d.latent_detokenizer import LatentDenoiser, LatentVideoDetokenizer
    from unet3d.train import DetokenizerPerceptualTraining, DetokenizerTraining, PerceptualOptions
    from unet3d.warping import WarpedFrames, warp_bidirectional, warp_forward

__all__ = [
    "ClipInput",
    "DetokenizerPerceptualTraining",
    "DetokenizerTraining",
    "LatentDenoiser",
    "LatentVideoDetokenizer",
    "PerceptualOptions",
    "VideoDetokenizer",
    "WarpedFrames",
    "decode_chain",
    "warp_bidirectional",
    "warp_forward",
]

_MODULES = {
    "ClipInput": "chaining",
    "decode_chain": "chaining",
    "VideoDetokenizer": "detokenizer",
    "LatentDenoiser": "latent_detokenizer",
    "LatentVideoDetokenizer": "latent_detokenizer",
    "DetokenizerPerceptualTraining": "train",
    "DetokenizerTraining": "train",
    "PerceptualOptions": "train",
    "WarpedFrames": "warping",
    "warp_bidirectional": "warping",
    "warp_forward": "warping",
}


def __getattr__(name: str) -> object:
    # the 3D U-Net comes with diffusers' whole model zoo, which takes seconds to import; encoding only needs the warps
    if name in _MODULES:
        return getattr(import_module(f"unet3d.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'unet3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
