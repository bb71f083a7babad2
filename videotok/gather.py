"""What encoding gathers, clip after clip, until it becomes VideoTokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from codec import Clip, ClipSpec, MotionSource
from motion_vq import MotionTokens
from videotok.chain import ChainedKeyframe
from videotok.keyframes import KeyframeTokens
from videotok.source import ModelIdentity, SourceFacts
from videotok.tokens import VideoTokens


@dataclass
class Gathered:
    """Tokens of the clips so far; everything else of a clip is forgotten.

    One a video. The models take clips of any videos in one batch, `VideoTokenizer.keyframe_encoder.encode` and
    `VideoTokenizer.motion_tokens`; who encodes many videos at once cuts what they give into the videos' parts
    (`KeyframeTokens` and `MotionTokens` are rows) and adds each to its own Gathered, clips in order. Keyframes that
    lean on the clip before (`videotok.chain`) go through a `KeyframeChain` a video instead, and `add_keyframes`.
    """

    keyframes: list[ChainedKeyframe] = field(default_factory=list)
    motion_ids: list[np.ndarray] = field(default_factory=list)
    camera_ids: list[np.ndarray] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    pts_seconds: list[float] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    """JPEG files of the keyframes; stays empty where they are not kept."""
    motion_source: MotionSource = "native"

    def add(self, clips: Sequence[Clip], visual: KeyframeTokens, motion: MotionTokens) -> None:
        """Takes in clips, all of them independent, and what the tokenizers made of them."""
        self.add_motion(clips, motion)
        nothing = np.zeros(visual.keep_mask.shape[1], np.bool_)
        masks = visual.keep_mask.cpu().numpy()
        self.add_keyframes(
            ChainedKeyframe(ids.cpu().numpy(), mask, nothing) for ids, mask in zip(visual.ids, masks, strict=True)
        )

    def add_motion(self, clips: Sequence[Clip], motion: MotionTokens) -> None:
        """Takes in all but the keyframes of clips."""
        self.motion_ids.append(motion.ids.cpu().numpy())
        self.camera_ids.append(motion.camera_ids.cpu().numpy())
        self.num_frames += [clip.num_frames for clip in clips]
        self.pts_seconds += [clip.pts_seconds for clip in clips]
        self.damaged += [clip.damaged for clip in clips]
        self.motion_source = clips[-1].motion_source

    def add_keyframes(self, keyframes: Iterable[ChainedKeyframe]) -> None:
        """Takes in the words of keyframes; they may come later than their clips, but in order."""
        self.keyframes += keyframes

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
            visual_ids=np.concatenate([keyframe.ids for keyframe in self.keyframes]).astype(np.int32),
            visual_offsets=np.cumsum([0, *(len(keyframe.ids) for keyframe in self.keyframes)], dtype=np.int64),
            keep_mask=np.stack([keyframe.keep_mask for keyframe in self.keyframes]),
            carry_mask=np.stack([keyframe.carry_mask for keyframe in self.keyframes]),
            pictures=tuple(self.pictures),
            motion_ids=np.concatenate(self.motion_ids).astype(np.int32),
            camera_ids=np.concatenate(self.camera_ids).astype(np.int32),
            num_frames=np.array(self.num_frames, np.int32),
            pts_seconds=np.array(self.pts_seconds, np.float64),
            damaged=np.array(self.damaged, np.bool_),
            start_seconds=start_seconds,
        )
