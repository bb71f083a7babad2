"""`videotok inspect --word`: the patches that one visual word stands for, across videos."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from codec import iter_clips
from videotok.pictures import squashed
from videotok.pipeline import VideoTokenizer
from videotok.report.caption import clock
from videotok.report.page import picture_uri, write_page

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
