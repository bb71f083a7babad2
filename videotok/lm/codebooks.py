"""What the words of a video tokenizer are: where embeddings of their ids come from."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from videotok.vocabulary import Vocabulary

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer


TERM_WAVES = 4
"""Of an amount of a camera term: few, so that the directions of 24 terms fit even into narrow models."""


@dataclass(frozen=True)
class Codebooks:
    """Vectors of the visual and motion words, and the sizes of all that a vocabulary holds."""

    visual: Tensor | None
    """[visual_size, dim]; None where the keyframe tokenizer does not show its words."""
    motion: Tensor | None
    """[motion_levels, motion_size, dim]."""
    sizes: dict[str, Any]
    """Fields of a Vocabulary, all but `text_size`."""

    @classmethod
    def of(cls, tokenizer: "VideoTokenizer", *, levels: int | None = None, interleaved: bool = False) -> Self:
        """The codebooks of a video tokenizer, with its default number of motion levels unless told.

        Words of a finer level are those of the residual stage with its number. Where finer ids go to hard patches
        (`motion_vq.quantizer`) most of a level's ids, not all, are of that stage: a start for training, no more.

        Raises:
            ValueError: more levels than the motion tokenizer has.
        """
        motion, keyframes = tokenizer.motion, tokenizer.keyframes
        levels = motion.default_levels if levels is None else levels
        if not 0 <= levels <= motion.num_levels:
            raise ValueError(f"`levels` (={levels}) must be 0 to {motion.num_levels}, the motion tokenizer's levels")
        stages = [motion.quantize.stages[level].codebook for level in range(levels)]
        return cls(
            visual=_visual_words(keyframes),
            motion=torch.stack([stage.detach().float() for stage in stages]) if stages else None,  # type: ignore[union-attr]
            sizes={
                "visual_size": keyframes.codebook_size,
                "motion_size": motion.codebook_size,
                "motion_levels": levels,
                "motion_places": motion.tokens_per_level,
                "camera_size": motion.camera_codebook_size if motion.num_camera_ids else 0,
                "camera_terms": motion.num_camera_ids,
                "patches": keyframes.num_patches,
                "interleaved": interleaved,
            },
        )

    def vocabulary(self, text_size: int) -> Vocabulary:
        """The vocabulary whose text ends at `text_size`."""
        return Vocabulary(text_size, **self.sizes)

    def words(self, vocabulary: Vocabulary, span: str) -> Tensor | None:
        """One vector an id of a span, [size, dim]; None where nothing is known of what its ids mean.

        Camera ids, skips and carries are amounts: their vectors are waves of the amount, so that neighbours are alike.
        Those of a camera term lie in directions of their own: what all terms say can be read from a sum of them.
        """
        if span == "visual":
            return self.visual
        if span == "motion":
            return None if self.motion is None else self.motion.flatten(0, 1)
        if span == "camera":
            return torch.block_diag(*[waves(vocabulary.camera_size, TERM_WAVES)] * vocabulary.camera_terms)
        if span in ("skip", "carry"):
            return waves(vocabulary.patches)
        return None


def waves(size: int, dim: int = 16) -> Tensor:
    """[size, dim]: sines and cosines of amounts 0 to size - 1, counted from the middle.

    The slowest goes from one end to the other in half a turn and is the largest, so that its sign is the amount's;
    faster ones tell neighbours apart.
    """
    if size < 2:
        return torch.zeros(size, dim)
    turns = torch.logspace(0, math.log2(max(size / 8, 2)), dim // 2, base=2)
    amounts = torch.linspace(-1, 1, size)
    angles = amounts[:, None] * turns * math.pi / 2
    return torch.cat([angles.sin(), angles.cos()], dim=1) / turns.sqrt().repeat(2)


def _visual_words(keyframes: object) -> Tensor | None:
    for path in (("words",), ("codebook", "words"), ("model", "quantize", "embedding", "weight")):
        found: object = keyframes
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, Tensor):
            return found.detach().float()
    return None
