"""Soak: memory, descriptors and threads stay flat at half of the peak, and the sums stay exact."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from service.check import check
from tests.figures import Figures
from tests.server import Server, ended

WARM_SECONDS: Final = 240.0  # until allocators have what they will keep
SOAKED_SECONDS: Final = (300.0, 3_600.0)  # lane C, lane N
SLOPE_MB: Final = 1.0  # in ten minutes
ROWS_A_REQUEST: Final = 100


def standing(server: Server) -> tuple[float, int, int]:
    """Resident MB, descriptors and threads of the server's process."""
    process = Path(f"/proc/{server.process.pid}")
    status = (process / "status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status), re.search(r"Threads:\s+(\d+)", status)
    assert found[0] is not None and found[1] is not None
    return int(found[0][1]) / 1024, len(list((process / "fd").iterdir())), int(found[1][1])


def body(n: int) -> str:
    """A hundred rows of the n-th request: the stream goes on ten seconds with each."""
    rows = [
        {
            "id": f"{n}.{i}",
            "model": "m",
            "time": 1_790_000_000 + 10 * n,
            "attributes": {"floor": str(i % 8), "device": str(i % 3)},
            "features": {"snr_db": float(i % 17)},
            "output": "yes",
            "truth": "no" if (n * 7 + i) % 11 == 0 else "yes",
        }
        for i in range(ROWS_A_REQUEST)
    ]
    return json.dumps(rows)


@dataclass
class Soaked:
    """What was seen of a server once a second while rows came in."""

    n_rows: int = 0
    at: list[float] = field(default_factory=list)  # seconds
    resident_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, server: Server, at: float) -> None:
        """Once more."""
        size, n_descriptors, n_threads = standing(server)
        self.at.append(at)
        self.resident_mb.append(size)
        self.descriptors.append(n_descriptors)
        self.threads.append(n_threads)

    @property
    def slope(self) -> float:
        """MB in ten minutes."""
        return float(np.polyfit(np.array(self.at), np.array(self.resident_mb), 1)[0]) * 600


def soaked(server: Server, label_horizon: str, warm_seconds: float, seconds: float) -> Soaked:
    """Rows at half of the peak; every seventh request is of someone who was not there before."""
    found, n = Soaked(), 0
    server.client.put(
        f"{server.url}/v1/models/m",
        json={"label_horizon": label_horizon},
        headers={"authorization": f"Bearer {server.key}"},
    )
    began = time.monotonic()
    while (passed := time.monotonic() - began) < warm_seconds + seconds:
        assert server.post("/v1/events", body(n)).status_code == 200
        n, found.n_rows = n + 1, found.n_rows + ROWS_A_REQUEST
        if n % 7 == 0:
            server.client.close()
            server.client = type(server.client)(timeout=30)
        if passed > warm_seconds and (not found.at or passed - found.at[-1] > 1):
            found.look(server, passed)
        threading.Event().wait(0.02)
    return found


def a_server(directory: Path) -> Server:
    return Server(directory, tick_seconds=5, journal_retention_seconds=60, snapshot_bytes=1 << 20)


@pytest.mark.soak
def test_memory_descriptors_and_threads_are_flat(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    seconds = SOAKED_SECONDS[is_full]
    server = a_server(tmp_path)
    with ended(server):
        server.start()
        found = soaked(server, "1h", WARM_SECONDS, seconds)  # a label may come for an hour
        assert server.stop() == 0
    database = server.database()
    checked = check(database)
    database.close()
    figures(
        "soak",
        minutes=round(seconds / 60),
        rows=found.n_rows,
        rss_mb=round(found.resident_mb[-1], 1),
        rss_mb_in_10_min=round(found.slope, 2),
        descriptors=f"{min(found.descriptors)}..{max(found.descriptors)}",
        threads=f"{min(found.threads)}..{max(found.threads)}",
    )
    assert checked.faults == []
    assert checked.accounts["acme"] == (found.n_rows, found.n_rows, 0, 0)
    assert max(found.descriptors) - min(found.descriptors) <= 10
    assert found.threads[-1] <= found.threads[0] + 4
    assert found.slope <= SLOPE_MB


@pytest.mark.soak
def test_what_is_never_forgotten_shows_in_the_slope(tmp_path: Path, figures: Figures) -> None:
    """The control: the same rows, whose labels may come for longer than the rows go on."""
    server = a_server(tmp_path)
    with ended(server):
        server.start()
        found = soaked(server, "300d", 60, 120)
        assert server.stop() == 0
    figures(
        "soak, control that forgets nothing",
        minutes=2,
        rows=found.n_rows,
        rss_mb_in_10_min=round(found.slope, 2),
    )
    assert found.slope > 10 * SLOPE_MB
