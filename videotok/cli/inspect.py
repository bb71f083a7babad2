"""`videotok inspect`: a video's motion drawn over its frames, what its tokens hold, what a visual code stands for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videotok.cli.console import (
    Refusal,
    beside,
    counted,
    invalid_options_refused,
    print_line,
    print_note,
    progress_bar,
    refuse_unwritable,
)
from videotok.cli.options import (
    READING,
    Device,
    Duration,
    Force,
    Fps,
    KeyframeModel,
    Model,
    MotionSource,
    SplitAtCuts,
    Start,
    Stream,
    Threads,
)
from videotok.config import EncodeConfig
from videotok.errors import printable

if TYPE_CHECKING:
    from codec import Clip, ClipSpec
    from videotok.pipeline import Progress, VideoTokenizer
    from videotok.tokens import VideoTokens

VIDEO_SUFFIXES, SHEET_SUFFIXES, PAGE_SUFFIXES = {".mp4", ".mkv", ".mov"}, {".png", ".jpg", ".webp"}, {".html", ".htm"}
PAGE_KEYFRAMES = 12
"""Keyframes on a page of tokens where the caller does not say: pictures and videos are inside the file."""
MAX_KEPT_CLIPS = 24
"""Clips whose frames are kept for a page of tokens; for more of them the video is read again."""
DEFAULTS = EncodeConfig()
CODE_CLIPS = 8
"""Keyframes of a video that are searched for a code where the caller does not say."""


@dataclass(frozen=True)
class Request:
    """What the three kinds of inspection have in common."""

    output: Path | None
    force: bool
    config: EncodeConfig
    max_keyframes: int
    """Keyframes on a page of tokens at most."""
    model: str | None
    keyframe_model: Path | None
    device: str
    threads: int | None


def inspect(
    videos: Annotated[
        list[Path],
        typer.Argument(help="A video file; a .vtok file with --tokens; several files or folders of them with --code."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A video (.mp4) or a contact sheet (.png), NAME-motion.mp4 by default; else a .html page.",
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Write a page of what the tokens hold, keyframe by keyframe.")
    ] = False,
    code: Annotated[
        int | None, typer.Option(help="Write a page of the patches that this visual code stands for.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="The video that a .vtok file was made from, to show it beside the tokens.")
    ] = None,
    force: Force = False,
    max_keyframes: Annotated[
        int, typer.Option(min=1, help="Keyframes on a page of tokens at most; the first ones.")
    ] = PAGE_KEYFRAMES,
    start: Start = DEFAULTS.start_seconds,
    duration: Duration = DEFAULTS.duration_seconds,
    max_clips: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Clips to read at most; by default 4 for a sheet, --max-keyframes for a page, 8 for a code.",
            rich_help_panel=READING,
        ),
    ] = None,
    split_at_cuts: SplitAtCuts = DEFAULTS.split_at_cuts,
    fps: Fps = str(DEFAULTS.fps),
    motion_source: MotionSource = DEFAULTS.motion_source,
    stream: Stream = DEFAULTS.stream,
    model: Model = None,
    keyframe_model: KeyframeModel = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Draw a video's motion over its frames, or show what its tokens hold."""
    if code is None and len(videos) > 1:
        raise Refusal(f"{len(videos)} files are given; only --code searches several, name one")
    with invalid_options_refused():
        config = EncodeConfig(
            fps=fps,  # pyright: ignore[reportArgumentType]
            motion_source=motion_source,
            start_seconds=start,
            duration_seconds=duration,
            max_clips=max_clips,
            stream=stream,
            split_at_cuts=split_at_cuts,
        )
    request = Request(output, force, config, max_keyframes, model, keyframe_model, device, threads)
    if code is not None:
        inspect_code(code, videos, request)
    elif tokens:
        inspect_tokens(videos[0], source, request)
    else:
        inspect_motion(videos[0], request)


def inspect_motion(video: Path, request: Request) -> None:
    """Write the motion of a video as a video or as a contact sheet."""
    from videotok.vtok import is_vtok

    path = request.output or beside(video, "-motion.mp4")
    suffix = path.suffix.lower()
    if is_vtok(video):
        raise Refusal(f"{video} holds tokens and no motion vectors; give --tokens to see what they hold")
    if suffix not in VIDEO_SUFFIXES | SHEET_SUFFIXES:
        raise Refusal(
            f"{path}: motion is drawn into a video ({', '.join(sorted(VIDEO_SUFFIXES))}) or a contact sheet "
            f"({', '.join(sorted(SHEET_SUFFIXES))}); name one with -o"
        )
    refuse_unwritable(path, request.force, video)

    from codec import ClipSpec, iter_clips, probe
    from videotok.report.overlay import (
        SHEET_CLIPS,
        TILE_SIDE,
        VIDEO_SIDE,
        fit_size,
        write_contact_sheet,
        write_motion_video,
    )

    config, is_video = request.config, suffix in VIDEO_SUFFIXES
    info = probe(video, config.stream)
    size = fit_size(info, VIDEO_SIDE if is_video else TILE_SIDE)
    spec = ClipSpec(fps=config.fps)
    clips = iter_clips(
        video,
        spec,
        frames=True,
        frame_size=size,
        motion_source=config.motion_source,
        start_seconds=config.start_seconds,
        duration_seconds=config.duration_seconds,
        max_clips=config.max_clips or (None if is_video else SHEET_CLIPS),
        split_at_cuts=config.split_at_cuts,
        stream=config.stream,
    )
    shown = _with_progress(clips, spec, config.start_seconds, info.duration_seconds, video.name)
    write = write_motion_video if is_video else write_contact_sheet
    number = write(shown, size, spec, video.name, path)
    stream = f"{info.width}x{info.height} {info.codec}"
    print_line(f"{path}: {counted(number, 'clip')} of {stream}, motion of {config.motion_source}")


def _with_progress(
    clips: "Iterator[Clip]", spec: "ClipSpec", start: float, total: float | None, name: str
) -> "Iterator[Clip]":
    """Yield clips, and show on a progress bar how far they are."""
    with progress_bar() as bar:
        task = bar.add_task(printable(name), total=total, of=_seconds(total))
        for clip in clips:
            yield clip
            bar.update(task, completed=clip.pts_seconds - start + float(clip.num_frames / spec.fps))


def inspect_tokens(file: Path, source: Path | None, request: Request) -> None:
    """Write the page of a .vtok file, with or without its `source`, or of a video, which is encoded first."""
    from videotok.vtok import is_vtok

    is_tokens, config = is_vtok(file) or file.suffix.lower() == ".vtok", request.config
    _check_options_of_tokens(file, source, config, is_tokens=is_tokens)
    path = request.output or beside(file, "-tokens.html")
    _refuse_page(path, request, file, source)

    from dataclasses import replace

    from codec import probe
    from videotok.bundle import Bundle
    from videotok.tokens import VideoTokens

    bundle = Bundle.find(request.model, request.keyframe_model)
    tokens, shown = VideoTokens.load(file) if is_tokens else None, source
    total = None
    if tokens is None:
        # a file that is no video is refused at once, and not after torch is loaded
        total = probe(file, config.stream).duration_seconds

    from videotok.pipeline import VideoTokenizer
    from videotok.report.tokens import write_tokens_page
    from videotok.threads import set_up_cpu

    set_up_cpu(request.threads)
    tokenizer, max_keyframes = VideoTokenizer(bundle, device=request.device), request.max_keyframes
    with progress_bar() as bar:
        if tokens is None:
            task = bar.add_task(printable(f"encode {file.name}"), total=None, of="?")
            tokens, shown = _encoded_with_clips(
                tokenizer,
                file,
                replace(config, max_clips=config.max_clips or max_keyframes),
                lambda done, total: bar.update(task, completed=done, total=total, of=_seconds(total)),
            )
            bar.remove_task(task)
        seconds = float(tokens.num_frames[:max_keyframes].sum() / tokens.spec.fps)
        task = bar.add_task(printable(f"decode {file.name}"), total=seconds, of=_seconds(seconds))
        number = write_tokens_page(
            tokenizer, tokens, shown, path, max_keyframes, progress=lambda done: bar.advance(task, done)
        )
    print_line(f"{path}: {counted(number, 'keyframe')}, {tokens.tokens_per_second:.0f} tokens/s of video")
    if number < tokens.num_clips:
        print_line(f"left out: {tokens.num_clips - number} of {tokens.num_clips} keyframes; --max-keyframes shows more")
    end = config.start_seconds + tokens.duration_seconds
    if total is not None and config.duration_seconds is None and total - end > 0.5:
        print_line(f"left out: the video after {end:.1f} of {total:.1f} s; --max-keyframes shows more")


def _encoded_with_clips(
    tokenizer: "VideoTokenizer", file: Path, config: "EncodeConfig", progress: "Progress"
) -> "tuple[VideoTokens, Path | list[Clip]]":
    """Return a video's tokens and its clips for the page, with frames; where there may be many, its file instead."""
    from dataclasses import replace

    from videotok.image_utils import DEFAULT_AREA, resize
    from videotok.report.tokens import still_size
    from videotok.video_reading import open_video

    if config.max_clips is None or config.max_clips > MAX_KEPT_CLIPS:
        return tokenizer.encode(file, config, progress=progress), file
    kept: list[Clip] = []
    with open_video(file, tokenizer.spec(config.fps), config, frame_area=DEFAULT_AREA) as video:
        size = still_size(video.info.width, video.info.height)

        def keep(clips: "Iterator[Clip]") -> "Iterator[Clip]":
            for clip in clips:
                kept.append(replace(clip, keyframe=resize(clip.keyframe, size)))
                yield clip

        tokens = tokenizer.encode(replace(video, clips=keep(video.clips)), progress=progress)
    return tokens, kept


def _check_options_of_tokens(file: Path, source: Path | None, config: "EncodeConfig", *, is_tokens: bool) -> None:
    """Refuse options that do not go with a video, or not with a .vtok file."""
    if source and not is_tokens:
        raise Refusal(f"--source {source}: {file} is a video and its own source; it goes with a .vtok file")
    if is_tokens and (config.start_seconds or config.duration_seconds or config.max_clips or config.stream is not None):
        raise Refusal(
            f"--start, --duration, --max-clips and --stream choose what is encoded; {file} is encoded already"
        )


def inspect_code(code: int, videos: list[Path], request: Request) -> None:
    """Write the page of the patches that have a code in videos, which may be folders of them."""
    path = request.output or Path(f"code-{code}.html")
    _refuse_page(path, request, *videos)

    from videotok.bundle import Bundle
    from videotok.inputs import scan_for_videos

    bundle, scan = Bundle.find(request.model, request.keyframe_model), scan_for_videos(videos)
    print_note(str(scan))
    files = scan.videos

    from videotok.pipeline import VideoTokenizer
    from videotok.report.tokens import find_code, write_code_page
    from videotok.threads import set_up_cpu

    set_up_cpu(request.threads)
    tokenizer = VideoTokenizer(bundle, device=request.device)
    with progress_bar() as bar:
        task = bar.add_task("videos", total=len(files), of=str(len(files)))
        max_clips = request.config.max_clips or CODE_CLIPS
        with invalid_options_refused():
            search = find_code(tokenizer, code, files, max_clips, lambda video: bar.advance(task))
    write_code_page(search, code, bundle.identity("keyframes").name, path)
    print_line(
        f"{path}: {counted(search.total, 'patch')} with code {code} among {counted(search.num_codes, 'code')} of "
        f"{counted(search.num_keyframes, 'keyframe')}"
    )


def _refuse_page(path: Path, request: Request, *inputs: Path | None) -> None:
    if path.suffix.lower() not in PAGE_SUFFIXES:
        raise Refusal(f"{path}: tokens are shown on a page; name a file that ends in .html with -o")
    refuse_unwritable(path, request.force, *inputs)


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f}"
