"""`videotok eval`: the ladder of a user's own videos, as a page."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from videotok.cli.console import Refusal, progress_bar, refuse_unwritable


def evaluate(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, one HTML file that stands alone.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="The rows as well.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")] = False,
    levels: Annotated[str, typer.Option(help="Numbers of motion levels to rebuild from.")] = "1,4",
    max_clips: Annotated[int | None, typer.Option(min=1, help="Clips a video at most.")] = 4,
    shown: Annotated[int, typer.Option(min=0, help="Clips a video that are put on the page as video.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Network evaluations a clip.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of other weights than the shipped ones.")] = None,
) -> None:
    """Measure how well videos are rebuilt, rung by rung, and write a page that shows it."""
    numbers = _levels(levels)
    for written in (out, json_file):
        if written is not None:
            refuse_unwritable(written, force, *videos)

    from codec import MediaError, atomic_path
    from videotok.footage import video_files
    from videotok.pipeline import VideoTokenizer
    from videotok.report.quality import Settings, VideoResult, evaluate, rows, write_report

    began, files = time.monotonic(), video_files(videos)
    tokenizer = VideoTokenizer.from_pretrained(model)
    if max(numbers) > tokenizer.motion_encoder.num_quantizers:
        raise Refusal(f"--levels {levels}: this model has {tokenizer.motion_encoder.num_quantizers} levels")
    settings = Settings(numbers, max_clips, shown, steps)
    results: list[VideoResult] = []
    left_out: list[str] = []
    with progress_bar() as bar:
        for number, path in enumerate(files, 1):
            task = bar.add_task(f"{number}/{len(files)} {path.name}", total=None, of="?")
            try:
                results.append(
                    evaluate(tokenizer, path, settings, lambda seconds, task=task: bar.advance(task, seconds))
                )
            except MediaError as error:
                left_out.append(str(error))
                bar.console.print(f"left out: {error}")
            bar.remove_task(task)
    if not results:
        raise Refusal(f"none of {len(files)} files could be measured; the first: {left_out[0]}")
    if json_file is not None:
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(rows(results), indent=1) + "\n")
    write_report(out, results, settings, left_out, model or "that ship with videotok")
    clips = sum(len(result.clips) for result in results)
    print(f"{out}: {len(results)} videos, {clips} clips, {time.monotonic() - began:.0f} s taken")
    if left_out:
        print(f"{len(left_out)} files left out; the page says why")


def _levels(text: str) -> tuple[int, ...]:
    """`1,2,4`, ascending and each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise Refusal(f"--levels {text!r} must be numbers above 0 with commas between, such as 1,2,4")
    return tuple(sorted({int(part) for part in parts}))
