"""`videotok inspect --tokens`: a page of what tokens say of each keyframe, and what becomes of it.

`videotok inspect --word`: the patches that one visual word stands for, across videos.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor

from codec import Clip, iter_clips
from videotok.evaluation import source_clips
from videotok.image_utils import display_size, pixels, resized, squashed
from videotok.pipeline import DecodedClip, VideoTokenizer, decoded_keyframes, fitted
from videotok.report.flow_vis import MotionPainter
from videotok.report.html import picture_uri, video_uri, write_page
from videotok.report.overlay import clock
from videotok.tokens import VideoTokens

STILL_AREA = 480 * 270
"""Pixels of a keyframe on the page."""
UNSAID, CARRIED = (0.42, (14, 16, 22)), (0.5, (24, 92, 150))
"""How much of the grey picture remains, and of what colour the rest is, where no word stands."""


@dataclass(frozen=True)
class Word:
    """A word of a keyframe, and where it stands, in percent of the picture."""

    id: int
    left: float
    top: float


@dataclass(frozen=True)
class Card:
    """One keyframe on the page; pictures are `data:` addresses."""

    number: int
    time: str
    count: int
    carried: int
    independent: bool
    words: list[Word]
    source: str | None
    said: str
    restored: str
    motion: str


def write_tokens_page(
    tokenizer: VideoTokenizer,
    tokens: VideoTokens,
    video: Path | None,
    place: Path,
    done: Callable[[float], None] = lambda seconds: None,
) -> int:
    """Writes the page; returns the number of keyframes on it.

    Args:
        tokenizer: whose weights the tokens are of.
        video: the file they were made from; without it, what is said is shown on the decoded keyframes.
        done: told the seconds of video of every clip that is finished.

    Raises:
        TokensError: tokens of other weights, or of another video.
    """
    tokenizer.bundle.check(tokens)
    still = display_size(tokens.source.width, tokens.source.height, STILL_AREA)
    small = display_size(tokens.source.width, tokens.source.height)
    told, clips = itertools.tee(decoded_keyframes(tokens, tokenizer.keyframes, tokenizer.motion))
    rebuilt = tokenizer.rebuilt(_clips(tokens, clips, small))
    sources: Iterator[Clip | None] = itertools.repeat(None)
    if video is not None:
        sources = source_clips(tokens, video, small)
    cards: list[Card] = []
    frames: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    for index, (source, (square, vectors), shown) in enumerate(zip(sources, told, rebuilt, strict=False)):
        cards.append(_card(tokens, index, source, square, vectors, tokenizer.keyframes.grid, still))
        frames.extend(shown)
        if source is not None:
            seen.extend(cast(np.ndarray, source.frames)[: len(shown)])
        done(len(shown) / float(tokens.spec.fps))
    most = max(card.count + card.carried for card in cards)
    write_page(
        place,
        "tokens.html",
        tokens=tokens,
        facts=tokens.facts(),
        cards=cards,
        most=max(most, 1),
        patch=tuple(100 / side for side in reversed(tokenizer.keyframes.grid)),
        rebuilt=video_uri(frames, tokens.spec.fps, small),
        source=video_uri(seen, tokens.spec.fps, small) if seen else None,
    )
    return len(cards)


def _clips(tokens: VideoTokens, told: Iterator[tuple[Tensor, Tensor]], size: tuple[int, int]) -> Iterator[DecodedClip]:
    for (square, vectors), count in zip(told, tokens.num_frames, strict=True):
        yield DecodedClip(fitted(square, size), vectors, int(count))


def _card(
    tokens: VideoTokens,
    clip: int,
    source: Clip | None,
    square: Tensor,
    vectors: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Card:
    restored = pixels(fitted(square, size)[:, None])[0]
    shown = restored if source is None else resized(source.keyframe, size)
    kept, carried = tokens.keep_mask[clip].reshape(grid), tokens.skip_mask[clip].reshape(grid)
    rows, columns = np.nonzero(kept)
    places = zip(tokens.visual_ids_of(clip), rows, columns, strict=True)
    return Card(
        number=clip + 1,
        time=clock(float(tokens.pts_seconds[clip])),
        count=int(kept.sum()),
        carried=int(carried.sum()),
        independent=not carried.any(),
        words=[Word(int(word), 100 * x / grid[1], 100 * y / grid[0]) for word, y, x in places],
        source=None if source is None else picture_uri(shown),
        said=picture_uri(said(shown, kept, carried)),
        restored=picture_uri(restored),
        motion=picture_uri(_moved(shown, vectors[0].numpy(), int(tokens.num_frames[clip]), float(tokens.spec.fps))),
    )


def said(picture: np.ndarray, kept: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] with the patches of `kept`, bool [rows, columns], in colour; those of `carried` bluish, and the
    others dark grey."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shown = picture.astype(np.float32)
    for mask, (share, colour) in ((~kept, UNSAID), (carried, CARRIED)):
        here = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        shown[here] = share * grey[here] + (1 - share) * np.array(colour)
    return shown.round().astype(np.uint8)


def _moved(picture: np.ndarray, vectors: np.ndarray, count: int, fps: float) -> np.ndarray:
    """The picture with the mean motion of its clip drawn over it; its own step belongs to the clip before."""
    mean = vectors[1:count].mean(axis=0) if count > 1 else np.zeros_like(vectors[0])
    painter = MotionPainter((picture.shape[1], picture.shape[0]), fps)
    return painter.paint(picture, mean.astype(np.float32), np.ones(mean.shape[:2], np.bool_))


AROUND = 1
"""Patches that are shown on each side of the one that is meant."""
MOST = 240
"""Patches on a page."""
TILE = 120
"""Pixels of a patch and what is around it."""
TOGETHER = 4
"""Keyframes that are tokenized at once."""


@dataclass(frozen=True)
class Found:
    """A patch that has the word."""

    video: str
    time: str
    picture: np.ndarray
    """uint8 [TILE, TILE, 3]: the patch, framed, and its surroundings."""

    @property
    def uri(self) -> str:
        return picture_uri(self.picture)


@dataclass
class Sheet:
    """What was found, and of how much."""

    found: list[Found]
    per_video: Counter[str]
    keyframes: int = 0
    words: int = 0

    @property
    def total(self) -> int:
        """Patches with the word, those that found no room included."""
        return sum(self.per_video.values())


def gather_word(
    tokenizer: VideoTokenizer,
    word: int,
    videos: list[Path],
    max_clips: int | None,
    done: Callable[[Path], None] = lambda video: None,
) -> Sheet:
    """Looks for a word in all keyframes of `videos`, each tokenized by itself.

    Args:
        word: of the keyframe tokenizer's codebook.
        max_clips: keyframes a video at most.
        done: told every video that is finished.

    Raises:
        MediaError: a video cannot be read.
        ValueError: there is no such word.
    """
    model = tokenizer.keyframe_encoder
    if not 0 <= word < model.codebook_size:
        raise ValueError(f"`word` (={word}) must lie in 0..{model.codebook_size - 1}, the words of this model")
    sheet = Sheet([], Counter())
    for video in videos:
        keyframes = ((clip.keyframe, clip.pts_seconds) for clip in iter_clips(video, max_clips=max_clips))
        for keyframe, seconds, places in _places(tokenizer, keyframes, word, sheet):
            sheet.per_video[video.name] += len(places)
            room = max(0, MOST - len(sheet.found))
            tiles = (_tile(keyframe, place, model.grid) for place in places[:room])
            sheet.found += [Found(video.name, clock(seconds), tile) for tile in tiles]
        done(video)
    return sheet


def _places(
    tokenizer: VideoTokenizer, keyframes: Iterator[tuple[np.ndarray, float]], word: int, sheet: Sheet
) -> Iterator[tuple[np.ndarray, float, list[int]]]:
    """Keyframes, their times, and the patches that have the word."""
    model = tokenizer.keyframe_encoder
    while batch := list(islice(keyframes, TOGETHER)):
        tokens = model.encode(torch.cat([squashed(picture, model.image_size) for picture, _ in batch]))
        for (picture, seconds), ids, mask in zip(batch, tokens.ids, tokens.keep_mask, strict=True):
            sheet.keyframes += 1
            sheet.words += len(ids)
            yield picture, seconds, mask.nonzero()[:, 0][ids == word].tolist()


def _tile(picture: np.ndarray, place: int, grid: tuple[int, int]) -> np.ndarray:
    """A patch, framed, in the middle of its surroundings; beyond the picture its border goes on."""
    span = 2 * AROUND + 1
    side = TILE // span
    shown = cv2.resize(picture, (grid[1] * side, grid[0] * side), interpolation=cv2.INTER_AREA)
    padded = cv2.copyMakeBorder(shown, *(AROUND * side,) * 4, borderType=cv2.BORDER_REPLICATE)
    row, column = divmod(place, grid[1])
    tile = padded[row * side : (row + span) * side, column * side : (column + span) * side].copy()
    cv2.rectangle(tile, (AROUND * side - 1,) * 2, ((AROUND + 1) * side,) * 2, (255, 255, 255), 1)
    return tile


def write_word_page(sheet: Sheet, word: int, model: str, place: Path) -> None:
    """Writes the sheet as a page that stands alone.

    Raises:
        OSError: the place cannot be written to.
    """
    write_page(place, "words.html", sheet=sheet, word=word, model=model, most=MOST)
