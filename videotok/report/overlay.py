"""`videotok inspect`: motion drawn over the frames of a video, as a video or as one picture with a row for each clip.

Also the labelled panels that show a source and its reconstructions side by side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from codec import REPRODUCIBLE, Clip, ClipSpec, MediaInfo, VectorShares, VideoWriter, atomic_path
from videotok.report.flow_vis import (
    ARROW_SECONDS,
    CUT_COLOUR,
    HATCH_COLOUR,
    KEYFRAME_COLOUR,
    RINGS,
    MotionPainter,
    draw_border,
    flow_legend,
)

VIDEO_SIDE, TILE_SIDE = 960, 420
"""Pixels of the long side of the frames in a video, and of those on a contact sheet."""
CAPTION_HEIGHT, LEGEND_WIDTH = 96, 400
"""Pixels of the caption below a frame, and of the legend in it."""
NARROWEST_CAPTION = 440
"""Pixels that the text of a caption needs; the legend is left out where they do not remain."""
SHEET_COLUMNS, SHEET_CLIPS = 5, 4
"""Frames of a clip on a contact sheet, and clips where the caller does not say."""
SHEET_GAP = 6
BACKGROUND, TEXT, FAINT = (17, 20, 24), (232, 234, 237), (154, 160, 166)
SHARE_COLOURS = {"exact": (61, 200, 140), "inferred": (255, 179, 71), "missing": (104, 110, 120)}
"""Colours of the parts of `VectorShares`, in their order."""
VIDEO_OPTIONS = {"preset": "medium", "crf": "20", **REPRODUCIBLE}


def fit_size(info: MediaInfo, long_side: int) -> tuple[int, int]:
    """Return (width, height), even, in the shape of the video and with this long side."""
    scale = long_side / max(info.width, info.height)
    return max(2, round(info.width * scale / 2) * 2), max(2, round(info.height * scale / 2) * 2)


def write_motion_video(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, path: Path) -> int:
    """Write every frame with its motion and a caption, in memory that does not grow with the number of clips.

    Args:
        clips: with frames of `size` (width, height).
        name: of the video, for the caption.

    Returns:
        The number of clips.

    Raises:
        OSError: the file cannot be written.
    """
    painter = MotionPainter(size, float(spec.fps))
    width = max(size[0], 640)
    legend = draw_legend(LEGEND_WIDTH, CAPTION_HEIGHT) if width >= LEGEND_WIDTH + NARROWEST_CAPTION else None
    left = (width - size[0]) // 2
    number = 0
    with VideoWriter(path, spec.fps, (width, size[1] + CAPTION_HEIGHT), options=VIDEO_OPTIONS) as writer:
        for number, clip in enumerate(clips, 1):
            for step in range(clip.num_frames):
                image = np.zeros((size[1] + CAPTION_HEIGHT, width, 3), np.uint8)
                image[: size[1], left : left + size[0]] = draw_motion(painter, clip, step)
                image[size[1] :] = _caption(width, name, clip, number, step, spec, legend)
                writer.write(image)
    return number


def write_contact_sheet(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, path: Path) -> int:
    """Write one picture with a row for each clip: `SHEET_COLUMNS` of its frames with their motion.

    Args, returns and raises as `write_motion_video`.
    """
    painter = MotionPainter(size, float(spec.fps))
    width = SHEET_COLUMNS * (size[0] + SHEET_GAP) + SHEET_GAP
    rows = [_sheet_title(width, name)]
    for number, clip in enumerate(clips, 1):
        rows.append(_sheet_row(painter, width, size, clip, number))
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    return len(rows) - 1


def draw_motion(painter: MotionPainter, clip: Clip, step: int) -> np.ndarray:
    """Return a frame of the clip with its motion, uint8 [H, W, 3]; a border marks keyframes and first frames of scenes.

    Raises:
        ValueError: the clip was read without frames.
    """
    if clip.frames is None:
        raise ValueError("`clip.frames` is None; read the clip with frames=True")
    valid = clip.motion.valid[step]
    # nothing comes before a video's first frame, so its vectors are not missing
    hatched = step > 0 or bool(valid.any())
    image = painter.paint(clip.frames[step], clip.motion.vectors[step], valid, hatched=hatched)
    if step == 0:
        draw_border(image, KEYFRAME_COLOUR)
    elif step in clip.cuts:
        draw_border(image, CUT_COLOUR)
    return image


def side_by_side(panels: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Draw the frames of several videos side by side, their names in the corners.

    Args:
        panels: name -> uint8 [n, H, W, 3] RGB, all of one shape.

    Returns:
        n pictures uint8 [H, len(panels) * W, 3].
    """
    for frames in zip(*panels.values(), strict=True):
        yield np.concatenate([_titled(frame, name) for frame, name in zip(frames, panels, strict=True)], axis=1)


def _titled(frame: np.ndarray, name: str) -> np.ndarray:
    frame = frame.copy()
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    frame[: height + 8, : width + 8] //= 3
    cv2.putText(frame, name, (4, height + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return frame


@dataclass(frozen=True)
class Label:
    """Text with a colour of its own."""

    text: str
    colour: tuple[int, int, int] = TEXT


class Panel:
    """A dark strip with text, bars and pictures."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def write(self, position: tuple[int, int], labels: list[Label], size: int) -> int:
        """Write labels one after another from `position` (x, y of the line's middle); return the x of their end."""
        x, y = position
        for label in labels:
            self._draw.text((x, y), label.text, label.colour, _font(size), anchor="lm")
            x += round(self._draw.textlength(label.text, _font(size)))
        return x

    def bar(self, box: tuple[int, int, int, int], shares: VectorShares) -> None:
        """Draw the shares one beside the other in a box (left, top, right, bottom)."""
        left, top, right, bottom = box
        edge = float(left)
        for name, colour in SHARE_COLOURS.items():
            end = edge + getattr(shares, name) * (right - left)
            if round(end) > round(edge):
                self._draw.rectangle((round(edge), top, round(end) - 1, bottom), colour)
            edge = end

    def outline(self, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
        """Draw a sample of a border."""
        self._draw.rectangle(box, outline=colour, width=3)

    def hatch(self, box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
        """Draw a sample of hatching."""
        left, top, right, bottom = box
        self._draw.rectangle(box, (44, 48, 54))
        for offset in range(0, right - left + bottom - top, 6):
            begin = min(left + offset, right), top + max(0, left + offset - right)
            end = left + max(0, offset - (bottom - top)), min(top + offset, bottom)
            self._draw.line((*begin, *end), colour, 2)

    def paste(self, picture: np.ndarray, position: tuple[int, int]) -> None:
        """Place a picture uint8 [H, W, 3], its upper left corner at `position`."""
        self.image.paste(Image.fromarray(picture), position)

    @property
    def array(self) -> np.ndarray:
        """uint8 [height, width, 3] RGB."""
        return np.asarray(self.image)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def format_time(seconds: float) -> str:
    """Return a time such as `1:02.083`."""
    thousandths = round(seconds * 1000)
    return f"{thousandths // 60_000}:{thousandths // 1000 % 60:02d}.{thousandths % 1000:03d}"


def draw_legend(width: int, height: int) -> np.ndarray:
    """Return what colours and marks mean, uint8 [height, width, 3] RGB: flow colours, and four lines beside them."""
    panel = Panel(width, height)
    side = height - 12
    panel.paste(flow_legend(side, BACKGROUND), (6, 6))
    size, left, row = 13, side + 20, height // 4
    seconds = Fraction(ARROW_SECONDS).limit_denominator(100)
    speeds = ", ".join(f"{ring:.0%}" for ring in RINGS)
    y = row // 2
    panel.write((left, y), [Label("direction; arrows: ", FAINT), Label(f"{seconds} s"), Label(" ahead", FAINT)], size)
    y += row
    panel.write((left, y), [Label("rings: ", FAINT), Label(speeds), Label(" of the width a second", FAINT)], size)
    y += row
    panel.hatch((left, y - 7, left + 22, y + 7), HATCH_COLOUR)
    panel.write((left + 30, y), [Label("no vector: estimated or filled in", FAINT)], size)
    y += row
    panel.outline((left, y - 7, left + 22, y + 7), KEYFRAME_COLOUR)
    end = panel.write((left + 30, y), [Label("keyframe", FAINT)], size)
    panel.outline((end + 14, y - 7, end + 36, y + 7), CUT_COLOUR)
    panel.write((end + 44, y), [Label("new scene", FAINT)], size)
    return panel.array


def _shares_labels(clip: Clip) -> list[Label]:
    """Return labels such as `the stream's vectors   70% exact   29% inferred   1% missing`."""
    source = "the stream's vectors" if clip.motion_source == "native" else "vectors of a re-encoding"
    labels = [Label(f"{source}   ", FAINT)]
    for name, colour in SHARE_COLOURS.items():
        labels += [Label(f"{getattr(clip.shares, name):.0%} ", colour), Label(f"{name}   ", FAINT)]
    return labels


def _caption(
    width: int, name: str, clip: Clip, number: int, step: int, spec: ClipSpec, legend: np.ndarray | None
) -> np.ndarray:
    """Draw the caption of one frame: name, time, place in the clip, and the source of its motion."""
    panel = Panel(width, CAPTION_HEIGHT)
    text_width = width - 32 - (legend.shape[1] if legend is not None else 0)
    kind = Label("   keyframe", KEYFRAME_COLOUR) if step == 0 else Label("")
    if step in clip.cuts:
        kind = Label(f"{kind.text}   new scene", CUT_COLOUR)
    time = format_time(clip.pts_seconds + float(step / spec.fps))
    panel.write((16, 20), [Label(name if len(name) < 64 else f"{name[:60]}…", FAINT)], 13)
    panel.write(
        (16, 44), [Label(time), Label(f"   clip {number}, frame {step + 1} of {clip.num_frames}", FAINT), kind], 18
    )
    panel.write((16, 68), _shares_labels(clip), 13)
    panel.bar((16, 82, 16 + min(text_width, 420), 88), clip.shares)
    if legend is not None:
        panel.paste(legend, (width - legend.shape[1], 0))
    return panel.array


def _sheet_title(width: int, name: str) -> np.ndarray:
    panel = Panel(width, CAPTION_HEIGHT + 6)
    panel.write((16, 34), [Label(name)], 22)
    panel.write((16, 66), [Label(f"motion vectors, {SHEET_COLUMNS} frames of each clip", FAINT)], 15)
    legend = draw_legend(LEGEND_WIDTH, CAPTION_HEIGHT)
    panel.paste(legend, (width - legend.shape[1], 3))
    return panel.array


def _sheet_row(painter: MotionPainter, width: int, size: tuple[int, int], clip: Clip, number: int) -> np.ndarray:
    """Draw a row of the contact sheet: a line of text, and frames evenly spaced over the clip."""
    panel = Panel(width, size[1] + SHEET_GAP + 34)
    labels = [
        Label(f"{format_time(clip.pts_seconds)} "),
        Label(f"  clip {number}, {clip.num_frames} frames   ", FAINT),
        *_shares_labels(clip),
    ]
    if clip.cuts:
        labels.append(Label(f"   new scene at frame {', '.join(str(cut + 1) for cut in clip.cuts)}", CUT_COLOUR))
    end = panel.write((SHEET_GAP + 4, 18), labels, 15)
    panel.bar((end + 12, 15, end + 12 + 200, 21), clip.shares)
    steps = np.unique(np.linspace(0, clip.num_frames - 1, SHEET_COLUMNS).round().astype(int)).tolist()
    for column, step in enumerate(steps):
        panel.paste(draw_motion(painter, clip, step), (SHEET_GAP + column * (size[0] + SHEET_GAP), 34))
    return panel.array
