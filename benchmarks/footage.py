"""Which videos a benchmark runs on."""

import argparse
from pathlib import Path

from videotok.training.prepare import VIDEO_SUFFIXES


def add_footage_arguments(parser: argparse.ArgumentParser) -> None:
    """`VIDEOS…` and `--json OUT`, the same for every benchmark."""
    parser.add_argument("videos", nargs="+", type=Path, help="video files, or folders of them")
    parser.add_argument("--json", type=Path, help="write the rows to this file")


def footage(paths: list[Path]) -> list[Path]:
    """Files of `paths`, folders replaced by the videos below them, in order of name.

    Raises:
        SystemExit: a path does not exist, or there is no video.
    """
    for path in paths:
        if not path.exists():
            raise SystemExit(f"{path} does not exist")
    files = [path for path in paths if path.is_file()]
    for folder in (path for path in paths if path.is_dir()):
        files += sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise SystemExit(f"no video in {', '.join(map(str, paths))}")
    return files
