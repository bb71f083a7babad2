"""The documents are true: links lead somewhere, commands run as they stand there, the tree of files is today's."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from codec import probe
from videotok.cli.main import app, main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_FILE = re.compile(r"`((?:codec|motion_vq|unet3d|videotok|benchmarks)/[\w/]+\.py)")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "videotok" / "weights").rglob("README.md")]
)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_files_that_documents_name_exist(document: Path):
    if document.name in ("LOG.md", "CHANGELOG.md") or document.parent.name == "adr":
        pytest.skip("history keeps the names of its day")
    for name in PYTHON_FILE.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_tree_of_files_is_todays(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    sys.modules.pop("tree", None)
    from tree import BLOCK, DOCUMENT, tree

    found = BLOCK.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found is not None
    assert found.group() == tree(), "run `python docs/tree.py`"


def test_set_up_is_two_commands():
    assert blocks("sh")[0].splitlines() == ["python3 -m venv .venv", ".venv/bin/pip install -e '.[dev]'"]


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


def test_answers_run_as_written(tmp_path, monkeypatch):
    """Each block of Python in docs/faq.md goes on where the one before ended."""
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "clip.mp4"]) == 0
    page = ROOT / "docs" / "faq.md"
    names: dict[str, object] = {}
    for number, block in enumerate(blocks("python", page.read_text(encoding="utf-8"))):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    assert len(names["frames"]) == 30  # type: ignore[arg-type]
    assert probe("mine.mp4").duration_seconds == pytest.approx(2.5)


def test_every_page_is_in_the_site():
    """A page that `nav` of mkdocs.yml leaves out cannot be found in the site; docs/site_pages.py adds the decisions."""
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert sorted(page for page in pages - named if not page.startswith("adr/")) == []


def test_links_of_the_site_lead_to_its_pages(monkeypatch):
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from site_pages import relink  # pyright: ignore[reportMissingImports]

    text = "[a](docs/codec.md#x) ![b](docs/images/readme.jpg) [c](https://x.org) [d](codec/h264.py) [e](LICENSE)"
    assert relink(text, "README.md", "index.md") == "[a](codec.md#x) ![b](images/readme.jpg) [c](https://x.org) d e"
    card = "[README](../../../README.md) [log](../../../docs/LOG.md)"
    assert (
        relink(card, "videotok/weights/motion/README.md", "weights/motion.md")
        == "[README](../index.md) [log](../LOG.md)"
    )
    assert (
        relink("[card](../videotok/weights/motion/README.md)", "docs/quality.md", "quality.md")
        == "[card](weights/motion.md)"
    )
    assert relink("![lost](no.jpg)", "docs/quality.md", "quality.md") == "![lost](no.jpg)"  # mkdocs refuses it


def test_readme_names_every_command():
    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    names |= {group.name for group in app.registered_groups if group.name}
    assert {"encode", "decode", "info", "sample", "train"} <= names
    for name in names:
        assert re.search(rf"`videotok {name}[ `]", README), name


def test_ci_runs_the_readme_commands():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "-e '.[dev]'" in ci
    for command in ("make demo", "make docs", "make test", ".ci/package"):
        assert command in ci
