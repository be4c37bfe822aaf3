"""Prometheus: Debian's own on the loopback, with our rules, and what it answers."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

GRAFANA: Final = Path(__file__).parents[1]
SCRAPE_SECONDS: Final = 1
START_WITHIN_SECONDS: Final = 30.0

Series = list[dict[str, Any]]  # a result's: labels under "metric", and "value" or "values"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that answers queries."""

    url: str
    http: httpx2.Client

    def instant(self, expression: str, at: float) -> Series:
        """The newest values at an instant; raises HTTPStatusError where it does not parse."""
        return self._data("query", {"query": expression, "time": at})["result"]  # type: ignore[no-any-return]

    def range(self, expression: str, start: float, end: float, step: float) -> Series:
        """The values over a time."""
        asked = {"query": expression, "start": start, "end": end, "step": step}
        return self._data("query_range", asked)["result"]  # type: ignore[no-any-return]

    def series(self, selector: str, start: float, end: float) -> list[dict[str, str]]:
        """The labels of the series that a selector finds."""
        return self._data("series", {"match[]": selector, "start": start, "end": end})  # type: ignore[no-any-return]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule that is loaded, and its health."""
        return [rule for group in self._data("rules", {})["groups"] for rule in group["rules"]]

    def _data(self, path: str, asked: Mapping[str, Any]) -> Any:
        answer = self.http.get(f"{self.url}/api/v1/{path}", params=asked)
        if answer.status_code == 400:
            raise ValueError(f"{asked.get('query')}: {answer.json()['error']}")
        return answer.raise_for_status().json()["data"]


@contextmanager
def scraping(directory: Path, service_url: str) -> Iterator[Prometheus]:
    """Prometheus with the configuration that ships, but one target and a scrape a second."""
    config = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    config["global"] |= {
        "scrape_interval": f"{SCRAPE_SECONDS}s",
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
    }
    config["rule_files"] = [str(GRAFANA / name) for name in config["rule_files"]]
    target = service_url.removeprefix("http://")
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    del config["alerting"]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{_free_port()}"
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address={url.removeprefix('http://')}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx2.Client(timeout=30, trust_env=False) as http:
                until(lambda: _is_ready(http, url), START_WITHIN_SECONDS)
                yield Prometheus(url, http)
        finally:
            process.terminate()
            process.wait(10)


def _is_ready(http: httpx2.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/-/ready").status_code == 200
    except httpx2.TransportError:
        return False


def until(claim: Callable[[], bool], within_seconds: float) -> None:
    """Wait until the claim holds; raises TimeoutError where it does not in time."""
    give_up_at = time.monotonic() + within_seconds
    while not claim():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within_seconds} s")
        threading.Event().wait(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def interpolated(expression: str, chosen: Mapping[str, str] | None = None) -> str:
    """A board's query as Grafana sends it: All of every variable, but for those `chosen`."""
    values = {
        "__rate_interval": f"{4 * SCRAPE_SECONDS}s",  # as Grafana reckons it
        **dict.fromkeys(("tenant", "model", "metric", "slice"), ".*"),
        **(chosen or {}),
    }
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)
