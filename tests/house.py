"""The README's tree, from the first line of every module's docstring. Run as a script, it rewrites the README."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("codec", "motion_vq", "unet3d", "videotok", "benchmarks")
BLOCK = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)


def tree() -> str:
    """One line a module of every room, and one for each other place."""
    lines: list[tuple[str, str]] = []
    for room in ROOMS:
        _add(ROOT / room, 0, lines)
    lines += [
        ("videotok/weights/", "the shipped weights, a model card beside each"),
        ("tests/", "one file a room and theme"),
        ("docs/", "format.md, LOG.md (experiments with their figures), adr/ (decisions)"),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "".join(f"{name:<{width}}{text}".rstrip() + "\n" for name, text in lines)


def _add(folder: Path, depth: int, lines: list[tuple[str, str]]) -> None:
    lines.append(("  " * depth + folder.name + "/", _first_line(folder / "__init__.py")))
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            lines.append(("  " * (depth + 1) + path.name, _first_line(path)))
        elif (path / "__init__.py").exists() and path.name != "weights":
            _add(path, depth + 1, lines)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].rstrip(".")


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(BLOCK.sub(lambda _: tree(), readme.read_text(encoding="utf-8")), encoding="utf-8")
