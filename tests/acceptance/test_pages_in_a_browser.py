"""The pages in a real browser: quick, quiet, to themselves, and open to everyone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from service.replay import Sender, Source, replay
from tests.browser import CHROMIUM, Heard, a_page, barriers, chromium, sign_in
from tests.server import Server, ended

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium package")

MODEL = "many"
START = 1_780_000_000  # seconds
N_ROWS = 24_000
HURT = "<script>alert('value')</script>"
HOSTILE = [
    HURT,
    '"><img src=x onerror=alert(1)>',
    "</title></svg><script>alert(2)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(3)",
    "\u202eekil siht sdaer",
    "' onmouseover=alert(4) x='",
    "w" * 400,
]
SECONDS = 1.0  # for a page to be loaded
TOUCH_EVERYTHING = """() => document.querySelectorAll('*').forEach(
    element => ['mouseover', 'focus', 'error'].forEach(
        name => element.dispatchEvent(new Event(name))))"""
LOOKS = [
    {"color_scheme": "light"},
    {"color_scheme": "dark"},
    {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
]


@dataclass(frozen=True)
class Running:
    """A server with 2,000 slices, one of which is hurt, and an alert on it."""

    url: str
    key: str
    alert: str

    @property
    def pages(self) -> list[str]:
        """A path of each kind of page."""
        model = f"/models/{MODEL}"
        return ["/", model, f"{model}?show=all&days=35", f"/alerts/{self.alert}", "/sign-in"]


def rows() -> Iterator[str]:
    """Predictions with their loss: 60 × 33 combinations, of which one value gets worse."""
    draw = random.Random(8)
    for i in range(N_ROWS):
        wing = HOSTILE[i % 60] if i % 60 < len(HOSTILE) else f"wing {i % 60}"
        risk = 0.6 if wing == HURT and i > N_ROWS / 2 else 0.1
        yield json.dumps(
            {
                "id": f"r{i}",
                "model": MODEL,
                "time": START + i * 15,
                "output": "yes",
                "loss": float(draw.random() < risk),
                "attributes": {"wing": wing, "ward": f"ward {draw.randrange(33)}"},
                "features": {
                    "level": draw.gauss(2.0 if wing == HURT and i > N_ROWS / 2 else 0.0, 1.0),
                    "codec": draw.choice(["opus", HOSTILE[1]]),
                },
            }
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Server(tmp_path_factory.mktemp("pages"))
    with ended(server):
        server.start()
        config = {"dimensions": ["wing", "ward"], "loss": "given", "loss_scale": 1.0}
        headers = {"authorization": f"Bearer {server.key}"}
        stated = server.client.put(f"{server.url}/v1/models/{MODEL}", json=config, headers=headers)
        assert stated.status_code == 200, stated.text
        lines = list(rows())
        for first in range(0, N_ROWS, 4_000):
            server.post("/v1/events", "\n".join(lines[first : first + 4_000])).raise_for_status()
        answer = server.client.get(f"{server.url}/v1/alerts", headers=headers).json()
        hurt = [a["id"] for a in answer["alerts"] if a["slice"] == {"wing": HURT}]
        assert hurt, answer
        yield Running(server.url, server.key, hurt[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def signed_in(browser: Browser, running: Running) -> Iterator[tuple[Page, Heard]]:
    page, heard = a_page(browser)
    sign_in(page, running.url, running.key)
    yield page, heard
    page.context.close()


def loaded_in_seconds(page: Page, url: str) -> float:
    """How long it took until everything was there, as the browser measured it."""
    page.goto(url, wait_until="load")
    timing = "() => performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    page.wait_for_function("() => performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    return float(page.evaluate(timing))


def test_each_page_of_a_model_with_2000_slices_is_there_within_a_second(
    signed_in: tuple[Page, Heard], running: Running
) -> None:
    page, _ = signed_in
    for path in running.pages:
        took = min(loaded_in_seconds(page, running.url + path) for _ in range(3))
        assert took <= SECONDS, path
    page.goto(f"{running.url}/models/{MODEL}")
    assert "2,001 slices" in page.inner_text("main")


def test_no_page_says_an_error_or_asks_anyone_else_for_anything(
    signed_in: tuple[Page, Heard], running: Running
) -> None:
    page, heard = signed_in
    for path in running.pages:
        page.goto(running.url + path)
    assert heard.errors == []
    assert heard.asked_for
    assert [url for url in heard.asked_for if not url.startswith(f"{running.url}/")] == []


def test_hostile_names_are_shown_as_they_are_and_do_nothing(
    signed_in: tuple[Page, Heard], running: Running
) -> None:
    page, heard = signed_in
    for path in running.pages:
        page.goto(running.url + path)
        page.evaluate(TOUCH_EVERYTHING)
    assert heard.dialogs == []
    page.goto(f"{running.url}/alerts/{running.alert}")
    assert HURT in page.inner_text("h1")
    page.goto(f"{running.url}/models/{MODEL}?dimension=wing&days=35")
    shown = page.inner_text("main")
    page.goto(f"{running.url}/models/{MODEL}?dimension=wing&days=35&start=40")
    shown += page.inner_text("main")
    assert HURT in shown
    page.evaluate("setTimeout(() => alert('heard'))")  # the control: a dialog would be heard
    page.wait_for_function("() => true")
    assert heard.dialogs == ["heard"]


@pytest.mark.parametrize("look", LOOKS, ids=["light", "dark", "phone"])
def test_nothing_keeps_anyone_out(
    browser: Browser, running: Running, look: dict[str, object]
) -> None:
    page, _ = a_page(browser, **look)
    sign_in(page, running.url, running.key)
    first, model, _, *others = running.pages
    for path in [first, f"{model}?days=1", *others]:  # axe takes its time with each mark of a day
        page.goto(running.url + path)
        for summary in page.locator("summary").all():
            summary.click()
        assert barriers(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page.evaluate("document.querySelector('label').remove()")  # the control
    assert any(found.startswith("label") for found in barriers(page))
    page.context.close()


def test_a_keyboard_is_enough_to_get_from_the_first_page_to_the_evidence(
    signed_in: tuple[Page, Heard], running: Running
) -> None:
    page, _ = signed_in
    page.goto(f"{running.url}/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{running.url}/alerts/*")
    assert page.get_by_role("heading", level=1).is_visible()


def test_someone_takes_an_alert_in_hand_and_everyone_sees_who(
    signed_in: tuple[Page, Heard], running: Running
) -> None:
    page, heard = signed_in
    page.goto(f"{running.url}/alerts/{running.alert}")
    page.get_by_label("Take it in hand").fill("on my way <b>now</b>")
    page.get_by_role("button", name="Take").click()
    assert "on my way <b>now</b>" in page.locator("p.taken").inner_text()
    assert (page.get_by_label("Take it in hand").count(), heard.errors) == (0, [])


def test_a_link_from_another_site_leads_to_the_page_for_who_is_signed_in(
    signed_in: tuple[Page, Heard], running: Running, tmp_path: Path
) -> None:
    target = f"{running.url}/alerts/{running.alert}"
    (tmp_path / "chat.html").write_text(f'<a href="{target}">an alert</a>')

    class Chat(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    chat = ThreadingHTTPServer(("127.0.0.1", 0), partial(Chat, directory=str(tmp_path)))
    thread = threading.Thread(target=chat.serve_forever, args=(0.05,))
    thread.start()
    try:
        page, _ = signed_in
        page.goto(f"http://localhost:{chat.server_port}/chat.html")  # another site than 127.0.0.1
        page.get_by_text("an alert").click()
        page.get_by_role("heading", name="What to do").wait_for()
        assert page.url == target
    finally:
        chat.shutdown()
        thread.join()
        chat.server_close()


def test_whoever_is_not_signed_in_is_asked_and_then_led_to_where_they_wanted(
    browser: Browser, running: Running
) -> None:
    page, _ = a_page(browser)
    page.goto(f"{running.url}/alerts/{running.alert}")
    page.get_by_label("Key").fill("sw_wrong")
    page.get_by_role("button", name="Sign in").click()
    assert "No key reads like this one" in page.get_by_role("alert").inner_text()
    page.get_by_label("Key").fill(running.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{running.url}/alerts/{running.alert}")
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{running.url}/alerts/{running.alert}")
    assert page.get_by_label("Key").is_visible()
    page.context.close()


def test_during_the_hospital_s_replay_the_first_page_names_floor_7_as_soon_as_it_is_known(
    tmp_path: Path, browser: Browser
) -> None:
    server = Server(tmp_path)
    named: list[list[str]] = []
    with ended(server), as_file(files("service.demo") / "hospital.parquet") as recordings:
        server.start()
        page, _ = a_page(browser)
        sign_in(page, server.url, server.key)
        headers = {"authorization": f"Bearer {server.key}"}

        def look(_: object) -> None:
            open_ = server.client.get(f"{server.url}/v1/alerts?state=firing", headers=headers)
            if open_.json()["alerts"]:
                page.goto(f"{server.url}/")
                named.append(page.locator("article h2").all_inner_texts())

        with Sender(server.url, server.key) as sender:
            replay(Source((recordings,)), sender, batch_rows=2_000, progress=look)
        page.context.close()
    assert named
    assert all(names[0].replace("\n", " ").endswith("floor 7") for names in named), named
