"""Clips one after another: each is rebuilt between its own keyframe and the next one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unet3d.detokenizer import VideoDetokenizer
    from unet3d.latent_detokenizer import LatentVideoDetokenizer


def decode_chain(
    model: "VideoDetokenizer | LatentVideoDetokenizer",
    clips: "Iterable[ClipInput | tuple[Tensor, Tensor]]",
    *,
    bidirectional: bool = True,
    noise_rate: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
    refine: bool = True,
    batch_size: int = 1,
) -> Iterator[Tensor]:
    """Yield the frames [B, T, 3, H, W] in [-1, 1] of each clip.

    Memory is constant: `batch_size` clips are read ahead, and the last frame of the clip before is kept.

    Args:
        clips: one after another; T may differ.
        bidirectional: use the next clip's keyframe as well; the last clip has none and is rebuilt forward only.
        noise_rate: below 1, denoising of every clip but the first starts from the last frame before it, taken back to
            noise so far: the explicit noise constraint of Video-LaVIT (arXiv 2402.03161), which has 0.85.
        num_inference_steps: evaluations of the network for each clip.
        seed: of the noise; each clip has its own noise, which depends on the seed and the clip's index alone.
        refine: False for keyframes that were not decoded from tokens, see `VideoDetokenizer.reconstruct`.
        batch_size: clips that are rebuilt at once, which a GPU does faster; of a `VideoDetokenizer` only. With a
            `noise_rate` below 1 each clip waits for the one before. Frames stay the same but for rounding.
    """
    previous_frame = None
    for batch in _batches(clips, bidirectional, batch_size if noise_rate == 1 else 1):
        keyframe, vectors = torch.cat([one.keyframe for one in batch]), torch.cat([one.vectors for one in batch])
        following = [one.following for one in batch if one.following is not None]
        next_keyframe, next_vectors = map(torch.cat, zip(*following, strict=True)) if following else (None, None)
        generators = [torch.Generator().manual_seed((seed * 1_000_003 + one.index) % 2**63) for one in batch]
        frames = model.reconstruct(
            keyframe,
            vectors,
            next_keyframe=next_keyframe,
            next_vectors=next_vectors,
            previous_frame=previous_frame,
            noise_rate=noise_rate,
            num_inference_steps=num_inference_steps,
            generator=generators if len(batch) > 1 else generators[0],  # type: ignore[arg-type]
            refine=refine,
            **({} if batch[0].num_frames is None else {"num_frames": batch[0].num_frames}),
        )
        yield from frames.split([len(one.keyframe) for one in batch])
        previous_frame = frames[:, -1] if len(batch) == 1 else None


class ClipInput(NamedTuple):
    """What a clip is rebuilt from."""

    keyframe: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """[B, T, h, w, 2]."""
    num_frames: int | None = None
    """Frames to rebuild, the first ones; None: all T. Of a `VideoDetokenizer` only."""


@dataclass(frozen=True)
class _Clip:
    """A clip to rebuild."""

    index: int
    keyframe: Tensor
    vectors: Tensor
    num_frames: int | None
    following: tuple[Tensor, Tensor] | None
    """Keyframe and first step of motion of the next clip, where it is used."""

    def goes_with(self, other: "_Clip") -> bool:
        """Whether both can be rebuilt in one batch."""
        return (
            self.keyframe.shape == other.keyframe.shape
            and self.vectors.shape == other.vectors.shape
            and self.num_frames == other.num_frames
            and (self.following is None) == (other.following is None)
        )


def _batches(
    clips: Iterable[ClipInput | tuple[Tensor, Tensor]], bidirectional: bool, size: int
) -> Iterator[list[_Clip]]:
    """Yield clips in order, up to `size` at once."""
    batch: list[_Clip] = []
    for index, (clip, next_clip) in enumerate(pairwise(chain(clips, [None]))):
        assert clip is not None  # only the last of all is
        following = (next_clip[0], next_clip[1][:, :1]) if bidirectional and next_clip is not None else None
        clip = clip if isinstance(clip, ClipInput) else ClipInput(*clip)
        found = _Clip(index, *clip, following)
        if batch and (len(batch) == size or not batch[0].goes_with(found)):
            yield batch
            batch = []
        batch.append(found)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
