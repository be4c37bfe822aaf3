"""Browser: Debian's Chromium, which tells what a page said, asked for, and threw up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Request,
    sync_playwright,
)

CHROMIUM = shutil.which("chromium")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@dataclass
class Heard:
    """What a page did besides being shown."""

    errors: list[str] = field(default_factory=list)  # on the console, or thrown
    asked_for: list[str] = field(default_factory=list)  # URLs
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def a_page(browser: Browser, **context: Any) -> tuple[Page, Heard]:
    """A page of a browser of its own, and what is heard of it."""
    page, heard = browser.new_context(**context).new_page(), Heard()

    def console(said: ConsoleMessage) -> None:
        if said.type == "error":
            heard.errors.append(said.text)

    def thrown(error: Error) -> None:
        heard.errors.append(str(error))

    def request(asked: Request) -> None:
        heard.asked_for.append(asked.url)

    def dismiss(dialog: Dialog) -> None:
        heard.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("console", console)
    page.on("pageerror", thrown)
    page.on("request", request)
    page.on("dialog", dismiss)
    return page, heard


def sign_in(page: Page, url: str, key: str) -> None:
    """Show a key where the first page asks for it."""
    page.goto(f"{url}/")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()


def barriers(page: Page) -> list[str]:
    """What axe finds that keeps someone out: each rule with the first elements that break it."""
    found = Axe().run(page, options={"runOnly": list(RULES)}).response["violations"]
    return [
        f"{each['id']}: {' | '.join(node['html'][:120] for node in each['nodes'][:3])}"
        for each in found
    ]
