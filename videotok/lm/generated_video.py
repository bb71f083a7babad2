"""A video in the making: its clips so far as a language model reads them, as they are shown, and as VideoTokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codec import ClipSpec
from motion_vq import MotionTokens
from motion_vq.fields import follow
from unet3d.warping import compose, upsample_vectors, warp
from videotok.config import DecodeConfig
from videotok.image_utils import decode_jpeg, encode_jpeg, resize, to_square_tensor, to_tensor, to_uint8
from videotok.keyframe_decoding import predict_keyframe
from videotok.keyframe_prediction import PredictiveKeyframeEncoder
from videotok.lm.model import VideoSettings
from videotok.pipeline import DetokenizerInput, VideoTokenizer
from videotok.tokens import TOKENIZERS, SourceFacts, VideoTokens
from videotok.vocabulary import ClipIds, Vocabulary

KeyframeMode = Literal["predicted", "encoded", "generated", "constrained"]
"""Where keyframes after the first come from.

predicted: warped along the motion from the keyframe before; from the first one, through all clips, where that is a
picture that was given: it is interpolated once, then, and stays sharp. The language model reads it encoded again. What
comes into view is stretched from the border.
encoded: the same, but shown as decoded from its ids too: what drifts is painted anew from the codebook.
generated: sampled as everything else; for language models that have learned pictures well.
constrained: the same, but the image decoder starts from the last frame before, with noise: the explicit noise
constraint of Video-LaVIT (arXiv 2402.03161). Only for its weights; each clip is decoded as soon as it is generated.
"""
PICTURE_QUALITY = 95
"""JPEG quality of keyframes that come from a picture of the user."""


@dataclass(frozen=True)
class GeneratedClip:
    """One clip of a video in the making."""

    row: int
    """Which of the videos that are generated together."""
    ids: ClipIds
    """As they are stored: a predicted keyframe has no visual ids."""
    shown: DetokenizerInput
    """What its frames are made from."""
    is_new: bool = True
    """False: a clip of the prompt."""
    picture: bytes | None = field(default=None, repr=False)
    """The keyframe as a JPEG file, where it is not what the ids alone decode to."""
    frames: np.ndarray | None = field(default=None, repr=False)
    """uint8 [num_frames, H, W, 3] RGB, where the next keyframe needs the last one; None: decoded when asked for."""


@dataclass
class GeneratedVideo:
    """A video in the making. Clips are added one after another; of earlier ones only ids are kept.

    ids of a clip ── add ──► GeneratedClip, and the next clip's keyframe for the language model
    """

    tokenizer: VideoTokenizer
    vocabulary: Vocabulary
    settings: VideoSettings
    spec: ClipSpec
    mode: KeyframeMode
    size: tuple[int, int]
    """(width, height) of the frames."""
    row: int = 0
    """Which of the videos that are generated together."""
    max_context: int = 16
    """Clips that are kept as ids."""
    context: list[Tensor] = field(default_factory=list)
    """The last clips, int64 [n] each, as the language model reads them."""
    keyframe: Tensor | None = None
    """int64 [n]: [IMG] … [/IMG] of the next clip, where it is known before the clip is generated."""
    given: np.ndarray | None = None
    """uint8 [H, W, 3] RGB: the next clip's keyframe, where the user gave it."""
    is_exact: bool = False
    """Whether the keyframes come from a picture that the user gave, and were not decoded from ids."""
    decode_config: DecodeConfig = DecodeConfig()  # noqa: RUF009 (frozen)
    """How clips become frames, where they do so at once."""
    _square: Tensor | None = None
    """[1, 3, S, S] in [-1, 1]: the last keyframe that was shown."""
    _vectors: Tensor | None = None
    """[1, T, h, w, 2]: the motion of its clip."""
    _origin: Tensor | None = None
    """[1, 3, S, S] in [-1, 1]: the last keyframe that was not predicted."""
    _displacement: Tensor | None = None
    """[1, h, w, 2]: from the last keyframe back to `_origin`, in fractions of the frame; None: it is the same."""
    _last_frame: Tensor | None = None
    """[1, 3, H, W] in [-1, 1]: the last frame so far, where keyframes are constrained by it."""

    @torch.no_grad()
    def add(self, ids: Tensor, num_frames: int, *, is_new: bool = True) -> GeneratedClip:
        """Add a clip and return it as it is shown.

        Args:
            ids: int64 [n], the clip with its markers; without motion it is a picture.
            num_frames: frames of it that are shown.
            is_new: False: it is of the prompt.
        """
        clip = self.vocabulary.clips(ids.numpy())[0]
        vectors = self._decode_motion(clip)
        if len(clip.global_motion_ids) != self.vocabulary.num_global_motion_ids:
            clip = replace(clip, global_motion_ids=self._still_global_motion())
        if self.given is not None:
            square = to_square_tensor(self.given, self.tokenizer.keyframes.image_size)
            keyframe = to_tensor(resize(self.given, self.size))
        else:
            if is_new and self.mode == "predicted" and self._square is not None:
                square, self._displacement = self._predict(vectors)
                clip = _all_skipped(clip)
            else:
                square = self._decode_keyframe(clip)
            keyframe = to_tensor(resize(to_uint8(square[:, None])[0], self.size))
        is_stored = self.is_exact or self.mode == "constrained"
        picture = encode_jpeg(to_uint8(keyframe[:, None])[0], PICTURE_QUALITY) if is_stored else None
        if picture is not None and (stored := decode_jpeg(picture)) is not None:
            keyframe = to_tensor(stored)  # the same as when the tokens are decoded later
        keyframe, square, self.given = keyframe.to(vectors), square.to(vectors), None
        if clip.skip_mask is None or not clip.skip_mask.any():
            self._origin, self._displacement = square, None
        self._square, self._vectors = square, vectors
        self.context = [*self.context, ids][-self.max_context :]
        is_sampled = self.mode in ("generated", "constrained")
        self.keyframe = None if is_sampled else self._next_keyframe(vectors)
        # given pictures lack no detail that a refiner would add
        shown = DetokenizerInput(keyframe, vectors, num_frames, None if self.is_exact else square)
        return GeneratedClip(self.row, clip, shown, is_new, picture, self._decode_frames(shown))

    def _decode_frames(self, shown: DetokenizerInput) -> np.ndarray | None:
        """Return the frames of a clip if the next keyframe needs the last one."""
        if self.mode != "constrained":
            return None
        (decoded,) = self.tokenizer.detokenize([shown], self.decode_config)
        self._last_frame = to_tensor(decoded.frames[-1])
        return decoded.frames

    def _decode_motion(self, clip: ClipIds) -> Tensor:
        """Return the vectors of a clip, [1, T, h, w, 2]; all 0 of a picture."""
        if not clip.motion_ids.size and not clip.global_motion_ids.size:
            return torch.zeros(1, self.spec.frames, *self.spec.grid, 2, device=self.tokenizer.device)
        ids, global_motion_ids = (
            torch.from_numpy(part)[None].long() for part in (clip.motion_ids, clip.global_motion_ids)
        )
        return self.tokenizer.decode_motion(MotionTokens(ids, global_motion_ids))

    def _still_global_motion(self) -> np.ndarray:
        """Return the global motion ids of a clip in which nothing moves, int32 [K]."""
        if not self.vocabulary.num_global_motion_ids:
            return np.zeros(0, np.int32)
        shape = (1, self.spec.frames, *self.spec.grid)
        with self.tokenizer.encoding():
            model = self.tokenizer.motion
            vectors = torch.zeros(*shape, 2, dtype=model.dtype, device=model.device)
            found = model.encode(vectors, torch.ones(shape, dtype=torch.bool, device=model.device), 0)
        return found.global_motion_ids[0].cpu().numpy().astype(np.int32)

    def _decode_keyframe(self, clip: ClipIds) -> Tensor:
        """Return the keyframe of a clip, float32 [1, 3, S, S] in [-1, 1]."""
        with self.tokenizer.decoding():
            model = self.tokenizer.keyframes
            keep_mask = torch.from_numpy(_keep_mask(clip, model.num_patches))[None]
            ids = torch.from_numpy(clip.visual_ids).long()
            constraint = {} if self._last_frame is None else {"previous": self._last_frame}
            return model.decode([ids.to(model.device)], keep_mask.to(model.device), **constraint).float()

    def _predict(self, next_vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the next keyframe, [1, 3, S, S], and its displacement from `_origin`, [1, h, w, 2].

        Without stored pictures, as the decoder of the tokens predicts it: from the keyframe before, and None.
        """
        assert self._square is not None  # `add` set them
        assert self._origin is not None
        assert self._vectors is not None
        if not self.is_exact:
            return predict_keyframe(self._square, self._vectors, next_vectors), None
        steps = upsample_vectors(torch.cat([self._vectors, next_vectors[:, :1]], dim=1), *self._square.shape[-2:])
        displacement = compose(steps)[:, -1]
        if self._displacement is not None:
            displacement = follow(displacement, self._displacement)
        return warp(self._origin, displacement[:, None])[:, 0], displacement

    def _next_keyframe(self, vectors: Tensor) -> Tensor:
        """Return [IMG] … [/IMG] of the next clip: this keyframe warped to the end of its clip, and encoded again."""
        # the motion that leads to the next keyframe comes with the next clip: so far, that of the last frame goes on
        predicted = self._predict(vectors[:, -1:])[0].clamp(-1, 1)
        config = self.settings.encode_config
        with self.tokenizer.encoding():
            model = self.tokenizer.keyframes
            encoder = PredictiveKeyframeEncoder(
                model, keep_ratio=config.keep_ratio, tokens_per_keyframe=config.tokens_per_keyframe, predict=False
            )
            encoded = [*encoder.push(predicted.to(model.device)), *encoder.finish()][0]
        return torch.from_numpy(self.vocabulary.keyframe_ids(encoded.ids, encoded.keep_mask, encoded.skip_mask))


def video_tokens(clips: Sequence[GeneratedClip], video: GeneratedVideo) -> VideoTokens:
    """Return the clips of one video as VideoTokens; keyframes that come from a given picture are stored as JPEG files.

    Args:
        clips: all of them, in order.
        video: that they were added to.
    """
    tokenizer, spec = video.tokenizer, video.spec
    quantizers = [len(clip.ids.motion_ids) for clip in clips]
    motion_ids = np.zeros((len(clips), max(quantizers), video.vocabulary.motion_ids_per_quantizer), np.int32)
    for clip, count, ids in zip(clips, quantizers, motion_ids, strict=True):
        ids[:count] = clip.ids.motion_ids
    keep_masks = [_keep_mask(clip.ids, tokenizer.keyframes.num_patches) for clip in clips]
    skip_masks = [
        np.zeros_like(keep) if clip.ids.skip_mask is None else clip.ids.skip_mask
        for clip, keep in zip(clips, keep_masks, strict=True)
    ]
    visual_ids = [clip.ids.visual_ids for clip in clips]
    num_frames = np.array([clip.shown.num_frames for clip in clips], np.int32)
    motion_source = video.settings.motion_source
    return VideoTokens(
        spec=spec,
        source=SourceFacts("generated", 0, "none", *video.size, 0, float(int(num_frames.sum()) / spec.fps), spec.fps),
        motion_source="native" if motion_source == "auto" else motion_source,
        models={part: tokenizer.bundle.identity(part) for part in TOKENIZERS},
        codebooks=tokenizer.codebooks,
        visual_ids=np.concatenate(visual_ids).astype(np.int32),
        visual_offsets=np.cumsum([0, *map(len, visual_ids)], dtype=np.int64),
        keep_mask=np.stack(keep_masks),
        skip_mask=np.stack(skip_masks),
        motion_ids=motion_ids,
        motion_quantizers=np.array(quantizers, np.int32),
        global_motion_ids=np.stack([clip.ids.global_motion_ids for clip in clips]).astype(np.int32),
        num_frames=num_frames,
        pts_seconds=np.arange(len(clips)) * float(spec.duration_seconds),
        damaged=np.zeros(len(clips), bool),
        pictures=tuple(clip.picture for clip in clips if clip.picture is not None),
    )


def _keep_mask(clip: ClipIds, patches: int) -> np.ndarray:
    """Return which patches have a visual id, bool [patches]; where ids do not say it, the first ones."""
    return np.arange(patches) < len(clip.visual_ids) if clip.keep_mask is None else clip.keep_mask


def _all_skipped(clip: ClipIds) -> ClipIds:
    """Return a clip whose keyframe is wholly predicted from the clip before."""
    assert clip.keep_mask is not None  # only codes with positions are predicted
    keep_mask = np.zeros_like(clip.keep_mask)
    return replace(clip, visual_ids=np.zeros(0, np.int32), keep_mask=keep_mask, skip_mask=~keep_mask)
