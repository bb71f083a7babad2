"""Our models beside the reference's own code: `python -m benchmarks.lavit_parity REFERENCE --json OUT`.

REFERENCE is the folder VideoLaVIT of a checkout of github.com/jy0205/LaVIT; see `benchmarks.lavit_parity_reference`.

`--write FILE` stores the reference's outputs at reduced depth, which tests/test_lavit_parity.py compares ours with.
`--full` compares every model at its published depth and width as well: one model after another, one side at a time, in
7 GB of memory.
"""

import argparse
import gc
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import lavit_parity_cases as cases
from benchmarks.lavit_parity_reference import REFERENCE_OUTPUTS, Reference, no_initialization
from videotok.io_utils import write_json


@dataclass(frozen=True)
class Comparison:
    """One output of one model, of both sides."""

    model: str
    depth: str
    output: str
    shape: list[int]
    result: str | float
    """Largest difference relative to the largest value; of ids, how many are equal."""
    seconds: list[float]
    """Of the reference, and of our model; for all outputs of the model."""


def compare(ours: Tensor, reference: Tensor) -> str | float:
    """Return the largest difference relative to the largest value; of ids, how many are equal."""
    if not ours.is_floating_point():
        return f"{int((ours == reference).sum())} of {reference.numel()}"
    return float((ours - reference).abs().max() / reference.abs().max())


def compare_model(
    reference: Reference, name: str, depth: str, config: Mapping[str, Any]
) -> tuple[list[Comparison], dict[str, Tensor]]:
    """Compare all outputs of one model; return the comparisons and the reference's outputs."""

    def reference_outputs() -> dict[str, Tensor]:
        with no_initialization():
            return REFERENCE_OUTPUTS[name](reference, config)

    # one after the other, so that the two models are never both in memory
    expected, reference_seconds = _timed(f"{name}, {depth}, reference", reference_outputs)
    ours, our_seconds = _timed(f"{name}, {depth}, ours", lambda: cases.OUR_OUTPUTS[name](config))
    seconds = [round(reference_seconds, 1), round(our_seconds, 1)]
    comparisons = []
    for output, value in expected.items():
        result = compare(ours[output], value)
        comparisons.append(Comparison(name, depth, output, list(value.shape), result, seconds))
        print(f"{name:10} {depth:8} {output:16} {result if isinstance(result, str) else f'{result:.1e}'}", flush=True)
    return comparisons, expected


def _timed(name: str, make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    """Return the result of `make` and the seconds it took, after its memory was freed."""
    start = time.monotonic()
    print(f"{name} …", flush=True)
    found = make()
    gc.collect()
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name}: {seconds:.0f} s, peak so far {peak:.1f} GiB", flush=True)
    return found, seconds


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path, help="folder VideoLaVIT of the reference")
    parser.add_argument("--full", action="store_true", help="compare at full depth as well")
    parser.add_argument("--write", type=Path, help="store the reference's outputs at reduced depth")
    parser.add_argument("--only", nargs="+", choices=list(REFERENCE_OUTPUTS), help="models to compare")
    parser.add_argument("--json", type=Path, help="file of the results, written after every model")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    reference, comparisons, stored = Reference(arguments.reference), [], {}
    for depth, configs in {"reduced": cases.REDUCED, "full": cases.FULL if arguments.full else {}}.items():
        for name, config in configs.items():
            if name not in (arguments.only or REFERENCE_OUTPUTS):
                continue
            found, expected = compare_model(reference, name, depth, config)
            comparisons += found
            if depth == "reduced":
                stored |= {f"{name}.{output}": value for output, value in expected.items()}
            if arguments.json:
                write_json(arguments.json, [asdict(comparison) for comparison in comparisons])
    if arguments.write:
        save_file({name: cases.subsample(value) for name, value in stored.items()}, arguments.write)


if __name__ == "__main__":
    main()
