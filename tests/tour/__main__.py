"""The README's pictures: the hospital's fortnight through the real service, seen by a browser.

`make tour` writes them anew beside this file.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, FloatRect

from service.replay import Sender, Source, replay
from service.report import Source as Service
from service.report import make
from service.report_forms import html
from tests.browser import a_page, chromium, sign_in
from tests.server import Server, ended

HERE: Final = Path(__file__).parent
MODEL: Final = "transcribe-medical"
MAX_BYTES: Final = 350_000
WIDE: Final = {"width": 1120, "height": 900}
PHONE: Final = {"width": 390, "height": 844}


def main() -> int:
    """Replay, look, and write each picture; 1 where one is larger than it may be."""
    with tempfile.TemporaryDirectory() as directory, chromium() as browser:
        server = Server(Path(directory))
        with ended(server), as_file(files("service.demo") / "hospital.parquet") as recordings:
            server.start()
            with Sender(server.url, server.key) as sender:
                replay(Source((recordings,)), sender)
            _pages(browser, server)
            _report(browser, server, Path(directory))
    too_large = [p.name for p in HERE.glob("*.png") if p.stat().st_size > MAX_BYTES]
    for name in too_large:
        sys.stderr.write(f"{name}: more than {MAX_BYTES} bytes\n")
    return 1 if too_large else 0


def _pages(browser: Browser, server: Server) -> None:
    looks = (
        ("light", {"viewport": WIDE}),
        ("dark", {"viewport": WIDE, "color_scheme": "dark"}),
        ("phone", {"viewport": PHONE}),
    )
    for look, context in looks:
        page, _ = a_page(browser, **context)
        sign_in(page, server.url, server.key)
        if look == "light":
            page.screenshot(path=HERE / "first.png", clip=_top(WIDE, 470))
        page.locator("h2.name a").first.click()
        page.wait_for_load_state()
        height = {"light": 1300, "dark": 700, "phone": 1240}[look]
        page.screenshot(
            path=HERE / f"alert-{look}.png",
            full_page=True,
            clip=_top(PHONE if look == "phone" else WIDE, height),
        )
        if look == "light":
            page.goto(f"{server.url}/models/{MODEL}")
            page.screenshot(path=HERE / "model.png", full_page=True)
        page.context.close()


def _report(browser: Browser, server: Server, directory: Path) -> None:
    with Service(server.url, server.key) as service:
        card = make(service, MODEL, None, None, datetime(2026, 3, 18, tzinfo=UTC))
    (directory / "card.html").write_text(html(card))
    page, _ = a_page(browser, viewport=WIDE)
    page.goto((directory / "card.html").as_uri())
    page.screenshot(path=HERE / "report.png", full_page=True, clip=_top(WIDE, 1000))
    page.context.close()


def _top(viewport: dict[str, int], height: int) -> FloatRect:
    return {"x": 0, "y": 0, "width": viewport["width"], "height": height}


if __name__ == "__main__":
    sys.exit(main())
