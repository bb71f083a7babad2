"""Names of video and photograph files, and the videos of a folder."""

from collections.abc import Iterable
from pathlib import Path

from codec import MediaError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".264", ".h264"})
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def video_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of `paths`, with folders replaced by the videos below them in order of name.

    Raises:
        MediaError: a path does not exist, or a folder holds no video.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path} does not exist; name video files or folders of them")
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        if not inside:
            raise MediaError(f"no video in {path}; names of videos end in {', '.join(sorted(VIDEO_SUFFIXES))}")
        files += inside
    return files
