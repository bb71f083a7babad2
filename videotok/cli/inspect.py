"""`videotok inspect --tokens` and `--word`: pages that show what tokens say.

`videotok inspect`: what a video's motion looks like, what its tokens say, what a word stands for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from videotok.cli.console import Refusal, parse_fps, progress_bar, refuse_unwritable
from videotok.config import EncodeConfig

if TYPE_CHECKING:
    from codec import Clip
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
        EncodeConfig(
            fps=request.fps,
            motion_source=request.motion_source,
            start_seconds=request.start,
            duration_seconds=request.duration,
            max_clips=request.max_clips or PAGE_CLIPS,
        ),
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
    from videotok.report.tokens import gather_word, write_word_page

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


FILMS, SHEETS = {".mp4", ".mkv", ".mov"}, {".png", ".jpg", ".webp"}


def inspect(
    videos: Annotated[
        list[Path],
        typer.Argument(help="A video file; a .vtok file with --tokens; several, or folders of them, with --word."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A film (.mp4) or a sheet of a few clips (.png), NAME-motion.mp4 by default; of tokens, a .html page.",
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="A page of what the tokens say, keyframe by keyframe.")
    ] = False,
    word: Annotated[int | None, typer.Option(help="A page of the patches that this visual word stands for.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="The video a .vtok file was made from, to show beside it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    fps: Annotated[str, typer.Option(help="Frames a second of a clip's 24 frames.")] = "12",
    motion_source: Annotated[
        Literal["auto", "native", "reencode", "mpeg4"],
        typer.Option(help="The stream's own vectors, those of a re-encoding, or the first where there are any."),
    ] = "auto",
    split_cuts: Annotated[bool, typer.Option("--split-cuts", help="Begin a new clip with every new scene.")] = False,
    start: Annotated[float, typer.Option(min=0, help="Seconds of the video to leave out.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds of the video to show.")] = None,
    max_clips: Annotated[
        int | None,
        typer.Option(
            min=1, help="Clips to show at most; 4 on a sheet, 12 on a page, 8 a video for a word if not given."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of weights for --tokens and --word.")] = None,
    keyframe_model: Annotated[Path | None, typer.Option(help="Folder of another keyframe tokenizer for them.")] = None,
) -> None:
    """Draw a video's motion over its frames, or what its tokens say: is it right?"""
    if duration is not None and duration <= 0:
        raise Refusal(f"--duration {duration} must be above 0 seconds")
    if word is None and len(videos) > 1:
        raise Refusal(f"{len(videos)} files are given; only --word looks at several, name one")
    spec_fps = parse_fps(fps)
    if tokens or word is not None:
        request = Request(output, force, spec_fps, motion_source, start, duration, max_clips, model, keyframe_model)
        return tokens_page(videos[0], source, request) if word is None else word_page(word, videos, request)
    video = videos[0]
    place = output or video.with_name(f"{video.stem}-motion.mp4")
    suffix = place.suffix.lower()
    if suffix not in FILMS | SHEETS:
        raise Refusal(
            f"{place}: a film is written to {', '.join(sorted(FILMS))}, a sheet to {', '.join(sorted(SHEETS))}"
        )
    refuse_unwritable(place, force, video)

    from codec import ClipSpec, iter_clips, probe
    from videotok.report.overlay import FILM_SIDE, SHEET_CLIPS, TILE_SIDE, fitted, write_film, write_sheet

    info = probe(video)
    is_film = suffix in FILMS
    size = fitted(info, FILM_SIDE if is_film else TILE_SIDE)
    spec = ClipSpec(fps=spec_fps)
    clips = iter_clips(
        video,
        spec,
        frames=True,
        frame_size=size,
        motion_source=motion_source,
        start_seconds=start,
        duration_seconds=duration,
        max_clips=max_clips if is_film or max_clips else SHEET_CLIPS,
        split_at_cuts=split_cuts,
    )
    with progress_bar() as bar:
        total = info.duration_seconds
        task = bar.add_task(video.name, total=total, of="?" if total is None else f"{total:.1f}")

        def counted() -> "Iterator[Clip]":
            for clip in clips:
                yield clip
                bar.update(task, completed=clip.pts_seconds - start + float(clip.num_frames / spec.fps))

        write = write_film if is_film else write_sheet
        number = write(counted(), size, spec, video.name, place)
    print(f"{place}: {number} clips of {info.width}x{info.height} {info.codec}, motion of {motion_source}")
