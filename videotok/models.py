"""The models of a bundle, and what they do with single clips of any videos."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from codec import ClipSpec, MotionField
from motion_vq import MotionTokenizer, MotionTokens
from unet3d import LatentDetokenizer, VideoDetokenizer
from videotok.bundle import Bundle
from videotok.decoding import fitted
from videotok.keyframes import KeyframeTokenizerProtocol
from videotok.pictures import squashed


class Models:
    """Three models, each loaded when it is first needed.

    Encoders run in float64 on the CPU, decoders in float32; see `VideoTokenizer`. To encode clips of many videos in one
    batch: `keyframe_encoder.encode` takes their keyframes (`videotok.pictures.squashed`), `motion_tokens` their fields,
    and a `videotok.gather.Gathered` a video takes in its rows of both.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @cached_property
    def keyframes(self) -> KeyframeTokenizerProtocol:
        """Decodes keyframes; float32."""
        return self.bundle.load_keyframes(torch.float32)

    @cached_property
    def keyframe_encoder(self) -> KeyframeTokenizerProtocol:
        """Encodes keyframes; float64."""
        return self.bundle.load_keyframes(torch.float64)

    @cached_property
    def motion(self) -> MotionTokenizer:
        """Decodes motion; float32."""
        return self.bundle.load("motion", MotionTokenizer, torch.float32)

    @cached_property
    def motion_encoder(self) -> MotionTokenizer:
        """Encodes motion; float64."""
        return self.bundle.load("motion", MotionTokenizer, torch.float64)

    @cached_property
    def detokenizer(self) -> VideoDetokenizer | LatentDetokenizer:
        """Rebuilds frames; float32."""
        return self.bundle.load_detokenizer(torch.float32)

    @property
    def default_motion_levels(self) -> int:
        """Levels of motion ids that are kept where the caller does not say."""
        return self.motion.default_levels

    def spec(self, fps: Fraction | int = 12) -> ClipSpec:
        """Clips as this model's motion tokenizer takes them, at `fps` frames a second."""
        return ClipSpec(self.motion_encoder.config["num_steps"], Fraction(fps), self.motion_encoder.grid)

    def motion_tokens(self, fields: Sequence[MotionField], levels: int) -> MotionTokens:
        """Motion fields, of any videos, to their ids: `levels` levels each, see `MotionTokenizer.encode`."""
        vectors = torch.from_numpy(np.stack([field.vectors for field in fields]))
        valid = torch.from_numpy(np.stack([field.valid for field in fields]))
        return self.motion_encoder.encode(vectors, valid, levels)

    @property
    def codebooks(self) -> dict[str, int]:
        """Words of each codebook."""
        return {
            "visual": self.keyframe_encoder.codebook_size,
            "motion": self.motion_encoder.codebook_size,
            "camera": self.motion_encoder.camera_codebook_size,
        }

    def rebuilt_keyframe(self, keyframe: np.ndarray, size: tuple[int, int]) -> Tensor:
        """A keyframe uint8 [H, W, 3] through its tokens and back: float32 [1, 3, height, width] in [-1, 1]."""
        tokens = self.keyframe_encoder.encode(squashed(keyframe, self.keyframe_encoder.image_size))
        return fitted(self.keyframes.decode(tokens.ids, tokens.keep_mask), size)

    def coded_motion(self, field: MotionField, levels: int) -> Tensor:
        """A field through its tokens and back: float32 [1, T, h, w, 2]."""
        return self.motion.decode(self.motion_tokens([field], levels))
