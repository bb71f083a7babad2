"""Encode every file of some folders, each in a process of its own: is each encoded, or refused in one line?

    python -m benchmarks.any_file FOLDERS… [--sample N] [--read] [--clips N] [--timeout 120] [--json OUT]

A file is `done` (exit code 0), `refused` (exit code 2 and one line), a `fault` (a traceback, another exit code, or more
than one line), a `crash` (a signal) or a `hang` (no end within the timeout). With `--read` only the codec runs. The
processes are forked after all is imported. `seconds` is CPU time and `megabytes` the peak memory of the process.

JSON: a row for each file.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2

from benchmarks.forked import REFUSED, Outcome, run_forked
from codec import MediaError, iter_clips
from videotok.cli.main import main as command_line
from videotok.io_utils import write_json
from videotok.pipeline import VideoTokenizer


@dataclass(frozen=True)
class Result:
    """What became of one file."""

    file: str
    outcome: Outcome


def files_of(folder: Path, sample: int = 0) -> list[Path]:
    """Return the files of a folder, or the file itself; with `sample`, at most so many, evenly chosen."""
    files = sorted(one for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [folder]
    if not 0 < sample < len(files):
        return files
    return [files[number * len(files) // sample] for number in range(sample)]


def read(path: Path, clips: int) -> int:
    """Read the clips of a file; return an exit code, and print a refusal."""
    try:
        for _ in iter_clips(path, max_clips=clips or None):
            pass
    except MediaError as error:
        print(error, file=sys.stderr, flush=True)
        return REFUSED
    return 0


def encode(path: Path, clips: int) -> int:
    """Encode a file as the command line does; return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        limit = ["--max-clips", str(clips)] if clips else []
        return command_line(["encode", str(path), "-o", f"{folder}/out.vtok", *limit])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with files, or files")
    parser.add_argument("--sample", type=int, default=0, help="files of each folder, evenly chosen (default: all)")
    parser.add_argument("--read", action="store_true", help="only read the files' clips, without tokenizing them")
    parser.add_argument("--clips", type=int, default=0, help="clips of each file (default: all)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each file (default 120)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    found = [file for folder in arguments.folders for file in files_of(folder, arguments.sample)]
    cv2.setNumThreads(1)
    VideoTokenizer.from_pretrained()  # imports all that encoding needs, once and not in each process
    results = []
    for path in found:
        outcome = run_forked(partial(read if arguments.read else encode, path, arguments.clips), arguments.timeout)
        results.append(Result(str(path), outcome))
        last = outcome.message.splitlines()[-1] if outcome.message and outcome.name != "done" else ""
        print(f"{outcome.name:8} {outcome.seconds:6.1f} s {outcome.megabytes:6.0f} MB  {path.name}  {last}", flush=True)
    counts = Counter(result.outcome.name for result in results)
    print(", ".join(f"{number} {name}" for name, number in counts.most_common()))
    print(f"peak memory {max((result.outcome.megabytes for result in results), default=0):.0f} MB")
    if arguments.json:
        write_json(arguments.json, [asdict(result) for result in results])
    sys.exit(0 if all(result.outcome.is_good for result in results) else 1)


if __name__ == "__main__":
    main()
