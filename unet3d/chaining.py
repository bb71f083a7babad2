"""Clip after clip: each is rebuilt between its own keyframe and the next one's."""

from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import torch
from torch import Tensor

from unet3d.detokenizer import VideoDetokenizer
from unet3d.latent_detokenizer import LatentDetokenizer


def decode_chain(
    model: VideoDetokenizer | LatentDetokenizer,
    clips: Iterable[tuple[Tensor, Tensor]],
    *,
    bidirectional: bool = True,
    noise_rate: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Frames [B, T, 3, H, W] in [-1, 1] of each clip, in constant memory: one clip is read ahead, one is remembered.

    Args:
        clips: (keyframe [B, 3, H, W] in [-1, 1], vectors [B, T, h, w, 2]) one after another; T may differ.
        bidirectional: use the next clip's keyframe as well; the last clip has none and is rebuilt forward only.
        noise_rate: below 1, every clip but the first begins from the last frame before it, taken so far back to noise:
            the explicit noise constraint of Video-LaVIT (arXiv 2402.03161), which has 0.85.
        num_inference_steps: evaluations of the network a clip.
        seed: of the noise; every clip has its own, which depends on the seed and its place in the chain alone.
    """
    previous_frame = None
    for index, (here, following) in enumerate(pairwise(chain(clips, [None]))):
        keyframe, vectors = here  # pyright: ignore[reportGeneralTypeIssues] (only the last of all is None)
        next_keyframe, next_vectors = following if bidirectional and following else (None, None)
        frames = model.reconstruct(
            keyframe,
            vectors,
            next_keyframe=next_keyframe,
            next_vectors=next_vectors,
            previous_frame=previous_frame,
            noise_rate=noise_rate,
            num_inference_steps=num_inference_steps,
            generator=torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63),
        )
        yield frames
        previous_frame = frames[:, -1]
