"""What all tables share: how much is run, how a figure is written, and a table as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SEED: Final = 20_261_122


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is simulated; figures differ by noise alone between efforts."""

    name: str
    rates: tuple[float, ...]  # error rates of single streams at which dials are compared
    streams: int  # single streams for each detector of ours
    peer_streams: int  # for each of river's
    null_streams: int  # without a change, for a run length; fewer once `ENOUGH_ALARMS` have come
    curve_streams: int  # for each setting of a dial, ours and river's
    curve_null_streams: int  # without a change, for ours and ADWIN
    slow_peer_streams: int  # for KSWIN, which is a thousand times slower; 0 leaves it out
    events_a_tick: int  # in which ours is fed single streams
    null_batches: int  # of a slice against the rest
    null_replicates: int
    pairs: int  # replicates of a slice against the rest, for delays
    worlds: int  # of a fleet's week, and of the pipeline's
    traffic: float  # of a fleet, times what the table says
    weeks: int  # in each world
    peer_weeks: int
    calibrated_weeks: int
    world_weeks: int  # through the whole pipeline, in each world, at each budget
    world_traffic: float  # in them, times what the table says
    label_streams: int  # whose every label is drawn
    throughput_events: int
    repeats: int  # of a timing, of which the best counts


TINY: Final = Effort(
    name="tiny",
    rates=(0.05,),
    streams=6,
    peer_streams=1,
    null_streams=2,
    curve_streams=2,
    curve_null_streams=2,
    slow_peer_streams=0,
    events_a_tick=50,
    null_batches=20,
    null_replicates=1,
    pairs=2,
    worlds=1,
    traffic=0.02,
    weeks=1,
    peer_weeks=1,
    calibrated_weeks=1,
    world_weeks=1,
    world_traffic=0.005,
    label_streams=3,
    throughput_events=2_000,
    repeats=1,
)
QUICK: Final = Effort(
    name="quick",
    rates=(0.02, 0.05, 0.10),
    streams=200,
    peer_streams=12,
    null_streams=200,
    curve_streams=100,
    curve_null_streams=400,
    slow_peer_streams=0,
    events_a_tick=10,
    null_batches=1_500,
    null_replicates=2,
    pairs=24,
    worlds=10,
    traffic=1.0,
    weeks=2,
    peer_weeks=1,
    calibrated_weeks=1,
    world_weeks=1,
    world_traffic=0.2,
    label_streams=60,
    throughput_events=1_000_000,
    repeats=3,
)
FULL: Final = Effort(
    name="full",
    rates=(0.02, 0.05, 0.10),
    streams=500,
    peer_streams=300,
    null_streams=4_000,
    curve_streams=500,
    curve_null_streams=6_000,
    slow_peer_streams=5,
    events_a_tick=2,
    null_batches=10_000,
    null_replicates=5,
    pairs=200,
    worlds=10,
    traffic=1.0,
    weeks=24,
    peer_weeks=2,
    calibrated_weeks=8,
    world_weeks=12,
    world_traffic=0.5,
    label_streams=300,
    throughput_events=4_000_000,
    repeats=7,
)


def generator(*table: int) -> np.random.Generator:
    """The generator of one part of one table; the same in each run."""
    return np.random.default_rng([SEED, *table])


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the page."""

    title: str
    setting: str  # what was simulated, and how often
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    reading: str = ""  # what to mind

    def markdown(self) -> str:
        """The table under its heading."""
        lines = [f"## {self.title}", "", self.setting, ""]
        lines.append("| " + " | ".join(self.header) + " |")
        lines.append("|" + "---|" * len(self.header))
        lines.extend("| " + " | ".join(row) + " |" for row in self.rows)
        if self.reading:
            lines.extend(["", self.reading])
        return "\n".join(lines)


def number(value: float) -> str:
    """Three figures, thousands by commas; nothing for what was not measured."""
    if np.isnan(value):
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def delays(found: Floats, missed_at: float, digits: int = 0) -> str:
    """Median and 90 % of delays, `missed_at` standing for what was never found."""
    whole = np.where(np.isnan(found), missed_at, found)
    missed = float(np.isnan(found).mean())
    figures = f"{np.median(whole):,.{digits}f} / {np.quantile(whole, 0.9):,.{digits}f}"
    return f"{figures} ({100 * missed:.3g} % missed)" if missed else figures


def rate(alarms: float, units: float) -> str:
    """Alarms a unit; where none was seen, the one-sided 95 % limit."""
    return number(alarms / units) if alarms else f"< {number(3.0 / units)}"
