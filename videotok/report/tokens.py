"""`videotok inspect --tokens`: a page of what tokens say of each keyframe, and what becomes of it."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from torch import Tensor

from codec import Clip
from videotok.compare import source_clips
from videotok.decoding import DecodedClip, decoded_keyframes, fitted
from videotok.ladder import pixels
from videotok.pictures import display_size, resized
from videotok.pipeline import VideoTokenizer
from videotok.report.arrows import MotionPainter
from videotok.report.caption import clock
from videotok.report.page import picture_uri, video_uri, write_page
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
    rebuilt = tokenizer.rebuilt(_clips(tokens, clips, small), steps=None, seed=0)
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
    kept, carried = tokens.keep_mask[clip].reshape(grid), tokens.carry_mask[clip].reshape(grid)
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
