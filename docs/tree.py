"""Write the tree of files into docs/architecture.md: `python docs/tree.py`. Each line is a file's own first line."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ("codec", "motion_vq", "unet3d", "videotok", "benchmarks")
BLOCK = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)


def tree() -> str:
    """Return one line for each Python file of the packages."""
    lines: list[tuple[str, str]] = []
    for package in PACKAGES:
        _add(ROOT / package, 0, lines)
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
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(BLOCK.sub(lambda _: tree(), text), encoding="utf-8")
