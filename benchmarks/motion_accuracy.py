"""Measure how right motion fields are: against known motion, against optical flow, and by the pictures they predict.

    python -m benchmarks.motion_accuracy VIDEOS… --json OUT [--seconds 6] [--without-b]
    python -m benchmarks.motion_accuracy --known --json OUT

Three methods are compared. `naive` takes `source * motion` as the motion of one frame, as the reference implementation
does; `native` is the result of iter_clips; `reencode` is the same from a re-encoding.

For real videos: the mean PSNR of frames 1 to 22 when the keyframe is warped along the composed motion (`repeat`: not
warped), the end-point error of single steps against DIS optical flow in pixels at 256 x 144, and the shares of exact,
inferred and missing vectors. --without-b encodes the videos with x264 and no B frames first. With --known: end-point
errors on videos of known motion from the virtual camera.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from benchmarks.footage import footage
from codec import Clip, ClipSpec, MotionField, VectorShares, VideoWriter, iter_clips, probe
from codec.container import open_video
from codec.decoder import SourceFrame, read_frames
from codec.field_operations import MIN_KNOWN_WEIGHT
from codec.motion_composition import MIN_VALID_WEIGHT, FrameWithMotion
from codec.motion_fields import StepField, WeightedField, compose, fill_holes
from codec.motion_vectors import lattice_to_grid, vectors_to_lattice
from codec.resample import FrameSchedule, Resampler, fine_grid
from videotok.io_utils import write_json
from videotok.metrics import psnr

WIDTH, HEIGHT = 256, 144
LAST_STEP = 22
METHODS = ("naive", "native", "reencode")


def naive_motion(frames: Iterable[SourceFrame], grid: tuple[int, int]) -> Iterator[FrameWithMotion]:
    """Yield frames with every vector taken as the motion of one frame: list 0 as it is, list 1 reversed."""
    for frame in frames:
        pooled = WeightedField(np.zeros((*grid, 2), np.float32), np.zeros(grid, np.float32))
        if frame.vectors is not None:
            width, height = frame.picture.width, frame.picture.height
            lattice = vectors_to_lattice(frame.vectors, width, height)
            first, second = lattice.known[..., None]
            count = lattice.known.sum(0, dtype=np.float32)[..., None]
            signed = (lattice.vectors[0] * first - lattice.vectors[1] * second) / np.maximum(count, 1)
            known = np.asarray(lattice.known.any(0))
            pooled = lattice_to_grid(signed.astype(np.float32), known, width, height, grid)
        vectors = fill_holes(pooled.vectors, pooled.weight >= MIN_KNOWN_WEIGHT)
        yield FrameWithMotion(frame, StepField(vectors, pooled.weight >= MIN_VALID_WEIGHT))


def naive_fields(path: Path, spec: ClipSpec, seconds: float) -> list[MotionField]:
    """Return the naive motion fields of whole clips."""
    with open_video(path) as (container, stream):
        frames = read_frames(container, stream, with_vectors=True)
        resampler = Resampler(spec, FrameSchedule(spec.fps, duration_seconds=seconds))
        steps = [frame.motion for frame in resampler.resample(naive_motion(frames, fine_grid(spec)))]
    clips = [steps[start : start + spec.frames] for start in range(0, len(steps) - spec.frames + 1, spec.frames)]
    return [
        MotionField(np.stack([step.vectors for step in clip]), np.stack([step.valid for step in clip]))
        for clip in clips
    ]


def warp_psnr(field: MotionField, frames: np.ndarray) -> float:
    """Return the mean PSNR of frames 1 to LAST_STEP predicted by warping the keyframe along the composed motion."""
    x, y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    composed = StepField.zeros(field.valid.shape[1:], valid=True)
    scores = []
    for step in range(1, min(LAST_STEP + 1, len(frames))):
        composed = compose(StepField(field.vectors[step], field.valid[step]), composed)
        fine = cv2.resize(composed.vectors, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
        source_x, source_y = x + fine[..., 0] * WIDTH, y + fine[..., 1] * HEIGHT
        warped = cv2.remap(frames[0], source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        scores.append(psnr(frames[step], np.asarray(warped)))
    return float(np.mean(scores))


def repeat_psnr(frames: np.ndarray) -> float:
    """Return the mean PSNR of frames 1 to LAST_STEP predicted by repeating the keyframe."""
    return float(np.mean([psnr(frame, frames[0]) for frame in frames[1 : LAST_STEP + 1]]))


def flow_error(field: MotionField, frames: np.ndarray) -> float:
    """Return the mean end-point error of valid cells against DIS optical flow, in pixels."""
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


def encode_without_b(path: Path, folder: Path, seconds: float) -> Path:
    """Encode the beginning of a video, at most 640 pixels wide, with x264's defaults but no B frames."""
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
    """Return one video's row; None if it has no whole clip or no vectors of its own."""
    spec = ClipSpec()

    def whole_clips(source: str) -> list[Clip]:
        clips = iter_clips(
            path,
            spec,
            frames=True,
            frame_size=(WIDTH, HEIGHT),
            motion_source=source,  # type: ignore[arg-type]
            duration_seconds=seconds,
        )
        return [clip for clip in clips if clip.num_frames == spec.frames]

    native = whole_clips("auto")
    if not native or native[0].motion_source != "native":
        return None
    pictures = [clip.frames for clip in native if clip.frames is not None]
    fields = {
        "naive": naive_fields(path, spec, seconds),
        "native": [clip.motion for clip in native],
        "reencode": [clip.motion for clip in whole_clips("reencode")],
    }
    row: dict[str, object] = {"video": path.name, "clips": len(native)}
    row["repeat_psnr"] = round(float(np.mean([repeat_psnr(frames) for frames in pictures])), 2)
    for method in METHODS:
        pairs = list(zip(fields[method], pictures, strict=False))
        row[f"{method}_psnr"] = round(float(np.mean([warp_psnr(*pair) for pair in pairs])), 2)
        row[f"{method}_flow_error"] = round(float(np.nanmean([flow_error(*pair) for pair in pairs])), 2)
    row["valid"] = round(float(np.mean([field.valid.mean() for field in fields["native"]])), 3)
    return row | shares_of(native)


def shares_of(clips: list[Clip]) -> dict[str, object]:
    """Return the mean shares of exact, inferred and missing vectors."""
    shares = VectorShares.mean(clip.shares for clip in clips)
    return {name: round(value, 3) for name, value in asdict(shares).items()}


def measure_known(size: tuple[int, int] = (320, 176), seconds: float = 2.2) -> Iterator[dict[str, object]]:
    """Yield end-point errors in pixels of the video, for every encoder and kind of motion."""
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
                reencoded = next(iter_clips(path, spec, motion_source="reencode")).motion
                fields = {"naive": naive_fields(path, spec, seconds)[0], "native": clip.motion, "reencode": reencoded}
                for method, field in fields.items():
                    error = np.linalg.norm((field.vectors[1:] - exact[1:]) * size, axis=-1)
                    row[f"{method}_error"] = round(float(error[visible[1:] & field.valid[1:]].mean()), 2)
                yield row


def measure_all(arguments: argparse.Namespace) -> Iterator[dict[str, object] | None]:
    """Yield the row of each video."""
    for path in footage(arguments.videos):
        with tempfile.TemporaryDirectory() as folder:
            seconds = arguments.seconds
            yield measure(encode_without_b(path, Path(folder), seconds) if arguments.without_b else path, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="video files, or folders of them")
    parser.add_argument("--known", action="store_true", help="use videos of known motion instead")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of each video (default 6)")
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
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
