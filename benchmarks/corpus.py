"""How fast a corpus is encoded, stage by stage: `python -m benchmarks.corpus VIDEOS --json OUT`

On 1 and 2 cores, against a plain loop over `videotok encode`, and the codec stage alone.
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
from pathlib import Path
from typing import Any

import psutil

from benchmarks.footage import add_footage_arguments, footage
from codec import ClipSpec, SubprocessReader, atomic_path
from videotok.corpus.decoder import read_resized_clips

SAMPLE_SECONDS = 1.0
VIDEOTOK = [sys.executable, "-m", "videotok.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast a corpus is encoded, stage by stage.")
    add_footage_arguments(parser)
    parser.add_argument("--limit", type=int, help="take so many videos, spread evenly")
    parser.add_argument(
        "--cores", type=int, nargs="+", default=[1, 2], help="runs of the corpus, each on so many cores"
    )
    parser.add_argument("--loop", type=int, default=8, help="videos of the plain loop; it is slow")
    parser.add_argument("--address", help="of a Ray cluster: one run there, on the cores it has, and nothing else")
    arguments = parser.parse_args()
    videos = footage(arguments.videos)
    if arguments.limit and arguments.limit < len(videos):
        videos = [videos[number * len(videos) // arguments.limit] for number in range(arguments.limit)]
    rows = []
    for row in _rows(videos, arguments):
        print(_line(row), flush=True)
        rows.append(row)
    for row in rows[1:]:
        if row["what"] == "corpus" and rows[0]["what"] == "corpus":
            print(f"{row['cores']} cores: {row['videos_per_second'] / rows[0]['videos_per_second']:.2f} x")
    if arguments.json:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps({"videos": len(videos), "rows": rows}, indent=2) + "\n")


def _rows(videos: list[Path], arguments: argparse.Namespace):
    with tempfile.TemporaryDirectory() as folder:
        if arguments.address:
            yield _corpus(videos, None, Path(folder), arguments.address)
            return
        for cores in arguments.cores:
            yield _corpus(videos, cores, Path(folder))
        yield _codec(videos)
        if arguments.loop:
            yield _loop(videos[:: max(1, len(videos) // arguments.loop)][: arguments.loop], Path(folder))


def _corpus(videos: list[Path], cores: int | None, folder: Path, address: str | None = None) -> dict[str, Any]:
    """`videotok corpus encode`, from its start to its end."""
    manifest, out = folder / "videos.txt", folder / "tokens"
    manifest.write_text("".join(f"{video.resolve()}\n" for video in videos))
    shutil.rmtree(out, ignore_errors=True)
    where = ["--address", address] if address else ["--workers", str(cores)]
    command = [*VIDEOTOK, "corpus", "encode", str(manifest), "--out", str(out), *where]
    seconds, peak = _timed(command, cores)
    facts = json.loads((out / "report.json").read_text())
    run = facts["this_run"]
    steady = run["seconds"] - run["start_up_seconds"]
    return {
        "what": "corpus",
        "cores": cores,
        "videos": run["videos"],
        "clips": run["clips"],
        "refused": run["refused"],
        "seconds": seconds,
        "start_up_seconds": seconds - steady,
        "videos_per_second": run["videos"] / seconds,
        "times_real_time": run["video_seconds"] / seconds,
        "steady_videos_per_second": run["videos"] / steady,
        "steady_times_real_time": run["video_seconds"] / steady,
        "stage_seconds": run["stage_seconds"],
        "peak_bytes": peak,
    }


def _codec(videos: list[Path]) -> dict[str, Any]:
    """The first stage alone, on one core."""
    began, clips, frames = time.monotonic(), 0, 0
    with _cores(1), SubprocessReader() as reader:
        for video in videos:
            for clip in reader.run(read_resized_clips, video, ClipSpec(), 256):
                clips, frames = clips + 1, frames + clip.num_frames
    return _row("codec alone", 1, len(videos), clips, frames / 12, time.monotonic() - began)


def _loop(videos: list[Path], folder: Path) -> dict[str, Any]:
    """`videotok encode`, again and again, on one core."""
    clips, seconds_of_video, seconds = 0, 0.0, 0.0
    for video in videos:
        out = folder / "clip.vtok"
        taken, _ = _timed([*VIDEOTOK, "encode", str(video), "-o", str(out), "--force"], 1)
        seconds += taken
        shown = subprocess.run([*VIDEOTOK, "info", str(out), "--json"], capture_output=True, check=True, text=True)
        facts = json.loads(shown.stdout)
        clips, seconds_of_video = clips + facts["clips"], seconds_of_video + facts["duration_seconds"]
    return _row("plain loop", 1, len(videos), clips, seconds_of_video, seconds)


def _row(what: str, cores: int, videos: int, clips: int, video_seconds: float, seconds: float) -> dict[str, Any]:
    rates = {"videos_per_second": videos / seconds, "times_real_time": video_seconds / seconds}
    return {"what": what, "cores": cores, "videos": videos, "clips": clips, "seconds": seconds} | rates


def _timed(command: list[str], cores: int | None) -> tuple[float, int]:
    """Seconds, and the most memory that the process and all below it held: private memory, shared blocks once."""
    began = time.monotonic()
    with _cores(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command[:6])} … failed with exit code {process.returncode}")
    seconds = time.monotonic() - began
    watcher.join()
    return seconds, peak[0]


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        held = 0
        try:
            for one in [(top := psutil.Process(process.pid)), *top.children(recursive=True)]:
                held += one.memory_full_info().pss
        except psutil.Error:
            pass  # a process that has just ended
        peak[0] = max(peak[0], held)
        time.sleep(SAMPLE_SECONDS)


class _cores:
    """On so many cores, and so will be what is started meanwhile; None: all."""

    def __init__(self, cores: int | None) -> None:
        self._all = os.sched_getaffinity(0)
        self._wanted = set(sorted(self._all)[:cores])

    def __enter__(self) -> None:
        os.sched_setaffinity(0, self._wanted)

    def __exit__(self, *error: object) -> None:
        os.sched_setaffinity(0, self._all)


def _line(row: dict[str, Any]) -> str:
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
