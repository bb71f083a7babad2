"""VideoTokenizer: video file to tokens, and tokens to frames."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codec import Clip, ClipSpec, MotionField, iter_clips, probe
from motion_vq import MotionTokenizer, MotionTokens
from unet3d import VideoDetokenizer, decode_chain
from videotok.bundle import Bundle
from videotok.errors import TokensError
from videotok.gather import Gathered
from videotok.keyframes import KeyframeTokenizerProtocol
from videotok.ladder import pixels, tensor
from videotok.length import check_length, expected_seconds
from videotok.pictures import display_size, resized, squashed
from videotok.tokens import TOKENIZERS, SourceFacts, VideoTokens

Progress = Callable[[float, float | None], None]
"""Called with the seconds of video done, and the seconds there are (None where the file does not say)."""


@dataclass(frozen=True)
class DecodedClip:
    """What tokens say of one clip, before the detokenizer."""

    keyframe: Tensor
    """float32 [1, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """float32 [1, T, h, w, 2], fractions of the frame."""
    num_frames: int
    """Frames that are shown of it."""


class VideoTokenizer:
    """Three models and a codec, as one.

        video ── iter_clips ──► keyframe ── KeyframeTokenizer ──► visual ids ─┐
                           └──► motion ──── MotionTokenizer ────► motion ids ─┴► VideoTokens

        VideoTokens ─┬─► KeyframeTokenizer ─► keyframe ─┐
                     └─► MotionTokenizer ───► vectors ──┴─► decode_chain (VideoDetokenizer) ──► frames

    Encoders run in float64 on the CPU, so that rounding never decides between two ids: the same file, spec and weights
    give the same tokens on any number of threads and in any batch. Decoders run in float32.
    Models are loaded when they are first needed.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, keyframes: str | Path | None = None
    ) -> "VideoTokenizer":
        """The tokenizer with the weights that ship (None), of a folder, or of a hub id (which is downloaded).

        Args:
            model: None, a folder with subfolders `keyframes`, `motion` and `detokenizer`, or a hub id.
            keyframes: folder of another keyframe tokenizer, ours, a VQModel or one that a package registered.

        Raises:
            ModelError: there is no such model.
        """
        return cls(Bundle.find(model, keyframes))

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
    def detokenizer(self) -> VideoDetokenizer:
        """Rebuilds frames; float32."""
        return self.bundle.load("detokenizer", VideoDetokenizer, torch.float32)

    @property
    def default_motion_levels(self) -> int:
        """Levels of motion ids that are kept where the caller does not say."""
        return self.motion.default_levels

    def spec(self, fps: Fraction | int = 12) -> ClipSpec:
        """Clips as this model's motion tokenizer takes them, at `fps` frames a second."""
        return ClipSpec(self.motion_encoder.config["num_steps"], Fraction(fps), self.motion_encoder.grid)

    def encode(
        self,
        path: str | Path,
        spec: ClipSpec | None = None,
        *,
        keep: float | None = None,
        motion_levels: int | None = None,
        motion_source: Literal["auto", "native", "reencode"] = "auto",
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        max_clips: int | None = None,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> VideoTokens:
        """Turns a video file into tokens, in memory that does not grow with its length (but for the tokens).

        Args:
            path: any video file FFmpeg reads.
            spec: frames, rate and grid of a clip; `self.spec()`, 24 frames at 12 fps, where not given.
            keep: share of a keyframe's patches to keep, above 0 to 1, on average over many pictures; the model's own
                rate where not given.
            motion_levels: levels of motion ids, 0 (camera alone) to the model's; `default_motion_levels` if not given.
            motion_source: `native`, the stream's own vectors; `reencode`, those of an x264 re-encoding; `auto`, the
                first where there are any.
            start_seconds: where to begin, counted from the first frame.
            duration_seconds: how much to encode; to the end where not given.
            max_clips: how many clips at most.
            batch_size: clips that go through the models at once; does not change the ids.
            progress: told how far it is, after every batch.

        Raises:
            MediaError: the file cannot be read, ends before its header says, shows fewer than two frames, or has no
                vectors of its own although `native` was asked for.
            ValueError: `keep` or `motion_levels` out of range.
        """
        path = Path(path)
        spec = spec or self.spec()
        levels = self.default_motion_levels if motion_levels is None else motion_levels
        info = probe(path)
        expected = expected_seconds(info, spec, start_seconds, duration_seconds, max_clips)
        clips = iter_clips(
            path,
            spec,
            motion_source=motion_source,
            start_seconds=start_seconds,
            duration_seconds=duration_seconds,
            max_clips=max_clips,
        )
        gathered, seconds = Gathered(), 0.0
        for batch in _batched(clips, batch_size):
            pictures = torch.cat([squashed(clip.keyframe, self.keyframe_encoder.image_size) for clip in batch])
            motion = self._motion_tokens([clip.motion for clip in batch], levels)
            gathered.add(batch, self.keyframe_encoder.encode(pictures, keep), motion)
            seconds += float(sum(clip.num_frames for clip in batch) / spec.fps)
            if progress:
                progress(seconds, expected)
        check_length(path, spec, sum(gathered.num_frames), expected)
        models = {part: self.bundle.identity(part) for part in TOKENIZERS}
        return gathered.tokens(spec, SourceFacts.of(path, info), models, self.codebooks, start_seconds)

    def _motion_tokens(self, fields: list[MotionField], levels: int) -> MotionTokens:
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

    def decode(
        self,
        tokens: VideoTokens,
        *,
        size: tuple[int, int] | None = None,
        keyframes: Iterable[np.ndarray] | None = None,
        motion_levels: int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """Frames of the video, uint8 [height, width, 3] RGB, one after another at `tokens.spec.fps`.

        Args:
            tokens: made with this model's weights.
            size: (width, height) of the frames; about 256 x 144 pixels in the source's own shape where not given.
            keyframes: uint8 [H, W, 3] RGB a clip, used instead of the visual ids.
            motion_levels: use only so many levels of motion ids.
            steps: network evaluations a clip; the model's own number where not given.
            seed: of the noise that fills in what the tokens do not say.

        Raises:
            TokensError: tokens of another model, or fewer keyframes than clips.
            ValueError: more motion levels than the tokens hold.
        """
        size = size or display_size(tokens.source.width, tokens.source.height)
        clips = self.decoded_clips(tokens, size, keyframes=keyframes, motion_levels=motion_levels)
        return itertools.chain.from_iterable(self.rebuilt(clips, steps=steps, seed=seed))

    def decoded_clips(
        self,
        tokens: VideoTokens,
        size: tuple[int, int],
        *,
        keyframes: Iterable[np.ndarray] | None = None,
        motion_levels: int | None = None,
    ) -> Iterator[DecodedClip]:
        """Keyframes and vectors of each clip, without the detokenizer. Arguments and errors as for `decode`."""
        self.bundle.check(tokens)
        _check_patches(tokens, self.keyframes.num_patches)
        if motion_levels is not None:
            tokens = tokens.first_levels(motion_levels)
        return self._decoded_clips(tokens, size, None if keyframes is None else iter(keyframes))

    def _decoded_clips(
        self, tokens: VideoTokens, size: tuple[int, int], given: Iterator[np.ndarray] | None
    ) -> Iterator[DecodedClip]:
        for clip in range(tokens.num_clips):
            if given is None:
                keyframe = self._decode_keyframe(tokens.visual_ids_of(clip), tokens.keep_mask[clip], size)
            else:
                picture = next(given, None)
                if picture is None:
                    raise TokensError(
                        f"there are {clip} keyframes for {tokens.num_clips} clips of {tokens.source.file}"
                    )
                keyframe = tensor(resized(picture, size))
            motion = MotionTokens(
                ids=torch.from_numpy(tokens.motion_ids[clip : clip + 1]).long(),
                camera_ids=torch.from_numpy(tokens.camera_ids[clip : clip + 1]).long(),
            )
            yield DecodedClip(keyframe, self.motion.decode(motion), int(tokens.num_frames[clip]))

    def rebuilt(self, clips: Iterable[DecodedClip], *, steps: int | None, seed: int) -> Iterator[np.ndarray]:
        """uint8 [num_frames, H, W, 3] a clip: the detokenizer's frames, each clip joined to its neighbours."""
        behind, ahead = itertools.tee(clips)
        chain = decode_chain(
            self.detokenizer,
            ((clip.keyframe, clip.vectors) for clip in ahead),
            num_inference_steps=steps,
            seed=seed,
        )
        for clip, frames in zip(behind, chain, strict=True):
            yield pixels(frames)[: clip.num_frames]

    def rebuilt_keyframe(self, keyframe: np.ndarray, size: tuple[int, int]) -> Tensor:
        """A keyframe uint8 [H, W, 3] through its tokens and back: float32 [1, 3, height, width] in [-1, 1]."""
        tokens = self.keyframe_encoder.encode(squashed(keyframe, self.keyframe_encoder.image_size))
        return self._decode_keyframe(tokens.ids[0].numpy(), tokens.keep_mask[0].numpy(), size)

    def coded_motion(self, field: MotionField, levels: int) -> Tensor:
        """A field through its tokens and back: float32 [1, T, h, w, 2]."""
        return self.motion.decode(self._motion_tokens([field], levels))

    def _decode_keyframe(self, ids: np.ndarray, keep_mask: np.ndarray, size: tuple[int, int]) -> Tensor:
        square = self.keyframes.decode([torch.from_numpy(ids).long()], torch.from_numpy(keep_mask)[None])
        return tensor(resized(pixels(square[:, None])[0], size))


def _check_patches(tokens: VideoTokens, patches: int) -> None:
    """Refuses tokens of the same weights with pictures of another size: a VQModel's size is a choice of its folder."""
    made = tokens.keep_mask.shape[1]
    if made != patches:
        raise TokensError(
            f"keyframes of {tokens.source.file} have {made} patches, the model at hand has {patches}; "
            "give its videotok.json the `image_size` the tokens were made with, or encode the video again"
        )


def _batched(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch
