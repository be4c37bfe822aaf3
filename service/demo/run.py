"""Run: the demo from start to end, step by step."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import httpx2
from rich.console import Console

from service.clock import SystemClock
from service.database import Database
from service.demo.receiver import Receiver, receiving
from service.demo.server import DidNotStart, serving
from service.demo.story import tell, was_found
from service.errors import SlicewatchError
from service.evidence.sessions import Sessions
from service.ingest.events import PREDICTION
from service.ingest.files import count_rows
from service.keys import Keys, Scope
from service.replay import Sender, Source, replay
from service.terminal import progress

TENANT: Final = "demo"
DELIVERED_WITHIN_SECONDS: Final = 20.0
RETRY_FOR_SECONDS: Final = 10.0  # a service on the loopback that is silent for longer has ended
NOTICE: Final = (
    "The speech is synthesised and its accents are sound substitutions written by hand: "
    "nothing here says anything about real people."
)


def run(once: bool, port: int = 0) -> int:
    """Serve, replay, receive, tell; the exit code is 0 where floor 7 was found, else 1.

    1. Start the service on the loopback, its state in a temporary directory.
    2. Make a key, and register the demo's own receiver as a webhook endpoint.
    3. Replay the hospital's fortnight through the API.
    4. Wait until every delivery has come and its signature has held.
    5. Tell what was found, and where to look.
    6. Stay up until Ctrl-C, or with `once` end.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C: the service must not outlive the demo
        signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with (
            as_file(files("service.demo") / "hospital.parquet") as recordings,
            tempfile.TemporaryDirectory(prefix="slicewatch-demo-") as directory,
            serving(Path(directory), port) as service,
            receiving(SystemClock()) as receiver,
        ):
            try:
                return _tour(console, service.url, Path(directory), recordings, receiver, once)
            except (SlicewatchError, httpx2.HTTPError) as error:
                console.print(f"{error}\n{service.last_words()}")
                return 1
    except DidNotStart as error:
        console.print(str(error))
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130


def _tour(
    console: Console, url: str, directory: Path, recordings: Path, receiver: Receiver, once: bool
) -> int:
    key, way_in = _make_key(directory)
    console.print(f"Slicewatch listens on {url}; its key, shown this once:\n{key}\n")
    with _api(url, key) as api:
        endpoint = _register(api, receiver)
        _replay(console, Source((recordings,)), url, key)
        _wait_for_deliveries(api, endpoint, receiver)
        alerts = api.get("/v1/alerts", params={"limit": 1000}).raise_for_status().json()["alerts"]
    told = {received.data["id"] for received in receiver.received if "id" in received.data}
    console.print(_deliveries(len(receiver.received), len(told), len(alerts)))
    for line in tell(alerts, url):
        console.print(line)
    console.print(f"{NOTICE}\n")
    for line in _where_to_look(url, way_in, alerts):
        console.print(line)
    found = was_found([alert for alert in alerts if alert["id"] in told])
    if not once:
        _stay_up(console)
    return 0 if found else 1


def _stay_up(console: Console) -> None:
    console.print("\nUp until Ctrl-C.")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _make_key(directory: Path) -> tuple[str, str]:
    """A new key, and a link's token that signs a browser in with it, once."""
    database, clock = Database.in_directory(directory), SystemClock()
    try:
        keys = Keys(database, clock)
        key = keys.create(TENANT, Scope)
        return key, Sessions(database, clock, keys).link(keys.authenticate(f"Bearer {key}"))
    finally:
        database.close()


@contextmanager
def _api(url: str, key: str) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=30.0) as api:
        yield api


def _register(api: httpx2.Client, receiver: Receiver) -> str:
    """The id of the endpoint that now stands for the receiver."""
    answer = api.post("/v1/endpoints", json={"url": receiver.url})
    endpoint: dict[str, Any] = answer.raise_for_status().json()
    receiver.trust(endpoint["secret"])
    return str(endpoint["id"])


def _replay(console: Console, source: Source, url: str, key: str) -> None:
    with (
        progress("14 days of a hospital", count_rows(source.paths), console) as advance,
        Sender(url, key, RETRY_FOR_SECONDS) as sender,
    ):
        replayed = replay(
            source, sender, progress=lambda batch: advance(int((batch.kind & PREDICTION).sum()))
        )
    console.print(
        f"{replayed.accepted:,} predictions and labels accepted, {replayed.rejected} rejected, "
        f"in {replayed.requests} requests.\n"
    )


def _wait_for_deliveries(api: httpx2.Client, endpoint: str, receiver: Receiver) -> None:
    """Wait until the receiver has every delivery that the service has made for it."""
    give_up_at = time.monotonic() + DELIVERED_WITHIN_SECONDS
    while time.monotonic() < give_up_at:
        answer = api.get(f"/v1/endpoints/{endpoint}/deliveries", params={"limit": 1000})
        deliveries = answer.raise_for_status().json()["deliveries"]
        if receiver.wait_for({delivery["id"] for delivery in deliveries}, timeout_seconds=1.0):
            return


def _deliveries(n_webhooks: int, n_told: int, n_alerts: int) -> str:
    text = f"Signed webhooks that came and were verified: {n_webhooks}"
    if n_told:
        text += f", of {n_told} {'alert' if n_told == 1 else 'alerts'}"
    if n_alerts > n_told:
        text += f"; {n_alerts - n_told} more explained by them"
    return f"{text}.\n"


def _where_to_look(url: str, way_in: str, alerts: list[dict[str, Any]]) -> Iterator[str]:
    models = sorted({alert["model"] for alert in alerts}) or ["transcribe-medical"]
    yield "The pages, by a link that signs a browser in, once:"
    yield f"  {url}/sign-in?link={way_in}\n"
    yield "Where to look next, with the key above in $SLICEWATCH_KEY:"
    for path in ("/v1/alerts", f"/v1/models/{models[0]}/slices?sort=disparity"):
        yield f"  curl -H \"Authorization: Bearer $SLICEWATCH_KEY\" '{url}{path}'"
    yield f"  {url}/docs     every route"
    yield f"  {url}/metrics  what Prometheus is told"
