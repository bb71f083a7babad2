"""Speed of encoding a corpus, stage by stage: `python -m benchmarks.corpus VIDEOS --json OUT`

On 1 and 2 cores, beside the codec stage alone and a loop over `videotok encode`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.footage import add_footage_arguments, footage
from codec import ClipSpec, SubprocessReader
from videotok.corpus.decoder import read_resized_clips
from videotok.io_utils import write_json

SAMPLE_SECONDS = 1.0
VIDEOTOK = [sys.executable, "-m", "videotok.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of encoding a corpus, stage by stage.")
    add_footage_arguments(parser)
    parser.add_argument("--limit", type=int, help="number of videos to take, evenly spaced")
    parser.add_argument(
        "--cores", type=int, nargs="+", default=[1, 2], help="numbers of cores; the corpus is encoded on each"
    )
    parser.add_argument("--loop", type=int, default=8, help="number of videos of the loop, which is slow")
    parser.add_argument(
        "--address", help="address of a Ray cluster: encode once on its cores, and measure nothing else"
    )
    arguments = parser.parse_args()
    videos = footage(arguments.videos)
    if arguments.limit and arguments.limit < len(videos):
        videos = [videos[number * len(videos) // arguments.limit] for number in range(arguments.limit)]
    rows = []
    for row in _measure(videos, arguments):
        print(_format_row(row), flush=True)
        rows.append(row)
    for row in rows[1:]:
        if row["what"] == "corpus" and rows[0]["what"] == "corpus":
            print(f"{row['cores']} cores: {row['videos_per_second'] / rows[0]['videos_per_second']:.2f} x")
    if arguments.json:
        write_json(arguments.json, {"videos": len(videos), "rows": rows})


def _measure(videos: list[Path], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        if arguments.address:
            yield _measure_corpus(videos, None, Path(folder), arguments.address)
            return
        for cores in arguments.cores:
            yield _measure_corpus(videos, cores, Path(folder))
        yield _measure_codec(videos)
        if arguments.loop:
            yield _measure_loop(videos[:: max(1, len(videos) // arguments.loop)][: arguments.loop], Path(folder))


def _measure_corpus(videos: list[Path], cores: int | None, folder: Path, address: str | None = None) -> dict[str, Any]:
    """Measure `videotok corpus encode`, start-up included."""
    manifest, out = folder / "videos.txt", folder / "tokens"
    manifest.write_text("".join(f"{video.resolve()}\n" for video in videos))
    shutil.rmtree(out, ignore_errors=True)
    cluster = ["--address", address] if address else ["--workers", str(cores)]
    command = [*VIDEOTOK, "corpus", "encode", str(manifest), "--out", str(out), *cluster]
    process = _run(command, cores)
    facts = json.loads((out / "report.json").read_text())
    run = facts["this_run"]
    seconds, steady_seconds = process.seconds, run["seconds"] - run["start_up_seconds"]
    return {
        "what": "corpus",
        "cores": cores,
        "videos": run["videos"],
        "clips": run["clips"],
        "refused": run["refused"],
        "seconds": seconds,
        "start_up_seconds": seconds - steady_seconds,
        "videos_per_second": run["videos"] / seconds,
        "times_real_time": run["video_seconds"] / seconds,
        "steady_videos_per_second": run["videos"] / steady_seconds,
        "steady_times_real_time": run["video_seconds"] / steady_seconds,
        "stage_seconds": run["stage_seconds"],
        "peak_bytes": process.peak_bytes,
    }


def _measure_codec(videos: list[Path]) -> dict[str, Any]:
    """Measure the first stage alone on one core."""
    start, clips, frames, spec = time.monotonic(), 0, 0, ClipSpec()
    with _limit_cores(1), SubprocessReader() as reader:
        for video in videos:
            for clip in reader.run(read_resized_clips, video, spec, 256):
                clips, frames = clips + 1, frames + clip.num_frames
    return _row("codec alone", 1, len(videos), clips, float(frames / spec.fps), time.monotonic() - start)


def _measure_loop(videos: list[Path], folder: Path) -> dict[str, Any]:
    """Measure `videotok encode`, video after video, on one core."""
    clips, video_seconds, seconds = 0, 0.0, 0.0
    for video in videos:
        out = folder / "clip.vtok"
        seconds += _run([*VIDEOTOK, "encode", str(video), "-o", str(out), "--force"], 1).seconds
        info = subprocess.run([*VIDEOTOK, "info", str(out), "--json"], capture_output=True, check=True, text=True)
        facts = json.loads(info.stdout)
        clips, video_seconds = clips + facts["clips"], video_seconds + facts["duration_seconds"]
    return _row("plain loop", 1, len(videos), clips, video_seconds, seconds)


def _row(what: str, cores: int, videos: int, clips: int, video_seconds: float, seconds: float) -> dict[str, Any]:
    rates = {"videos_per_second": videos / seconds, "times_real_time": video_seconds / seconds}
    return {"what": what, "cores": cores, "videos": videos, "clips": clips, "seconds": seconds} | rates


@dataclass(frozen=True)
class _ProcessFigures:
    seconds: float
    peak_bytes: int
    """Most memory that the process and all its children had: private memory, shared blocks once."""


def _run(command: list[str], cores: int | None) -> _ProcessFigures:
    """Run a command on some cores (None: all) and measure it."""
    start = time.monotonic()
    with _limit_cores(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch_memory, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command[:6])} … failed with exit code {process.returncode}")
    seconds = time.monotonic() - start
    watcher.join()
    return _ProcessFigures(seconds, peak[0])


def _watch_memory(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        used = 0
        try:
            for member in [(top := psutil.Process(process.pid)), *top.children(recursive=True)]:
                used += member.memory_full_info().pss
        except psutil.Error:
            pass  # a process that has just ended
        peak[0] = max(peak[0], used)
        time.sleep(SAMPLE_SECONDS)


@contextmanager
def _limit_cores(cores: int | None) -> Iterator[None]:
    """Limit this process, and what it starts meanwhile, to some cores; None: all."""
    available = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(available)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, available)


def _format_row(row: dict[str, Any]) -> str:
    text = (
        f"{row['what']:<12} {row['cores'] or 'all'} core(s): {row['videos']} videos, {row['clips']} clips in "
        f"{row['seconds']:.1f} s: {row['videos_per_second']:.2f} videos/s, {row['times_real_time']:.1f} x real time"
    )
    if "stage_seconds" in row:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["stage_seconds"].items())
        text += (
            f"; after {row['start_up_seconds']:.1f} s of start-up {row['steady_videos_per_second']:.2f} videos/s; "
            f"work: {stages}; peak {row['peak_bytes'] / 2**20:.0f} MiB"
        )
    return text


if __name__ == "__main__":
    main()
