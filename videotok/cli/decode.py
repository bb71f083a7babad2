"""`videotok decode`: a .vtok file to a video file."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from videotok.cli.console import Refusal, invalid_options_refused, parse_size, progress_bar, refuse_unwritable
from videotok.config import DecodeConfig, KeyframeSource

if TYPE_CHECKING:
    import numpy as np

    from codec import VideoWriter
    from videotok.evaluation import ComparedClip, ReconstructionFigures
    from videotok.tokens import VideoTokens

QUALITY = {"preset": "medium", "crf": "18"}
RUNG_TITLES = {
    "hold": "hold (keyframe held still)",
    "warp": "warp (along the motion)",
    "bidirectional": "two-way warp (next keyframe too)",
    "detokenized": "detokenized",
}


def decode(
    file: Annotated[Path, typer.Argument(help="The .vtok file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The video file; NAME-decoded.mp4 by default."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")] = False,
    compare: Annotated[
        Path | None,
        typer.Option(help="The source: print how near the result comes, and write both side by side."),
    ] = None,
    keyframes_from: Annotated[
        Path | None, typer.Option(help="The source: take keyframes from it, not from their tokens.")
    ] = None,
    keyframe_source: Annotated[
        KeyframeSource,
        typer.Option(
            help="tokens: keyframes decoded from their ids; jpeg: the stored pictures; auto: pictures if there are any."
        ),
    ] = "auto",
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT; about 256x144 pixels in the source's shape by default.")
    ] = None,
    motion_quantizers: Annotated[
        int | None, typer.Option(min=0, help="Use only so many of the file's motion levels.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Network evaluations a clip.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise that fills in what the tokens do not say.")] = 0,
    forward: Annotated[bool, typer.Option("--forward", help="Rebuild each clip from its own keyframe alone.")] = False,
    noise_rate: Annotated[
        float,
        typer.Option(
            min=0.05,
            max=1.0,
            help="Below 1: begin each clip from the last frame before it, taken back to noise (Video-LaVIT: 0.85).",
        ),
    ] = 1.0,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of other weights than the shipped ones.")] = None,
    keyframe_model: Annotated[
        Path | None, typer.Option(help="Folder of another keyframe tokenizer, such as diffusers' VQModel.")
    ] = None,
) -> None:
    """Turn tokens back into a video."""
    # not clip.mp4: that is what the source of clip.vtok is called
    place = output or file.with_name(f"{file.stem}-decoded.mp4")
    beside = place.with_name(f"{place.stem}-compare.mp4")
    for written in (place, beside) if compare else (place,):
        refuse_unwritable(written, force, file, compare, keyframes_from)
    wanted = parse_size(size) if size else None

    from videotok.bundle import Bundle
    from videotok.tokens import VideoTokens

    began = time.monotonic()
    bundle, tokens = Bundle.find(model, keyframe_model), VideoTokens.load(file)
    bundle.check(tokens)
    if motion_quantizers is not None and motion_quantizers > tokens.num_motion_quantizers:
        raise Refusal(f"--motion-quantizers {motion_quantizers}: {file} has {tokens.num_motion_quantizers} levels")

    from codec import REPRODUCIBLE, VideoWriter
    from videotok.evaluation import PANELS, ReconstructionFigures, compared, source_clips
    from videotok.image_utils import display_size
    from videotok.pipeline import VideoTokenizer

    tokenizer = VideoTokenizer(bundle)
    if forward and noise_rate < 1 and not getattr(tokenizer.detokenizer.config, "forward_residual_scale", 1):
        raise Refusal(
            f"--noise-rate {noise_rate} does nothing with --forward and these weights: forward, they warp the keyframe "
            "and add nothing; leave one of the two out, or give other weights with --model"
        )
    options = QUALITY | REPRODUCIBLE
    shown = wanted or display_size(tokens.source.width, tokens.source.height)
    with invalid_options_refused():
        config = DecodeConfig(
            size=shown,
            keyframe_source=keyframe_source,
            motion_quantizers=motion_quantizers,
            num_inference_steps=steps,
            bidirectional=not forward,
            noise_rate=noise_rate,
            seed=seed,
        )
    given = (clip.keyframe for clip in source_clips(tokens, keyframes_from)) if keyframes_from else None
    clips = tokenizer.decoded_clips(tokens, config, keyframes=given)
    figures = ReconstructionFigures()
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(place, tokens.spec.fps, shown, options=options))
        if compare:
            wide = (PANELS * shown[0], shown[1])
            panels = stack.enter_context(VideoWriter(beside, tokens.spec.fps, wide, options=options))
            both = compared(tokenizer, tokens, clips, compare, shown, config)
            rebuilt = _measured(both, figures, panels)
        else:
            rebuilt = tokenizer.rebuilt(clips, config)
        for frame in _shown(rebuilt, tokens):
            writer.write(frame)
    took = time.monotonic() - began
    print(
        f"{place}: {writer.num_frames} frames, {shown[0]}x{shown[1]} at {tokens.spec.fps} fps, "
        f"{tokens.duration_seconds:.2f} s of video, {took:.1f} s taken"
    )
    if compare:
        print(f"{beside}: the source, its two-way warp and the result side by side")
        print_table(
            figures,
            "the source"
            if given
            else "pictures"
            if tokens.pictures and keyframe_source != "tokens"
            else "their tokens",
        )


def _measured(
    clips: "Iterable[ComparedClip]", figures: "ReconstructionFigures", panels: "VideoWriter"
) -> "Iterator[np.ndarray]":
    """The rebuilt frames of each clip, after it was counted and drawn beside its source."""
    from videotok.evaluation import side_by_side

    for clip in clips:
        figures.add(clip)
        for picture in side_by_side(clip):
            panels.write(picture)
        yield clip.rungs["detokenized"]


def _shown(clips: "Iterable[np.ndarray]", tokens: "VideoTokens") -> "Iterator[np.ndarray]":
    """Frame after frame, with a progress bar."""
    seconds = tokens.duration_seconds
    with progress_bar() as bar:
        task = bar.add_task("decode", total=seconds, of=f"{seconds:.1f}")
        for frames in clips:
            yield from frames
            bar.advance(task, float(len(frames) / tokens.spec.fps))


def print_table(figures: "ReconstructionFigures", keyframes: str) -> None:
    """The ladder: what each step adds. `keyframes`: where they come from."""
    table = Table(title=f"Against the source, keyframes from {keyframes}")
    table.add_column("")
    table.add_column("PSNR dB", justify="right")
    table.add_column("SSIM", justify="right")
    for name, psnr, ssim in figures.rows():
        table.add_row(RUNG_TITLES[name], f"{psnr:.2f}", f"{ssim:.3f}")
    Console().print(table)
