"""What encoding gathers, clip after clip, until it becomes VideoTokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from codec import Clip, ClipSpec, MotionSource
from motion_vq import MotionTokens
from videotok.keyframes import KeyframeTokens
from videotok.tokens import ModelIdentity, SourceFacts, VideoTokens


@dataclass
class Gathered:
    """Tokens of the clips so far; everything else of a clip is forgotten."""

    visual_ids: list[np.ndarray] = field(default_factory=list)
    keep_mask: list[np.ndarray] = field(default_factory=list)
    motion_ids: list[np.ndarray] = field(default_factory=list)
    camera_ids: list[np.ndarray] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    pts_seconds: list[float] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    motion_source: MotionSource = "native"

    def add(self, clips: list[Clip], visual: KeyframeTokens, motion: MotionTokens) -> None:
        """Takes in the clips of a batch and what the tokenizers made of them."""
        self.visual_ids += [ids.numpy() for ids in visual.ids]
        self.keep_mask.append(visual.keep_mask.numpy())
        self.motion_ids.append(motion.ids.numpy())
        self.camera_ids.append(motion.camera_ids.numpy())
        self.num_frames += [clip.num_frames for clip in clips]
        self.pts_seconds += [clip.pts_seconds for clip in clips]
        self.damaged += [clip.damaged for clip in clips]
        self.motion_source = clips[-1].motion_source

    def tokens(
        self,
        spec: ClipSpec,
        source: SourceFacts,
        models: Mapping[str, ModelIdentity],
        codebooks: Mapping[str, int],
        start_seconds: float,
    ) -> VideoTokens:
        """All clips as one VideoTokens; the arguments are its fields."""
        return VideoTokens(
            spec=spec,
            source=source,
            motion_source=self.motion_source,
            models=models,
            codebooks=codebooks,
            visual_ids=np.concatenate(self.visual_ids).astype(np.int32),
            visual_offsets=np.cumsum([0, *map(len, self.visual_ids)], dtype=np.int64),
            keep_mask=np.concatenate(self.keep_mask),
            motion_ids=np.concatenate(self.motion_ids).astype(np.int32),
            camera_ids=np.concatenate(self.camera_ids).astype(np.int32),
            num_frames=np.array(self.num_frames, np.int32),
            pts_seconds=np.array(self.pts_seconds, np.float64),
            damaged=np.array(self.damaged, np.bool_),
            start_seconds=start_seconds,
        )
