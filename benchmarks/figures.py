"""Renew the figures of README and cards: `python -m benchmarks.figures NATURAL --lpips LPIPS.safetensors`.

Each benchmark of `benchmarks.figure_tables.MEASUREMENTS` runs in a process of its own. Its figures are kept in
docs/figures.json, with the command, the date, versions, the machine and the sha256 of the weights, and the tables of
documents are written from that file, between `<!-- figures: NAME -->` and `<!-- /figures -->`. So no figure stands in
two versions; a test compares.

    python -m benchmarks.figures --write                    documents from docs/figures.json as it is
    python -m benchmarks.figures NATURAL --lpips FILE       all that code or weights have changed since
    … --only rates startup                                  these, changed or not
    … --quick --out results/quick.json                      one video each: does it run?

It may be stopped: what is measured is kept at once, and the next run goes on with the rest.
"""

import argparse
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figure_tables import LPIPS, MEASUREMENTS, NATURAL, VIEWS, Measurement, Row
from codec import atomic_path
from videotok.bundle import Bundle
from videotok.io_utils import read_json, sha256_of_files, write_json

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures.json"
PACKAGES = ("codec", "motion_vq", "unet3d", "videotok")
BLOCK = re.compile(r"<!-- figures: ([\w-]+) -->\n(.*?)<!-- /figures -->", re.DOTALL)
LIBRARIES = ("torch", "diffusers", "av", "numpy")
RESULT = "results/figures"
"""Folder, below the working folder, where what benchmarks wrote is kept."""


def documents(root: Path = ROOT) -> list[Path]:
    """Return README, the pages of docs and the cards of the shipped weights."""
    return [root / "README.md", *sorted(root.glob("docs/*.md")), *sorted(root.glob("videotok/weights/*/README.md"))]


def weights_in_use() -> dict[str, str]:
    """Return the beginning of the sha256 of each shipped model."""
    bundle = Bundle.find(None)
    language_model = sha256_of_files(sorted((ROOT / "videotok" / "weights" / "lm").glob("model*.safetensors")))
    sha256 = {part: bundle.identity(part).sha256 for part in ("keyframes", "motion", "detokenizer")}
    return {part: found[:12] for part, found in (sha256 | {"lm": language_model}).items()}


def render(name: str, entries: dict[str, Any], shipped: dict[str, str]) -> str:
    """Return what stands in a document between the markers of a table: the table, and a line on where it comes from.

    Args:
        name: key of `VIEWS`.
        entries: what docs/figures.json holds.
        shipped: of `weights_in_use`; a table of other weights says so.

    Raises:
        KeyError: there is no such table.

    Nothing stands there until all of its figures were measured once.
    """
    view = VIEWS[name]
    if not set(view.measurements) <= set(entries):
        return ""
    shown = [entries[measurement] for measurement in view.measurements]
    rows = [row for entry in shown for row in entry["rows"]]
    sources = "\n".join(_source(entry, shipped) for entry in shown)
    return f"{view.render(rows)}\n{sources}\n"


def _source(entry: dict[str, Any], shipped: dict[str, str]) -> str:
    """Return a line that says where figures come from."""
    other = sorted(part for part, sha in entry["weights"].items() if shipped.get(part) != sha)
    note = f" **Measured with earlier weights ({', '.join(other)}).**" if other else ""
    date = f" Measured {entry['date']}" if entry.get("date") else ""
    how = f", `{entry['command']}`" if entry.get("command") else ""
    return f"{entry['data'][0].upper()}{entry['data'][1:]}.{date}{how}{'.' if date else ''}{note}"


def write_documents(entries: dict[str, Any], paths: Sequence[Path], shipped: dict[str, str]) -> list[Path]:
    """Write the tables of documents anew, and return the documents that changed.

    Raises:
        KeyError: a document names a table that there is not.
    """
    changed = []
    for path in paths:
        before = path.read_text(encoding="utf-8")
        text = BLOCK.sub(
            lambda found: f"<!-- figures: {found[1]} -->\n{render(found[1], entries, shipped)}<!-- /figures -->", before
        )
        if text != before:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def state_of_code(measurement: Measurement) -> str:
    """Return a checksum of the code that figures depend on: the benchmark and, where it uses models, the packages."""
    packages = PACKAGES if measurement.weights else ()
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return sha256_of_files([*files, ROOT / "benchmarks" / f"{measurement.benchmark}.py"])[:12]


def command_of(measurement: Measurement, natural: str, lpips: str, quick: bool = False) -> list[str]:
    """Return the arguments after `python -m`, without `--json`, with real paths or with the words for them."""
    videos = [f"{natural}/{name}" for name in measurement.videos] or [natural]
    if quick:
        videos = [videos[0] if measurement.videos else str(min(Path(natural).glob("*boat*"), default=natural))]
    options = [lpips if option == LPIPS else option for option in measurement.options]
    return [f"benchmarks.{measurement.benchmark}", *videos, *options, *(measurement.quick if quick else ())]


def measure(name: str, natural: Path, lpips: Path, quick: bool) -> dict[str, Any]:
    """Run one benchmark and return its entry of docs/figures.json.

    Raises:
        CalledProcessError: the benchmark failed; what it said is on stderr.
    """
    measurement = MEASUREMENTS[name]
    state, began = state_of_code(measurement), time.perf_counter()
    Path(RESULT).mkdir(parents=True, exist_ok=True)
    result = Path(RESULT, f"{name}.json")
    arguments = command_of(measurement, str(natural), str(lpips), quick)
    subprocess.run([sys.executable, "-m", *arguments, "--json", str(result)], check=True)
    sha256 = weights_in_use()
    shown = command_of(measurement, NATURAL, LPIPS)
    if len(measurement.videos) > 2:
        shown = [shown[0], f"{NATURAL}/…", *shown[1 + len(measurement.videos) :]]
    return {
        "command": f"python -m {' '.join(shown)}",
        "videos": list(measurement.videos),
        "data": measurement.data,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - began),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
        "code": state,
        "weights": {part: sha256[part] for part in measurement.weights},
        "rows": [_rounded(row) for row in measurement.rows(read_json(result))],
    }


def machine() -> str:
    """Return the class of this machine: its processor and the number of cores that may be used."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    name = found[1].strip() if found else platform.processor() or "unknown processor"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}, {name}, {cores} cores"


def _rounded(row: Row) -> Row:
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


def weights_entry() -> dict[str, Any]:
    """Return the entry on the shipped weights: parameters in millions and megabytes of each file."""
    import safetensors

    rows = []
    for folder in sorted((ROOT / "videotok" / "weights").iterdir()):
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            continue
        count = 0
        for path in files:
            with safetensors.safe_open(path, "np") as tensors:
                # a codebook's statistics are no parameters, and are not stored in half precision weights
                shapes = [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118
            count += sum(map(math.prod, shapes))
        size = sum(path.stat().st_size for path in files)
        rows.append({"name": folder.name, "parameters": round(count / 1e6, 5), "megabytes": round(size / 1e6, 2)})
    return {"data": "weights as they ship, numbers stored in the file", "rows": rows, "weights": weights_in_use()}


def is_current(name: str, entry: dict[str, Any] | None) -> bool:
    """Return whether an entry was measured with today's code and weights."""
    if entry is None:
        return False
    measurement, shipped = MEASUREMENTS[name], weights_in_use()
    weights = {part: shipped[part] for part in measurement.weights}
    return entry.get("code") == state_of_code(measurement) and entry["weights"] == weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, write the documents, and return 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.figures", description="Renew the figures of README and cards.")
    parser.add_argument("natural", nargs="?", type=Path, help="folder of the test videos")
    parser.add_argument("--lpips", type=Path, help="LPIPS network (SqueezeNet, safetensors)")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), help="measure these, changed or not")
    parser.add_argument("--skip", nargs="+", choices=list(MEASUREMENTS), default=[], help="do not measure these")
    parser.add_argument("--slow", action="store_true", help="measure also what takes long: exact-keyframes")
    parser.add_argument("--again", action="store_true", help="measure also what has not changed")
    parser.add_argument("--quick", action="store_true", help="one video each, to see whether it runs; with --out")
    parser.add_argument("--out", type=Path, default=FIGURES, help="file of the figures (default docs/figures.json)")
    parser.add_argument("--write", action="store_true", help="measure nothing: write the documents alone")
    options = parser.parse_args(arguments)
    if options.quick and options.out == FIGURES:
        parser.error("--quick measures too little for docs/figures.json: name another file with --out")
    if not options.write and not (options.natural and options.lpips):
        parser.error("name the folder of videos and --lpips, or --write")
    entries = read_json(options.out) if options.out.exists() else {}
    failed = False
    wanted = [name for name, one in MEASUREMENTS.items() if name not in options.skip and (options.slow or not one.slow)]
    for name in [] if options.write else options.only or wanted:
        if not (options.only or options.again) and is_current(name, entries.get(name)):
            print(f"{name}: measured {entries[name]['date']} with this code and these weights", flush=True)
            continue
        print(f"{name}: measuring", flush=True)
        try:
            entries[name] = measure(name, options.natural, options.lpips, options.quick)
        except subprocess.CalledProcessError as error:
            print(f"{name}: failed with exit code {error.returncode}; its figures stay as they were", file=sys.stderr)
            failed = True
        write_json(options.out, entries)
    entries["weights"] = weights_entry()
    write_json(options.out, entries)
    if options.out == FIGURES:
        for path in write_documents(entries, documents(), weights_in_use()):
            print(f"{path.relative_to(ROOT)}: tables written")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
