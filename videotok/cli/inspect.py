"""`videotok inspect`: what a video's motion looks like, what its tokens say, what a word stands for."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from videotok.cli.inspect_tokens import Request, tokens_page, word_page
from videotok.cli.terminal import Refusal, parse_fps, progress_bar, refuse_unwritable

if TYPE_CHECKING:
    from codec import Clip

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
    from videotok.report.motion import FILM_SIDE, SHEET_CLIPS, TILE_SIDE, fitted, write_film, write_sheet

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
