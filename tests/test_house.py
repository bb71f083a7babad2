"""The house keeps its rules: who imports whom, and a README that is true."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from house import BLOCK, ROOT, tree
from importlinter.cli import lint_imports

from codec import probe
from videotok.cli.main import app, main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_import_directions(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_codec_does_without_torch():
    code = "import codec, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_readme_tree_is_the_tree():
    found = BLOCK.search(README)
    assert found is not None
    assert found.group() == tree(), "run `make readme`"


def test_readme_files_exist():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_set_up_is_two_commands():
    commands = blocks("sh")[0].splitlines()
    assert commands == ["python3 -m venv .venv", ".venv/bin/pip install -e '.[dev]'"]


def test_readme_commands_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    activate, *commands = blocks("sh")[1].splitlines()
    assert activate == ". .venv/bin/activate"
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "videotok"
        assert main(arguments) == 0, capsys.readouterr().err
    assert probe("out.mp4").duration_seconds == pytest.approx(6.0)
    assert probe("out-compare.mp4").duration_seconds == pytest.approx(6.0)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert probe("again.mp4").duration_seconds == pytest.approx(6.0)


def test_readme_names_every_command():
    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    names |= {group.name for group in app.registered_groups if group.name}
    assert {"encode", "decode", "info", "sample", "train"} <= names
    for name in names:
        assert re.search(rf"`videotok {name}[ `]", README), name


def test_ci_runs_the_readme_commands():
    ci = Path(ROOT / ".ci/run").read_text()
    assert "-e '.[dev]'" in ci
    assert "make test" in ci
