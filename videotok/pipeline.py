"""Tokens to keyframes and motion: all that they say, before the detokenizer makes frames of it.

What encoding gathers, clip after clip, until it becomes VideoTokens.

The models of a bundle, and what they do with single clips of any videos.

VideoTokenizer: video file to tokens, and tokens to frames.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec import Clip, ClipSpec, MotionField, MotionSource, iter_clips, iter_clips_isolated, probe, probe_isolated
from codec.probe import check_length, expected_seconds
from motion_vq import MotionTokenizer, MotionTokens
from unet3d import LatentDetokenizer, VideoDetokenizer, decode_chain
from videotok.bundle import Bundle
from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import TokensError
from videotok.image_utils import display_size, from_jpeg, pixels, resized, squashed, tensor, to_jpeg
from videotok.keyframe_prediction import (
    EncodedKeyframe,
    PredictiveKeyframeEncoder,
    decode_predicted_keyframe,
    predict_keyframe,
)
from videotok.keyframes import KeyframeTokenizerProtocol, KeyframeTokens
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens


@dataclass(frozen=True)
class DecodedClip:
    """What tokens say of one clip, before the detokenizer."""

    keyframe: Tensor
    """float32 [1, 3, H, W] in [-1, 1]."""
    vectors: Tensor
    """float32 [1, T, h, w, 2], fractions of the frame."""
    num_frames: int
    """Frames that are shown of it."""

    @property
    def ends_early(self) -> bool:
        """The video ends here, or the next clip begins a new scene: its keyframe is no help."""
        return self.num_frames < self.vectors.shape[1]


def scenes(clips: Iterable[DecodedClip]) -> Iterator[Iterator[DecodedClip]]:
    """Runs of clips that lead into one another; each must be read to its end before the next."""
    begun = 0

    def number(clip: DecodedClip) -> int:
        nonlocal begun
        this = begun
        begun += clip.ends_early
        return this

    return (run for _, run in groupby(clips, number))


def decoded_keyframes(
    tokens: VideoTokens, keyframes: KeyframeTokenizerProtocol, motion: MotionTokenizer
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each clip's keyframe from its ids, [1, 3, S, S] in [-1, 1], and its vectors [1, T, h, w, 2].

    Keyframes that carry patches need the clip before, so this begins at the beginning. Vectors are of all levels: those
    by which the encoder knew what would be carried.
    """
    before: tuple[Tensor, Tensor] | None = None
    for clip in range(tokens.num_clips):
        vectors = motion.decode(motion_tokens_of(tokens, clip))
        ids, kept = torch.from_numpy(tokens.visual_ids_of(clip)).long(), torch.from_numpy(tokens.keep_mask[clip])
        carried = torch.from_numpy(tokens.skip_mask[clip])
        if before is not None and carried.any():
            square = decode_predicted_keyframe(keyframes, ids, kept, carried, predict_keyframe(*before, vectors))
        else:
            square = keyframes.decode([ids], kept[None])
        yield square, vectors
        before = square, vectors


def decoded_clips(
    tokens: VideoTokens,
    keyframes: KeyframeTokenizerProtocol,
    motion: MotionTokenizer,
    size: tuple[int, int],
    *,
    motion_quantizers: int | None = None,
) -> Iterator[DecodedClip]:
    """Clip after clip with the keyframes that its ids say, at `size` (width, height).

    Args:
        motion_quantizers: motion is shown from so many levels; keyframes are carried along all of them, as when encoding.
    """
    shown = None if motion_quantizers is None else tokens.first_quantizers(motion_quantizers)
    for clip, (square, vectors) in enumerate(decoded_keyframes(tokens, keyframes, motion)):
        steps = vectors if shown is None else motion.decode(motion_tokens_of(shown, clip))
        yield DecodedClip(fitted(square, size), steps, int(tokens.num_frames[clip]))


def given_clips(
    tokens: VideoTokens, motion: MotionTokenizer, size: tuple[int, int], pictures: Iterator[np.ndarray]
) -> Iterator[DecodedClip]:
    """Clip after clip with keyframes that are given, uint8 [H, W, 3] RGB each.

    Raises:
        TokensError: fewer pictures than clips.
    """
    for clip in range(tokens.num_clips):
        picture = next(pictures, None)
        if picture is None:
            raise TokensError(f"there are {clip} keyframes for {tokens.num_clips} clips of {tokens.source.file}")
        vectors = motion.decode(motion_tokens_of(tokens, clip))
        yield DecodedClip(tensor(resized(picture, size)), vectors, int(tokens.num_frames[clip]))


def kept_pictures(tokens: VideoTokens) -> Iterator[np.ndarray]:
    """The keyframes that were kept as pictures, uint8 [H, W, 3] RGB.

    Raises:
        TokensError: one of them is no JPEG file.
    """
    for clip, data in enumerate(tokens.pictures):
        picture = from_jpeg(data)
        if picture is None:
            raise TokensError(f"the picture of keyframe {clip} of {tokens.source.file} cannot be decoded")
        yield picture


def fitted(square: Tensor, size: tuple[int, int]) -> Tensor:
    """A keyframe [1, 3, S, S] in [-1, 1] at `size` (width, height): float32 [1, 3, height, width], of 256 levels."""
    return tensor(resized(pixels(square[:, None])[0], size))


def motion_tokens_of(tokens: VideoTokens, clip: int) -> MotionTokens:
    """The motion and camera ids of one clip, as a batch of one."""
    return MotionTokens(
        ids=torch.from_numpy(tokens.motion_ids[clip : clip + 1]).long(),
        global_motion_ids=torch.from_numpy(tokens.global_motion_ids[clip : clip + 1]).long(),
    )


def check_patches(tokens: VideoTokens, patches: int) -> None:
    """Refuses tokens of the same weights with pictures of another size: a VQModel's size is a choice of its folder."""
    made = tokens.keep_mask.shape[1]
    if made != patches:
        raise TokensError(
            f"keyframes of {tokens.source.file} have {made} patches, the model at hand has {patches}; "
            "give its videotok.json the `image_size` the tokens were made with, or encode the video again"
        )


@dataclass
class TokenAccumulator:
    """Tokens of the clips so far; everything else of a clip is forgotten.

    One a video. The models take clips of any videos in one batch, `VideoTokenizer.keyframe_encoder.encode` and
    `VideoTokenizer.motion_tokens`; who encodes many videos at once cuts what they give into the videos' parts
    (`KeyframeTokens` and `MotionTokens` are rows) and adds each to its own TokenAccumulator, clips in order. Keyframes that
    lean on the clip before (`videotok.keyframe_prediction`) go through a `PredictiveKeyframeEncoder` a video, and `add_keyframes`.
    """

    keyframes: list[EncodedKeyframe] = field(default_factory=list)
    motion_ids: list[np.ndarray] = field(default_factory=list)
    global_motion_ids: list[np.ndarray] = field(default_factory=list)
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
            EncodedKeyframe(ids.cpu().numpy(), mask, nothing) for ids, mask in zip(visual.ids, masks, strict=True)
        )

    def add_motion(self, clips: Sequence[Clip], motion: MotionTokens) -> None:
        """Takes in all but the keyframes of clips."""
        self.motion_ids.append(motion.ids.cpu().numpy())
        self.global_motion_ids.append(motion.global_motion_ids.cpu().numpy())
        self.num_frames += [clip.num_frames for clip in clips]
        self.pts_seconds += [clip.pts_seconds for clip in clips]
        self.damaged += [clip.damaged for clip in clips]
        self.motion_source = clips[-1].motion_source

    def add_keyframes(self, keyframes: Iterable[EncodedKeyframe]) -> None:
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
            skip_mask=np.stack([keyframe.skip_mask for keyframe in self.keyframes]),
            pictures=tuple(self.pictures),
            motion_ids=np.concatenate(self.motion_ids).astype(np.int32),
            global_motion_ids=np.concatenate(self.global_motion_ids).astype(np.int32),
            num_frames=np.array(self.num_frames, np.int32),
            pts_seconds=np.array(self.pts_seconds, np.float64),
            damaged=np.array(self.damaged, np.bool_),
            start_seconds=start_seconds,
        )


class Models:
    """Three models, each loaded when it is first needed.

    Encoders run in float64 on the CPU, decoders in float32; see `VideoTokenizer`. To encode clips of many videos in one
    batch: `keyframe_encoder.encode` takes keyframes (`videotok.image_utils.squashed`), `motion_tokens` their fields,
    and a `videotok.pipeline.TokenAccumulator` a video takes in its rows of both.
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
    def default_motion_quantizers(self) -> int:
        """Levels of motion ids that are kept where the caller does not say."""
        return self.motion.default_num_quantizers

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
            "camera": self.motion_encoder.global_motion_codebook_size,
        }

    def rebuilt_keyframe(self, keyframe: np.ndarray, size: tuple[int, int]) -> Tensor:
        """A keyframe uint8 [H, W, 3] through its tokens and back: float32 [1, 3, height, width] in [-1, 1]."""
        tokens = self.keyframe_encoder.encode(squashed(keyframe, self.keyframe_encoder.image_size))
        return fitted(self.keyframes.decode(tokens.ids, tokens.keep_mask), size)

    def coded_motion(self, field: MotionField, levels: int) -> Tensor:
        """A field through its tokens and back: float32 [1, T, h, w, 2]."""
        return self.motion.decode(self.motion_tokens([field], levels))


Progress = Callable[[float, float | None], None]
"""Called with the seconds of video done, and the seconds there are (None where the file does not say)."""


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
        self, video: str | Path, config: EncodeConfig | None = None, *, progress: Progress | None = None
    ) -> VideoTokens:
        """Turn a video file into tokens, in memory that does not grow with its length (but for the tokens).

        Args:
            video: any video file FFmpeg reads.
            config: see `EncodeConfig`; its defaults where not given.
            progress: called with the seconds done and the seconds there are, after every batch.

        Raises:
            MediaError: the file cannot be read, ends before its header says, shows fewer than two frames, or has no
                motion vectors although `native` was asked for.
            ValueError: an option that these models cannot follow.
        """
        path, config = Path(video), config or EncodeConfig()
        spec = self.spec(config.fps)
        quantizers = self.default_motion_quantizers if config.motion_quantizers is None else config.motion_quantizers
        info = probe_isolated(path) if config.isolate else probe(path)
        expected = expected_seconds(info, spec, config.start_seconds, config.duration_seconds, config.max_clips)
        read = iter_clips_isolated if config.isolate else iter_clips
        clips = read(
            path,
            spec,
            motion_source=config.motion_source,
            start_seconds=config.start_seconds,
            duration_seconds=config.duration_seconds,
            max_clips=config.max_clips,
            split_at_cuts=config.split_at_cuts,
        )
        self.check(config)
        self._apply(config)
        chain = PredictiveKeyframeEncoder(
            self.keyframe_encoder,
            keep=config.keep_ratio,
            visual_tokens=config.tokens_per_keyframe,
            delta=config.predict_keyframes,
        )
        gathered, seconds = TokenAccumulator(), 0.0
        for batch in _batched(clips, config.batch_size):
            motion = self.motion_tokens([clip.motion for clip in batch], quantizers)
            gathered.add_motion(batch, motion)
            gathered.add_keyframes(self._keyframe_words(chain, batch, motion))
            if config.keyframe_storage == "jpeg":
                gathered.pictures += [to_jpeg(clip.keyframe, config.jpeg_quality) for clip in batch]
            seconds += float(sum(clip.num_frames for clip in batch) / spec.fps)
            if progress:
                progress(seconds, expected)
        gathered.add_keyframes(chain.finish())
        # so many clips may be shorter than they could be
        check_length(
            path, spec, sum(gathered.num_frames), None if config.split_at_cuts and config.max_clips else expected
        )
        models = {part: self.bundle.identity(part) for part in TOKENIZERS}
        return gathered.tokens(spec, SourceFacts.of(path, info), models, self.codebooks, config.start_seconds)

    def check(self, config: EncodeConfig) -> None:
        """Check that these models can follow a config, before any work.

        Raises:
            ValueError: an option that they cannot follow; the message names it.
        """
        keyframes, quantizers = self.keyframe_encoder, self.motion_encoder.num_quantizers
        if config.motion_quantizers is not None and config.motion_quantizers > quantizers:
            raise ValueError(
                f"`motion_quantizers` (={config.motion_quantizers}): this model has {quantizers} quantizers"
            )
        patches, tokens, ratio = keyframes.num_patches, config.tokens_per_keyframe, config.keep_ratio
        if tokens is not None and tokens > patches:
            raise ValueError(
                f"`tokens_per_keyframe` (={tokens}): a keyframe of this model has {patches} patches at most"
            )
        if not keyframes.drops_patches and ((tokens or patches) < patches or (ratio or 1) < 1):
            name, value = ("keep_ratio", ratio) if tokens is None else ("tokens_per_keyframe", tokens)
            raise ValueError(f"`{name}` (={value}): this model has {patches} tokens for every keyframe and drops none")
        if config.patch_selection == "sample" and not hasattr(keyframes, "sampling"):
            raise ValueError("`patch_selection` (='sample'): only the published Video-LaVIT weights sample patches")
        if config.refinement_steps is not None and not hasattr(keyframes, "code_vectors"):
            raise ValueError(
                f"`refinement_steps` (={config.refinement_steps}): only videotok's own keyframe tokenizer refines codes"
            )

    def _apply(self, config: EncodeConfig) -> None:
        # until the protocol of keyframe tokenizers takes both
        if config.refinement_steps is not None:
            self.keyframe_encoder.register_to_config(search=config.refinement_steps)  # type: ignore[attr-defined]
        if config.patch_selection == "sample":
            self.keyframe_encoder.sampling = torch.Generator().manual_seed(config.seed)  # type: ignore[attr-defined]

    def _keyframe_words(
        self, chain: PredictiveKeyframeEncoder, clips: list[Clip], motion: MotionTokens
    ) -> list[EncodedKeyframe]:
        squares = torch.cat([squashed(clip.keyframe, self.keyframe_encoder.image_size) for clip in clips])
        # in the encoder's precision: what is carried must not depend on the number of threads either
        vectors = self.motion_encoder.decode(motion) if chain.delta else None
        return chain.push(squares, vectors, [clip.damaged for clip in clips])

    def decode(
        self,
        tokens: VideoTokens,
        config: DecodeConfig | None = None,
        *,
        keyframes: Iterable[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Frames of the video, uint8 [height, width, 3] RGB, one after another at `tokens.spec.fps`.

        Args:
            tokens: made with this model's weights.
            config: see `DecodeConfig`; its defaults where not given.
            keyframes: uint8 [H, W, 3] RGB, one per clip, used instead of those of the tokens.

        Raises:
            TokensError: tokens of another model, fewer keyframes than clips, or no pictures although they are wanted.
            ValueError: more motion quantizers than the tokens hold.
        """
        config = config or DecodeConfig()
        return itertools.chain.from_iterable(
            self.rebuilt(self.decoded_clips(tokens, config, keyframes=keyframes), config)
        )

    def decoded_clips(
        self,
        tokens: VideoTokens,
        config: DecodeConfig | None = None,
        *,
        keyframes: Iterable[np.ndarray] | None = None,
    ) -> Iterator[DecodedClip]:
        """Keyframes and vectors of each clip, without the detokenizer. Arguments and errors as for `decode`."""
        config = config or DecodeConfig()
        size = config.size or display_size(tokens.source.width, tokens.source.height)
        quantizers = config.motion_quantizers
        self.bundle.check(tokens)
        if quantizers is not None:
            tokens.first_quantizers(quantizers)  # refused now, and not when the first clip is asked for
        source = config.keyframe_source
        if keyframes is None and (tokens.pictures if source == "auto" else source == "jpeg"):
            if not tokens.pictures:
                raise TokensError(f"no pictures are kept with the tokens of {tokens.source.file}; decode from the ids")
            keyframes = kept_pictures(tokens)
        if keyframes is not None:
            seen = tokens if quantizers is None else tokens.first_quantizers(quantizers)
            return given_clips(seen, self.motion, size, iter(keyframes))
        check_patches(tokens, self.keyframes.num_patches)
        return decoded_clips(tokens, self.keyframes, self.motion, size, motion_quantizers=quantizers)

    def rebuilt(self, clips: Iterable[DecodedClip], config: DecodeConfig | None = None) -> Iterator[np.ndarray]:
        """uint8 [num_frames, H, W, 3] a clip: the detokenizer's frames, each clip joined to its neighbours."""
        config = config or DecodeConfig()
        for scene in scenes(clips):
            behind, ahead = itertools.tee(scene)
            chain = decode_chain(
                self.detokenizer,
                ((clip.keyframe, clip.vectors) for clip in ahead),
                bidirectional=config.bidirectional,
                noise_rate=config.noise_rate,
                num_inference_steps=config.num_inference_steps,
                seed=config.seed,
            )
            for clip, frames in zip(behind, chain, strict=True):
                yield pixels(frames)[: clip.num_frames]


def _batched(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch
