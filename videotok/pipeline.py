"""VideoTokenizer: video file to tokens, and tokens to frames."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from codec import (
    Clip,
    ClipSpec,
    MotionField,
    MotionSource,
    Source,
    local_file,
)
from codec.container import source_name
from codec.probe import check_length
from motion_vq import MotionTokens
from videotok.bundle import Bundle
from videotok.clip_encoder import EncodedClip, make_clip_encoder
from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import TokensError, utf8_name
from videotok.image_utils import decode_jpeg, display_size, encode_jpeg, resize, to_square_tensor, to_tensor, to_uint8
from videotok.keyframe_decoding import decode_predicted_keyframe, predict_keyframe
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.models import TokenizerModels, at_least_float32
from videotok.tokens import TOKENIZERS, ModelIdentity, SourceFacts, VideoTokens, pad_motion_ids
from videotok.video_reading import OpenVideo, open_video

CLIPS_AT_ONCE = 8
"""Clips that a GPU encodes or rebuilds in one batch."""
PIXELS_AT_ONCE = 8 * 2 * 256 * 144
"""Pixels of a frame of each clip, summed over the clips that a GPU rebuilds in one batch: they take some 14 kB each (a
clip of 24 frames takes 0.5 GB at 256 x 144, and 2.5 GB at 576 x 320)."""
CLIPS_ENCODED_BY_CPU = 2
"""Clips that a CPU encodes in one batch: larger ones take as long a clip, and more for the first and last of a video,
beside which nothing else can be done."""
CONCURRENT_CLIPS = 2
"""Clips that a CPU rebuilds at the same time; each takes some 400 MB at 256 x 144 pixels."""
CONCURRENT_EVALUATIONS, CONCURRENT_PIXELS = 4, 1 << 17
"""Up to so many evaluations of the network and pixels of a frame: the clips that are being rebuilt are finished even
where the caller stops, and larger ones would take too much memory."""
Progress = Callable[[float, float | None], None]
"""Called with the seconds of video done, and the seconds there are (None where the file does not say)."""


class VideoTokenizer(TokenizerModels):
    """Turns a video file into tokens, and tokens into frames.

        video ── iter_clips ─┬─► keyframe ── keyframe tokenizer ──► visual ids ─┐
                             └─► motion ──── motion tokenizer ────► motion ids ─┴─► VideoTokens

        VideoTokens ─┬─► keyframe tokenizer ─► keyframe ─┐
                     └─► motion tokenizer ───► vectors ──┴─► video detokenizer, clip after clip ──► frames

    The same file, config and weights give the same ids in any batch and on any number of threads: what float32 leaves
    open, a patch, a code or a comparison of decoded pictures, is decided in float64
    (docs/adr/0005-float32-certificate.md). Decoding runs in the caller's dtype. Models are loaded when first needed.
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        keyframes: str | Path | None = None,
        revision: str | None = None,
    ) -> Self:
        """Take the weights that ship with videotok (None), of a folder, or of a hub id (which is downloaded).

        Args:
            name_or_path: None, a folder with subfolders `keyframes`, `motion` and `detokenizer`, or a hub id.
            device: where the models run; `auto` chooses.
            dtype: precision of decoding; where not given float32, but see `detokenizer_dtype`. It does not change ids.
            keyframes: folder of another keyframe tokenizer: videotok's own, a diffusers VQModel, or one that a package
                registered.
            revision: branch, tag or commit of the hub id.

        Raises:
            ModelError: there is no such model or device.
        """
        return cls(Bundle.find(name_or_path, keyframes, revision), device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights and configs to a folder that `from_pretrained` takes.

        Raises:
            ModelError: the folder is the one that the weights come from.
        """
        self.bundle.save(Path(folder))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, commit_message: str | None = None) -> str:
        """Upload the weights and configs to the Hugging Face Hub and return the address of the commit.

        Raises:
            ModelError: the upload was refused, or there is no network.
        """
        return self.bundle.push_to_hub(repo_id, private=private, commit_message=commit_message)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part}={text}" for part, text in self.bundle.summary().items())
        dtype = "auto" if self._dtype is None else str(self._dtype).removeprefix("torch.")
        return f"VideoTokenizer({self.bundle.name!r}, {parts}, device={self.device}, dtype={dtype})"

    def encode(
        self, video: Source | OpenVideo, config: EncodeConfig | None = None, *, progress: Progress | None = None
    ) -> VideoTokens:
        """Turn a video file into tokens, in memory that does not grow with its length (but for the tokens).

        A picture becomes one keyframe without motion ids.

        Args:
            video: any video or picture file that FFmpeg reads: its path, its content, or a file opened in binary mode;
                or a video that is being read, see `videotok.video_reading.open_video`.
            config: see `EncodeConfig`; its defaults where not given, or the config that the video was opened with.
            progress: called with the seconds done and the seconds there are, after every batch.

        Raises:
            MediaError: the file cannot be read, packets are missing at its end, or it has no motion vectors although
                `native` was asked for.
            ValueError: an option that these models cannot follow.
        """
        if isinstance(video, OpenVideo):
            tokens = self._encode_opened(video, config, progress)
        else:
            with local_file(video) as path:
                tokens = self._encode_file(path, config or EncodeConfig(), progress)
            if not isinstance(video, str | Path):
                tokens = replace(tokens, source=replace(tokens.source, file=Path(source_name(video)).name))
            elif Path(video) != path:  # a temporary copy was read
                name, size = utf8_name(Path(video).name), Path(video).stat().st_size
                tokens = replace(tokens, source=replace(tokens.source, file=name, size_bytes=size))
        # nothing moves in a picture
        return tokens.first_quantizers(0) if tokens.is_picture else tokens

    def _encode_opened(self, video: OpenVideo, config: EncodeConfig | None, progress: Progress | None) -> VideoTokens:
        if config not in (None, video.config):
            raise ValueError("`config` is not the one that the video was opened with; leave it out")
        if video.spec != self.spec(video.config.fps):  # these models take other clips
            return self._encode_file(video.path, video.config, progress)
        self.check(video.config)
        return self._encode_clips(video, progress)

    def _encode_file(self, path: Path, config: EncodeConfig, progress: Progress | None) -> VideoTokens:
        with open_video(path, self.spec(config.fps), config) as video:
            self.check(config)
            return self._encode_clips(video, progress)

    def _encode_clips(self, video: OpenVideo, progress: Progress | None) -> VideoTokens:
        config, spec, expected = video.config, video.spec, video.expected_seconds
        with self.encoding():
            encoder = make_clip_encoder(self, config, spec)
        accumulator, seconds, is_truncated = TokenAccumulator(), 0.0, False
        # the next batches are read while the models work on this one
        for batch in _batched(video.clips, self._batch_size(config)):
            accumulator.add_facts(batch)
            with self.encoding():
                accumulator.add_ids(encoder.push(batch))
            if config.keyframe_storage == "jpeg":
                accumulator.pictures += [encode_jpeg(clip.keyframe, config.jpeg_quality) for clip in batch]
            seconds += float(sum(clip.num_frames for clip in batch) / spec.fps)
            is_truncated = batch[-1].is_truncated
            if progress:
                progress(seconds, expected)
        with self.encoding():
            accumulator.add_ids(encoder.finish())
        # with split clips, `max_clips` of them may be shorter than that many whole ones
        known = None if config.split_at_cuts and config.max_clips else expected
        check_length(video.path, spec, sum(accumulator.num_frames), known, is_truncated)
        models = {part: self.bundle.identity(part) for part in TOKENIZERS}
        return accumulator.tokens(spec, SourceFacts.of(video.path, video.info), models, self.codebooks, config)

    def _batch_size(self, config: EncodeConfig) -> int:
        return config.batch_size or (CLIPS_ENCODED_BY_CPU if self.device.type == "cpu" else CLIPS_AT_ONCE)

    def decode(
        self,
        tokens: VideoTokens,
        config: DecodeConfig | None = None,
        *,
        keyframes: Iterable[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Return the frames of the video, uint8 [height, width, 3] RGB, one after another at `tokens.spec.fps`.

        Args:
            tokens: made with the weights of this tokenizer.
            config: see `DecodeConfig`; its defaults where not given.
            keyframes: uint8 [H, W, 3] RGB, one per clip, used instead of those of the tokens.

        Raises:
            TokensError: tokens of other weights, fewer keyframes than clips, or no stored keyframes although they are
                asked for.
            ValueError: more motion quantizers than the tokens hold.
        """
        clips = self.decode_clips(tokens, config, keyframes=keyframes)
        return itertools.chain.from_iterable(clip.frames for clip in clips)

    def decode_clips(
        self,
        tokens: VideoTokens,
        config: DecodeConfig | None = None,
        *,
        keyframes: Iterable[np.ndarray] | None = None,
    ) -> Iterator["DecodedClip"]:
        """Return clip after clip with its frames, and the keyframe and vectors that they are made from.

        Arguments and errors are those of `decode`.
        """
        return self.detokenize(self.detokenizer_inputs(tokens, config, keyframes=keyframes), config)

    def detokenizer_inputs(
        self,
        tokens: VideoTokens,
        config: DecodeConfig | None = None,
        *,
        keyframes: Iterable[np.ndarray] | None = None,
    ) -> Iterator["DetokenizerInput"]:
        """Return the keyframe and the vectors of each clip, without its frames.

        Arguments and errors are those of `decode`.
        """
        config = config or DecodeConfig()
        size = config.size or display_size(tokens.source.width, tokens.source.height)
        self.bundle.check(tokens)
        self._check_motion(tokens)
        shown = tokens if config.motion_quantizers is None else tokens.first_quantizers(config.motion_quantizers)
        source = config.keyframe_source
        if keyframes is None and (tokens.pictures if source == "auto" else source == "jpeg"):
            if not tokens.pictures:
                raise TokensError(
                    f"no pictures are stored with the tokens of {tokens.source.file}; decode from the ids"
                )
            keyframes = _stored_keyframes(tokens)
        if keyframes is not None:
            return self._inputs_from_images(shown, size, iter(keyframes))
        _check_patches(tokens, self.keyframes.num_patches, self.keyframes.codebook_size)
        return self._inputs_from_ids(tokens, shown, size)

    def detokenize(
        self, clips: Iterable["DetokenizerInput"], config: DecodeConfig | None = None
    ) -> Iterator["DecodedClip"]:
        """Rebuild the frames of clips, each joined to its neighbours; of `config` size and quantizers do not matter."""
        # encoding needs no 3D U-Net, which is slow to import
        from unet3d import ClipInput, VideoDetokenizer, decode_chain
        from unet3d.chaining import at_most_threads, share_of_threads, with_at_most_threads

        config = config or DecodeConfig()
        # the models of Video-LaVIT fill a GPU with one clip
        is_own = isinstance(self.detokenizer, VideoDetokenizer)
        # this thread leaves the other cores to the clips that are rebuilt
        threads = share_of_threads(CONCURRENT_CLIPS if self.device.type == "cpu" else 1)
        for scene in _scenes(with_at_most_threads(iter(clips), threads)):
            first = next(scene)
            shown, ahead = itertools.tee(itertools.chain([first], scene))
            rebuilt = decode_chain(
                self.detokenizer,
                (ClipInput(clip.keyframe, clip.vectors, clip.num_shown if is_own else None) for clip in ahead),
                bidirectional=config.bidirectional,
                noise_rate=config.noise_rate,
                num_inference_steps=config.num_inference_steps,
                seed=config.seed,
                refine=first.square is not None,  # keyframes that were given lack no detail
                batch_size=self._clips_at_once(first) if is_own else 1,
                num_workers=self._num_workers(first, config) if is_own else 1,
            )
            for clip, frames in zip(shown, rebuilt, strict=True):
                with at_most_threads(threads):
                    pictures = to_uint8(frames)[: clip.num_frames]
                yield DecodedClip(**vars(clip), frames=pictures)

    def _clips_at_once(self, clip: "DetokenizerInput") -> int:
        """Return how many clips are rebuilt in one batch; if they are too many for a GPU, it takes fewer."""
        if self.detokenizer.device.type == "cpu":
            return 1
        return min(CLIPS_AT_ONCE, max(1, PIXELS_AT_ONCE // clip.keyframe.shape[2:].numel()))

    def _num_workers(self, clip: "DetokenizerInput", config: DecodeConfig) -> int:
        """Return how many clips are rebuilt at the same time, each in a thread of its own."""
        evaluations = config.num_inference_steps or self.detokenizer.config["num_inference_steps"]
        is_quick = evaluations <= CONCURRENT_EVALUATIONS and clip.keyframe.shape[2:].numel() <= CONCURRENT_PIXELS
        return min(CONCURRENT_CLIPS, torch.get_num_threads()) if self.device.type == "cpu" and is_quick else 1

    def _check_motion(self, tokens: VideoTokens) -> None:
        """Refuse motion ids that these weights cannot have made, although the hashes in the file are theirs.

        Raises:
            TokensError: names both sides.
        """
        _, quantizers, per_quantizer = tokens.motion_ids.shape
        spec, motion = self.spec(tokens.spec.fps), self.motion
        sizes = [tokens.codebooks[name] for name in ("motion", "global_motion")]
        found = (tokens.spec.frames, tokens.spec.grid, per_quantizer, tokens.global_motion_ids.shape[1], *sizes)
        sizes = [motion.codebook_size, motion.global_motion_codebook_size]
        wanted = (spec.frames, spec.grid, motion.tokens_per_quantizer, motion.num_global_motion_ids, *sizes)
        if found != wanted or quantizers > motion.num_quantizers:
            raise TokensError(
                f"tokens of {tokens.source.file} have frames, grid, ids per quantizer, global motion ids, codebooks "
                f"{found} of {quantizers} quantizers, this model {wanted} of {motion.num_quantizers}; "
                "use the right model, or encode the video again"
            )

    def _inputs_from_ids(
        self, tokens: VideoTokens, shown: VideoTokens, size: tuple[int, int]
    ) -> Iterator["DetokenizerInput"]:
        """Decode keyframes from their ids: predicted along all motion of `tokens`, shown with that of `shown`."""
        previous: tuple[Tensor, Tensor] | None = None
        for clip in range(tokens.num_clips):
            with self.decoding():
                vectors = self.decode_motion(motion_tokens_of(tokens, clip))
                square = self._decode_keyframe(tokens, clip, previous, vectors)
                previous = square, vectors
                if shown is not tokens:
                    vectors = self.decode_motion(motion_tokens_of(shown, clip))
            yield DetokenizerInput(
                _resize_square(square, size).to(vectors), vectors, int(tokens.num_frames[clip]), square
            )

    def _decode_keyframe(
        self, tokens: VideoTokens, clip: int, previous: tuple[Tensor, Tensor] | None, vectors: Tensor
    ) -> Tensor:
        model = self.keyframes
        ids = torch.from_numpy(tokens.visual_ids_of(clip)).long().to(model.device)
        kept = torch.from_numpy(tokens.keep_mask[clip]).to(model.device)
        skipped = torch.from_numpy(tokens.skip_mask[clip]).to(model.device)
        # as the frames, in bfloat16 where nobody chose a precision and the CPU multiplies it
        is_fast = isinstance(model, KeyframeTokenizer) and self.detokenizer_dtype != self.dtype
        decode = functools.partial(model.decode, fast=True) if is_fast else model.decode
        if previous is None or not skipped.any():
            decoded = decode([ids], kept[None])
            # later keyframes are warped from this one: positions in the picture need more digits than 16 bits have
            return decoded.to(at_least_float32(decoded.dtype))
        return decode_predicted_keyframe(model, ids, kept, skipped, predict_keyframe(*previous, vectors), decode)

    def _inputs_from_images(
        self, tokens: VideoTokens, size: tuple[int, int], images: Iterator[np.ndarray]
    ) -> Iterator["DetokenizerInput"]:
        for clip in range(tokens.num_clips):
            image = next(images, None)
            if image is None:
                raise TokensError(f"there are {clip} keyframes for {tokens.num_clips} clips of {tokens.source.file}")
            vectors = self.decode_motion(motion_tokens_of(tokens, clip))
            keyframe = to_tensor(resize(image, size)).to(vectors)
            yield DetokenizerInput(keyframe, vectors, int(tokens.num_frames[clip]), None)

    def reconstruct_keyframe(self, keyframe: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Encode and decode one keyframe by itself.

        Args:
            keyframe: uint8 [H, W, 3] RGB.
            size: (width, height) of the result.

        Returns:
            float32 [1, 3, height, width] in [-1, 1].
        """
        with self.encoding():
            model = self.keyframes
            tokens = model.encode(to_square_tensor(keyframe, model.image_size).to(model.device))
        with self.decoding():
            return _resize_square(self.keyframes.decode(tokens.ids, tokens.keep_mask), size).to(self.device)

    def reconstruct_motion(self, motion: MotionField, num_quantizers: int) -> Tensor:
        """Encode and decode one motion field: [1, T, h, w, 2]."""
        return self.decode_motion(self.encode_motion([motion], num_quantizers))


@dataclass(frozen=True)
class DetokenizerInput:
    """What the video detokenizer makes the frames of a clip from."""

    keyframe: Tensor
    """[1, 3, H, W] in [-1, 1], at the size of the frames, in the dtype and on the device of `vectors`."""
    vectors: Tensor
    """[1, T, h, w, 2], fractions of the frame."""
    num_frames: int
    """Frames of the clip that are shown."""
    square: Tensor | None
    """[1, 3, S, S] in [-1, 1]: the keyframe as the keyframe tokenizer decoded it; None where it was given."""

    @property
    def num_shown(self) -> int | None:
        """`num_frames` where frames at the end are not shown, else None."""
        return self.num_frames if self.ends_early else None

    @property
    def ends_early(self) -> bool:
        """Whether the video ends here or a cut follows: then the next keyframe does not show this scene."""
        return self.num_frames < self.vectors.shape[1]


@dataclass(frozen=True)
class DecodedClip(DetokenizerInput):
    """A clip with its frames."""

    frames: np.ndarray
    """uint8 [num_frames, H, W, 3] RGB."""


@dataclass
class TokenAccumulator:
    """Collects the tokens of a video's clips, in order."""

    encoded: list[EncodedClip] = field(default_factory=list)
    num_frames: list[int] = field(default_factory=list)
    pts_seconds: list[float] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    """The keyframes as JPEG files; empty where they are not stored."""
    motion_source: MotionSource = "native"

    def add_facts(self, clips: Sequence[Clip]) -> None:
        """Add what is known of clips before they are encoded."""
        self.num_frames += [clip.num_frames for clip in clips]
        self.pts_seconds += [clip.pts_seconds for clip in clips]
        self.damaged += [clip.damaged for clip in clips]
        self.motion_source = clips[-1].motion_source

    def add_ids(self, clips: Iterable[EncodedClip]) -> None:
        """Add the ids of clips in order; they may come later than their facts."""
        self.encoded += clips

    def tokens(
        self,
        spec: ClipSpec,
        source: SourceFacts,
        models: Mapping[str, ModelIdentity],
        codebooks: Mapping[str, int],
        config: EncodeConfig,
    ) -> VideoTokens:
        """Return all clips as one VideoTokens; the arguments are its fields."""
        keyframes = [clip.keyframe for clip in self.encoded]
        return VideoTokens(
            spec=spec,
            source=source,
            motion_source=self.motion_source,
            models=models,
            codebooks=codebooks,
            visual_ids=np.concatenate([keyframe.ids for keyframe in keyframes]).astype(np.int32),
            visual_offsets=np.cumsum([0, *(len(keyframe.ids) for keyframe in keyframes)], dtype=np.int64),
            keep_mask=np.stack([keyframe.keep_mask for keyframe in keyframes]),
            skip_mask=np.stack([keyframe.skip_mask for keyframe in keyframes]),
            pictures=tuple(self.pictures),
            **pad_motion_ids([clip.motion_ids for clip in self.encoded]),
            global_motion_ids=np.stack([clip.global_motion_ids for clip in self.encoded]).astype(np.int32),
            num_frames=np.array(self.num_frames, np.int32),
            pts_seconds=np.array(self.pts_seconds, np.float64),
            damaged=np.array(self.damaged, np.bool_),
            start_seconds=config.start_seconds,
            config=config.recorded(),
        )


def motion_tokens_of(tokens: VideoTokens, clip: int) -> MotionTokens:
    """Return the motion ids and global-motion ids of one clip, as a batch of one."""
    return MotionTokens(
        ids=torch.from_numpy(tokens.motion_ids_of(clip)[None]).long(),
        global_motion_ids=torch.from_numpy(tokens.global_motion_ids[clip : clip + 1]).long(),
    )


def _scenes(clips: Iterable[DetokenizerInput]) -> Iterator[Iterator[DetokenizerInput]]:
    """Group clips that lead into one another. Each group must be read to its end before the next."""
    count = 0

    def number(clip: DetokenizerInput) -> int:
        nonlocal count
        scene = count
        count += clip.ends_early
        return scene

    return (scene for _, scene in itertools.groupby(clips, number))


def _stored_keyframes(tokens: VideoTokens) -> Iterator[np.ndarray]:
    """Decode the stored keyframes, uint8 [H, W, 3] RGB.

    Raises:
        TokensError: one of them is not a JPEG file.
    """
    for clip, data in enumerate(tokens.pictures):
        image = decode_jpeg(data)
        if image is None:
            raise TokensError(f"the picture of keyframe {clip} of {tokens.source.file} cannot be decoded")
        yield image


def _resize_square(square: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a keyframe [1, 3, S, S] in [-1, 1] to float32 [1, 3, height, width], rounded to 256 levels."""
    return to_tensor(resize(to_uint8(square[:, None])[0], size))


def _check_patches(tokens: VideoTokens, patches: int, codebook_size: int) -> None:
    """Refuse tokens of another codebook or image size; the image size of a VQModel is an option of its folder."""
    found = tokens.keep_mask.shape[1]
    if found != patches:
        raise TokensError(
            f"keyframes of {tokens.source.file} have {found} patches, the model at hand has {patches}; "
            "give its videotok.json the `image_size` the tokens were made with, or encode the video again"
        )
    if tokens.codebooks["visual"] != codebook_size:
        raise TokensError(
            f"visual ids of {tokens.source.file} are of {tokens.codebooks['visual']} codes, the model at hand has "
            f"{codebook_size}; use the right model, or encode the video again"
        )


def _batched(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch
