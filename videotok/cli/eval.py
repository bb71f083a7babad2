"""`videotok eval`: rate and quality of a user's own videos, as a page."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videotok.cli.console import (
    Refusal,
    counted,
    invalid_options_refused,
    print_line,
    print_note,
    progress_bar,
    refuse_unwritable,
)
from videotok.cli.options import RATE, READING, Device, Dtype, Force, LpipsWeights, Model, Steps, Threads
from videotok.errors import printable, shorten

if TYPE_CHECKING:
    from rich.progress import TaskID

    from videotok.evaluation import EvaluationConfig
    from videotok.perceptual import LPIPS
    from videotok.pipeline import VideoTokenizer
    from videotok.report.quality import VideoResult


def evaluate(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write, one HTML file that needs no other.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file as well.")] = None,
    force: Force = False,
    examples: Annotated[int, typer.Option(min=0, help="Clips of a video that the page shows side by side.")] = 1,
    lpips: LpipsWeights = None,
    motion_quantizers: Annotated[
        str,
        typer.Option(
            help="Numbers of motion quantizers; the video is encoded and decoded with each.", rich_help_panel=RATE
        ),
    ] = "1,4",
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            help="Tokens of all kinds per second of video; --motion-quantizers are then the most that a clip has.",
            rich_help_panel=RATE,
        ),
    ] = None,
    exact_keyframes: Annotated[
        bool,
        typer.Option(help="Evaluate the motion with the source's own keyframes as well.", rich_help_panel=RATE),
    ] = True,
    steps: Steps = None,
    max_clips: Annotated[
        int | None, typer.Option(min=1, help="Clips of a video to read at most.", rich_help_panel=READING)
    ] = 4,
    model: Model = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Measure rate and quality of videos, and write a page that shows them."""
    quantizers = _numbers(motion_quantizers)
    for written in (out, json_file):
        if written is not None:
            refuse_unwritable(written, force, *videos)

    import torch

    from videotok.config import DecodeConfig, EncodeConfig
    from videotok.evaluation import SIZE, EvaluationConfig
    from videotok.inputs import scan_for_videos
    from videotok.io_utils import write_json
    from videotok.perceptual import LPIPS
    from videotok.pipeline import VideoTokenizer
    from videotok.report.quality import rows, write_quality_page
    from videotok.threads import set_up_cpu

    began, scan = time.monotonic(), scan_for_videos(videos)
    print_note(str(scan))
    network = LPIPS.load(lpips) if lpips else None
    set_up_cpu(threads)
    tokenizer = VideoTokenizer.from_pretrained(
        model, device=device, dtype=None if dtype == "auto" else getattr(torch, dtype)
    )
    if max(quantizers) > tokenizer.motion.num_quantizers:
        raise Refusal(f"--motion-quantizers {motion_quantizers}: this model has {tokenizer.motion.num_quantizers}")
    with invalid_options_refused():
        config = EvaluationConfig(
            motion_quantizers=quantizers,
            keyframes=("tokens", "exact") if exact_keyframes else ("tokens",),
            encode=EncodeConfig(max_clips=max_clips, tokens_per_second=tokens_per_second),
            decode=DecodeConfig(size=SIZE, num_inference_steps=steps),
        )
    evaluated = _evaluate_files(tokenizer, scan.videos, config, examples, network)
    results, left_out = evaluated.results, evaluated.left_out
    if json_file is not None:
        write_json(json_file, list(rows(results)))
    write_quality_page(out, results, config, left_out=left_out, model=model or "shipped with videotok")
    clips = sum(len({clip.index for clip in result.clips}) for result in results)
    print_line(
        f"{out}: {counted(len(results), 'video')}, {counted(clips, 'clip')}, {time.monotonic() - began:.0f} s taken"
    )
    if left_out:
        print_line(f"{counted(len(left_out), 'file')} left out; the page says why")


@dataclass
class Evaluated:
    """What came of the files: figures, or the reason why there are none."""

    results: "list[VideoResult]" = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def _evaluate_files(
    tokenizer: "VideoTokenizer", files: list[Path], config: "EvaluationConfig", examples: int, lpips: "LPIPS | None"
) -> Evaluated:
    """Evaluate files one after another, with a progress bar.

    Raises:
        Refusal: none of them could be measured.
    """
    from codec import MediaError
    from videotok.report.quality import evaluate_video

    found = Evaluated()
    with progress_bar() as bar:
        for number, path in enumerate(files, 1):
            task = bar.add_task(printable(f"{number}/{len(files)} {path.name}"), total=None, of="?")

            def advance(seconds: float, task: "TaskID" = task) -> None:
                bar.advance(task, seconds)

            try:
                result = evaluate_video(tokenizer, path, config, num_examples=examples, lpips=lpips, progress=advance)
                found.results.append(result)
            except MediaError as error:
                found.left_out.append(str(error))
                bar.console.print(printable(f"left out: {error}"), markup=False, highlight=False)
            bar.remove_task(task)
    if not found.results:
        raise Refusal(f"none of {len(files)} files could be measured; the first: {found.left_out[0]}")
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a text such as `1,2,4`, ascending and each once.

    Raises:
        Refusal: another text, or a number below 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise Refusal(f"--motion-quantizers {shorten(text)} must be numbers above 0 with commas between, such as 1,2,4")
    return tuple(sorted({int(part) for part in parts}))
