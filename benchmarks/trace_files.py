"""How many files, functions and file-to-file calls one encode and one decode pass through, and how the code is cut.

    python -m benchmarks.trace_files VIDEO [--json OUT]

traces the first clip of a video with the shipped weights. Counted are the functions of the project that run inside of
`VideoTokenizer.encode` and `VideoTokenizer.decode` in all threads, the loading of models included unless `--warm`; and
pairs of different files of which one calls the other, directly or through a library. To trace another version of the
project with this file: `PYTHONPATH=OTHER python -P benchmarks/trace_files.py VIDEO`.
"""

import argparse
import ast
import inspect
import json
import statistics
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PACKAGES = ("codec", "motion_vq", "unet3d", "videotok")


@dataclass
class Trace:
    """Code of the project that ran."""

    folders: tuple[str, ...]
    """Where the code of the project is."""
    files: set[str] = field(default_factory=set)
    functions: set[CodeType] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    """(file of the caller, file of the function)."""

    def record(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note a call; for `sys.setprofile`."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self.folders) or code.co_name == "<module>":
            return
        self.files.add(code.co_filename)
        if not code.co_name.startswith("<"):  # lambdas and comprehensions
            self.functions.add(code)
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self.folders):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_name != "<module>" and caller.f_code.co_filename != code.co_filename:
            self.edges.add((caller.f_code.co_filename, code.co_filename))


def trace(root: Path, run: Callable[[], Any]) -> Trace:
    """Run something and return the code of the project below `root` that it passed through."""
    found = Trace(tuple(f"{root / package}/" for package in PACKAGES))
    threading.setprofile(found.record)
    sys.setprofile(found.record)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class Cut:
    """How the source is cut into files."""

    files: int
    median_lines: float
    below_60_lines: int
    longest: int
    cycles: int
    """Groups of files that import each other, imports inside of functions included."""


def measure_cut(root: Path) -> Cut:
    """Return the numbers of the packages below `root`; empty `__init__.py` files do not count."""
    sources = {path: path.read_text() for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}
    lines = [text.count("\n") for text in sources.values() if text.strip()]
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): text
        for path, text in sources.items()
    }
    return Cut(
        files=len(lines),
        median_lines=statistics.median(lines),
        below_60_lines=sum(number < 60 for number in lines),
        longest=max(lines),
        cycles=len(find_cycles({module: _imports(module, text, modules) for module, text in modules.items()})),
    )


def _imports(module: str, text: str, modules: dict[str, str]) -> set[str]:
    """Return the modules of the project that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name for name in names if name in modules}
    return found - {module}


def find_cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others.

    Tarjan's strongly connected components.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in imports[module]:
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                cycles.append(sorted(group))

    for module in imports:
        if module not in order:
            visit(module)
    return cycles


def one_clip() -> Any:
    """Return the configuration of one clip, in versions of the project that have one."""
    from videotok.config import EncodeConfig

    return EncodeConfig(max_clips=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Files and functions that one encode and one decode pass through.")
    parser.add_argument("video", type=Path)
    parser.add_argument("--json", type=Path, help="write the numbers and names to this file")
    parser.add_argument("--warm", action="store_true", help="load the models before, and do not count that")
    parser.add_argument("--names", action="store_true", help="print the names of the files as well")
    options = parser.parse_args()

    import videotok
    from videotok import VideoTokenizer

    root = Path(videotok.__file__).resolve().parent.parent
    tokenizer, results = VideoTokenizer.from_pretrained(), {}
    encoded: list[Any] = []
    takes_config = "config" in inspect.signature(tokenizer.encode).parameters
    arguments: dict[str, Any] = {"config": one_clip()} if takes_config else {"max_clips": 1}
    if options.warm:
        list(tokenizer.decode(tokenizer.encode(options.video, **arguments)))
    traces = {
        "encode": trace(root, lambda: encoded.append(tokenizer.encode(options.video, **arguments))),
        "decode": trace(root, lambda: list(tokenizer.decode(encoded[0]))),
    }
    for name, found in traces.items():
        files = sorted(str(Path(file).relative_to(root)) for file in found.files)
        results[name] = {
            "files": len(files),
            "functions": len(found.functions),
            "edges": len(found.edges),
            "names": files,
        }
        print(f"{name}: {len(files)} files, {len(found.functions)} functions, {len(found.edges)} file-to-file calls")
        if options.names:
            print("  " + "\n  ".join(files))
    cut = measure_cut(root)
    print(
        f"source: {cut.files} files, {cut.median_lines:g} lines in the median, {cut.longest} in the longest, "
        f"{cut.below_60_lines} below 60 lines, {cut.cycles} import cycles"
    )
    if options.json:
        options.json.write_text(json.dumps(results | {"source": asdict(cut)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
