"""Names of video and photograph files, and the videos of a folder."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from codec import MediaError

VIDEO_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".3g2", ".3gp", ".asf", ".avc", ".avi", ".dv", ".f4v", ".flv", ".gif"),
        *(".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg"),
        *(".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu"),
        *(".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    }
)
"""Suffixes by which a scan of a folder finds videos. A file that is named is read whatever its suffix."""
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass
class FolderScan:
    """Videos among files, and how many files of each suffix are none by their names."""

    videos: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return left_out_message(self.left_out)


def left_out_message(left_out: Counter[str]) -> str:
    """Return one line on the files that a scan left out; empty where there are none."""
    if not left_out:
        return ""
    kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in left_out.most_common(8))
    more = " …" if len(left_out) > 8 else ""
    return f"{left_out.total()} files left out that are no videos by their names: {kinds}{more}"


def scan_for_videos(paths: Iterable[Path]) -> FolderScan:
    """Return the files of `paths`, with folders replaced by the videos below them in order of name.

    Raises:
        MediaError: a path does not exist, or a folder holds no video.
    """
    scan = FolderScan()
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path} does not exist; name video files or folders of them")
        if not path.is_dir():
            scan.videos.append(path)
            continue
        files = sorted(file for file in path.rglob("*") if file.is_file())
        inside = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        scan.left_out.update(file.suffix.lower() for file in files if file.suffix.lower() not in VIDEO_SUFFIXES)
        if not inside:
            raise MediaError(
                f"no video in {path}: {len(files)} files, no name ends as those of videos (.mp4, .mkv, .webm …); "
                "name the files themselves"
            )
        scan.videos += inside
    return scan


def video_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files of `paths`, with folders replaced by the videos below them; see `scan_for_videos`."""
    return scan_for_videos(paths).videos
