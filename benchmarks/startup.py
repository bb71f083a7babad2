"""What the command line costs beside its work: `python -m benchmarks.startup VIDEO --json OUT`.

`--help`, encoding of the first second of a video, and decoding of it run in processes of their own with one thread. A
table and JSON give the least of several runs: {command, cpu_seconds (user and system), wall_seconds, goal_cpu_seconds,
met}. Processor time counts, since other jobs of the machine change it less than the time on the wall.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from videotok.io_utils import write_json

GOALS = {"help": 0.3, "encode": 2.5, "decode": 3.0}
"""CPU seconds on one core of a quiet machine."""


def measure(arguments: Sequence[str]) -> tuple[float, float]:
    """Run `videotok` once with these arguments and return its processor time and its time on the wall, in seconds.

    Raises:
        CalledProcessError: the command failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "videotok.cli.main", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.startup", description="What the command line costs.")
    parser.add_argument("video", type=Path, help="a video of at least a second")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--runs", type=int, default=3, help="runs of each command; the least counts (default 3)")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens, frames = str(Path(folder, "a.vtok")), str(Path(folder, "a.mp4"))
        commands = {
            "help": ["--help"],
            "encode": ["encode", str(options.video), "-o", tokens, "--duration", "1", "--force"],
            "decode": ["decode", tokens, "-o", frames, "--force"],
        }
        for name, command in commands.items():
            cpu, wall = (min(times) for times in zip(*(measure(command) for _ in range(options.runs)), strict=True))
            goal = GOALS[name]
            rows.append(
                {
                    "command": name,
                    "cpu_seconds": cpu,
                    "wall_seconds": wall,
                    "goal_cpu_seconds": goal,
                    "met": cpu <= goal,
                }
            )
    if options.json:
        write_json(options.json, rows)
    table = Table("command", "CPU s", "wall s", "goal CPU s")
    for row in rows:
        table.add_row(
            row["command"], *(f"{row[key]:.2f}" for key in ("cpu_seconds", "wall_seconds", "goal_cpu_seconds"))
        )
    Console().print(table)


if __name__ == "__main__":
    main()
