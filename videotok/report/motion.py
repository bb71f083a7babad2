"""`videotok inspect`: motion drawn over the frames, as a film or as a sheet of pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from codec import REPRODUCIBLE, Clip, ClipSpec, MediaInfo, VideoWriter, replacing
from videotok.report.arrows import CUT_COLOUR, KEYFRAME_COLOUR, MotionPainter, boxed
from videotok.report.caption import FAINT, Label, Panel, clock, legend, shares_labels

FILM_SIDE, TILE_SIDE = 960, 420
"""Pixels of a picture's long side."""

CAPTION, LEGEND_WIDTH, TILES, SHEET_CLIPS = 96, 400, 5, 4
"""Height of a film's caption, and width of the legend in it; pictures a clip, and clips, of a sheet."""

FILM_QUALITY = {"preset": "medium", "crf": "20", **REPRODUCIBLE}

Progress = Callable[[Clip], None]


def fitted(info: MediaInfo, long_side: int) -> tuple[int, int]:
    """(width, height), even, with the shape of the video and this long side."""
    scale = long_side / max(info.width, info.height)
    return max(2, round(info.width * scale / 2) * 2), max(2, round(info.height * scale / 2) * 2)


def write_film(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, place: Path) -> int:
    """Writes every frame of `clips`, whose pictures are `size` (width, height), with its motion and a caption.

    Returns the number of clips. Memory does not grow with their number.
    """
    painter = MotionPainter(size, float(spec.fps))
    width = max(size[0], 640)
    explained = legend(LEGEND_WIDTH, CAPTION) if width >= LEGEND_WIDTH + 440 else None
    left = (width - size[0]) // 2
    number = 0
    with VideoWriter(place, spec.fps, (width, size[1] + CAPTION), options=FILM_QUALITY) as writer:
        for clip in clips:
            number += 1
            for step in range(clip.num_frames):
                image = np.zeros((size[1] + CAPTION, width, 3), np.uint8)
                image[: size[1], left : left + size[0]] = painted(painter, clip, step)
                image[size[1] :] = _caption(width, name, clip, number, step, spec, explained)
                writer.write(image)
    return number


def painted(painter: MotionPainter, clip: Clip, step: int) -> np.ndarray:
    """A frame of the clip with its motion; keyframes and the first frames of scenes in a box."""
    if clip.frames is None:
        raise ValueError("`clip.frames` is None: ask iter_clips for frames=True")
    valid = clip.motion.valid[step]
    # a video's first frame comes from nowhere: nothing is missing there
    image = painter.paint(clip.frames[step], clip.motion.vectors[step], valid, hatched=step > 0 or bool(valid.any()))
    if step == 0:
        boxed(image, KEYFRAME_COLOUR)
    elif step in clip.cuts:
        boxed(image, CUT_COLOUR)
    return image


def _caption(
    width: int, name: str, clip: Clip, number: int, step: int, spec: ClipSpec, explained: np.ndarray | None
) -> np.ndarray:
    panel = Panel(width, CAPTION)
    room = width - 32 - (explained.shape[1] if explained is not None else 0)
    kind = Label("   keyframe", KEYFRAME_COLOUR) if step == 0 else Label("")
    if step in clip.cuts:
        kind = Label(f"{kind.text}   new scene", CUT_COLOUR)
    time = clock(clip.pts_seconds + float(step / spec.fps))
    panel.write((16, 20), [Label(name if len(name) < 64 else f"{name[:60]}…", FAINT)], 13)
    panel.write(
        (16, 44), [Label(time), Label(f"   clip {number}, frame {step + 1} of {clip.num_frames}", FAINT), kind], 18
    )
    panel.write((16, 68), shares_labels(clip), 13)
    panel.bar((16, 82, 16 + min(room, 420), 88), clip.shares)
    if explained is not None:
        panel.paste(explained, (width - explained.shape[1], 0))
    return panel.array


def write_sheet(clips: Iterator[Clip], size: tuple[int, int], spec: ClipSpec, name: str, place: Path) -> int:
    """Writes a picture with a row for each of `clips`: TILES of its frames. Returns the number of clips."""
    painter = MotionPainter(size, float(spec.fps))
    gap = 6
    width = TILES * (size[0] + gap) + gap
    rows = [_head(width, name)]
    number = 0
    for clip in clips:
        number += 1
        panel = Panel(width, size[1] + gap + 34)
        begin = [Label(f"{clock(clip.pts_seconds)} "), Label(f"  clip {number}, {clip.num_frames} frames   ", FAINT)]
        new = [Label(f"   new scene at frame {', '.join(str(cut + 1) for cut in clip.cuts)}", CUT_COLOUR)]
        end = panel.write((gap + 4, 18), [*begin, *shares_labels(clip), *(new if clip.cuts else [])], 15)
        panel.bar((end + 12, 15, end + 12 + 200, 21), clip.shares)
        steps = np.unique(np.linspace(0, clip.num_frames - 1, TILES).round().astype(int)).tolist()
        for place_in_row, step in enumerate(steps):
            panel.paste(painted(painter, clip, step), (gap + place_in_row * (size[0] + gap), 34))
        rows.append(panel.array)
    with replacing(place) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary)
    return number


def _head(width: int, name: str) -> np.ndarray:
    panel = Panel(width, CAPTION + 6)
    panel.write((16, 34), [Label(name)], 22)
    panel.write((16, 66), [Label("motion vectors, five frames of each clip", FAINT)], 15)
    explained = legend(LEGEND_WIDTH, CAPTION)
    panel.paste(explained, (width - explained.shape[1], 3))
    return panel.array
