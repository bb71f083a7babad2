"""How right motion fields are: against known motion, against optical flow, and by the pictures they predict.

    python -m benchmarks.motion_accuracy VIDEOS… --json OUT [--seconds 6] [--without-b]
    python -m benchmarks.motion_accuracy --known --json OUT

Three ways are compared: `naive` takes `source * motion` for the motion of one frame, as the reference implementation
does; `native` is what iter_clips gives; `reencode` the same from a re-encoding. For real videos: mean PSNR of frames 1
to 22 when the keyframe is warped along the composed field (`hold`: not warped), and the end-point error of single steps
against DIS optical flow, in pixels at 256 x 144; besides, which share of the vectors is exact, inferred and missing.
--without-b encodes the videos anew first, with x264 and no B frames. With --known: end-point error on clips of the
virtual camera.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from benchmarks.footage import footage
from codec import Clip, ClipSpec, MotionField, VectorShares, VideoWriter, iter_clips, probe
from codec.container import opened
from codec.decoder import SourceFrame, read_frames
from codec.frame_schedule import FrameSchedule
from codec.motion_composition import MovedFrame
from codec.motion_fields import compose, fill
from codec.motion_vectors import lattice_to_grid, vectors_to_lattice
from codec.resample import Resampler, fine_grid

WIDTH, HEIGHT = 256, 144
LAST = 22
WAYS = ("naive", "native", "reencode")


def naive_steps(frames: Iterable[SourceFrame], grid: tuple[int, int]) -> Iterator[MovedFrame]:
    """Every vector as the motion of one frame: list 0 as it is, list 1 turned round."""
    for frame in frames:
        vectors, share = np.zeros((*grid, 2), np.float32), np.zeros(grid, np.float32)
        if frame.vectors is not None:
            width, height = frame.picture.width, frame.picture.height
            lattice, known = vectors_to_lattice(frame.vectors, width, height)
            both = known.sum(0, dtype=np.float32)[..., None]
            signed = (lattice[0] * known[0][..., None] - lattice[1] * known[1][..., None]) / np.maximum(both, 1)
            vectors, share = lattice_to_grid(signed.astype(np.float32), known[0] | known[1], width, height, grid)
        yield MovedFrame(frame, fill(vectors, share >= 0.25), share >= 0.5)


def naive_fields(path: Path, spec: ClipSpec, seconds: float) -> list[MotionField]:
    """Fields of whole clips."""
    with opened(path) as (container, stream):
        frames = read_frames(container, stream, with_vectors=True)
        ticks = list(
            Resampler(spec, FrameSchedule(spec.fps, duration_seconds=seconds)).ticks(
                naive_steps(frames, fine_grid(spec))
            )
        )
    groups = [ticks[start : start + spec.frames] for start in range(0, len(ticks) - spec.frames + 1, spec.frames)]
    return [
        MotionField(np.stack([tick.vectors for tick in group]), np.stack([tick.valid for tick in group]))
        for group in groups
    ]


def warp_psnr(field: MotionField, frames: np.ndarray) -> tuple[float, float]:
    """Mean PSNR of frames 1 to LAST for the keyframe warped along the composed field, and for the keyframe held."""
    x, y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    way = np.zeros_like(field.vectors[0]), np.ones_like(field.valid[0])
    warped, held = [], []
    for step in range(1, min(LAST + 1, len(frames))):
        way = compose((field.vectors[step], field.valid[step]), way)
        fine = cv2.resize(way[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        there = x + fine[..., 0] * WIDTH, y + fine[..., 1] * HEIGHT
        moved = cv2.remap(frames[0], *there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        warped.append(psnr(moved, frames[step]))
        held.append(psnr(frames[0], frames[step]))
    return float(np.mean(warped)), float(np.mean(held))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(np.float32) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 0.1)))


def flow_error(field: MotionField, frames: np.ndarray) -> float:
    """Mean end-point error of valid cells against DIS optical flow, in pixels."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grays = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)) for frame in frames]
    errors = []
    for step in range(1, len(frames)):
        flow = search.calc(grays[step], grays[step - 1], None)  # type: ignore[call-overload]
        exact = cv2.resize(flow, field.valid.shape[:0:-1], interpolation=cv2.INTER_AREA)
        difference = np.linalg.norm(field.vectors[step] * [WIDTH, HEIGHT] - exact, axis=-1)
        errors.append(difference[field.valid[step]])
    joined = np.concatenate(errors)
    return float(joined.mean()) if len(joined) else float("nan")


def without_b(path: Path, folder: Path, seconds: float) -> Path:
    """The beginning of a video, at most 640 pixels wide, encoded by x264 with its defaults but no B frames."""
    info = probe(path)
    scale = min(1, 640 / info.width)
    size = round(info.width * scale / 2) * 2, round(info.height * scale / 2) * 2
    spec = ClipSpec(fps=info.average_fps or Fraction(25))
    copy = folder / f"{path.stem}.mp4"
    with VideoWriter(copy, spec.fps, size, options={"bf": "0", "crf": "20"}) as writer:
        for clip in iter_clips(path, spec, frames=True, frame_size=size, duration_seconds=seconds + 0.5):
            for frame in clip.frames if clip.frames is not None else ():
                writer.write(frame)
    return copy


def measure(path: Path, seconds: float) -> dict[str, object] | None:
    """One video's row; None where it has no whole clip or no vectors of its own."""
    spec = ClipSpec()

    def whole(source: str) -> list[Clip]:
        clips = iter_clips(
            path,
            spec,
            frames=True,
            frame_size=(WIDTH, HEIGHT),
            motion_source=source,  # type: ignore[arg-type]
            duration_seconds=seconds,
        )
        return [clip for clip in clips if clip.num_frames == spec.frames]

    native = whole("auto")
    if not native or native[0].motion_source != "native":
        return None
    pictures = [clip.frames for clip in native if clip.frames is not None]
    fields = {
        "naive": naive_fields(path, spec, seconds),
        "native": [clip.motion for clip in native],
        "reencode": [clip.motion for clip in whole("reencode")],
    }
    row: dict[str, object] = {"video": path.name, "clips": len(native)}
    for way in WAYS:
        pairs = list(zip(fields[way], pictures, strict=False))
        scores = [warp_psnr(*pair) for pair in pairs]
        row["hold_psnr"] = round(float(np.mean([held for _, held in scores])), 2)
        row[f"{way}_psnr"] = round(float(np.mean([warped for warped, _ in scores])), 2)
        row[f"{way}_flow_error"] = round(float(np.nanmean([flow_error(*pair) for pair in pairs])), 2)
    row["valid"] = round(float(np.mean([field.valid.mean() for field in fields["native"]])), 3)
    return row | shares_of(native)


def shares_of(clips: list[Clip]) -> dict[str, object]:
    """How sure the vectors of these clips are, on average."""
    shares = VectorShares.mean(clip.shares for clip in clips)
    return {name: round(value, 3) for name, value in vars(shares).items()}


def measure_known(size: tuple[int, int] = (320, 176), seconds: float = 2.2) -> Iterator[dict[str, object]]:
    """Rows of end-point errors, in pixels of the clip, for every encoder and kind of motion."""
    from tests.videos import ENCODINGS, even, scenes, truth, write

    spec = ClipSpec()
    times = even(seconds, 30)
    shown = [float(time) for time in times]
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ENCODINGS:
            for kind, scene in scenes(size).items():
                path = write(Path(folder) / f"{encoding}-{kind}.mp4", scene, times, encoding)
                row: dict[str, object] = {"video": f"{kind}, {encoding}"}
                clip = next(iter_clips(path, spec))
                row |= shares_of([clip])
                exact, visible = truth(scene, clip, shown, spec)
                again = next(iter_clips(path, spec, motion_source="reencode")).motion
                fields = {"naive": naive_fields(path, spec, seconds)[0], "native": clip.motion, "reencode": again}
                for way, field in fields.items():
                    miss = np.linalg.norm((field.vectors[1:] - exact[1:]) * size, axis=-1)
                    row[f"{way}_error"] = round(float(miss[visible[1:] & field.valid[1:]].mean()), 2)
                yield row


def measure_all(arguments: argparse.Namespace) -> Iterator[dict[str, object] | None]:
    """A row for each video."""
    for path in footage(arguments.videos):
        with tempfile.TemporaryDirectory() as folder:
            seconds = arguments.seconds
            yield measure(without_b(path, Path(folder), seconds) if arguments.without_b else path, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="video files, or folders of them")
    parser.add_argument("--known", action="store_true", help="clips of known motion, made for the purpose")
    parser.add_argument("--seconds", type=float, default=6.0, help="how much of each video (6)")
    parser.add_argument("--without-b", action="store_true", help="encode the videos without B frames first")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    found = measure_known() if arguments.known else measure_all(arguments)
    for row in found:
        if row is not None:
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)] if rows else []
    if rows:
        means = {key: round(float(np.mean([float(str(row[key])) for row in rows])), 2) for key in numbers}
        print("mean  " + "  ".join(f"{key} {value}" for key, value in means.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
