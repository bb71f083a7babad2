"""Training data of a language model: samples from files, videos encoded once, and the documents made of them.

paths ── read_samples ──► Sample ── TokenCache ──► EncodedVideo ── make_documents ──► Document
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import atomic_path
from videotok.errors import TokensError
from videotok.lm.chat import Turn
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.packing import Document, VideoInput, conversation_document, video_document
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer

Targets = Literal["answers", "all"]
"""Tokens of a conversation to train on: the assistant's, or all. Of videos without a conversation always all."""


@dataclass(frozen=True)
class Sample:
    """A video and the text about it."""

    source: str
    """Where it comes from, for messages: a file, or file:line."""
    video: Path | VideoTokens | None
    turns: tuple[Turn, ...] = ()
    """A conversation; without one, the video itself is to be predicted, and its caption."""
    caption: str = ""


def read_samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Yield all samples of files and folders, in order.

        FILE.vtok      one video
        FOLDER         a corpus (`videotok corpus encode`): its videos, with their captions; any other folder: all .vtok
                       and .jsonl files below it
        FILE.jsonl     one JSON object a line; paths are relative to the file's folder, videos are .vtok or any video
                       file:
                           {"video": "a.mp4", "question": "what is this", "answer": "a dog"}
                           {"video": "a.vtok", "turns": [{"role": "user", "text": "..."}, {"role": "assistant", ...}]}
                           {"video": "a.vtok", "caption": "a dog runs"}
                       without "video", text alone

    Raises:
        TokensError: a path that does not exist, a line of another form, or a damaged file.
    """
    for path in paths:
        if path.suffix == ".vtok":
            yield Sample(str(path), path)
        elif path.suffix == ".jsonl" and path.is_file():
            yield from _read_jsonl(path)
        elif (path / "corpus.json").is_file():
            yield from _read_corpus(path)
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in (".vtok", ".jsonl"))
            if not found:
                raise TokensError(
                    f"{path} has no corpus.json, no .vtok and no .jsonl files; `videotok encode` makes .vtok files"
                )
            yield from read_samples(found)
        else:
            raise TokensError(f"cannot train on {path}: give a .vtok or .jsonl file, or a folder of them")


def _read_jsonl(path: Path) -> Iterator[Sample]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokensError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    # not `splitlines`: texts may hold U+2028 and others, which end a line for it
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            row = json.loads(line)
            turns = _turns(row)
            video = None if row.get("video") is None else path.parent / row["video"]
            caption = str(row.get("caption", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TokensError(
                f"{source} is not {{video, question, answer}}, {{video, turns}} or {{video, caption}}: {error!r}"
            ) from error
        roles = [turn.role for turn in turns]
        if roles != ["user", "assistant"] * (len(roles) // 2) or not (turns or video):
            raise TokensError(f"{source} has turns {roles}; they must be user, assistant, user, assistant …")
        if video is not None and not video.is_file():
            raise TokensError(f"{source} names {video}, which does not exist")
        yield Sample(source, video, turns, caption)


def _turns(row: dict) -> tuple[Turn, ...]:
    if "turns" in row:
        return tuple(Turn(turn["role"], str(turn["text"])) for turn in row["turns"])
    if "question" in row:
        return Turn("user", str(row["question"])), Turn("assistant", str(row["answer"]))
    return ()


def _read_corpus(folder: Path) -> Iterator[Sample]:
    """Yield the videos of a corpus with their captions, in the order of their names."""
    # pyarrow belongs to another optional dependency
    from videotok.corpus.export import video_tokens
    from videotok.corpus.storage import CorpusFolder, ordered_videos

    facts = CorpusFolder(folder).facts
    for rows in ordered_videos(folder):
        source = f"{folder}: {rows['video_id'][0].as_py()}"
        num_clips = rows["clips"][0].as_py()
        if rows.num_rows != num_clips:
            raise TokensError(
                f"{source} has {rows.num_rows} of its {num_clips} clips; finish it with the same "
                "`videotok corpus encode`"
            )
        try:
            tokens = video_tokens(rows, facts)
        except (KeyError, ValueError) as error:
            raise TokensError(f"{source} is not a video of this version's corpus: {error}") from error
        yield Sample(source, tokens, caption=rows["caption"][0].as_py() or "")


@dataclass(frozen=True)
class EncodedVideo:
    """A video's tokens, and its features where they were asked for."""

    tokens: VideoTokens
    features: list[dict[str, Tensor]] | None = None
    """Kind -> float32 [n, dim] of each clip, see `videotok.lm.features`."""


class TokenCache:
    """A folder of encoded videos: one .vtok file for each video, settings and weights, and its features beside it.

    Args:
        folder: made when the first video is encoded.
        tokenizer: encodes the videos.
        settings: how they are encoded.
        feature_kinds: features to compute as well.
        max_clips: encode so many clips of a video, from its beginning; None: all.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: "VideoTokenizer",
        settings: VideoSettings,
        feature_kinds: Sequence[str] = (),
        *,
        max_clips: int | None = None,
    ) -> None:
        self.folder, self.tokenizer, self.settings = folder, tokenizer, settings
        self.feature_kinds, self.max_clips = tuple(feature_kinds), max_clips

    def get(self, video: Path) -> EncodedVideo:
        """Return a video's tokens and features. A .vtok file is read; any other video is encoded on its first use.

        Raises:
            MediaError, TokensError: the video cannot be read; or features are needed of a .vtok file, which has none.
        """
        if video.suffix == ".vtok":
            if self.feature_kinds:
                raise TokensError(f"{video} has ids and no features; name the video itself, or read ids")
            return EncodedVideo(VideoTokens.load(video))
        path = self.folder / f"{video.stem}-{self._key(video)}.vtok"
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            tokens = VideoTokens.load(path)
        else:
            tokens = self.tokenizer.encode(video, replace(self.settings.encode_config, max_clips=self.max_clips))
            tokens.save(path)
        return EncodedVideo(tokens, self._features(video, tokens, path) if self.feature_kinds else None)

    def _key(self, video: Path) -> str:
        """Return a short hash of everything that the tokens depend on."""
        status, settings = video.stat(), self.settings
        values = [str(video.resolve()), status.st_size, status.st_mtime_ns, settings.fps, settings.motion_quantizers]
        # caches from before these options existed stay valid
        values += [] if settings.motion_source == "auto" else [settings.motion_source]
        values += [] if settings.tokens_per_keyframe is None else [settings.tokens_per_keyframe]
        values += [] if self.max_clips is None else [f"{self.max_clips} clips"]
        weights = [self.tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")]
        return hashlib.sha256(json.dumps([*values, *weights]).encode()).hexdigest()[:12]

    def _features(self, video: Path, tokens: VideoTokens, tokens_path: Path) -> list[dict[str, Tensor]]:
        path = tokens_path.with_suffix(f".{'-'.join(self.feature_kinds)}.safetensors")
        if not path.is_file():
            from videotok.lm.features import video_features

            found = video_features(self.tokenizer, video, tokens, self.feature_kinds)
            flat = {f"{clip}.{kind}": value.half() for clip, row in enumerate(found) for kind, value in row.items()}
            with atomic_path(path) as temporary:
                save_file(flat, temporary)
        flat = load_file(path)
        return [
            {kind: flat[f"{clip}.{kind}"].float() for kind in self.feature_kinds} for clip in range(tokens.num_clips)
        ]


def make_documents(
    model: VideoLanguageModel, samples: Sequence[Sample], cache: TokenCache, row_length: int, targets: Targets
) -> Iterator[Document]:
    """Yield the training documents of samples.

    A conversation is one document, with as many evenly spaced clips of its video as fit into a row. A video without a
    conversation is split into as many documents as it needs.

    Args:
        model: whose vocabulary, prompt and settings are used.
        samples: as `read_samples` yields them.
        cache: encodes the videos.
        row_length: tokens of a document at most.
        targets: tokens of a conversation to train on.

    Raises:
        TokensError: tokens of other weights; or a conversation, or a run of clips that cannot be split, that is longer
            than a row.
    """
    for sample in samples:
        video = _encoded_video(sample, cache)
        if video is not None:
            model.settings.check(video.tokens)
            model.vocabulary.check(video.tokens)
        if sample.turns:
            yield _conversation(model, sample, video, row_length, targets)
        elif video is not None:
            yield from _split_video(model, sample, video, row_length)


def _encoded_video(sample: Sample, cache: TokenCache) -> EncodedVideo | None:
    """Return a sample's video with the motion quantizers of the settings."""
    if sample.video is None:
        return None
    video = EncodedVideo(sample.video) if isinstance(sample.video, VideoTokens) else cache.get(sample.video)
    if cache.feature_kinds and video.features is None:
        raise TokensError(f"{sample.source} has ids and no features; train on ids")
    quantizers = min(video.tokens.num_motion_quantizers, cache.settings.motion_quantizers)
    return EncodedVideo(video.tokens.first_quantizers(quantizers), video.features)


def _video_input(model: VideoLanguageModel, video: EncodedVideo, clips: Sequence[int]) -> VideoInput:
    return VideoInput.from_tokens(
        model.vocabulary,
        video.tokens,
        clips,
        keyframes_only=model.settings.keyframes_only,
        features=video.features,
    )


def _conversation(
    model: VideoLanguageModel, sample: Sample, video: EncodedVideo | None, row_length: int, targets: Targets
) -> Document:
    num_clips = model.settings.max_clips or (video.tokens.num_clips if video else 1)
    while True:
        clips = None if video is None else model.settings.clips(video.tokens, num_clips)
        shown = None if video is None or clips is None else _video_input(model, video, clips)
        try:
            document = conversation_document(
                model.tokenizer, model.prompt, sample.turns, shown, all_targets=targets == "all"
            )
        except ValueError as error:
            raise TokensError(f"{sample.source}: {error}") from error
        if len(document) <= row_length:
            return document
        if num_clips == 1 or video is None:
            raise TokensError(
                f"{sample.source} takes {len(document)} tokens with one clip, a row has {row_length}; take longer rows"
            )
        num_clips = min(num_clips, video.tokens.num_clips) - 1


def _split_video(model: VideoLanguageModel, sample: Sample, video: EncodedVideo, row_length: int) -> Iterator[Document]:
    """Yield documents of a video, split before clips with independent keyframes; the last one has the caption."""
    tokens = video.tokens
    starts = [clip for clip in range(tokens.num_clips) if tokens.independent[clip]]
    runs = [range(start, stop) for start, stop in zip(starts, [*starts[1:], tokens.num_clips], strict=True)]
    clips: list[int] = []  # of the document so far
    for number, run in enumerate(runs, 1):
        caption = sample.caption if number == len(runs) else ""
        document = video_document(model.tokenizer, _video_input(model, video, [*clips, *run]), caption)
        if len(document) > row_length and clips:
            yield video_document(model.tokenizer, _video_input(model, video, clips))
            clips = []
            document = video_document(model.tokenizer, _video_input(model, video, run), caption)
        if len(document) > row_length:
            raise TokensError(
                f"{sample.source}: clips {run.start} to {run.stop - 1} take {len(document)} tokens, a row has "
                f"{row_length}; take longer rows, or encode with independent keyframes"
            )
        clips += run
        if number == len(runs):
            yield document
