"""Clips one after another: each is rebuilt between its own keyframe and the next one."""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unet3d.detokenizer import VideoDetokenizer
    from unet3d.latent_detokenizer import LatentVideoDetokenizer


def decode_chain(
    model: "VideoDetokenizer | LatentVideoDetokenizer",
    clips: Iterable[tuple[Tensor, Tensor]],
    *,
    bidirectional: bool = True,
    noise_rate: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
    refine: bool = True,
) -> Iterator[Tensor]:
    """Yield the frames [B, T, 3, H, W] in [-1, 1] of each clip.

    Memory is constant: one clip is read ahead, and the last frame of the clip before is kept.

    Args:
        clips: (keyframe [B, 3, H, W] in [-1, 1], vectors [B, T, h, w, 2]) one after another; T may differ.
        bidirectional: use the next clip's keyframe as well; the last clip has none and is rebuilt forward only.
        noise_rate: below 1, denoising of every clip but the first starts from the last frame before it, taken back to
            noise so far: the explicit noise constraint of Video-LaVIT (arXiv 2402.03161), which has 0.85.
        num_inference_steps: evaluations of the network for each clip.
        seed: of the noise; each clip has its own noise, which depends on the seed and the clip's index alone.
        refine: False for keyframes that were not decoded from tokens, see `VideoDetokenizer.reconstruct`.
    """
    previous_frame = None
    for index, (clip, next_clip) in enumerate(pairwise(chain(clips, [None]))):
        keyframe, vectors = clip  # pyright: ignore[reportGeneralTypeIssues] (only the last of all is None)
        next_keyframe, next_vectors = next_clip if bidirectional and next_clip else (None, None)
        frames = model.reconstruct(
            keyframe,
            vectors,
            next_keyframe=next_keyframe,
            next_vectors=next_vectors,
            previous_frame=previous_frame,
            noise_rate=noise_rate,
            num_inference_steps=num_inference_steps,
            generator=torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63),
            refine=refine,
        )
        yield frames
        previous_frame = frames[:, -1]
