"""Measure how fast videos are read as motion fields, compared with other readers in the same run.

    python -m benchmarks.codec VIDEOS… --json OUT [--repeats 5] [--cores 1 2] [--readers ours bare …] [--busy 2]
    python -m benchmarks.codec VIDEO --lengths 0.5 1 4 [--cores 1 2] --json OUT

Readers:

- `ours`: iter_clips, motion fields on the grid and keyframes
- `fields`: the same without keyframes and without the deblocking filter
- `motion`: iter_motion, motion fields of every frame of the stream, no pictures
- `bare`: PyAV on one thread, vectors exported and discarded, no deblocking filter
- `deblocked`: the same with the deblocking filter, which exact keyframes need: no reader with keyframes can be faster
- `mvextractor`: motion-vector-extractor, vectors and frames, no grid
- `reference`: the method of Video-LaVIT: FFmpeg to MPEG-4 at 12 fps, motion-vector-extractor, a dense array,
  max-pooling, resizing
- `limit`: the FFmpeg program on one thread, vectors exported and discarded, no deblocking filter

Each run is a separate process limited to the given number of cores; runs are interleaved and their medians compared.
Start-up and imports are not counted, nor is loading the compiled operations, which takes `load_seconds`. With one core
CPU seconds are measured, so that other work on a shared machine does not count, else wall-clock seconds.
`speed_of_ours` is the speed of `ours` divided by a reader's. With `--busy`, every reader is run alone and beside that
many processes that do nothing but count, and `busy_factor` is the ratio of the CPU seconds. With `--lengths`, the
first video is repeated by stream copy to that many minutes and read by `ours`: cost must grow with the length, memory
must not. `gain` is the wall-clock time on the first number of cores divided by that on this one.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np

from benchmarks.footage import add_footage_arguments, footage
from codec import ClipSpec, iter_clips, iter_motion, probe
from codec.acceleration import CHOOSER
from codec.container import open_video
from codec.resample import fine_grid
from videotok.io_utils import write_json

SPEC = ClipSpec()


def ours(path: Path, cores: int) -> None:
    for clip in iter_clips(path, SPEC, decoders=cores):
        del clip


def fields(path: Path, cores: int) -> None:
    for clip in iter_clips(path, SPEC, decoders=cores, keyframes=False):
        del clip


def motion(path: Path, cores: int) -> None:
    for frame in iter_motion(path, SPEC.grid, decoders=cores):
        del frame


def bare(path: Path, _cores: int) -> None:
    _decode(path, {"flags2": "+export_mvs", "skip_loop_filter": "all"})


def deblocked(path: Path, _cores: int) -> None:
    _decode(path, {"flags2": "+export_mvs"})


def _decode(path: Path, options: dict[str, str]) -> None:
    with open_video(path) as (container, stream):
        context = stream.codec_context
        context.thread_type, context.thread_count = "SLICE", 1
        context.options = options
        for packet in container.demux(stream):
            context.decode(packet)


def mvextractor(path: Path, _cores: int) -> None:
    for _ in _extract(path):
        pass


def reference(path: Path, _cores: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "mpeg4.mp4"
        written = ffmpeg.input(str(path)).output(str(small), vcodec="mpeg4", r=str(SPEC.fps), an=None)
        written.global_args("-loglevel", "quiet", "-threads", "1").run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
        for shape, vectors in _extract(small):
            dense = np.zeros((shape[0] // 4, shape[1] // 4, 2), np.float32)
            for record in vectors:
                _, wide, high, _, _, x, y, dx, dy, scale = record[:10]
                top, left = (y - high // 2) // 4, (x - wide // 2) // 4
                dense[max(top, 0) : top + high // 4, max(left, 0) : left + wide // 4] = dx / scale, dy / scale
            rows, columns = dense.shape[0] // 4 * 4, dense.shape[1] // 4 * 4
            blocks = dense[:rows, :columns].reshape(rows // 4, 4, columns // 4, 4, 2)
            cv2.resize(blocks.max((1, 3)), SPEC.grid[::-1])


def limit(path: Path, _cores: int) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-threads", "1", "-flags2", "+export_mvs"]
    subprocess.run([*command, "-skip_loop_filter", "all", "-i", str(path), "-an", "-f", "null", "-"], check=True)


def _extract(path: Path):
    """Yield (shape of the picture, vectors) of each frame."""
    from mvextractor.videocap import VideoCap  # the extra [peers]

    capture = VideoCap()
    capture.open(str(path))
    while True:
        got, frame, vectors, *_ = capture.read()
        if not got:
            break
        yield frame.shape, vectors
    capture.release()


READERS: dict[str, Callable[[Path, int], None]] = {
    "ours": ours,
    "fields": fields,
    "motion": motion,
    "bare": bare,
    "deblocked": deblocked,
    "mvextractor": mvextractor,
    "reference": reference,
    "limit": limit,
}


def run_in_process(reader: str, path: Path, cores: int) -> None:
    """Run one reader in this process, and print its seconds and its peak memory in MB."""
    if reader != "limit":
        cv2.setNumThreads(1)
    start_cpu = _cpu_seconds()
    if reader in ("ours", "fields", "motion"):
        CHOOSER.choose("1")
        CHOOSER.for_next_frame(fine_grid(SPEC))
    load = _cpu_seconds() - start_cpu
    start, start_cpu = time.perf_counter(), _cpu_seconds()
    READERS[reader](path, cores)
    wall, cpu = time.perf_counter() - start, _cpu_seconds() - start_cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"wall": wall, "cpu": cpu, "load": load, "peak_mb": round(peak / 1024)}))


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_in_child(reader: str, path: Path, cores: int) -> dict[str, float]:
    """Run one reader in a separate process, on the first `cores` cores that this one may use."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, "-m", "benchmarks.codec", "--cores", str(cores), "--reader", reader, str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        env={**os.environ, "OMP_NUM_THREADS": str(cores)},
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that only count, until the end of the block."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(path: Path, cores: int, repeats: int, readers: list[str], busy: int) -> list[dict[str, object]]:
    """Return the rows of one video, one for each reader; `busy` processes run beside every second run."""
    info = probe(path)
    frames = (info.duration_seconds or 0) * float(info.average_fps or 25)
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in readers}
    busy_runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in readers}
    for _ in range(repeats):
        for reader in readers:
            runs[reader].append(run_in_child(reader, path, cores))
            if busy:
                with busy_processes(busy):
                    busy_runs[reader].append(run_in_child(reader, path, cores))
    clock = "cpu" if cores == 1 else "wall"
    seconds = {reader: statistics.median(run[clock] for run in done) for reader, done in runs.items()}
    rows: list[dict[str, object]] = []
    for reader in readers:
        row: dict[str, object] = {
            "video": path.name,
            "reader": reader,
            "cores": cores,
            "frames_per_second": round(frames / seconds[reader], 1),
            "speed_of_ours": round(seconds[reader] / seconds["ours"], 3) if "ours" in seconds else None,
            "peak_mb": max(run["peak_mb"] for run in runs[reader]),
            "load_seconds": round(statistics.median(run["load"] for run in runs[reader]), 2),
        }
        if busy:
            row["busy_factor"] = round(_median_cpu(busy_runs[reader]) / _median_cpu(runs[reader]), 3)
        rows.append(row)
    return rows


def _median_cpu(runs: list[dict[str, float]]) -> float:
    return statistics.median(run["cpu"] for run in runs)


def summary(rows: list[dict[str, object]]) -> Iterator[str]:
    """Yield a line for each reader: the geometric mean of `speed_of_ours` over videos, and the median `busy_factor`."""
    for key in dict.fromkeys((row["reader"], row["cores"]) for row in rows):
        mine = [row for row in rows if (row["reader"], row["cores"]) == key]
        ratios = [float(str(row["speed_of_ours"])) for row in mine if row["speed_of_ours"] is not None]
        line = f"{key[0]}, {key[1]} core(s), {len(mine)} videos:"
        if ratios:
            line += f" speed of ours {statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        factors = [float(str(row["busy_factor"])) for row in mine if "busy_factor" in row]
        if factors:
            line += f", busy factor {statistics.median(factors):.2f}"
        yield line


def measure_lengths(path: Path, minutes: list[float], cores: list[int], repeats: int) -> Iterator[dict[str, object]]:
    """Yield the rows of the video repeated to each number of minutes, one for each number of cores."""
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            long = Path(folder) / f"{length}.mp4"
            source = ffmpeg.input(str(path), stream_loop=-1)
            copied = source.output(str(long), c="copy", an=None, t=60 * length).global_args("-loglevel", "quiet")
            copied.run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
            runs: dict[int, list[dict[str, float]]] = {count: [] for count in cores}
            for _ in range(repeats):
                for count in cores:
                    runs[count].append(run_in_child("ours", long, count))
            walls = {count: statistics.median(run["wall"] for run in done) for count, done in runs.items()}
            for count, done in runs.items():
                cpu = _median_cpu(done)
                yield {
                    "video": path.name,
                    "minutes": length,
                    "cores": count,
                    "cpu_seconds": round(cpu, 2),
                    "cpu_seconds_a_minute": round(cpu / length, 2),
                    "wall_seconds": round(walls[count], 2),
                    "gain": round(walls[cores[0]] / walls[count], 2),
                    "peak_mb": max(run["peak_mb"] for run in done),
                }
            long.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_footage_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each reader (default 5)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="cores a run may use (default 1 and 2)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="default: all")
    parser.add_argument("--busy", type=int, default=0, help="processes that run beside every second run (default 0)")
    parser.add_argument("--lengths", type=float, nargs="+", help="minutes to which the first video is repeated")
    parser.add_argument("--reader", choices=READERS, help="run one reader in this process")
    arguments = parser.parse_args()
    if arguments.reader:
        run_in_process(arguments.reader, arguments.videos[0], arguments.cores[0])
        return
    if arguments.lengths:
        found = measure_lengths(arguments.videos[0], arguments.lengths, arguments.cores, arguments.repeats)
    else:
        pairs = ((path, cores) for path in footage(arguments.videos) for cores in arguments.cores)
        found = (
            row
            for path, cores in pairs
            for row in measure(path, cores, arguments.repeats, arguments.readers, arguments.busy)
        )
    rows = []
    for row in found:
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if not arguments.lengths:
        print(*summary(rows), sep="\n")
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
