"""Calls at a rate while no one listens: nothing is lost, and memory is bounded."""

from __future__ import annotations

from tests.benchmarks.bench_client import CALLS_A_SECOND, measure

SECONDS = 3.0


def test_an_outage_costs_disk_and_not_memory_and_loses_nothing() -> None:
    counts, n_received, _, _, grown_megabytes = measure(SECONDS)
    assert counts.taken == n_received == SECONDS * CALLS_A_SECOND
    assert counts.accepted == counts.taken
    # 30,000 rows are 13 MB of JSON; what is in memory at once are a few batches
    assert grown_megabytes < 10
