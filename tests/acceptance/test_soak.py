"""Soak: memory, descriptors and threads stay flat at half of the peak, and the sums stay exact."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from service.check import check
from service.database import Database
from tests.figures import Figures
from tests.server import Server, ended

WARM_SECONDS: Final = 60.0
SLOPE_MB: Final = 1.0  # in ten minutes
# Ids past their horizon are forgotten half a million of a model at a time: an hour sees that
# several times over, and five minutes only see them come.
BYTES_AN_ID: Final = 130
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


@pytest.mark.soak
def test_memory_descriptors_and_threads_are_flat(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    soaked_seconds = 3_600 if is_full else 300
    server = Server(tmp_path, tick_seconds=5, journal_retention_seconds=60, snapshot_bytes=1 << 20)
    at: list[float] = []
    sizes: list[float] = []
    descriptors: list[int] = []
    threads: list[int] = []
    n = n_rows = 0
    with ended(server):
        server.start()
        server.client.put(  # a label may come for an hour: so much must be remembered, no more
            f"{server.url}/v1/models/m",
            json={"label_horizon": "1h"},
            headers={"authorization": f"Bearer {server.key}"},
        )
        began = time.monotonic()
        while (passed := time.monotonic() - began) < WARM_SECONDS + soaked_seconds:
            assert server.post("/v1/events", body(n)).status_code == 200
            n, n_rows = n + 1, n_rows + ROWS_A_REQUEST
            if n % 7 == 0:  # churn: someone new connects, looks and goes
                server.client.close()
                server.client = type(server.client)(timeout=30)
            if passed > WARM_SECONDS and (not at or passed - at[-1] > 1):
                size, n_descriptors, n_threads = standing(server)
                at.append(passed)
                sizes.append(size)
                descriptors.append(n_descriptors)
                threads.append(n_threads)
            threading.Event().wait(0.02)
        assert server.stop() == 0
    slope = float(np.polyfit(np.array(at), np.array(sizes), 1)[0]) * 600
    of_ids = 0.0 if is_full else BYTES_AN_ID * n_rows / at[-1] * 600 / 2**20
    database = Database.in_directory(server.directory / "data")
    checked = check(database)
    database.close()
    figures(
        "soak",
        minutes=round(soaked_seconds / 60),
        rows=n_rows,
        rss_mb=round(sizes[-1], 1),
        rss_mb_in_10_min=round(slope, 2),
        of_it_ids_at_most=round(of_ids, 2),
        descriptors=f"{min(descriptors)}..{max(descriptors)}",
        threads=f"{min(threads)}..{max(threads)}",
    )
    assert checked.faults == []
    assert checked.accounts["acme"] == (n_rows, n_rows, 0, 0)
    assert max(descriptors) - min(descriptors) <= 10
    assert threads[-1] <= threads[0] + 4
    assert slope <= SLOPE_MB + of_ids
