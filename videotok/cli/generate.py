"""`videotok lm generate`: a text, pictures or the beginning of a video to a video, its tokens or a picture."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from videotok.cli.console import (
    Refusal,
    counted,
    invalid_options_refused,
    parse_size,
    print_line,
    progress_bar,
    refuse_unwritable,
)
from videotok.cli.decode import PICTURE_SUFFIXES, QUALITY
from videotok.cli.options import (
    Device,
    Force,
    FrameSize,
    LanguageModel,
    LanguageModelPrecision,
    Threads,
    VideoModel,
)
from videotok.errors import is_utf8, shorten

if TYPE_CHECKING:
    from videotok.lm.generated_video import GeneratedClip
    from videotok.lm.loading import LoadedLanguageModel
    from videotok.lm.video_generation import VideoGenerator, VideoPrompt

MAX_SECONDS = 3600.0
SAMPLING = "Sampling"


def generate(
    text: Annotated[
        str, typer.Argument(help="What happens. <image> marks where a picture of --image goes, to refer to it.")
    ] = "",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file to write: a video, .vtok for tokens, or .png for a picture."),
    ] = Path("generated.mp4"),
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture: the first keyframe, unless the text has <image>. One for each <image>."),
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A video, or .vtok, to continue; its end comes first.")] = None,
    seconds: Annotated[
        float, typer.Option(help=f"Length of what is generated, above 0 to {MAX_SECONDS:g} seconds.")
    ] = 6.0,
    force: Force = False,
    seed: Annotated[int, typer.Option(help="Seed: the same one gives the same result.", rich_help_panel=SAMPLING)] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Sampling temperature; 0: the most likely ids; 1 by default.", rich_help_panel=SAMPLING),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Sample from so many likeliest ids; 0: from all; the model's own number by default.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the likeliest ids that have this probability together; 1 by default.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Scale of classifier-free guidance by the text; 1: none; the model's own number by default.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    repeat: Annotated[
        float | None,
        typer.Option(
            help="Added to the log-probability of the motion ids of the clip before, so that its motion goes on; 0 by "
            "default.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    keyframes: Annotated[
        Literal["auto", "predicted", "encoded", "generated", "constrained"],
        typer.Option(
            help="Keyframes after the first: predicted from the clip before, that encoded again, generated, or "
            "constrained by the last frame (Video-LaVIT).",
            rich_help_panel=SAMPLING,
        ),
    ] = "auto",
    size: FrameSize = None,
    lm: LanguageModel = None,
    video_model: VideoModel = None,
    precision: LanguageModelPrecision = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Generate a video from a text, from a picture, or from the beginning of a video."""
    began, images = time.monotonic(), image or []
    is_picture = output.suffix.lower() in PICTURE_SUFFIXES
    frame_size = parse_size(size) if size else None
    _check_request(text, images, video, seconds, is_picture)
    refuse_unwritable(output, force, *images, video)

    from videotok.inputs import check_readable

    for path in [*images, *([video] if video else [])]:
        check_readable(path)

    loaded = _load(lm, video_model, precision, device, threads)
    loaded.tokenizer.to(loaded.model.device)

    from videotok.lm.sampling import default_sampling
    from videotok.lm.video_generation import VideoGenerator

    options: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "repeat": repeat,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    with invalid_options_refused():
        sampling = replace(default_sampling(loaded.model, is_picture), **chosen, seed=seed)
    generator = VideoGenerator(loaded.model, loaded.tokenizer, sampling, keyframes)
    if round(seconds * generator.spec.fps) < 1:
        raise Refusal(f"--seconds {seconds:g} is less than a frame, 1/{generator.spec.fps}")
    prompt = _prompt(generator, text, images, video, is_picture)
    if is_picture:
        _write_picture(generator, prompt, output, frame_size, began)
    else:
        _write_video(generator, prompt, output, seconds, frame_size, began)


def _check_request(text: str, images: Sequence[Path], video: Path | None, seconds: float, is_picture: bool) -> None:
    """Refuse what cannot be generated, before any model is loaded.

    Raises:
        Refusal: names the option.
    """
    marks = text.count("<image>")
    if not is_utf8(text):
        raise Refusal(f"the text {shorten(text)} is not UTF-8; type it in a terminal that is set to UTF-8")
    if not text.strip() and not images and not video:
        raise Refusal("nothing to generate from; give a text, --image PICTURE or --video START")
    if not 0 < seconds <= MAX_SECONDS:
        raise Refusal(f"--seconds {seconds:g} must be above 0 and at most {MAX_SECONDS:g}")
    if marks not in (0, len(images)):
        raise Refusal(f"the text has {marks} times <image> for {len(images)} times --image; mark each picture, or none")
    if is_picture and video:
        raise Refusal("a picture cannot continue a --video; name a video file such as out.mp4 with -o")
    if is_picture or marks:
        return
    if len(images) > 1:
        raise Refusal(f"{len(images)} times --image, but only one can be the first keyframe; mark others by <image>")
    if images and video:
        raise Refusal("--image and --video both say how the result begins; give one, or mark the picture by <image>")


def _load(
    lm: Path | None, video_model: str | None, precision: str, device: str, threads: int | None
) -> "LoadedLanguageModel":
    from transformers.utils import logging

    from videotok.lm.loading import load_language_model
    from videotok.lm.model import VIDEO_CONFIG_NAME
    from videotok.threads import set_up_cpu

    set_up_cpu(threads)
    logging.disable_progress_bar()  # the command has its own
    if lm is None or (lm / VIDEO_CONFIG_NAME).is_file():
        return load_language_model(lm, video_model, "auto", precision, device)  # type: ignore[arg-type]
    # Video-LaVIT generates with the ids of the tokenizers beside its language model, not with those embedded in it
    if video_model is None and (lm.parent / "keyframes" / "config.json").is_file():
        video_model = str(lm.parent)
    return load_language_model(lm, video_model, "ids", precision, device)  # type: ignore[arg-type]


def _prompt(
    generator: "VideoGenerator", text: str, images: Sequence[Path], video: Path | None, is_picture: bool
) -> "VideoPrompt":
    from videotok.lm.video_generation import IMAGE_MARK, VideoPrompt
    from videotok.tokens import VideoTokens

    pictures, start = [generator.encode_picture(path) for path in images], None
    if is_picture and IMAGE_MARK not in text:
        text = IMAGE_MARK * len(pictures) + text
    elif pictures and IMAGE_MARK not in text:
        pictures, start = [], pictures[0]
    if video:
        start = VideoTokens.load(video) if video.suffix == ".vtok" else generator.encode_start(video)
    return VideoPrompt.from_text(text, pictures, start)


def _write_picture(
    generator: "VideoGenerator", prompt: "VideoPrompt", output: Path, size: tuple[int, int] | None, began: float
) -> None:
    from videotok.image_utils import to_uint8, write_picture

    (clip,) = generator.generate_pictures([prompt], size=size)
    picture = to_uint8(clip.shown.keyframe[:, None])[0]
    write_picture(output, picture)
    height, width = picture.shape[:2]
    print_line(f"{output}: {width}x{height}, {time.monotonic() - began:.1f} s taken")


def _write_video(
    generator: "VideoGenerator",
    prompt: "VideoPrompt",
    output: Path,
    seconds: float,
    size: tuple[int, int] | None,
    began: float,
) -> None:
    """Write a video file, clip by clip as it is generated, or its tokens."""
    from codec import REPRODUCIBLE, VideoWriter
    from videotok.lm.generated_video import video_tokens

    videos = generator.begin([prompt], size)
    (video,), fps = videos, generator.spec.fps
    clips = _with_progress(generator.generate([prompt], seconds, videos=videos), seconds, float(fps))
    if output.suffix == ".vtok":
        tokens = video_tokens(list(clips), video)
        tokens.save(output)
        facts = f"{counted(tokens.num_clips, 'clip')}, {counted(tokens.num_tokens, 'token')}"
        facts += f", {tokens.duration_seconds:.2f} s"
    else:
        with VideoWriter(output, fps, video.size, options=QUALITY | REPRODUCIBLE) as writer:
            for clip in generator.frames(clips):
                for frame in clip.frames:
                    writer.write(frame)
        facts = f"{counted(writer.num_frames, 'frame')}, {video.size[0]}x{video.size[1]} at {fps} fps"
        facts += f", {writer.num_frames / float(fps):.2f} s"
    print_line(f"{output}: {facts} of video, {time.monotonic() - began:.1f} s taken")


def _with_progress(clips: "Iterator[GeneratedClip]", seconds: float, fps: float) -> "Iterator[GeneratedClip]":
    """Yield clip after clip, with a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task("generate", total=seconds, of=f"{seconds:.1f}")
        for clip in clips:
            if clip.is_new:
                bar.advance(task, clip.shown.num_frames / fps)
            yield clip
