"""What Prometheus costs: a scrape of 10,000 slice series during full ingest, in CPU and throughput.

The service runs in a process of its own with a model of more than 1,000 slices on the page, and
publishes every second. Its CPU time is read from /proc: while nothing comes (what it publishes),
with a scrape a second beside that, and while rows come as fast as they are taken, with scrapes and
without in turns. The difference of the last two is smaller than what a shared machine scatters, so
the share is reckoned from the first.

    make bench-scrape
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import msgspec
import numpy as np

from tests.server import Server, ended

VALUES: Final = 20  # of each of three dimensions: 60 + 3 × 400 slices to order 2
ROWS_A_REQUEST: Final = 500
WARM_UP_ROWS: Final = 100_000
ROWS_A_TURN: Final = 40_000
TURNS: Final = 6
IDLE_SECONDS: Final = 20
PUBLISH_SECONDS: Final = 5  # what the service does by default; Prometheus scrapes every 15 s
START: Final = 1_795_000_000  # seconds since 1970
ROWS_A_SECOND: Final = 10  # of the stream's own time


def bodies(n_rows: int, first: int) -> list[bytes]:
    """Labelled predictions as NDJSON, a request's worth each."""
    rng = np.random.default_rng(first)
    attributes = rng.integers(VALUES, size=(n_rows, 3)).tolist()
    wrong = (rng.random(n_rows) < 0.08).tolist()
    encode = msgspec.json.Encoder().encode
    lines = [
        encode(
            {
                "id": f"r{first + i}",
                "model": "m",
                "time": START + (first + i) / ROWS_A_SECOND,
                "attributes": {f"d{d}": f"v{value}" for d, value in enumerate(attributes[i])},
                "output": "yes",
                "truth": "no" if wrong[i] else "yes",
            }
        )
        for i in range(n_rows)
    ]
    return [b"\n".join(lines[at : at + ROWS_A_REQUEST]) for at in range(0, n_rows, ROWS_A_REQUEST)]


class Fed:
    """A server that has a thousand slices, and the rows that it is given next."""

    def __init__(self, directory: Path) -> None:
        self.server = Server(directory, max_slice_series=1_000, publish_seconds=1)
        self.server.start()
        self._next = 0
        self.send(WARM_UP_ROWS)

    def send(self, n_rows: int) -> tuple[float, float]:
        """Give it so many rows more; CPU seconds of the server, and seconds of the clock."""
        made = bodies(n_rows, self._next)
        self._next += n_rows
        cpu, wall = self.cpu_seconds(), time.perf_counter()
        for body in made:
            self.server.post(
                "/v1/events", body.decode(), **{"content-type": "application/x-ndjson"}
            ).raise_for_status()
        return self.cpu_seconds() - cpu, time.perf_counter() - wall

    def cpu_seconds(self) -> float:
        """CPU time of the server so far, user and system."""
        fields = (
            Path(f"/proc/{self.server.process.pid}/stat").read_text().rpartition(")")[2].split()
        )
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle(self) -> float:
        """CPU seconds of the server in a second in which nothing is sent."""
        cpu = self.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        return (self.cpu_seconds() - cpu) / IDLE_SECONDS

    def page(self) -> str:
        """What Prometheus is told."""
        return self.server.client.get(f"{self.server.url}/metrics").text


@contextmanager
def scraped(fed: Fed, every_seconds: float) -> Iterator[list[float]]:
    """While the block runs, a scrape every so often; gives how long each took."""
    stop, took = threading.Event(), []

    def run() -> None:
        with httpx2.Client(timeout=30) as client:
            while not stop.wait(every_seconds):
                start = time.perf_counter()
                client.get(f"{fed.server.url}/metrics").raise_for_status()
                took.append(time.perf_counter() - start)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Measure, and say what came of it."""
    with tempfile.TemporaryDirectory() as name:
        fed = Fed(Path(name))
        with ended(fed.server):
            publication = fed.idle()
            with scraped(fed, 1.0) as waits:
                both = fed.idle()
            quiet, loud = [], []
            for _ in range(TURNS):
                quiet.append(fed.send(ROWS_A_TURN))
                with scraped(fed, 1.0):
                    loud.append(fed.send(ROWS_A_TURN))
            page = fed.page()
    n_series, wait = page.count("\nslicewatch_slice_"), statistics.median(waits)
    print(f"{n_series:,} slice series on a page of {len(page):,} bytes")
    print(f"a publication                {publication * 1e3:6.1f} ms of CPU")
    print(f"a publication and a scrape   {both * 1e3:6.1f} ms of CPU; {wait * 1e3:.0f} ms to wait")
    share = max(publication, both) / PUBLISH_SECONDS
    print(f"share of a core              {share:6.2%} with both every {PUBLISH_SECONDS} s")
    print("full ingest       without scrapes, with one a second")
    for words, place in (("rows a CPU-second", 0), ("rows a second    ", 1)):
        without, beside = (
            ROWS_A_TURN / statistics.median(turn[place] for turn in turns)
            for turns in (quiet, loud)
        )
        print(f"{words} {without:8,.0f} {beside:8,.0f}    {beside / without:.3f} times")


if __name__ == "__main__":
    main()
