"""Our published sizes beside the reference's own code: python -m benchmarks.parity REFERENCE --json OUT

REFERENCE is the folder VideoLaVIT of a checkout of github.com/jy0205/LaVIT; see `benchmarks.parity_reference`.

`--write FILE` stores its results at reduced depth, which tests/test_published_parity.py compares ours with; `--full`
runs every model at its published depth and width as well: one model after another, one side at a time, 7 GB of memory.
"""

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import parity_cases as cases
from benchmarks.parity_language import CONFIG, our_language, their_language
from benchmarks.parity_reference import (
    Reference,
    not_initialised,
    their_condition,
    their_keyframes,
    their_motion,
    their_video,
)
from codec import atomic_path

Config = Mapping[str, Any]
Ours = Callable[[Config], dict[str, Tensor]]
Theirs = Callable[[Reference, Config], dict[str, Tensor]]
RUNS: dict[str, tuple[Ours, Theirs]] = {
    "motion": (cases.our_motion, their_motion),
    "keyframes": (cases.our_keyframes, their_keyframes),
    "condition": (cases.our_condition, their_condition),
    "video": (cases.our_video, their_video),
    "language": (our_language, their_language),
}


def compared(ours: Tensor, theirs: Tensor) -> str | float:
    """The largest difference by the largest value; of ids, how many are equal."""
    if not ours.is_floating_point():
        return f"{int((ours == theirs).sum())} of {theirs.numel()}"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def timed(name: str, make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    """What `make` gives, and the seconds it took; its memory is given back before the other side is made."""
    start = time.monotonic()
    print(f"{name} …", flush=True)
    found = make()
    gc.collect()
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {seconds:.0f} s, peak so far {peak:.1f} GiB", flush=True)
    return found, seconds


def run(reference: Reference, name: str, depth: str, config: Config) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Rows of one model at one depth, and what the reference gave."""
    ours, theirs = RUNS[name]

    def of_theirs() -> dict[str, Tensor]:
        with not_initialised():
            return theirs(reference, config)

    # never both in memory
    expected, their_seconds = timed(f"{name}, {depth}, reference", of_theirs)
    found, our_seconds = timed(f"{name}, {depth}, ours", lambda: ours(config))
    rows = []
    for key, value in expected.items():
        result = compared(found[key], value)
        rows.append({"model": name, "depth": depth, "output": key, "shape": list(value.shape), "result": result})
        rows[-1] |= {"seconds": [round(their_seconds, 1), round(our_seconds, 1)]}
        print(f"{name:10} {depth:8} {key:16} {result if isinstance(result, str) else f'{result:.1e}'}", flush=True)
    return rows, expected


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--full", action="store_true", help="run full depth as well")
    parser.add_argument("--write", type=Path, help="store the reference's results at reduced depth")
    parser.add_argument("--only", nargs="+", choices=list(RUNS))
    parser.add_argument("--json", type=Path, help="written after every model: a run that is stopped has what it did")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    reference, rows, stored = Reference(arguments.reference), [], {}
    reduced = {**cases.REDUCED, "language": CONFIG}
    for depth, configs in {"reduced": reduced, "full": cases.FULL if arguments.full else {}}.items():
        for name, config in configs.items():
            if name not in (arguments.only or RUNS):
                continue
            new, expected = run(reference, name, depth, config)
            rows += new
            if depth == "reduced":
                stored |= {f"{name}.{key}": value for key, value in expected.items()}
            if arguments.json:
                with atomic_path(arguments.json) as temporary:
                    temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        save_file({name: cases.thinned(value) for name, value in stored.items()}, arguments.write)


if __name__ == "__main__":
    main()
