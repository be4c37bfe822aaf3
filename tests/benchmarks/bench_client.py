"""What the client costs the program it is in: CPU and time a call, and memory through an outage.

    make bench-client                # a minute of outage at 10,000 calls a second
    python -m tests.benchmarks.bench_client --seconds 5

No one listens while the calls are made; then the service comes, and what it stored is counted.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from pathlib import Path

from service.client import Client, Counts
from tests.counting import counting_server

CALLS_A_SECOND = 10_000
SLICE_SECONDS = 0.01

FEATURES: dict[str, object] = {f"band_{i}_db": -40.0 + i / 7 for i in range(10)}
ATTRIBUTES: dict[str, object] = {"floor": "7", "accent": "scottish", "device": "tablet"}


def resident_megabytes() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def outage(client: Client, seconds: float) -> tuple[list[float], list[float], float]:
    """Call at the rate: µs a call, of CPU here and of the clock, and the greatest memory in MB."""
    cpu: list[float] = []
    clock: list[float] = []
    most = resident_megabytes()
    n_calls = int(CALLS_A_SECOND * SLICE_SECONDS)
    due = time.perf_counter()
    for i in range(int(seconds / SLICE_SECONDS)):
        began, began_cpu = time.perf_counter(), time.thread_time()
        for j in range(n_calls):
            client.predict(
                f"utt-{i}-{j}",
                output="the patient was stable",
                features=FEATURES,
                attributes=ATTRIBUTES,
                confidence=0.91,
                cluster="round-4711",
            )
        cpu.append((time.thread_time() - began_cpu) / n_calls * 1e6)
        clock.append((time.perf_counter() - began) / n_calls * 1e6)
        if i % 20 == 0:
            most = max(most, resident_megabytes())
        due += SLICE_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
    return cpu, clock, most


def measure(seconds: float) -> tuple[Counts, int, list[float], list[float], float]:
    """Counts of the client, rows that the service has, µs a call (CPU, clock), MB grown."""
    with socket.socket() as taken, tempfile.TemporaryDirectory() as spool:
        taken.bind(("127.0.0.1", 0))  # no one listens there, and no one else will
        port = int(taken.getsockname()[1])
        with Client(
            f"http://127.0.0.1:{port}", "sw_k_s", model="m", spool_directory=spool,
            first_wait_seconds=0.05,
        ) as client:  # fmt: skip
            before = resident_megabytes()
            cpu, clock, most = outage(client, seconds)
            taken.close()
            with counting_server(port) as (_, received):
                client.flush(timeout_seconds=600)
                return client.counts, len(received), cpu, clock, most - before


def at(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def main() -> int:
    """Print the figures; 1 where a row was lost or a bound was not kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    counts, n_received, cpu, clock, grown = measure(parser.parse_args().seconds)
    print(
        f"calls={counts.taken} received={n_received} dropped={counts.dropped} "
        f"cpu_us_a_call={at(cpu, 0.5):.1f} clock_us_a_call={at(clock, 0.5):.1f} "
        f"p99={at(clock, 0.99):.1f} grown_mb={grown:.1f} threads={threading.active_count()}"
    )
    return int(n_received != counts.taken or at(cpu, 0.5) > 20 or grown > 50)


if __name__ == "__main__":
    raise SystemExit(main())
