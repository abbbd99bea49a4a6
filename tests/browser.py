"""A real browser for the tests of pages: the distribution's Chromium, driven by Playwright.

A test module that says `pytest_plugins = "browser"` has the fixture `visit`. Where there is no Chromium or no Playwright its tests
are skipped, and say so.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass
class Visit:
    """One page in a context of its own, as another person's browser would be."""

    page: Any
    errors: list[str] = field(default_factory=list)  # of the console, and what nobody caught
    requests: list[str] = field(default_factory=list)  # addresses that were asked for, but those of data: and blob:

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window: 0 where nothing scrolls sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def contrast(self, selector: str) -> float:
        """Of the text of an element against what is behind it, as WCAG counts it: from 1 to 21, 4.5 is legible."""
        return self.page.evaluate(
            """selector => {
                const element = document.querySelector(selector);
                const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
                let behind = element, ground;
                do {
                    ground = numbers(getComputedStyle(behind).backgroundColor);
                    behind = behind.parentElement;
                } while (ground[3] === 0 && behind);
                const light = rgb => rgb.slice(0, 3).map(c => c / 255)
                    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
                const [low, high] = [light(ground), light(numbers(getComputedStyle(element).color))].sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
            }""",
            selector,
        )


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])  # root has none
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """`visit(url, width=1100, dark=False, **options)` -> Visit. Options are those of a Playwright context."""
    contexts = []

    def go(url: str, *, width: int = 1100, height: int = 900, dark: bool = False, **options: Any) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", **options
        )
        contexts.append(context)
        made = Visit(context.new_page())
        made.page.on("console", lambda said: made.errors.append(said.text) if said.type in ("error", "warning") else None)
        made.page.on("pageerror", lambda error: made.errors.append(str(error)))
        local = ("data:", "blob:")
        made.page.on("request", lambda asked: None if asked.url.startswith(local) else made.requests.append(asked.url))
        made.page.goto(url)
        return made

    yield go
    for context in contexts:
        context.close()
