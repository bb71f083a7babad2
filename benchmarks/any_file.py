"""Encode every file of some folders, each in a process of its own: is each encoded, or refused in one line?

    python -m benchmarks.any_file FOLDERS… [--read] [--clips N] [--timeout 120] [--json OUT]

A file is `encoded` (exit code 0), `refused` (exit code 2 and one line), a `fault` (a traceback, another exit code, or
more than one line), or a `hang` (no end within the timeout). With `--read` only the codec runs, which takes a tenth of
the time. `seconds` is wall time and `megabytes` the peak memory of the process.

JSON: a row for each file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Timer

from videotok.io_utils import write_json

READ = """
import sys
from codec import MediaError, iter_clips
try:
    for clip in iter_clips(sys.argv[1], max_clips=int(sys.argv[2]) or None):
        pass
except MediaError as error:
    sys.exit(print(error, file=sys.stderr) or 2)
"""
"""What the child does with `--read`."""

ENCODE = "import sys; from videotok.cli.main import main; sys.exit(main(sys.argv[1:]))"
"""What the child does else: the command line."""


@dataclass(frozen=True)
class Result:
    """What became of one file."""

    file: str
    outcome: str
    """encoded, refused, fault or hang."""
    message: str
    """What the process wrote to standard error."""
    seconds: float
    megabytes: float


def run(path: Path, only_read: bool, clips: int, timeout: float) -> Result:
    """Read or encode one file in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        if only_read:
            command = [sys.executable, "-c", READ, str(path), str(clips)]
        else:
            limit = ["--max-clips", str(clips)] if clips else []
            command = [sys.executable, "-c", ENCODE, "encode", str(path), "-o", f"{folder}/out.vtok", *limit]
        errors = Path(folder) / "stderr"
        began = time.monotonic()
        with errors.open("wb") as sink:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sink)
        timer = Timer(timeout, child.kill)
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        seconds = time.monotonic() - began
        child.returncode = code = os.waitstatus_to_exitcode(status)
        message = errors.read_text(errors="replace").strip()
    return Result(
        str(path), outcome(code, message, seconds >= timeout), message[-2000:], seconds, usage.ru_maxrss / 1024
    )


def outcome(code: int, message: str, is_late: bool) -> str:
    """Return what an exit code and the text on standard error mean."""
    if is_late:
        return "hang"
    if "Traceback" in message:
        return "fault"
    if code == 0:
        return "encoded"
    return "refused" if code == 2 and len(message.splitlines()) == 1 else "fault"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with files, or files")
    parser.add_argument("--read", action="store_true", help="only read the files' clips, without tokenizing them")
    parser.add_argument("--clips", type=int, default=0, help="clips of each file (default: all)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each file (default 120)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    found = [
        file
        for folder in arguments.folders
        for file in (sorted(one for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [folder])
    ]
    results = []
    for path in found:
        result = run(path, arguments.read, arguments.clips, arguments.timeout)
        results.append(result)
        last = result.message.splitlines()[-1] if result.message and result.outcome != "encoded" else ""
        print(f"{result.outcome:8} {result.seconds:6.1f} s {result.megabytes:6.0f} MB  {path.name}  {last}", flush=True)
    counts = Counter(result.outcome for result in results)
    print(", ".join(f"{number} {name}" for name, number in counts.most_common()))
    print(f"peak memory {max((result.megabytes for result in results), default=0):.0f} MB")
    if arguments.json:
        write_json(arguments.json, [asdict(result) for result in results])
    sys.exit(1 if counts["fault"] or counts["hang"] else 0)


if __name__ == "__main__":
    main()
