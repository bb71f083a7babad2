"""`videotok inspect --tokens` and `--word`: pages that show what tokens say."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from videotok.cli.terminal import Refusal, progress_bar, refuse_unwritable

if TYPE_CHECKING:
    from videotok.pipeline import Progress, VideoTokenizer
    from videotok.tokens import VideoTokens

PAGES = {".html", ".htm"}
PAGE_CLIPS = 12
"""Clips on a page where the caller does not say: pictures and videos are inside the file."""
WORD_CLIPS = 8
"""Keyframes a video in which a word is looked for where the caller does not say."""


@dataclass(frozen=True)
class Request:
    """The options that concern tokens."""

    output: Path | None
    force: bool
    fps: Fraction
    motion_source: Literal["auto", "native", "reencode", "mpeg4"]
    start: float
    duration: float | None
    max_clips: int | None
    model: str | None
    keyframe_model: Path | None


def tokens_page(file: Path, source: Path | None, request: Request) -> None:
    """The page of a video, which is encoded first, or of a .vtok file, with or without its `source`."""
    is_tokens = file.suffix.lower() == ".vtok"
    if source and not is_tokens:
        raise Refusal(f"--source {source}: {file} is a video and its own source; it goes with a .vtok file")
    if is_tokens and (request.start or request.duration or request.max_clips):
        raise Refusal(f"--start, --duration and --max-clips choose what is encoded; {file} is encoded already")
    place = request.output or file.with_name(f"{file.stem}-tokens.html")
    _refuse_place(place, request, file, source)

    from codec import probe
    from videotok.bundle import Bundle
    from videotok.tokens import VideoTokens

    bundle = Bundle.find(request.model, request.keyframe_model)
    tokens = VideoTokens.load(file) if is_tokens else None
    if tokens is None:
        probe(file)  # a file that is no video is refused at once, and not after torch is loaded

    from videotok.pipeline import VideoTokenizer
    from videotok.report.tokens import write_tokens_page

    tokenizer = VideoTokenizer(bundle)
    with progress_bar() as bar:
        if tokens is None:
            task = bar.add_task(f"encode {file.name}", total=None, of="?")
            tokens = _encoded(
                tokenizer,
                file,
                request,
                lambda done, total: bar.update(task, completed=done, total=total, of=_of(total)),
            )
            bar.remove_task(task)
        seconds = tokens.duration_seconds
        task = bar.add_task(f"decode {file.name}", total=seconds, of=_of(seconds))
        number = write_tokens_page(
            tokenizer, tokens, source if is_tokens else file, place, lambda done: bar.advance(task, done)
        )
    print(f"{place}: {number} keyframes, {tokens.tokens_per_second:.0f} tokens/s of video")


def _encoded(tokenizer: "VideoTokenizer", video: Path, request: Request, progress: "Progress") -> "VideoTokens":
    return tokenizer.encode(
        video,
        tokenizer.spec(request.fps),
        motion_source=request.motion_source,
        start_seconds=request.start,
        duration_seconds=request.duration,
        max_clips=request.max_clips or PAGE_CLIPS,
        progress=progress,
    )


def word_page(word: int, corpus: list[Path], request: Request) -> None:
    """The patches that a word stands for, in the videos of `corpus`, files or folders of them."""
    place = request.output or Path(f"word-{word}.html")
    _refuse_place(place, request, *corpus)

    from videotok.bundle import Bundle
    from videotok.footage import video_files

    bundle, videos = Bundle.find(request.model, request.keyframe_model), video_files(corpus)

    from videotok.pipeline import VideoTokenizer
    from videotok.report.words import gather_word, write_word_page

    tokenizer = VideoTokenizer(bundle)
    size = tokenizer.keyframe_encoder.codebook_size
    if not 0 <= word < size:
        raise Refusal(f"--word {word}: the words of this model are 0 to {size - 1}")
    with progress_bar() as bar:
        task = bar.add_task("videos", total=len(videos), of=str(len(videos)))
        sheet = gather_word(tokenizer, word, videos, request.max_clips or WORD_CLIPS, lambda video: bar.advance(task))
    write_word_page(sheet, word, bundle.identity("keyframes").name, place)
    print(f"{place}: {sheet.total} patches with word {word} among {sheet.words} in {sheet.keyframes} keyframes")


def _refuse_place(place: Path, request: Request, *inputs: Path | None) -> None:
    if place.suffix.lower() not in PAGES:
        raise Refusal(f"{place}: tokens are shown on a page; name a file that ends in .html with -o")
    refuse_unwritable(place, request.force, *inputs)


def _of(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f}"
