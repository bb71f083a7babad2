"""`videotok doctor`: checks of FFmpeg, its motion vectors and torch on this machine."""

import sys

import typer


def doctor() -> None:
    """Check FFmpeg, its motion vectors and torch on this machine."""
    from codec.diagnostics import Check, run_diagnostics

    checks = run_diagnostics()
    import torch  # slow to import: the checks of the codec come first

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    checks.append(Check("torch", True, f"{torch.__version__} on {device}"))
    for check in checks:
        print(f"{'ok ' if check.ok else 'BAD'} {check.name:<17} {check.found}")
        if not check.ok:
            print(f"    {check.advice}", file=sys.stderr)
    if not all(check.ok for check in checks):
        raise typer.Exit(2)
