"""VideoTokenizer: video file to tokens, and tokens to frames."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from codec import Clip, ClipSpec, iter_clips, iter_clips_isolated, probe, probe_isolated
from motion_vq import MotionTokens
from unet3d import decode_chain
from videotok.bundle import Bundle
from videotok.chain import ChainedKeyframe, KeyframeChain
from videotok.decoding import DecodedClip, check_patches, decoded_clips, given_clips, kept_pictures, scenes
from videotok.errors import TokensError
from videotok.gather import Gathered
from videotok.ladder import pixels
from videotok.length import check_length, expected_seconds
from videotok.models import Models
from videotok.pictures import IMAGE_QUALITY, display_size, squashed, to_jpeg
from videotok.source import SourceFacts
from videotok.tokens import TOKENIZERS, VideoTokens

Progress = Callable[[float, float | None], None]
"""Called with the seconds of video done, and the seconds there are (None where the file does not say)."""

KeyframeKind = Literal["tokens", "image"]


class VideoTokenizer(Models):
    """Three models and a codec, as one.

        video ── iter_clips ──► keyframe ── KeyframeTokenizer ──► visual ids ─┐
                           └──► motion ──── MotionTokenizer ────► motion ids ─┴► VideoTokens

        VideoTokens ─┬─► KeyframeTokenizer ─► keyframe ─┐
                     └─► MotionTokenizer ───► vectors ──┴─► decode_chain (VideoDetokenizer) ──► frames

    Encoders run in float64 on the CPU, so that rounding never decides between two ids: the same file, spec and weights
    give the same tokens on any number of threads and in any batch. Decoders run in float32.
    Models are loaded when they are first needed.
    """

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

    def encode(
        self,
        path: str | Path,
        spec: ClipSpec | None = None,
        *,
        keep: float | None = None,
        visual_tokens: int | None = None,
        visual_delta: bool = True,
        keyframe: KeyframeKind = "tokens",
        image_quality: int = IMAGE_QUALITY,
        motion_levels: int | None = None,
        motion_source: Literal["auto", "native", "reencode", "mpeg4"] = "auto",
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
        max_clips: int | None = None,
        split_at_cuts: bool = False,
        isolate: bool = False,
        batch_size: int = 4,
        progress: Progress | None = None,
    ) -> VideoTokens:
        """Turns a video file into tokens, in memory that does not grow with its length (but for the tokens).

        Args:
            path: any video file FFmpeg reads.
            spec: frames, rate and grid of a clip; `self.spec()`, 24 frames at 12 fps, where not given.
            keep: share of a keyframe's patches to keep, above 0 to 1, on average over many pictures; the model's own
                rate where not given.
            visual_tokens: tokens a keyframe on average instead, never more in all; see `videotok.budget`.
            visual_delta: say of a keyframe only what the clip before does not explain; see `videotok.chain`. False:
                every clip is independent.
            keyframe: `image` keeps the keyframes as JPEG files besides, for decoding with exact pictures.
            image_quality: of those, 1 to 100.
            motion_levels: levels of motion ids, 0 (camera alone) to the model's; `default_motion_levels` if not given.
            motion_source: `native`, the stream's own vectors; `reencode`, those of an x264 re-encoding; `auto`, the
                first where there are any.
            start_seconds: where to begin, counted from the first frame.
            duration_seconds: how much to encode; to the end where not given.
            max_clips: how many clips at most.
            split_at_cuts: begin a new clip with every new scene; the clip before is short.
            isolate: decode in a child process, for files nobody vouches for; see `codec.iter_clips_isolated`.
            batch_size: clips that go through the models at once; does not change the ids.
            progress: told how far it is, after every batch.

        Raises:
            MediaError: the file cannot be read, ends before its header says, shows fewer than two frames, or has no
                vectors of its own although `native` was asked for.
            ValueError: `keep`, `visual_tokens`, `image_quality` or `motion_levels` out of range.
        """
        path = Path(path)
        spec = spec or self.spec()
        levels = self.default_motion_levels if motion_levels is None else motion_levels
        info = probe_isolated(path) if isolate else probe(path)
        expected = expected_seconds(info, spec, start_seconds, duration_seconds, max_clips)
        read = iter_clips_isolated if isolate else iter_clips
        clips = read(
            path,
            spec,
            motion_source=motion_source,
            start_seconds=start_seconds,
            duration_seconds=duration_seconds,
            max_clips=max_clips,
            split_at_cuts=split_at_cuts,
        )
        chain = KeyframeChain(self.keyframe_encoder, keep=keep, visual_tokens=visual_tokens, delta=visual_delta)
        gathered, seconds = Gathered(), 0.0
        for batch in _batched(clips, batch_size):
            motion = self.motion_tokens([clip.motion for clip in batch], levels)
            gathered.add_motion(batch, motion)
            gathered.add_keyframes(self._keyframe_words(chain, batch, motion))
            if keyframe == "image":
                gathered.pictures += [to_jpeg(clip.keyframe, image_quality) for clip in batch]
            seconds += float(sum(clip.num_frames for clip in batch) / spec.fps)
            if progress:
                progress(seconds, expected)
        gathered.add_keyframes(chain.finish())
        # so many clips may be shorter than they could be
        check_length(path, spec, sum(gathered.num_frames), None if split_at_cuts and max_clips else expected)
        models = {part: self.bundle.identity(part) for part in TOKENIZERS}
        return gathered.tokens(spec, SourceFacts.of(path, info), models, self.codebooks, start_seconds)

    def _keyframe_words(self, chain: KeyframeChain, clips: list[Clip], motion: MotionTokens) -> list[ChainedKeyframe]:
        squares = torch.cat([squashed(clip.keyframe, self.keyframe_encoder.image_size) for clip in clips])
        # in the encoder's precision: what is carried must not depend on the number of threads either
        vectors = self.motion_encoder.decode(motion) if chain.delta else None
        return chain.push(squares, vectors, [clip.damaged for clip in clips])

    def decode(
        self,
        tokens: VideoTokens,
        *,
        size: tuple[int, int] | None = None,
        keyframes: Iterable[np.ndarray] | None = None,
        keyframe: KeyframeKind | None = None,
        motion_levels: int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """Frames of the video, uint8 [height, width, 3] RGB, one after another at `tokens.spec.fps`.

        Args:
            tokens: made with this model's weights.
            size: (width, height) of the frames; about 256 x 144 pixels in the source's own shape where not given.
            keyframes: uint8 [H, W, 3] RGB a clip, used instead of what the tokens say of keyframes.
            keyframe: from the ids (`tokens`) or from the pictures that were kept (`image`); pictures, where there are
                any, if not given.
            motion_levels: use only so many levels of motion ids.
            steps: network evaluations a clip; the model's own number where not given.
            seed: of the noise that fills in what the tokens do not say.

        Raises:
            TokensError: tokens of another model, fewer keyframes than clips, or no pictures although they are wanted.
            ValueError: more motion levels than the tokens hold.
        """
        size = size or display_size(tokens.source.width, tokens.source.height)
        clips = self.decoded_clips(tokens, size, keyframes=keyframes, keyframe=keyframe, motion_levels=motion_levels)
        return itertools.chain.from_iterable(self.rebuilt(clips, steps=steps, seed=seed))

    def decoded_clips(
        self,
        tokens: VideoTokens,
        size: tuple[int, int],
        *,
        keyframes: Iterable[np.ndarray] | None = None,
        keyframe: KeyframeKind | None = None,
        motion_levels: int | None = None,
    ) -> Iterator[DecodedClip]:
        """Keyframes and vectors of each clip, without the detokenizer. Arguments and errors as for `decode`."""
        self.bundle.check(tokens)
        if motion_levels is not None:
            tokens.first_levels(motion_levels)  # refused now, and not when the first clip is asked for
        if keyframes is None and (tokens.pictures if keyframe is None else keyframe == "image"):
            if not tokens.pictures:
                raise TokensError(f"no pictures are kept with the tokens of {tokens.source.file}; decode from the ids")
            keyframes = kept_pictures(tokens)
        if keyframes is not None:
            seen = tokens if motion_levels is None else tokens.first_levels(motion_levels)
            return given_clips(seen, self.motion, size, iter(keyframes))
        check_patches(tokens, self.keyframes.num_patches)
        return decoded_clips(tokens, self.keyframes, self.motion, size, motion_levels=motion_levels)

    def rebuilt(
        self,
        clips: Iterable[DecodedClip],
        *,
        steps: int | None,
        seed: int,
        two_way: bool = True,
        noise_rate: float = 1.0,
    ) -> Iterator[np.ndarray]:
        """uint8 [num_frames, H, W, 3] a clip: the detokenizer's frames, each clip joined to its neighbours.

        `two_way`, `noise_rate`: see `unet3d.decode_chain`.
        """
        for scene in scenes(clips):
            behind, ahead = itertools.tee(scene)
            chain = decode_chain(
                self.detokenizer,
                ((clip.keyframe, clip.vectors) for clip in ahead),
                two_way=two_way,
                noise_rate=noise_rate,
                num_inference_steps=steps,
                seed=seed,
            )
            for clip, frames in zip(behind, chain, strict=True):
                yield pixels(frames)[: clip.num_frames]


def _batched(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch
