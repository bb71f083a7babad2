"""Pages that show what tokens hold.

`videotok inspect --tokens`: keyframe by keyframe, which patches have a code, which are predicted, and what is decoded.
`videotok inspect --code`: the patches that one visual code stands for, across videos.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from codec import Clip, iter_clips
from videotok.config import DecodeConfig
from videotok.evaluation import frames_of
from videotok.image_utils import display_size, resize, to_square_tensor, to_uint8
from videotok.pipeline import DecodedClip, VideoTokenizer
from videotok.report.flow_vis import MotionPainter
from videotok.report.html import video_uri, write_page
from videotok.report.overlay import format_time
from videotok.tokens import VideoTokens
from videotok.video_reading import source_clips

STILL_AREA = 480 * 270
"""Pixels of a keyframe on the page."""
DROPPED, SKIPPED = (0.42, (14, 16, 22)), (0.5, (24, 92, 150))
"""Where a patch has no code: the share of its grey picture, and the colour of the rest."""
SURROUNDINGS = 1
"""Patches that are shown on each side of a patch that has the code."""
MAX_PATCHES = 240
"""Patches that a page shows."""
TILE_SIDE = 120
"""Pixels of a patch and its surroundings."""
BATCH_SIZE = 4
"""Keyframes that are encoded at once."""


@dataclass(frozen=True)
class CodedPatch:
    """A code of a keyframe, and the place of its patch."""

    id: int
    left: float
    """Percent of the picture's width."""
    top: float
    """Percent of the picture's height."""


@dataclass(frozen=True)
class KeyframeCard:
    """One keyframe and what is known of it; pictures are uint8 [H, W, 3] RGB."""

    number: int
    time: str
    num_codes: int
    num_skipped: int
    independent: bool
    codes: Sequence[CodedPatch]
    source: np.ndarray | None
    """The keyframe itself; None without the source."""
    patches: np.ndarray
    """The keyframe, coloured by what each patch is decoded from."""
    decoded: np.ndarray
    motion: np.ndarray
    """The keyframe with the mean motion of its clip."""


@dataclass(frozen=True)
class ShownTokens:
    """What a page shows of the tokens of a video: cards of keyframes, and frames uint8 [H, W, 3] RGB of `size`."""

    cards: Sequence[KeyframeCard]
    grid: tuple[int, int]
    """Patches of a keyframe: (rows, columns)."""
    size: tuple[int, int]
    """(width, height) of the frames."""
    decoded: Sequence[np.ndarray]
    source: Sequence[np.ndarray]
    """The frames that were encoded, as many as decoded ones; none without the source."""

    @property
    def card_values(self) -> dict[str, Any]:
        """What the template `keyframes.html` needs; the size of a patch is in percent of the picture."""
        rows, columns = self.grid
        return {"cards": self.cards, "patch_width": 100 / columns, "patch_height": 100 / rows}


def still_size(width: int, height: int) -> tuple[int, int]:
    """Return the (width, height) of a keyframe on the page, of a video of this size."""
    return display_size(width, height, STILL_AREA)


def show_tokens(
    tokenizer: VideoTokenizer,
    tokens: VideoTokens,
    video: Path | Sequence[Clip] | None,
    max_keyframes: int | None = None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> ShownTokens:
    """Decode tokens and draw their keyframes.

    Args:
        tokenizer: the weights that the tokens were made with.
        video: the file they were made from, or its clips, with frames of `display_size`; without, patches are shown on
            the decoded keyframes.
        max_keyframes: keyframes at most, the first ones; nothing after them is decoded. All if None.
        progress: called with the seconds of every clip that is finished.

    Raises:
        TokensError: tokens of other weights, or of another video.
    """
    tokenizer.bundle.check(tokens)
    still = still_size(tokens.source.width, tokens.source.height)
    small = display_size(tokens.source.width, tokens.source.height)
    grid = tokenizer.keyframes.grid
    config = DecodeConfig(size=small, keyframe_source="tokens")
    sources: Iterator[Clip | None] = itertools.repeat(None)
    if video is not None:
        sources = source_clips(tokens, video, small) if isinstance(video, Path) else iter(video)
    cards: list[KeyframeCard] = []
    decoded_frames: list[np.ndarray] = []
    source_frames: list[np.ndarray] = []
    shown = min(tokens.num_clips, max_keyframes or tokens.num_clips)
    # `range` comes first: `zip` asks it before it decodes one clip more
    for index, source, clip in zip(range(shown), sources, tokenizer.decode_clips(tokens, config), strict=False):
        cards.append(_card(tokens, index, source, clip, grid, still))
        decoded_frames.extend(clip.frames)
        if source is not None:
            source_frames.extend(frames_of(source)[: clip.num_frames])
        progress(clip.num_frames / float(tokens.spec.fps))
    return ShownTokens(cards, grid, small, decoded_frames, source_frames)


def write_tokens_page(
    tokenizer: VideoTokenizer,
    tokens: VideoTokens,
    video: Path | Sequence[Clip] | None,
    path: Path,
    max_keyframes: int | None = None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> int:
    """Write the page of one video's tokens; its figures and its bars are of all tokens, whatever it shows of them.

    Arguments are those of `show_tokens`.

    Returns:
        The number of keyframes on the page.

    Raises:
        TokensError: tokens of other weights, or of another video.
        OSError: the file cannot be written.
    """
    shown = show_tokens(tokenizer, tokens, video, max_keyframes, progress)
    codes, skipped = tokens.visual_counts.tolist(), tokens.skip_mask.sum(axis=1).tolist()
    fps = tokens.spec.fps
    write_page(
        path,
        "tokens.html",
        tokens=tokens,
        facts=tokens.facts(),
        bars=list(zip(codes, skipped, strict=True)),
        most=max(1, *map(sum, zip(codes, skipped, strict=True))),
        shown_seconds=len(shown.decoded) / float(fps),
        kbit_per_second=sum(tokens.bits_per_second().values()) / 1000,
        decoded=video_uri(shown.decoded, fps, shown.size),
        source=video_uri(shown.source, fps, shown.size) if shown.source else None,
        **shown.card_values,
    )
    return len(shown.cards)


def _card(
    tokens: VideoTokens,
    index: int,
    source: Clip | None,
    clip: DecodedClip,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> KeyframeCard:
    square = cast(Tensor, clip.square)  # never None where keyframes come from the tokens
    decoded = resize(to_uint8(square[:, None])[0], size)
    shown = decoded if source is None else resize(source.keyframe, size)
    kept, skipped = tokens.keep_mask[index].reshape(grid), tokens.skip_mask[index].reshape(grid)
    positions = zip(tokens.visual_ids_of(index), *np.nonzero(kept), strict=True)
    return KeyframeCard(
        number=index + 1,
        time=format_time(float(tokens.pts_seconds[index])),
        num_codes=int(kept.sum()),
        num_skipped=int(skipped.sum()),
        independent=not skipped.any(),
        codes=[CodedPatch(int(code), 100 * x / grid[1], 100 * y / grid[0]) for code, y, x in positions],
        source=None if source is None else shown,
        patches=colour_patches(shown, kept, skipped),
        decoded=decoded,
        motion=draw_mean_motion(shown, clip.vectors[0].cpu().numpy(), clip.num_frames, float(tokens.spec.fps)),
    )


def colour_patches(picture: np.ndarray, kept: np.ndarray, skipped: np.ndarray) -> np.ndarray:
    """Show which patches have a code: those in colour, predicted ones bluish, dropped ones dark grey.

    Args:
        picture: uint8 [H, W, 3] RGB.
        kept, skipped: bool [rows, columns], see `VideoTokens`.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shown = picture.astype(np.float32)
    for mask, (share, colour) in ((~kept, DROPPED), (skipped, SKIPPED)):
        pixels_of = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        shown[pixels_of] = share * grey[pixels_of] + (1 - share) * np.array(colour)
    return shown.round().astype(np.uint8)


def draw_mean_motion(picture: np.ndarray, vectors: np.ndarray, num_frames: int, fps: float) -> np.ndarray:
    """Draw the mean motion of a clip over its keyframe: uint8 [H, W, 3] RGB.

    Args:
        vectors: float32 [T, h, w, 2], the clip's field; step 0 belongs to the clip before and is left out.
    """
    mean = vectors[1:num_frames].mean(axis=0) if num_frames > 1 else np.zeros_like(vectors[0])
    painter = MotionPainter((picture.shape[1], picture.shape[0]), fps)
    return painter.paint(picture, mean.astype(np.float32), np.ones(mean.shape[:2], np.bool_))


@dataclass(frozen=True)
class FoundPatch:
    """A patch that has the code."""

    video: str
    time: str
    picture: np.ndarray
    """uint8 [TILE_SIDE, TILE_SIDE, 3] RGB: the patch in a border, and its surroundings."""


@dataclass
class CodeSearch:
    """Patches that have a code, and what was searched."""

    found: list[FoundPatch] = field(default_factory=list)
    """The first `MAX_PATCHES`."""
    patches_by_video: Counter[str] = field(default_factory=Counter)
    num_keyframes: int = 0
    num_codes: int = 0
    """Codes of all those keyframes."""

    @property
    def total(self) -> int:
        """Patches with the code, including those that are not shown."""
        return sum(self.patches_by_video.values())


def find_code(
    tokenizer: VideoTokenizer,
    code: int,
    videos: list[Path],
    max_clips: int | None,
    progress: Callable[[Path], None] = lambda video: None,
) -> CodeSearch:
    """Search the keyframes of videos, each encoded independently, for a visual code.

    Args:
        code: an id of the keyframe tokenizer's codebook.
        max_clips: keyframes of a video at most.
        progress: called with every video that is finished.

    Raises:
        MediaError: a video cannot be read.
        ValueError: there is no such code.
    """
    size = tokenizer.keyframes.codebook_size
    if not 0 <= code < size:
        raise ValueError(f"`code` (={code}) must lie in 0..{size - 1}, the codes of this model")
    search = CodeSearch()
    for video in videos:
        clips = iter_clips(video, max_clips=max_clips)
        while batch := list(itertools.islice(clips, BATCH_SIZE)):
            _search_batch(tokenizer, code, video.name, batch, search)
        progress(video)
    return search


def _search_batch(tokenizer: VideoTokenizer, code: int, video: str, clips: list[Clip], search: CodeSearch) -> None:
    """Encode the keyframes of clips and add the patches that have the code to `search`."""
    with tokenizer.encoding():
        model = tokenizer.keyframes
        images = torch.cat([to_square_tensor(clip.keyframe, model.image_size) for clip in clips])
        tokens = model.encode(images.to(model.device))
    for clip, ids, mask in zip(clips, tokens.ids, tokens.keep_mask, strict=True):
        patches = mask.nonzero()[:, 0][ids == code].tolist()
        search.num_keyframes += 1
        search.num_codes += len(ids)
        search.patches_by_video[video] += len(patches)
        for patch in patches[: max(0, MAX_PATCHES - len(search.found))]:
            tile = crop_patch(clip.keyframe, patch, model.grid)
            search.found.append(FoundPatch(video, format_time(clip.pts_seconds), tile))


def crop_patch(picture: np.ndarray, patch: int, grid: tuple[int, int]) -> np.ndarray:
    """Cut a patch and its surroundings out of a picture uint8 [H, W, 3]; beyond the picture its border is repeated.

    Args:
        patch: number in reading order on a grid of (rows, columns).

    Returns:
        uint8 [TILE_SIDE, TILE_SIDE, 3], the patch in a white border.
    """
    span = 2 * SURROUNDINGS + 1
    side = TILE_SIDE // span
    shown = cv2.resize(picture, (grid[1] * side, grid[0] * side), interpolation=cv2.INTER_AREA)
    padded = cv2.copyMakeBorder(shown, *(SURROUNDINGS * side,) * 4, borderType=cv2.BORDER_REPLICATE)
    row, column = divmod(patch, grid[1])
    tile = padded[row * side : (row + span) * side, column * side : (column + span) * side].copy()
    cv2.rectangle(tile, (SURROUNDINGS * side - 1,) * 2, ((SURROUNDINGS + 1) * side,) * 2, (255, 255, 255), 1)
    return tile


def write_code_page(search: CodeSearch, code: int, model: str, path: Path) -> None:
    """Write the page of one code.

    Args:
        model: name of the weights.

    Raises:
        OSError: the file cannot be written.
    """
    write_page(path, "code.html", search=search, code=code, model=model, max_patches=MAX_PATCHES)
