"""`videotok decode`: a .vtok file to a video file."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from videotok.cli.console import (
    Refusal,
    beside,
    counted,
    invalid_options_refused,
    parse_size,
    print_line,
    progress_bar,
    refuse_unwritable,
)
from videotok.cli.options import (
    RATE,
    Device,
    Dtype,
    Force,
    FrameSize,
    KeyframeModel,
    Model,
    Steps,
    Threads,
)
from videotok.config import DecodeConfig, KeyframeSource

if TYPE_CHECKING:
    import numpy as np

    from codec import VideoWriter
    from videotok.evaluation import ReconstructedClip
    from videotok.metrics import Figures
    from videotok.pipeline import VideoTokenizer
    from videotok.tokens import VideoTokens

DEFAULTS = DecodeConfig()
QUALITY = {"preset": "medium", "crf": "18"}
COMPARED_METHODS = ("repeat", "warp", "bidirectional", "detokenized")
"""Methods of `videotok.evaluation` that --compare measures."""
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
FRAMES_BEHIND = 48
"""Frames that wait to be written: two clips."""
NUM_PANELS = 3
"""Pictures side by side: the source, the bidirectional warp, the decoded frames."""


def decode(
    file: Annotated[Path, typer.Argument(help="The .vtok file.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The video file to write; NAME-decoded.mp4, or .png for a picture, by default."
        ),
    ] = None,
    force: Force = False,
    compare: Annotated[
        Path | None,
        typer.Option(help="The source video: measure how near the result comes, and write both side by side."),
    ] = None,
    keyframes_from: Annotated[
        Path | None, typer.Option(help="The source video: take the keyframes from it instead of the tokens.")
    ] = None,
    keyframe_source: Annotated[
        KeyframeSource,
        typer.Option(
            help="tokens: keyframes decoded from their ids; jpeg: the stored pictures; auto: those if there are any.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.keyframe_source,
    size: FrameSize = None,
    motion_quantizers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Use only the first so many motion quantizers of the file; all by default.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.motion_quantizers,
    steps: Steps = DEFAULTS.num_inference_steps,
    seed: Annotated[
        int, typer.Option(help="Seed of the noise that fills in what the tokens do not say.", rich_help_panel=RATE)
    ] = DEFAULTS.seed,
    bidirectional: Annotated[
        bool,
        typer.Option(
            "--bidirectional/--forward",
            help="Rebuild each clip between its own keyframe and the next one, or from its own alone.",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.bidirectional,
    noise_rate: Annotated[
        float,
        typer.Option(
            min=0.05,
            max=1.0,
            help="Below 1: begin each clip from the last frame before it, with so much noise (Video-LaVIT: 0.85).",
            rich_help_panel=RATE,
        ),
    ] = DEFAULTS.noise_rate,
    model: Model = None,
    keyframe_model: KeyframeModel = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Turn tokens back into a video."""
    with invalid_options_refused():
        config = DecodeConfig(
            size=parse_size(size) if size else None,
            keyframe_source=keyframe_source,
            motion_quantizers=motion_quantizers,
            num_inference_steps=steps,
            bidirectional=bidirectional,
            noise_rate=noise_rate,
            seed=seed,
        )

    from videotok.bundle import Bundle
    from videotok.tokens import VideoTokens

    began = time.monotonic()
    tokens = VideoTokens.load(file)
    outputs = _Outputs.choose(file, output, compare, tokens)
    for target in (outputs.path, outputs.comparison):
        if target:
            refuse_unwritable(target, force, file, compare, keyframes_from)
    bundle = Bundle.find(model, keyframe_model)
    bundle.check(tokens)
    if motion_quantizers is not None and motion_quantizers > tokens.num_motion_quantizers:
        raise Refusal(f"--motion-quantizers {motion_quantizers}: {file} has {tokens.num_motion_quantizers} quantizers")

    import torch

    from videotok.image_utils import display_size
    from videotok.pipeline import VideoTokenizer
    from videotok.threads import set_up_cpu

    set_up_cpu(threads)
    tokenizer = VideoTokenizer(bundle, device=device, dtype=None if dtype == "auto" else getattr(torch, dtype))
    if not bidirectional and noise_rate < 1 and not tokenizer.detokenizer.config.get("forward_residual_scale", 1):
        raise Refusal(
            f"--noise-rate {noise_rate} does nothing with --forward and these weights: forward, they warp the keyframe "
            "and add nothing; leave one of the two out, or give other weights with --model"
        )
    width, height = config.size or display_size(tokens.source.width, tokens.source.height)
    given = _keyframes_of(keyframes_from, tokens) if keyframes_from else None
    decoding = _Decoding(tokenizer, tokens, config, (width, height), given)
    if outputs.is_picture:
        _write_picture(decoding, outputs.path)
        print_line(f"{outputs.path}: {width}x{height}, {time.monotonic() - began:.1f} s taken")
        return
    figures: dict[str, list[Figures]] = {method: [] for method in COMPARED_METHODS}
    number = _write_video(decoding, outputs, compare, figures)
    frames = f"{counted(number, 'frame')}, {width}x{height} at {tokens.spec.fps} fps"
    seconds = time.monotonic() - began
    print_line(f"{outputs.path}: {frames}, {tokens.duration_seconds:.2f} s of video, {seconds:.1f} s taken")
    if compare:
        are_stored = tokens.pictures and keyframe_source != "tokens"
        print_line(f"{outputs.comparison}: the source, its bidirectional warp and the result side by side")
        if not any(figures.values()):
            print_line("no figures: they are of the frames after a keyframe, and there are none")
            return
        print_table(figures, "the source" if given else "stored pictures" if are_stored else "their tokens")


@dataclass(frozen=True)
class _Outputs:
    """The files to write."""

    path: Path
    comparison: Path | None
    """The video with source and result side by side; None without --compare."""

    @property
    def is_picture(self) -> bool:
        """Whether the first keyframe is written as a picture."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES

    @classmethod
    def choose(cls, file: Path, output: Path | None, compare: Path | None, tokens: "VideoTokens") -> "_Outputs":
        """Return the outputs that the options name, or those beside the .vtok file.

        Raises:
            Refusal: a picture is named, but there are more frames than one, or a comparison is asked for.
        """
        # not clip.mp4: that is what the source of clip.vtok is called
        path = output or beside(file, "-decoded.png" if tokens.is_picture else "-decoded.mp4")
        outputs = cls(path, path.with_name(f"{path.stem}-compare.mp4") if compare else None)
        if outputs.is_picture and (compare or not tokens.is_picture):
            frames = counted(int(tokens.num_frames.sum()), "frame")
            wanted = "--compare writes a video" if compare else f"{file} has {frames}"
            raise Refusal(f"{path} is a picture, but {wanted}; name a video file such as out.mp4 with -o")
        return outputs


@dataclass(frozen=True)
class _Decoding:
    """What is decoded, and how."""

    tokenizer: "VideoTokenizer"
    tokens: "VideoTokens"
    config: DecodeConfig
    size: tuple[int, int]
    """(width, height) of the frames."""
    keyframes: "Iterator[np.ndarray] | None"
    """Used instead of those of the tokens, where given."""


def _write_picture(decoding: _Decoding, path: Path) -> None:
    """Write the first keyframe as a picture."""
    from videotok.image_utils import to_uint8, write_picture

    inputs = decoding.tokenizer.detokenizer_inputs(decoding.tokens, decoding.config, keyframes=decoding.keyframes)
    write_picture(path, to_uint8(next(inputs).keyframe[:, None])[0])


def _write_video(
    decoding: _Decoding, outputs: _Outputs, source: Path | None, figures: "dict[str, list[Figures]]"
) -> int:
    """Write the frames as a video; return their number.

    Args:
        source: compared with the frames, where given: what is measured is added to `figures`, and both are written side
            by side.
    """
    from codec import REPRODUCIBLE, VideoWriter
    from videotok.background import write_behind

    tokenizer, tokens, config, given = decoding.tokenizer, decoding.tokens, decoding.config, decoding.keyframes
    width, height = decoding.size
    options = QUALITY | REPRODUCIBLE
    with ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(outputs.path, tokens.spec.fps, (width, height), options=options))
        if source and outputs.comparison:
            from videotok.evaluation import reconstruct  # metrics are slow to import

            panel_size = (NUM_PANELS * width, height)
            panels = stack.enter_context(VideoWriter(outputs.comparison, tokens.spec.fps, panel_size, options=options))
            decoded = _measured(reconstruct(tokenizer, tokens, source, config, keyframes=given), figures, panels)
        else:
            decoded = (clip.frames for clip in tokenizer.decode_clips(tokens, config, keyframes=given))
        # frames are written while the next clip is decoded
        write = stack.enter_context(write_behind(writer.write, FRAMES_BEHIND))
        for frame in _with_progress(decoded, tokens):
            write(frame)
    return writer.num_frames


def _keyframes_of(video: Path, tokens: "VideoTokens") -> "Iterator[np.ndarray]":
    """Yield the keyframes of the tokens' clips from their source video, uint8 [H, W, 3] RGB."""
    from videotok.video_reading import source_clips

    return (clip.keyframe for clip in source_clips(tokens, video))


def _measured(
    clips: "Iterable[ReconstructedClip]", figures: "dict[str, list[Figures]]", panels: "VideoWriter"
) -> "Iterator[np.ndarray]":
    """Yield the decoded frames of each clip, after it was measured and drawn beside its source."""
    from videotok.report.overlay import side_by_side

    for clip in clips:
        # the last clip has no next keyframe, and is warped from its own
        warped = "bidirectional" if clip.has_next else "warp"
        for method, found in figures.items():
            measured = clip.figures(warped if method == "bidirectional" else method)
            found += [] if measured is None else [measured]
        shown = {
            "source": clip.source,
            "bidirectional warp": clip.frames[warped],
            "decoded": clip.frames["detokenized"],
        }
        for picture in side_by_side(shown):
            panels.write(picture)
        yield clip.frames["detokenized"]


def _with_progress(clips: "Iterable[np.ndarray]", tokens: "VideoTokens") -> "Iterator[np.ndarray]":
    """Yield frame after frame, with a progress bar."""
    seconds = tokens.duration_seconds
    with progress_bar() as bar:
        task = bar.add_task("decode", total=seconds, of=f"{seconds:.1f}")
        for frames in clips:
            yield from frames
            bar.advance(task, float(len(frames) / tokens.spec.fps))


def print_table(figures: "dict[str, list[Figures]]", keyframes: str) -> None:
    """Print the means of what was measured, by method; `keyframes` says where the keyframes come from."""
    from videotok.evaluation import METHOD_TITLES
    from videotok.metrics import mean_figures

    table = Table(title=f"Against the source, keyframes from {keyframes}")
    table.add_column("")
    for column in ("PSNR dB", "SSIM", "MS-SSIM"):
        table.add_column(column, justify="right")
    for method, found in figures.items():
        if found:
            mean = mean_figures(found)
            table.add_row(METHOD_TITLES[method], f"{mean.psnr:.2f}", f"{mean.ssim:.3f}", f"{mean.ms_ssim:.3f}")
    Console().print(table)
