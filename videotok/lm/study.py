"""Samples made into the documents that a language model is trained on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from videotok.errors import TokensError
from videotok.lm.documents import Document, VideoInput, conversation, evenly, film
from videotok.lm.model import VideoLanguageModel
from videotok.lm.shards import Sample
from videotok.lm.store import Kept, VideoStore
from videotok.tokens import VideoTokens

Loss = Literal["answers", "all"]
"""Whether of a conversation only what the assistant says is learned, or everything. Films are learned whole."""


def documents(
    model: VideoLanguageModel, samples: Sequence[Sample], store: VideoStore, length: int, loss: Loss
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


def _kept(sample: Sample, store: VideoStore) -> Kept | None:
    if sample.video is None:
        return None
    kept = Kept(sample.video, None) if isinstance(sample.video, VideoTokens) else store.get(Path(sample.video))
    if store.feature_kinds and kept.features is None:
        raise TokensError(f"{sample.place} has ids and no features; train with --inputs ids")
    levels = min(kept.tokens.num_motion_levels, store.settings.motion_levels)
    return Kept(kept.tokens.first_levels(levels), kept.features)


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
                f"has {length}; raise --length, or encode with --no-visual-delta"
            )
        clips += stretch
        if number == len(stretches):
            yield longer
