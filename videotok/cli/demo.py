"""`videotok demo`: a page in the browser to try the tokenizer with one's own videos."""

import os
import sys
import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from videotok.cli.console import Refusal, print_line, print_note
from videotok.cli.options import Device, LanguageModel, Model, Threads

LOCAL = ("127.0.0.1", "localhost", "::1")


def demo(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is reached from this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860 on by default.")
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Size of an uploaded file at most.")] = 200,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds of a video that are encoded; the rest is left out.")
    ] = 10.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    model: Model = None,
    lm: LanguageModel = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Serve a page to drop videos on: their tokens, and what comes back. Ends with Ctrl-C."""
    if find_spec("gradio") is None:
        raise Refusal("the page needs gradio, which is not installed; pip install 'videotok[demo]'")
    if lm is not None and not (lm / "config.json").is_file():
        raise Refusal(f"--lm {lm}: no language model is there, {lm / 'config.json'} is missing")

    from videotok.demo import DemoOptions, serve
    from videotok.threads import set_up_cpu

    set_up_cpu(threads)
    options = DemoOptions(model, lm, device, max_megabytes, max_seconds)
    try:
        with serve(options, host, port) as address:
            print_line(f"{address}: the page; Ctrl-C ends it")
            if host not in LOCAL:
                print_note(f"the page can be reached from other machines, since it listens on {host}")
            if open_browser:
                typer.launch(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        print_note("the page is closed")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # a worker may be in the middle of a video: an interpreter that ends under it aborts
