"""What a language model is trained on: .vtok files, a corpus in Parquet, conversations in JSONL.

Videos as a language model needs them, encoded once and kept.

Samples made into the documents that a language model is trained on.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import atomic_path
from videotok.config import EncodeConfig
from videotok.errors import TokensError
from videotok.lm.chat import Turn
from videotok.lm.model import VideoLanguageModel, VideoSettings
from videotok.lm.packing import Document, VideoInput, conversation, evenly, film
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer


class Sample(NamedTuple):
    """A video and what is said of it."""

    place: str
    """Where it stands, for messages: a file, or file:line."""
    video: Path | VideoTokens | None
    turns: tuple[Turn, ...] = ()
    """A conversation; without any, the video itself is to be learned, and what is written under it."""
    caption: str = ""


def samples(paths: Sequence[Path]) -> Iterator[Sample]:
    """Everything in `paths`, in order.

        FILE.vtok      one video
        FOLDER         the folder of a corpus (`videotok corpus encode`): its videos, with captions where there are any;
                       any other folder: all .vtok and .jsonl files below it
        FILE.jsonl     one JSON object a line; paths count from the file's folder, videos are .vtok or any video file:
                           {"video": "a.mp4", "question": "what is this", "answer": "a dog"}
                           {"video": "a.vtok", "turns": [{"role": "user", "text": "..."}, {"role": "assistant", ...}]}
                           {"video": "a.vtok", "caption": "a dog runs"}
                       without "video", text alone

    Raises:
        TokensError: nothing there, a line that is none of these, or a damaged file.
    """
    for path in paths:
        if path.suffix == ".vtok":
            yield Sample(str(path), path)
        elif path.suffix == ".jsonl" and path.is_file():
            yield from _lines(path)
        elif (path / "corpus.json").is_file():
            yield from _corpus(path)
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in (".vtok", ".jsonl"))
            if not found:
                raise TokensError(
                    f"{path} has no corpus.json, no .vtok and no .jsonl files; `videotok encode` makes some"
                )
            yield from samples(found)
        else:
            raise TokensError(f"cannot train on {path}: give a .vtok or .jsonl file, or a folder of them")


def _lines(path: Path) -> Iterator[Sample]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
            if "turns" in row:
                turns = tuple(Turn(turn["role"], str(turn["text"])) for turn in row["turns"])
            elif "question" in row:
                turns = (Turn("user", str(row["question"])), Turn("assistant", str(row["answer"])))
            else:
                turns = ()
            video = None if row.get("video") is None else path.parent / row["video"]
            caption = str(row.get("caption", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokensError(
                f"{place} is not {{video, question, answer}}, {{video, turns}} or {{video, caption}}: {error!r}"
            ) from error
        roles = [turn.role for turn in turns]
        if roles != ["user", "assistant"] * (len(roles) // 2) or not (turns or video):
            raise TokensError(f"{place} has turns {roles}; they must be user, assistant, user, assistant …")
        if video is not None and not video.is_file():
            raise TokensError(f"{place} names {video}, which does not exist")
        yield Sample(place, video, turns, caption)


def _corpus(folder: Path) -> Iterator[Sample]:
    """Videos of a corpus, in order of their names, with what is written under them."""
    from videotok.corpus.export import video_tokens
    from videotok.corpus.storage import CorpusFolder, ordered_videos

    facts = CorpusFolder(folder).facts
    for rows in ordered_videos(folder):
        place = f"{folder}: {rows['video_id'][0].as_py()}"
        whole = rows["clips"][0].as_py()
        if rows.num_rows != whole:
            raise TokensError(
                f"{place} has {rows.num_rows} of its {whole} clips; finish it with the same `videotok corpus encode`"
            )
        try:
            tokens = video_tokens(rows, facts)
        except (KeyError, ValueError) as error:
            raise TokensError(f"{place} is not a video of this version's corpus: {error}") from error
        yield Sample(place, tokens, caption=rows["caption"][0].as_py() or "")


class Kept(NamedTuple):
    """A video's tokens, and its features where they were asked for."""

    tokens: VideoTokens
    features: list[dict[str, Tensor]] | None


class TokenCache:
    """A folder of .vtok files, and of features beside them, one for each video, spec and weights."""

    def __init__(
        self,
        folder: Path,
        tokenizer: "VideoTokenizer",
        settings: VideoSettings,
        feature_kinds: Sequence[str] = (),
    ) -> None:
        self.folder, self.tokenizer, self.settings = folder, tokenizer, settings
        self.feature_kinds = tuple(feature_kinds)

    def get(self, video: Path) -> Kept:
        """The video's tokens; a .vtok file is read as it is, any other video is encoded unless that was done before.

        Raises:
            MediaError, TokensError: it cannot be read; or features are asked of a .vtok file, which has none.
        """
        if video.suffix == ".vtok":
            if self.feature_kinds:
                raise TokensError(f"{video} has ids and no features; name the video itself, or give --inputs ids")
            return Kept(VideoTokens.load(video), None)
        place = self.folder / f"{video.stem}-{self._key(video)}.vtok"
        self.folder.mkdir(parents=True, exist_ok=True)
        if place.is_file():
            tokens = VideoTokens.load(place)
        else:
            # independent keyframes: a language model may see only some of the clips
            tokens = self.tokenizer.encode(
                video,
                EncodeConfig(
                    fps=Fraction(self.settings.fps),
                    motion_quantizers=self.settings.motion_quantizers,
                    motion_source=self.settings.motion_source,  # pyright: ignore[reportArgumentType]
                    predict_keyframes=False,
                ),
            )
            tokens.save(place)
        return Kept(tokens, self._features(video, tokens, place) if self.feature_kinds else None)

    def _key(self, video: Path) -> str:
        facts = video.stat()
        weights = [self.tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")]
        settings = self.settings
        named = [str(video.resolve()), facts.st_size, facts.st_mtime_ns, settings.fps, settings.motion_quantizers]
        # names of before there was a choice stay what they were
        named += [] if settings.motion_source == "auto" else [settings.motion_source]
        return hashlib.sha256(json.dumps([*named, *weights]).encode()).hexdigest()[:12]

    def _features(self, video: Path, tokens: VideoTokens, place: Path) -> list[dict[str, Tensor]]:
        path = place.with_suffix(f".{'-'.join(self.feature_kinds)}.safetensors")
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


Loss = Literal["answers", "all"]
"""Whether of a conversation only what the assistant says is learned, or everything. Films are learned whole."""


def documents(
    model: VideoLanguageModel, samples: Sequence[Sample], store: TokenCache, length: int, loss: Loss
) -> Iterator[Document]:
    """A conversation is one document, with as many clips of its video as `length` tokens hold, spread evenly; a film is
    as many documents as it takes.

    Raises:
        TokensError: tokens of other weights; a conversation that is too long without any video.
    """
    for sample in samples:
        video = _kept(sample, store)
        if video is not None:
            model.settings.check(video.tokens)
            model.vocabulary.check(video.tokens)
        if sample.turns:
            yield _conversation(model, sample, video, length, loss)
        elif video is not None:
            yield from _films(model, sample, video, length)


def _kept(sample: Sample, store: TokenCache) -> Kept | None:
    if sample.video is None:
        return None
    kept = Kept(sample.video, None) if isinstance(sample.video, VideoTokens) else store.get(Path(sample.video))
    if store.feature_kinds and kept.features is None:
        raise TokensError(f"{sample.place} has ids and no features; train with --inputs ids")
    levels = min(kept.tokens.num_motion_quantizers, store.settings.motion_quantizers)
    return Kept(kept.tokens.first_quantizers(levels), kept.features)


def _input(model: VideoLanguageModel, video: Kept, clips: Sequence[int]) -> VideoInput:
    return VideoInput.of(
        model.vocabulary,
        video.tokens,
        clips,
        keyframes_only=model.settings.keyframes_only,
        features=video.features,
    )


def _conversation(model: VideoLanguageModel, sample: Sample, video: Kept | None, length: int, loss: Loss) -> Document:
    most = model.settings.max_clips or (video.tokens.num_clips if video else 1)
    while True:
        seen = _input(model, video, evenly(video.tokens.num_clips, most)) if video else None
        try:
            found = conversation(model.tokenizer, model.prompt, sample.turns, seen, all_targets=loss == "all")
        except ValueError as error:
            raise TokensError(f"{sample.place}: {error}") from error
        if len(found) <= length:
            return found
        if most == 1 or video is None:
            raise TokensError(
                f"{sample.place} takes {len(found)} tokens with one clip, a row has {length}: raise --length"
            )
        most = min(most, video.tokens.num_clips) - 1


def _films(model: VideoLanguageModel, sample: Sample, video: Kept, length: int) -> Iterator[Document]:
    """A film, cut where a keyframe stands alone; what is written under it stands under the last part."""
    tokens = video.tokens
    starts = [clip for clip in range(tokens.num_clips) if tokens.independent[clip]]
    stretches = [range(start, stop) for start, stop in zip(starts, [*starts[1:], tokens.num_clips], strict=True)]
    clips: list[int] = []
    for number, stretch in enumerate(stretches, 1):
        caption = sample.caption if number == len(stretches) else ""
        longer = film(model.tokenizer, _input(model, video, [*clips, *stretch]), caption)
        if len(longer) > length and clips:
            yield film(model.tokenizer, _input(model, video, clips))
            clips = []
            longer = film(model.tokenizer, _input(model, video, stretch), caption)
        if len(longer) > length:
            raise TokensError(
                f"{sample.place}: clips {stretch.start} to {stretch.stop - 1} take {len(longer)} tokens, a row "
                f"has {length}; raise --length, or encode with --no-predict-keyframes"
            )
        clips += stretch
        if number == len(stretches):
            yield longer
