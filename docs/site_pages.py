"""A hook of MkDocs: pages from files outside of docs (README, cards and others), and links between them."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OTHER_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository -> page of the site. Files below docs are pages under their own names."""
LINK = re.compile(r"(\[[^\]]*\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?(\))")


def other_pages() -> dict[str, str]:
    """Return file of the repository -> page of the site, for all files outside of docs."""
    cards = {
        str(path.relative_to(ROOT)): f"weights/{path.parent.name}.md"
        for path in ROOT.glob("videotok/weights/*/README.md")
    }
    return OTHER_PAGES | cards


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the cards and the decisions into the navigation."""
    for section in config.nav or ():
        for name, pages in section.items():
            if name == "Quality":
                pages += [page for page in sorted(other_pages().values()) if page.startswith("weights/")]
            for page in pages if name == "Project" else ():
                if "Decisions" in page:
                    page["Decisions"] = [f"adr/{path.name}" for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs as pages."""
    for source, page in other_pages().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # a card's head for the hub
        files.append(File.generated(config, page, content=relink(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Mend the links of files below docs; those of generated pages are right already."""
    if page.file.generated_by:
        return markdown
    return relink(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def relink(text: str, source: str, page: str) -> str:
    """Return Markdown whose relative links are those between pages of the site.

    Args:
        text: Markdown with links as they are right in the repository.
        source: the file that it is from, relative to the repository.
        page: the page that it becomes.

    A link to a file that is no page, such as a source file, becomes plain text; one to nothing stays, and is refused.
    """
    pages = other_pages()

    def replace(found: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / found[2])
        if target == "docs/README.md":
            to = "index.md"
        elif target in pages:
            to = pages[target]
        elif target.startswith("docs/") and (ROOT / target).is_file() and not target.endswith((".py", ".json")):
            to = target.removeprefix("docs/")
        elif (ROOT / target).exists():
            return found[1][1:-2]
        else:
            return found[0]
        return f"{found[1]}{os.path.relpath(to, PurePosixPath(page).parent)}{found[3] or ''}{found[4]}"

    return LINK.sub(replace, text)
