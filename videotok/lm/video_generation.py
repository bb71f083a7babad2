"""Generation of video: a language model writes the ids of clip after clip, and the video tokenizer shows them.

    text, pictures, the last clips ──► sample_ids, within VideoGrammar ──► ids of the next clip ──► GeneratedClip
              ▲                                                                    │
              └──── the next keyframe: predicted from this clip, or generated ◄────┘

Memory does not grow with the length of the video, but for its tokens.
"""

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codec import Source, local_file, probe
from videotok.config import DecodeConfig, EncodeConfig
from videotok.errors import ModelError, TokensError
from videotok.image_utils import decode_jpeg, display_size, encode_jpeg
from videotok.lm.generated_video import PICTURE_QUALITY, GeneratedClip, GeneratedVideo, KeyframeMode, video_tokens
from videotok.lm.grammar import VideoForm, VideoGrammar
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import generation_prompt
from videotok.lm.sampling import SamplingConfig, default_sampling, sample_ids
from videotok.pipeline import DecodedClip, VideoTokenizer
from videotok.tokens import VideoTokens

KeyframeChoice = Literal["auto"] | KeyframeMode
"""`auto`: predicted, where the codes of keyframes have positions; else constrained, where the image decoder can be;
else generated."""
IMAGE_MARK = "<image>"
"""Stands in a text where a picture goes."""
DEFAULT_SIZE = (256, 144)
"""(width, height) of a video whose prompt does not begin with a picture or a video."""
MAX_CONTEXT = 16
"""Clips that a language model reads at most before the next one."""
MAX_IDS_PER_TOKEN = 3
"""Ids of a keyframe, runs of dropped patches included, for each of the tokens that it has on average."""


@dataclass(frozen=True)
class VideoPrompt:
    """What a video is generated from.

    Raises:
        ValueError: more than text and pictures in `parts`.
    """

    parts: tuple[str | VideoTokens, ...] = ()
    """Texts, and pictures to refer to, in any order."""
    start: VideoTokens | None = None
    """A picture: it is the first keyframe. A video: its clips come first, and are continued."""

    def __post_init__(self) -> None:
        for number, part in enumerate(self.parts):
            if not isinstance(part, str) and not part.is_picture:
                raise ValueError(f"`parts` (number {number}) must be text or the tokens of a picture, got {part!r}")

    @classmethod
    def from_text(
        cls, text: str, pictures: Sequence[VideoTokens] = (), start: VideoTokens | None = None
    ) -> "VideoPrompt":
        """Return the prompt of a text with an `IMAGE_MARK` for each of the pictures, in their order.

        Raises:
            ValueError: there are not as many marks as pictures.
        """
        texts = text.split(IMAGE_MARK)
        if len(texts) - 1 != len(pictures):
            raise ValueError(f"the text has {len(texts) - 1} times {IMAGE_MARK} for {len(pictures)} pictures")
        parts: list[str | VideoTokens] = [texts[0]]
        for picture, after in zip(pictures, texts[1:], strict=True):
            parts += [picture, after]
        return cls(tuple(part for part in parts if not isinstance(part, str) or part.strip()), start)


class VideoGenerator:
    """Generates video with a language model and the video tokenizer that it was trained with.

    Args:
        model: trained on ids.
        tokenizer: of the weights that the model was trained with.
        sampling: how ids are chosen; None: `default_sampling` of the model.
        keyframes: where keyframes after the first come from, see `KeyframeMode`.

    Raises:
        ModelError: a model that reads features instead of ids, or a tokenizer of other sizes than its vocabulary.
        TokensError: a tokenizer with other weights than the model was trained with.
    """

    def __init__(
        self,
        model: VideoLanguageModel,
        tokenizer: VideoTokenizer,
        sampling: SamplingConfig | None = None,
        keyframes: KeyframeChoice = "auto",
    ) -> None:
        if model.feature_kinds:
            raise ModelError(
                f"this language model reads {' and '.join(model.feature_kinds)} features and cannot continue what it "
                "writes itself; generate with one that was trained on ids"
            )
        self.model, self.tokenizer = model, tokenizer
        self.sampling = default_sampling(model) if sampling is None else sampling
        self.spec = tokenizer.spec(Fraction(model.settings.fps))
        has_positions = tokenizer.keyframes.codes_have_positions and bool(model.vocabulary.patches)
        if keyframes == "predicted" and not has_positions:
            raise ModelError("keyframes cannot be predicted: the codes of this keyframe tokenizer have no positions")
        can_constrain = "previous" in inspect.signature(tokenizer.keyframes.decode).parameters
        if keyframes == "constrained" and not can_constrain:
            raise ModelError("keyframes cannot be constrained: this keyframe tokenizer has no image decoder of its own")
        automatic: KeyframeMode = "predicted" if has_positions else "constrained" if can_constrain else "generated"
        self.mode: KeyframeMode = automatic if keyframes == "auto" else keyframes
        _check_tokenizer(model, tokenizer)
        self._begin = generation_prompt(model.tokenizer, "")
        """Ids before all others; they stay where guidance leaves out the text."""
        if not model.vocabulary.patches:
            # Video-LaVIT, whose vocabulary does not know patches, generates without a beginning of the sequence
            self._begin = self._begin[:0]

    def encode_picture(self, picture: Source | np.ndarray) -> VideoTokens:
        """Return the tokens of a picture, a file or uint8 [H, W, 3] RGB, with the picture itself beside them.

        Raises:
            MediaError: the file cannot be read.
            TokensError: it is a video.
        """
        source = encode_jpeg(picture, 100) if isinstance(picture, np.ndarray) else picture
        tokens = self.tokenizer.encode(source, replace(self.encode_config, max_clips=1))
        if not tokens.is_picture:
            raise TokensError(f"{tokens.source.file} is a video; give a picture, or let the video be continued")
        return tokens

    def encode_start(self, video: Source) -> VideoTokens:
        """Return the tokens of the last clips of a video file, as many as the model reads, up to its very end.

        Raises:
            MediaError: the file cannot be read.
            TokensError: it is shorter than a clip, or a picture.
        """
        clip_seconds = float(self.spec.duration_seconds)
        with local_file(video) as path:
            seconds = probe(path).duration_seconds or 0.0
            count = max(1, min(self._max_context, int(seconds / clip_seconds)))
            # half a frame early: then the last clip has all its frames
            start = max(0.0, seconds - count * clip_seconds - 0.5 / float(self.spec.fps))
            tokens = self.tokenizer.encode(path, replace(self.encode_config, max_clips=count, start_seconds=start))
        is_cut_off = bool(tokens.num_frames[-1] < self.spec.frames)
        if is_cut_off and tokens.num_clips > 1:
            return tokens.part(0, tokens.num_clips - 1)
        if is_cut_off:
            raise TokensError(
                f"{tokens.source.file} has {tokens.duration_seconds:.2f} s, a clip {clip_seconds:g} s; give a longer "
                "video, or begin from a picture"
            )
        return tokens

    @property
    def encode_config(self) -> EncodeConfig:
        """How pictures and videos of a prompt are encoded: as in training, with their keyframes as JPEG files."""
        settings = self.model.settings.encode_config
        return replace(settings, keyframe_storage="jpeg", jpeg_quality=PICTURE_QUALITY)

    @property
    def _max_context(self) -> int:
        """Clips before the one that is generated, at most: a document of training has `max_clips` together with it."""
        return max(1, min(MAX_CONTEXT, (self.model.settings.max_clips or MAX_CONTEXT + 1) - 1))

    @property
    def _max_positions(self) -> int:
        return getattr(self.model.model.config, "max_position_embeddings", None) or 2**31

    def begin(self, prompts: Sequence[VideoPrompt], size: tuple[int, int] | None = None) -> list[GeneratedVideo]:
        """Return a video without clips for each prompt.

        Args:
            prompts: one a video.
            size: (width, height) of the frames; None: about 256 x 144 pixels in the shape of what a prompt begins with.

        Raises:
            TokensError: the tokens of a prompt are of other weights, or of another frame rate.
        """
        videos = []
        for row, prompt in enumerate(prompts):
            start, shape = prompt.start, DEFAULT_SIZE
            for tokens in [part for part in (*prompt.parts, start) if isinstance(part, VideoTokens)]:
                self._check(tokens)
            if start is not None:
                shape = display_size(start.source.width, start.source.height)
            model = self.model
            video = GeneratedVideo(
                self.tokenizer, model.vocabulary, model.settings, self.spec, self.mode, size or shape, row,
                max_context=self._max_context, is_exact=start is not None and bool(start.pictures),
            )  # fmt: skip
            if start is not None and start.is_picture:
                video.keyframe = self._picture_ids(start)
                video.given = decode_jpeg(start.pictures[0]) if start.pictures else None
            videos.append(video)
        return videos

    def _check(self, tokens: VideoTokens) -> None:
        """Refuse tokens of a prompt that the model does not know."""
        self.model.settings.check(tokens)
        self.model.vocabulary.check(tokens.first_quantizers(0))
        if not tokens.is_picture and tokens.spec.fps != self.spec.fps:
            raise TokensError(
                f"tokens of {tokens.source.file} have {tokens.spec.fps} frames a second, the language model "
                f"{self.spec.fps}; encode the video at that rate"
            )

    def _picture_ids(self, tokens: VideoTokens) -> Tensor:
        return torch.from_numpy(self.model.vocabulary.ids(tokens, [0], keyframes_only=True))

    def _prompt_ids(self, prompt: VideoPrompt) -> Tensor:
        """Return the ids of a prompt's text and pictures, [n]."""
        ids, count = [self._begin], len(generation_prompt(self.model.tokenizer, ""))
        for part in prompt.parts:
            if isinstance(part, str):
                ids.append(generation_prompt(self.model.tokenizer, part)[count:])
            else:
                ids.append(self._picture_ids(part))
        return torch.cat(ids)

    def generate(
        self,
        prompts: Sequence[VideoPrompt],
        seconds: float,
        *,
        size: tuple[int, int] | None = None,
        videos: list[GeneratedVideo] | None = None,
    ) -> Iterator[GeneratedClip]:
        """Yield the clips of one video for each prompt, clip by clip: the prompt's own first, then new ones.

        Args:
            prompts: one a video; all are generated together.
            seconds: length of what is new, rounded to whole frames; above 0.
            size: as in `begin`.
            videos: from `begin`, where the caller needs them too.

        Raises:
            ValueError: `seconds` is less than a frame.
            TokensError: see `begin`; or the prompt is too long, or nothing can be sampled.
        """
        frames = round(seconds * self.spec.fps)
        if frames < 1:
            raise ValueError(f"`seconds` (={seconds:g}) must be at least one frame, 1/{self.spec.fps}")
        videos = self.begin(prompts, size) if videos is None else videos
        prompt_ids = [self._prompt_ids(prompt) for prompt in prompts]
        self._grammar(prompt_ids, videos)  # what is too long is refused before any work
        for video, prompt in zip(videos, prompts, strict=True):
            yield from self._start_clips(video, prompt.start)
        generators = self.sampling.generators(len(videos))
        for first in range(0, frames, self.spec.frames):
            found = self._sample(prompt_ids, videos, generators)
            for video, ids in zip(videos, found, strict=True):
                yield video.add(ids, min(self.spec.frames, frames - first))

    def _start_clips(self, video: GeneratedVideo, tokens: VideoTokens | None) -> Iterator[GeneratedClip]:
        """Yield the clips that a prompt begins with."""
        if tokens is None or tokens.is_picture:
            return
        tokens = tokens.first_quantizers(min(tokens.num_motion_quantizers, self.model.settings.motion_quantizers))
        for clip in range(tokens.num_clips):
            video.given = decode_jpeg(tokens.pictures[clip]) if tokens.pictures else None
            ids = torch.from_numpy(self.model.vocabulary.ids(tokens, [clip]))
            yield video.add(ids, int(tokens.num_frames[clip]), is_new=False)

    def generate_pictures(
        self, prompts: Sequence[VideoPrompt], *, size: tuple[int, int] | None = None
    ) -> list[GeneratedClip]:
        """Return one picture for each prompt, as a clip of one frame; size and errors as for `generate`."""
        if any(prompt.start is not None for prompt in prompts):
            raise ValueError("`start` is a picture or video already; give pictures to refer to in `parts`")
        videos = [replace(video, mode="generated") for video in self.begin(prompts, size)]
        prompt_ids = [self._prompt_ids(prompt) for prompt in prompts]
        found = self._sample(prompt_ids, videos, self.sampling.generators(len(videos)), keyframes_only=True)
        return [video.add(ids, 1) for video, ids in zip(videos, found, strict=True)]

    def frames(self, clips: Iterable[GeneratedClip], config: DecodeConfig | None = None) -> Iterator[DecodedClip]:
        """Yield the clips of one video with their frames, while they are generated: one clip is read ahead.

        Clips that were decoded when they were generated (`constrained`) stay as they are, whatever `config` says.
        """
        clips = iter(clips)
        if (first := next(clips, None)) is None:
            return
        clips = itertools.chain([first], clips)
        if first.frames is None:
            yield from self.tokenizer.detokenize((clip.shown for clip in clips), config)
        for clip in clips:
            assert clip.frames is not None  # as of the first one
            yield DecodedClip(**vars(clip.shown), frames=clip.frames)

    def _sample(
        self,
        prompt_ids: Sequence[Tensor],
        videos: Sequence[GeneratedVideo],
        generators: Sequence[torch.Generator],
        *,
        keyframes_only: bool = False,
    ) -> list[Tensor]:
        """Return the next clip of each video as ids, markers included."""
        vocabulary, grammar = self.model.vocabulary, self._grammar(prompt_ids, videos, keyframes_only)
        image_begin, motion_begin = torch.tensor([vocabulary.image_begin]), torch.tensor([vocabulary.motion_begin])
        # of each clip, what is known before
        known = [
            image_begin if video.keyframe is None else torch.cat([video.keyframe, motion_begin]) for video in videos
        ]
        state = grammar.start(len(videos))
        for place in range(max(map(len, known))):
            is_known = torch.tensor([place < len(ids) for ids in known])
            state.advance(torch.tensor([int(ids[min(place, len(ids) - 1)]) for ids in known]), is_known)
        prompts, unconditional = [], []
        for prompt, video, ids in zip(prompt_ids, videos, known, strict=True):
            context = self._context(len(prompt), video, grammar)
            prompts.append(torch.cat([prompt, *context, ids]))
            unconditional.append(torch.cat([self._begin, *context, ids]))
        free = None if self.sampling.guidance == 1 else unconditional
        before = [self._motion_before(video) for video in videos]
        found = sample_ids(self.model, prompts, state, self.sampling, generators, free, before=before)
        return [torch.cat([before, ids]) for before, ids in zip(known, found, strict=True)]

    def _motion_before(self, video: GeneratedVideo) -> Tensor | None:
        """Return the motion ids of the clip before, int64 [n], where those of the next clip are all that is sampled."""
        if video.keyframe is None or not video.context:
            return None
        ids = video.context[-1]
        begin = (ids == self.model.vocabulary.motion_begin).nonzero()
        return ids[int(begin[0, 0]) + 1 :] if len(begin) else None

    def _grammar(
        self, prompt_ids: Sequence[Tensor], videos: Sequence[GeneratedVideo], keyframes_only: bool = False
    ) -> VideoGrammar:
        """Return the grammar of the next clip, with keyframes short enough for the model's context.

        Raises:
            TokensError: a prompt leaves no room for a clip.
        """
        settings, vocabulary = self.model.settings, self.model.vocabulary
        patches = self.tokenizer.keyframes.num_patches
        quantizers = min(settings.motion_quantizers, vocabulary.motion_quantizers)
        form = VideoForm(motion_quantizers=quantizers, keyframes_only=keyframes_only)
        whole = VideoGrammar(vocabulary, form, patches=patches)
        others = whole.max_ids_per_clip - patches
        most = min(patches, MAX_IDS_PER_TOKEN * (settings.tokens_per_keyframe or patches))
        for prompt, video in zip(prompt_ids, videos, strict=True):
            # a keyframe that is known already may be longer than those that are sampled
            needed = 1 if video.keyframe is None else len(video.keyframe) - 2
            room = self._max_positions - len(prompt) - others
            if room < needed:
                raise TokensError(
                    f"the prompt takes {len(prompt)} tokens and a clip {others + needed} or more, this language model "
                    f"reads {self._max_positions}; give a shorter text, or fewer pictures"
                )
            most = max(needed, min(most, room))
        return VideoGrammar(vocabulary, replace(form, max_keyframe_ids=most), patches=patches)

    def _context(self, prompt_length: int, video: GeneratedVideo, grammar: VideoGrammar) -> list[Tensor]:
        """Return the last clips that the model can read before the next one."""
        room, context = self._max_positions - prompt_length - grammar.max_ids_per_clip, []
        for ids in reversed(video.context):
            room -= len(ids)
            if room < 0:
                break
            context.insert(0, ids)
        return context


def _check_tokenizer(model: VideoLanguageModel, tokenizer: VideoTokenizer) -> None:
    """Refuse a tokenizer that the vocabulary, or the training of the language model, does not belong to."""
    vocabulary, motion = model.vocabulary, tokenizer.motion
    wanted = {"visual": vocabulary.visual_size, "motion": vocabulary.motion_size}
    if vocabulary.num_global_motion_ids:
        wanted["global_motion"] = vocabulary.global_motion_size
    wanted |= {
        "motion ids": vocabulary.motion_ids_per_quantizer,
        "global motion ids": vocabulary.num_global_motion_ids,
    }
    counts = {"motion ids": motion.tokens_per_quantizer, "global motion ids": motion.num_global_motion_ids}
    sizes = tokenizer.codebooks | counts
    if any(sizes[name] != size for name, size in wanted.items()):
        found = ", ".join(f"{name} {sizes[name]}" for name in wanted)
        raise ModelError(
            f"{tokenizer.bundle.name} has {found}, the language model's vocabulary "
            f"{', '.join(map(str, wanted.values()))}; name the video weights that it was trained with"
        )
    for part, expected in model.settings.models.items():
        sha256 = tokenizer.bundle.identity(part).sha256
        if sha256 != expected:
            raise TokensError(
                f"{part} weights of {tokenizer.bundle.name} are {sha256[:12]}, the language model was trained "
                f"with {expected[:12]}; name the video weights that it was trained with"
            )


def generate_video(
    model: VideoLanguageModel,
    tokenizer: VideoTokenizer,
    text: str = "",
    *,
    image: Source | np.ndarray | None = None,
    video: Source | None = None,
    seconds: float = 6.0,
    sampling: SamplingConfig | None = None,
    keyframes: KeyframeChoice = "auto",
) -> VideoTokens:
    """Return the tokens of a video for a text, for a picture as its first keyframe, or for a video to continue.

    Args:
        model: the language model.
        tokenizer: of the weights that the model was trained with.
        text: what happens; may be empty where a picture or a video is given.
        image: the first keyframe, a file or uint8 [H, W, 3] RGB.
        video: a file to continue; its last clips are the beginning of the result.
        seconds: length of what is new.
        sampling: how ids are chosen; None: `default_sampling` of the model.
        keyframes: where later keyframes come from, see `KeyframeMode`.

    Raises:
        ValueError: no text, picture or video; or a picture and a video.
        MediaError: a file that cannot be read.
        TokensError, ModelError: see `VideoGenerator`.
    """
    if image is not None and video is not None:
        raise ValueError("`image` and `video` both say how the result begins; give one of them")
    if not text.strip() and image is None and video is None:
        raise ValueError("give a text, an `image` or a `video` to generate from")
    generator = VideoGenerator(model, tokenizer, sampling, keyframes)
    start = generator.encode_picture(image) if image is not None else None
    start = generator.encode_start(video) if video is not None else start
    prompts = [VideoPrompt.from_text(text, (), start)]
    videos = generator.begin(prompts)
    return video_tokens(list(generator.generate(prompts, seconds, videos=videos)), videos[0])
