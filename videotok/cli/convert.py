"""`videotok convert`: the published Video-LaVIT weights to a bundle of safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from videotok.cli.console import Refusal, print_line


def convert(
    source: Annotated[
        str, typer.Argument(help="Folder of the published weights, complete or in part, or their hub id.")
    ],
    target: Annotated[Path, typer.Argument(help="Folder of the bundle to write, for --model.")],
    half: Annotated[bool, typer.Option("--half", help="Write half-precision weights.")] = False,
    allow_extra: Annotated[
        bool, typer.Option("--allow-extra", help="Leave out unknown keys instead of stopping.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Write into a folder that exists.")] = False,
) -> None:
    """Turn the published Video-LaVIT weights into safetensors that --model takes."""
    if target.exists() and not target.is_dir():
        raise Refusal(f"{target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise Refusal(f"{target} is not empty; give --force to write into it, or another name")

    from videotok.hub import find_folder
    from videotok.lavit import conversion

    def show(part: str) -> None:
        print_line(f"{part} …")

    for result in conversion.convert(find_folder(source), target, half=half, allow_extra=allow_extra, on_part=show):
        if result.missing:
            print_line(f"{result.part}: left out, {', '.join(result.missing)} missing")
        elif result.num_parameters:
            print_line(f"{target / result.part}: {result.num_parameters / 1e6:.1f} M parameters")
        else:
            print_line(f"{target / result.part}: copied as published")
