"""Which videos a benchmark runs on."""

import argparse
from pathlib import Path

from codec import MediaError
from videotok.inputs import video_files


def add_footage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `VIDEOS…` and `--json OUT`, the same for every benchmark."""
    parser.add_argument("videos", nargs="+", type=Path, help="video files, or folders of them")
    parser.add_argument("--json", type=Path, help="write the rows to this file")


def footage(paths: list[Path]) -> list[Path]:
    """Return the files of `paths`, folders replaced by the videos in them, in order of name.

    Raises:
        SystemExit: a path does not exist, or there is no video.
    """
    try:
        return video_files(paths)
    except MediaError as error:
        raise SystemExit(str(error)) from error
