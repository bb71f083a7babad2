"""`videotok convert`: the published Video-LaVIT weights to a bundle"""

from pathlib import Path
from typing import Annotated

import typer

from videotok.cli.console import Refusal


def convert(
    source: Annotated[str, typer.Argument(help="Folder as published, whole or in part, or its hub id.")],
    target: Annotated[Path, typer.Argument(help="Folder of the bundle to write, for --model.")],
    half: Annotated[bool, typer.Option("--half", help="Write half-precision weights.")] = False,
    allow_extra: Annotated[
        bool, typer.Option("--allow-extra", help="Leave out keys that are not known, instead of stopping.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Write into a folder that exists.")] = False,
) -> None:
    """Turn the published Video-LaVIT weights into safetensors that --model takes."""
    if target.exists() and not target.is_dir():
        raise Refusal(f"{target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise Refusal(f"{target} is not empty; give --force to write into it, or another name")

    from videotok.bundle import found_folder
    from videotok.lavit.conversion import convert as converted

    def tell(part: str) -> None:
        print(f"{part} …", flush=True)

    for made in converted(found_folder(source), target, half=half, extra=allow_extra, tell=tell):
        if made.missing:
            print(f"{made.part}: not there, {', '.join(made.missing)} missing")
        elif made.numbers:
            print(f"{target / made.part}: {made.numbers / 1e6:.1f} M numbers")
        else:
            print(f"{target / made.part}: as published")
