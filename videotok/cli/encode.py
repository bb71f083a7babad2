"""`videotok encode`: a video file to a .vtok file."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videotok.cli.console import (
    Device,
    Refusal,
    Threads,
    invalid_options_refused,
    print_line,
    progress_bar,
    refuse_unwritable,
)
from videotok.config import EncodeConfig, KeyframeStorage, MotionSourceChoice, PatchSelection
from videotok.errors import printable, utf8_name

if TYPE_CHECKING:
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
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    fps: Annotated[
        str, typer.Option(help="Frames per second of the clips, such as 12 or 30000/1001; 6 for understanding.")
    ] = str(DEFAULTS.fps),
    keep_ratio: Annotated[
        float | None, typer.Option(help="Share of a keyframe's patches to keep on average, above 0 to 1.")
    ] = DEFAULTS.keep_ratio,
    tokens_per_keyframe: Annotated[
        int | None,
        typer.Option(
            min=1, help="Visual tokens per keyframe on average, instead of --keep-ratio; hard keyframes get more."
        ),
    ] = DEFAULTS.tokens_per_keyframe,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            help="Tokens of all kinds per second of video, instead of --keep-ratio: they go to motion and keyframes "
            "where they help most. --motion-quantizers is then the most that a clip has."
        ),
    ] = DEFAULTS.tokens_per_second,
    predict_keyframes: Annotated[
        bool, typer.Option(help="Encode of a keyframe only what the clip before does not predict.")
    ] = DEFAULTS.predict_keyframes,
    keyframe_storage: Annotated[
        KeyframeStorage, typer.Option(help="jpeg: store the keyframes as JPEG files too, for exact pictures.")
    ] = DEFAULTS.keyframe_storage,
    jpeg_quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality of stored keyframes.")
    ] = DEFAULTS.jpeg_quality,
    refinement_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of code refinement; 4 gain about 0.4 dB and take several times as long."),
    ] = DEFAULTS.refinement_steps,
    motion_quantizers: Annotated[
        int | None, typer.Option(min=0, help="Residual quantizers of motion ids; more follow the motion more closely.")
    ] = DEFAULTS.motion_quantizers,
    motion_source: Annotated[
        MotionSourceChoice,
        typer.Option(
            help="native: the stream's own motion vectors; reencode: those of an x264 re-encoding; auto: native where "
            "there are any; mpeg4: as the published Video-LaVIT weights expect."
        ),
    ] = DEFAULTS.motion_source,
    patch_selection: Annotated[
        PatchSelection,
        typer.Option(help="sample: draw the kept patches at random; only with the published Video-LaVIT weights."),
    ] = DEFAULTS.patch_selection,
    seed: Annotated[int, typer.Option(help="Seed of --patch-selection sample.")] = DEFAULTS.seed,
    start: Annotated[float, typer.Option(min=0, help="Where to begin, in seconds.")] = DEFAULTS.start_seconds,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of video to encode; to the end by default.")
    ] = DEFAULTS.duration_seconds,
    max_clips: Annotated[
        int | None, typer.Option(min=1, help="Clips to encode at most; all by default.")
    ] = DEFAULTS.max_clips,
    stream: Annotated[
        int | None,
        typer.Option(
            min=0, help="Index of the video stream in the file, as ffprobe shows it; its default one by default."
        ),
    ] = DEFAULTS.stream,
    split_at_cuts: Annotated[
        bool, typer.Option("--split-at-cuts", help="Begin a new clip at every scene cut.")
    ] = DEFAULTS.split_at_cuts,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Decode the video in a child process, for files from strangers.")
    ] = DEFAULTS.isolate,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of the weights; those that ship by default.")
    ] = None,
    keyframe_model: Annotated[
        Path | None, typer.Option(help="Folder of another keyframe tokenizer, such as a diffusers VQModel.")
    ] = None,
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
    path = output or default_output(video)
    refuse_unwritable(path, force, video)

    from codec import probe, probe_isolated
    from videotok.bundle import Bundle
    from videotok.inputs import local_input

    began = time.monotonic()
    bundle = Bundle.find(model, keyframe_model)
    with local_input(video) as file:
        # a file that is no video is refused at once, and not after torch is loaded
        (probe_isolated if isolate else probe)(file.path, stream)

        from videotok.pipeline import VideoTokenizer
        from videotok.threads import set_up_cpu

        set_up_cpu(threads)
        tokenizer = VideoTokenizer(bundle, device=device)
        with invalid_options_refused():
            tokenizer.check(config)
        with progress_bar() as bar:
            task = bar.add_task(printable(file.name), total=None, of="?")

            def show(done: float, total: float | None) -> None:
                bar.update(task, completed=done, total=total, of="?" if total is None else f"{total:.1f}")

            tokens = tokenizer.encode(file.path, config, progress=show)
        tokens = replace(tokens, source=replace(tokens.source, file=utf8_name(file.name)))
    tokens.save(path)
    print_line(summary_line(path, tokens, time.monotonic() - began))


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
        f"{path}: {tokens.num_clips} clips{damaged}, {len(tokens.visual_ids)} visual tokens "
        f"({counts.min()}/{counts.mean():.0f}/{counts.max()} per keyframe{skipped}), "
        f"{tokens.motion_counts.sum()} motion tokens, "
        f"{tokens.tokens_per_second:.0f} tokens/s of video, "
        f"{seconds:.1f} s taken, {tokens.duration_seconds / seconds:.1f} times real time"
    )
