"""The architecture: directions of imports, no import cycles, a codec without torch, and public names."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from benchmarks.trace_files import find_cycles

ROOT = Path(__file__).parent.parent
PACKAGES = ("codec", "motion_vq", "unet3d", "videotok", "benchmarks")


def module_files(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """Return every module of the packages by its dotted name."""
    files = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True))


def import_graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Return the modules that each module imports, also those imported inside of functions or for type checks only."""
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        graph[module] = set(imported_modules(ast.parse(path.read_text(encoding="utf-8")), modules)) - {module}
    return graph


def imported_modules(tree: ast.AST, modules: dict[str, Path]) -> Iterator[str]:
    """Return the modules of the project that a source file imports, by absolute imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                candidates = (f"{node.module}.{alias.name}", node.module)
                yield from [name for name in candidates if name in modules][:1]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def test_import_directions(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_no_import_cycles():
    assert find_cycles(import_graph(module_files())) == []


def test_cycles_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    sources = {
        "__init__": "from a.one import x",
        "one": "x = 1\ndef later():\n    from a.two import y\n    return y",
        "two": "import a.three\ny = 2",
        "three": "from a.one import x\nfrom a import four",
        "four": "import os",
    }
    for name, source in sources.items():
        (tmp_path / "a" / f"{name}.py").write_text(source)
    assert find_cycles(import_graph(module_files(tmp_path, ("a",)))) == [["a.one", "a.three", "a.two"]]


def test_codec_does_not_import_torch():
    code = "import codec, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["codec", "motion_vq", "unet3d", "videotok", "videotok.keyframes", "videotok.lm"])
def test_public_names_exist_and_are_listed(name):
    package = import_module(name)
    assert set(package.__all__) <= set(dir(package))
    assert [public for public in package.__all__ if not hasattr(package, public)] == []
