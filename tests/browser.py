"""A headless browser for the tests of pages: Playwright with the Chromium that is installed here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT = 180_000
"""Milliseconds that a page may take to change, on a busy machine."""
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="no headless browser: `pip install playwright`, and Chromium (`apt install chromium`)",
)


@contextmanager
def browser_page(
    width: int = 1366, height: int = 1000, scheme: Literal["light", "dark"] = "light", *, allow_errors: bool = False
) -> Iterator["Page"]:
    """Give an empty page; errors of scripts, or in the console, fail the test at the end unless they are allowed."""
    from playwright.sync_api import sync_playwright

    messages: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        try:
            yield page
        finally:
            browser.close()
    assert allow_errors or messages == []
