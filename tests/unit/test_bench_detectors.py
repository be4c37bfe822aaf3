"""The scripts behind `make bench-detectors` run, at a size that says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.benchmarks.bench_detectors import labels, peers, rest, throughput, week
from tests.benchmarks.bench_detectors.__main__ import write
from tests.benchmarks.bench_detectors.page import TINY, delays, rate
from tests.benchmarks.bench_detectors.parts import parts

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_table_is_written_whole_and_both_plots_with_it(tmp_path: Path) -> None:
    measured: list[str] = []
    text = write(TINY, tmp_path, tmp_path / "kept", measured.append)
    page = (tmp_path / "BENCH.md").read_text()
    assert text in page
    tables = [f"## {table}" for table in text.split("## ")[1:]]
    assert [table.split()[1] for table in tables] == [
        "2.1", "2.1b", "2.1c", "2.2", "2.3", "2.4", "2.5", "2.7", "2.8", "2.8b", "2.9", "2.9b",
    ]  # fmt: skip
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1, lines[0]
    for name in ("single_stream.png", "week.png"):
        assert (tmp_path / "plots" / name).read_bytes().startswith(PNG)
        assert f"plots/{name}" in page
    assert sorted(measured) == sorted(part.name for part in parts(TINY))

    measured.clear()
    lost = next((tmp_path / "kept").glob("*/rest-*"))
    lost.unlink()
    assert write(TINY, tmp_path, tmp_path / "kept", measured.append) == text
    assert measured == ["rest"]  # a run that was broken off goes on


def test_the_same_seeds_give_the_same_figures() -> None:
    assert labels.sampling(TINY) == labels.sampling(TINY)
    assert rest.table(TINY) == rest.table(TINY)


def test_a_peer_is_heard_when_errors_rise_and_not_when_they_fall() -> None:
    low, high = np.arange(4_000) % 20 == 0, np.arange(4_000) % 2 == 0
    rise, fall = np.concatenate([low, high]), np.concatenate([high, low])
    for peer in (peers.adwin(), peers.page_hinkley(threshold=10.0)):
        assert next(peers.alarms(peer, rise)) >= 4_000
        assert list(peers.alarms(peer, fall)) == []


def test_a_slice_in_a_week_has_its_own_rows_in_order() -> None:
    drawn = week.draw(week.WORLDS[0], 2_000.0, np.random.default_rng(1))
    for slice_ in (0, 7, week.SLICES - 1):
        tick, wrong = drawn.traffic.of_slice(slice_)
        by_tick = np.bincount(tick[wrong], minlength=week.TICKS)
        np.testing.assert_array_equal(by_tick, drawn.traffic.errors[:, slice_])


def test_what_was_missed_counts_as_the_horizon() -> None:
    assert delays(np.array([10.0, np.nan, np.nan]), 500.0) == "500 / 500 (66.7 % missed)"
    assert delays(np.array([10.0, 20.0, 30.0]), 500.0) == "20 / 28"


def test_no_alarm_is_written_as_a_limit() -> None:
    assert rate(0.0, 2.0) == "< 1.50"
    assert rate(3.0, 2.0) == "1.50"


def test_a_fleet_takes_many_times_the_events_that_rivers_detectors_take() -> None:
    """Ratios of CPU time in one process, with room: 60 times and half an `update` are usual."""
    cells, wrong = throughput.events(1_000_000)
    river = throughput.rivers_rate(cells[:200_000], wrong[:200_000], repeats=3)
    ours = throughput.our_rate(throughput.a_disparity, cells, wrong, cells.size, repeats=5)
    assert ours > 20 * river
    a_slice = throughput.tick_seconds(throughput.SIGNALS, 5) / (
        throughput.SIGNALS * throughput.SLICES
    )
    assert a_slice < 1.5 / river  # an update of one ADWIN
