"""Compare the first decoded frame of a video with the picture that the FFmpeg program shows, and lay both on pages."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from benchmarks.file_kinds import psnr, run_ffmpeg
from codec import iter_clips
from codec.side_data import Orientation
from videotok.image_utils import resize
from videotok.tokens import VideoTokens

ORIENTATIONS = {
    "upright": Orientation(),
    "mirrored": Orientation(flips_x=True),
    "upside down": Orientation(flips_y=True),
    "turned by 180 degrees": Orientation(flips_x=True, flips_y=True),
}
"""Ways in which a frame of the right shape can be wrong."""

MAX_SHAPE_ERROR = 0.02
"""Share by which the aspect ratio may differ from FFmpeg's."""
MARGIN_DB = 0.5
"""How much better than the decoded frame itself another version of it must fit to raise a doubt."""
MAX_LEVELS = 12.0
"""Levels of 255 by which the mean of a colour may differ."""

LABEL_HEIGHT, CELL = 14, (256, 160)
"""Of the pages, in pixels; (width, height) of a picture."""


@dataclass(frozen=True)
class Look:
    """How a decoded frame looks beside FFmpeg's picture."""

    psnr: float
    """dB, at the decoded size."""
    levels: float
    """Largest difference of the mean of a colour, of 255 levels."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.psnr:.1f} dB, {self.levels:.0f} levels  {', '.join(self.problems)}"


@dataclass(frozen=True)
class Pair:
    """The source's first picture, the decoded one, and how they compare."""

    look: Look
    pictures: np.ndarray
    """uint8 [H, 2 W, 3] RGB: source | decoded."""

    def save(self, folder: Path) -> None:
        """Write the pair into a folder."""
        np.save(folder / "pair.npy", self.pictures)
        (folder / "look.json").write_text(json.dumps(asdict(self.look)))

    @classmethod
    def load(cls, folder: Path) -> "Pair | None":
        """Read a pair from a folder; None if there is none."""
        if not (folder / "look.json").exists():
            return None
        return cls(Look(**json.loads((folder / "look.json").read_text())), np.load(folder / "pair.npy"))


def first_picture_of_ffmpeg(path: Path) -> np.ndarray | None:
    """Return the first picture that the FFmpeg program shows of a file, with square pixels, uint8 [H, W, 3] RGB."""
    output = ["-frames:v", "1", "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "-"]
    square = ["-vf", "scale=round(iw*if(between(sar\\,0.1\\,10)\\,sar\\,1)):ih:flags=accurate_rnd+area"]
    for options in (square, []):  # pictures of tiles take no filter
        done = run_ffmpeg(["-i", str(path), *options, *output])
        if done.stdout:
            picture = cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_COLOR)
            return None if picture is None else np.ascontiguousarray(picture[..., ::-1])
    return None


def compare_first_picture(source: Path, tokens: Path, decoded: Path) -> Pair:
    """Compare the first frame of a decoded video with the first picture of its source.

    Args:
        source: the video that was encoded.
        tokens: its .vtok file.
        decoded: the video or picture that was decoded from that.
    """
    frame = next(iter(iter_clips(decoded))).keyframe
    shown = first_picture_of_ffmpeg(source)
    if shown is None:
        black = np.zeros_like(frame)
        return Pair(Look(0.0, 0.0, ["FFmpeg shows no picture"]), np.hstack([black, frame]))
    facts, problems = VideoTokens.load(tokens).source, []
    aspect, expected = facts.width / facts.height, shown.shape[1] / shown.shape[0]
    # sizes are whole numbers: two pixels do not matter
    slack = MAX_SHAPE_ERROR + 2 / min(shown.shape[:2])
    if abs(aspect / expected - 1) > slack:
        problems.append(f"{facts.width}x{facts.height}, FFmpeg {shown.shape[1]}x{shown.shape[0]}")
    wanted = resize(shown, (frame.shape[1], frame.shape[0]))
    fits = {name: psnr(orientation.apply(frame), wanted) for name, orientation in ORIENTATIONS.items()}
    fits["red and blue exchanged"] = psnr(frame[..., ::-1], wanted)
    best = max(fits, key=lambda name: fits[name])
    if fits[best] > fits["upright"] + MARGIN_DB:
        problems.append(f"{best}: {fits[best]:.1f} dB")
    levels = float(np.abs(frame.mean((0, 1)) - wanted.mean((0, 1))).max())
    problems += ["other colours"] if levels > MAX_LEVELS else []
    return Pair(Look(round(fits["upright"], 1), round(levels, 1), problems), np.hstack([wanted, frame]))


def write_sheets(pairs: list[tuple[str, Pair]], folder: Path, columns: int = 3, rows: int = 7) -> None:
    """Write pages of pairs with their names and figures, as PNG pictures.

    Args:
        pairs: name and pair.
        folder: of the pages; made if it does not exist.
        columns, rows: of a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [_cell(name, pair) for name, pair in pairs]
    for page, begin in enumerate(range(0, len(cells), columns * rows)):
        shown = cells[begin : begin + columns * rows]
        shown += [np.zeros_like(cells[0])] * (-len(shown) % columns)
        lines = [np.hstack(shown[at : at + columns]) for at in range(0, len(shown), columns)]
        cv2.imwrite(str(folder / f"page-{page}.png"), np.vstack(lines)[..., ::-1])


def _cell(name: str, pair: Pair) -> np.ndarray:
    """Return a pair with its label, uint8 [LABEL_HEIGHT + CELL height, 2 x CELL width, 3]."""
    width, height = 2 * CELL[0], CELL[1]
    scale = min(width / pair.pictures.shape[1], height / pair.pictures.shape[0])
    size = max(1, int(pair.pictures.shape[1] * scale)), max(1, int(pair.pictures.shape[0] * scale))
    cell = np.zeros((LABEL_HEIGHT + height, width, 3), np.uint8)
    cell[LABEL_HEIGHT : LABEL_HEIGHT + size[1], : size[0]] = cv2.resize(pair.pictures, size)
    text = f"{name[-48:]} {pair.look}".encode("ascii", "replace").decode()
    cv2.putText(cell, text, (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 0), 1)
    return cell
