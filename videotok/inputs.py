"""What a user names as input: video files, folders of them, standard input, FIFOs, URLs.

FFmpeg reads only local files: what is none is copied to a temporary file first, and a name is never taken for a
protocol or a pattern if there is a file of that name.
"""

import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from codec import MediaError, local_file
from videotok.errors import one_line

STANDARD_INPUT = "-"
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
MAX_SUFFIX = 16
"""Characters of a suffix that a temporary copy has too."""


@dataclass(frozen=True)
class LocalFile:
    """A file that FFmpeg can open, and the name that people know it by."""

    path: Path
    name: str


def path_exists(source: str) -> bool:
    """Return whether there is something at a path; no for a name that no file can have."""
    try:
        return Path(source).exists()
    except (OSError, ValueError):  # the name is too long, or has a null character
        return False


def is_url(source: str) -> bool:
    """Return whether a text is a URL such as `https://…` and not the path of a file that exists."""
    scheme, separator, _ = source.partition("://")
    return bool(separator and scheme.isascii() and scheme[:1].isalpha()) and not path_exists(source)


def url_name(url: str) -> str:
    """Return the file name in a URL, without what follows a question mark."""
    return PurePosixPath(unquote(urlsplit(url).path)).name.replace("\0", "") or "video"


@contextmanager
def local_input(source: str) -> Iterator[LocalFile]:
    """Yield a local file with the content of `source`; a copy is removed afterwards.

    Args:
        source: a path; `-` for standard input; or a URL that fsspec understands.

    Raises:
        MediaError: there is no such file, it cannot be read, or the packages for its protocol are missing. One that is
            raised in the block and names the copy is changed to name the source.
    """
    if source == STANDARD_INPUT and not path_exists(source):
        if sys.stdin.isatty():
            raise MediaError("cannot read standard input: it is a terminal; pipe a video into it, or name a file")
        with local_file(sys.stdin.buffer) as path:
            yield LocalFile(path, "stdin")
    elif is_url(source):
        name = url_name(source)
        with _temporary(source, PurePosixPath(name).suffix) as path:
            _download(source, path)
            yield LocalFile(path, name)
    elif _is_fifo(source):
        with Path(source).open("rb") as stream, local_file(stream) as path:
            yield LocalFile(path, Path(source).name)
    else:
        check_readable(source)
        yield LocalFile(Path(source), Path(source).name)


def check_readable(path: str | Path) -> None:
    """Check that a path names a regular file.

    Raises:
        MediaError: it does not; says what is there.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError as error:
        raise MediaError(f"cannot read {path}: no such file; give the path of a video or picture") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise MediaError(f"cannot read {path or '.'}: it is a directory; give the path of a video or picture")
    if not stat.S_ISREG(mode):
        raise MediaError(f"cannot read {path}: it is a device or a socket; give the path of a video or picture")


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


def _is_fifo(source: str) -> bool:
    return path_exists(source) and stat.S_ISFIFO(Path(source).stat().st_mode)


@contextmanager
def _temporary(source: str, suffix: str) -> Iterator[Path]:
    """Yield the path of an empty temporary file for the content of `source`.

    Raises:
        MediaError: it cannot be created; and those of the block, with `source` instead of the path.
    """
    usable = suffix if len(suffix) <= MAX_SUFFIX and suffix.isascii() else ""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="videotok-", suffix=usable))
        except OSError as error:
            raise MediaError(f"cannot copy {source} to {tempfile.gettempdir()}: {error.strerror}") from error
        try:
            yield Path(file.name)
        except MediaError as error:
            raise MediaError(str(error).replace(file.name, source)) from error


def _download(url: str, path: Path) -> None:
    """Write the content of a URL to a file.

    Raises:
        MediaError: fsspec or a package that it needs is missing, or the content cannot be read.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MediaError(f"cannot read {url}: URLs need fsspec; pip install 'videotok[corpus]'") from error
    try:
        filesystem, place = url_to_fs(url)
        filesystem.get_file(place, str(path))
    except ImportError as error:
        raise MediaError(f"cannot read {url}: {one_line(error)}") from error
    except FileNotFoundError as error:
        raise MediaError(f"cannot read {url}: there is no such file; check the address") from error
    except Exception as error:  # of the many libraries behind fsspec, none of which share a base class
        raise MediaError(f"cannot read {url}: {one_line(error)}; check the address and the network") from error
