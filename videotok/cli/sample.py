"""`videotok sample`: a sample clip to try the other commands with."""

from pathlib import Path
from typing import Annotated

import typer

from videotok.cli.console import print_line, refuse_unwritable
from videotok.cli.options import Force

SECONDS, FPS, SIZE = 6, 24, (480, 270)


def sample(
    output: Annotated[Path, typer.Argument(help="The video file to write.")],
    force: Force = False,
) -> None:
    """Write a sample clip of 6 seconds: photographs moved by a virtual camera."""
    refuse_unwritable(output, force)

    from codec import VideoWriter
    from videotok.virtual_camera import sample_scene

    with VideoWriter(output, FPS, SIZE) as writer:
        for frame in sample_scene(SIZE).frames(index / FPS for index in range(SECONDS * FPS)):
            writer.write(frame)
    print_line(f"{output}: {SECONDS} s, {SIZE[0]}x{SIZE[1]} at {FPS} fps")
