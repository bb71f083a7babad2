"""`videotok encode`: a video file to a .vtok file."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videotok.cli.console import (
    Refusal,
    counted,
    invalid_options_refused,
    print_line,
    progress_bar,
    refuse_unwritable,
)
from videotok.cli.options import (
    RATE,
    READING,
    Device,
    Duration,
    Force,
    Fps,
    KeepRatio,
    KeyframeModel,
    Model,
    MotionQuantizers,
    MotionSource,
    RefinementSteps,
    SplitAtCuts,
    Start,
    Stream,
    Threads,
)
from videotok.config import EncodeConfig, KeyframeStorage, PatchSelection
from videotok.errors import printable, utf8_name

if TYPE_CHECKING:
    from videotok.bundle import Bundle
    from videotok.inputs import LocalFile
    from videotok.tokens import VideoTokens

DEFAULTS = EncodeConfig()


def encode(
    video: Annotated[
        str,
        typer.Argument(help="Any video file that FFmpeg reads, or a picture; - for standard input; or a URL."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .vtok file to write; beside the video by default.")
    ] = None,
    force: Force = False,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            help="Tokens of all kinds per second of video: they go to motion and keyframes where they help most. "
            "--motion-quantizers is then the most that a clip has.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.tokens_per_second,
    tokens_per_keyframe: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Visual tokens per keyframe on average; keyframes with more detail get more.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.tokens_per_keyframe,
    keep_ratio: KeepRatio = DEFAULTS.keep_ratio,
    motion_quantizers: MotionQuantizers = DEFAULTS.motion_quantizers,
    fps: Fps = str(DEFAULTS.fps),
    predict_keyframes: Annotated[
        bool,
        typer.Option(help="Encode of a keyframe only what the clip before does not predict.", rich_help_panel=RATE),
    ] = DEFAULTS.predict_keyframes,
    refinement_steps: RefinementSteps = DEFAULTS.refinement_steps,
    patch_selection: Annotated[
        PatchSelection,
        typer.Option(
            help="sample: draw the kept patches at random; only with the published Video-LaVIT weights.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.patch_selection,
    seed: Annotated[int, typer.Option(help="Seed of --patch-selection sample.", rich_help_panel=RATE)] = DEFAULTS.seed,
    keyframe_storage: Annotated[
        KeyframeStorage,
        typer.Option(
            help="jpeg: store the keyframes as JPEG files too, for decoding with exact pictures.", rich_help_panel=RATE
        ),
    ] = DEFAULTS.keyframe_storage,
    jpeg_quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality of stored keyframes.", rich_help_panel=RATE)
    ] = DEFAULTS.jpeg_quality,
    start: Start = DEFAULTS.start_seconds,
    duration: Duration = DEFAULTS.duration_seconds,
    max_clips: Annotated[
        int | None, typer.Option(min=1, help="Clips to encode at most; all by default.", rich_help_panel=READING)
    ] = DEFAULTS.max_clips,
    split_at_cuts: SplitAtCuts = DEFAULTS.split_at_cuts,
    motion_source: MotionSource = DEFAULTS.motion_source,
    stream: Stream = DEFAULTS.stream,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate", help="Decode the video in a child process, for files from strangers.", rich_help_panel=READING
        ),
    ] = DEFAULTS.isolate,
    model: Model = None,
    keyframe_model: KeyframeModel = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Turn a video into tokens."""
    with invalid_options_refused():
        config = EncodeConfig(
            fps=fps,  # pyright: ignore[reportArgumentType]
            keep_ratio=keep_ratio,
            tokens_per_keyframe=tokens_per_keyframe,
            tokens_per_second=tokens_per_second,
            predict_keyframes=predict_keyframes,
            keyframe_storage=keyframe_storage,
            jpeg_quality=jpeg_quality,
            refinement_steps=refinement_steps,
            patch_selection=patch_selection,
            seed=seed,
            motion_quantizers=motion_quantizers,
            motion_source=motion_source,
            start_seconds=start,
            duration_seconds=duration,
            max_clips=max_clips,
            stream=stream,
            split_at_cuts=split_at_cuts,
            isolate=isolate,
        )
    from videotok.inputs import PHOTO_SUFFIXES, VIDEO_SUFFIXES, local_input

    path = output or default_output(video)
    refuse_unwritable(path, force, video)
    if path.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES:
        raise Refusal(f"{path} is the name of a video or picture; name a .vtok file with -o")

    from videotok.bundle import Bundle

    began = time.monotonic()
    bundle = Bundle.find(model, keyframe_model)
    with local_input(video) as file:
        tokens = _encode_file(file, config, bundle, device, threads)
    tokens.save(path)
    print_line(summary_line(path, tokens, time.monotonic() - began))


def _encode_file(
    file: "LocalFile", config: EncodeConfig, bundle: "Bundle", device: str, threads: int | None
) -> "VideoTokens":
    """Encode a file, with a progress bar."""
    from codec import ClipSpec
    from videotok.threads import planned_threads, set_up_cpu
    from videotok.video_reading import open_video

    # a file that is no video is refused at once, and others are read while torch and the models are loaded
    has_cores = planned_threads(threads) > 1
    with open_video(file.path, ClipSpec(fps=config.fps), config, beside_imports=has_cores) as opened:
        from videotok.pipeline import VideoTokenizer

        set_up_cpu(threads)
        tokenizer = VideoTokenizer(bundle, device=device)
        with invalid_options_refused():
            tokenizer.check(config)
        with progress_bar() as bar:
            task = bar.add_task(printable(file.name), total=None, of="?")

            def show(done: float, total: float | None) -> None:
                bar.update(task, completed=done, total=total, of="?" if total is None else f"{total:.1f}")

            tokens = tokenizer.encode(opened, progress=show)
    return replace(tokens, source=replace(tokens.source, file=utf8_name(file.name)))


def default_output(video: str) -> Path:
    """Return the .vtok file beside a video, or in the current folder for a URL.

    Raises:
        Refusal: the video has no name; or it is a folder.
    """
    from videotok.inputs import STANDARD_INPUT, is_url, url_name

    if is_url(video):
        return Path(url_name(video)).with_suffix(".vtok")
    path = Path(video)
    if path.is_dir():
        raise Refusal(
            f"{video or '.'} is a folder; name a video file, or encode the folder with `videotok corpus encode`"
        )
    if video == STANDARD_INPUT and not path.exists():
        raise Refusal("standard input has no name; name the output with -o")
    return path.with_suffix(".vtok")


def summary_line(path: Path, tokens: "VideoTokens", seconds: float) -> str:
    """Return one line on what was encoded, and how fast."""
    counts = tokens.visual_counts
    damaged = f" ({tokens.damaged.sum()} of them damaged)" if tokens.damaged.any() else ""
    skipped = f", {tokens.skip_mask.mean():.0%} of patches predicted" if tokens.skip_mask.any() else ""
    return (
        f"{path}: {counted(tokens.num_clips, 'clip')}{damaged}, {counted(len(tokens.visual_ids), 'visual token')} "
        f"({counts.min()}/{counts.mean():.0f}/{counts.max()} per keyframe{skipped}), "
        f"{counted(tokens.motion_counts.sum(), 'motion token')}, "
        f"{tokens.tokens_per_second:.0f} tokens/s of video, "
        f"{seconds:.1f} s taken, {tokens.duration_seconds / seconds:.1f} times real time"
    )
