"""What input shift finds and what it cries wolf over, beside rules that people run today.

Twenty features of two hundred slices, 10,000 rows an hour by Zipf's law, a daily season that all
share (0.2 sd up and down) and a jitter of each stream's hours (0.1 sd). A week's reference, then
two weeks in which nothing happens, or one in which 40 of the 4,000 streams move after two days: 24
with 30 rows an hour or more, 16 of the others, of which half have less than 14. The same without
season, without either, where all streams stray by the tolerance when the reference is over, and
where rows come in sessions of six that are all one value.

`InputShift` spends the inputs' part of one false alert a week, or all of it; it asks that a stream
moved otherwise than everyone else's, too. The same bets without that, without the season, and with
a reference that is frozen as it was measured, are the e-SR procedure of Shin, Ramdas, Rinaldo
("E-detectors", NEJSDS 2024) at one false alarm a week.

Beside it the tests of Evidently and NannyML's calculator, by their own code and at their default
thresholds (of NannyML's the mean and three standard deviations of the reference's days), each once
a day on every stream with 30 rows or more. For those a part of the quiet streams is judged and
counted up. After the semicolon: of the streams with 30 rows an hour or more alone.

    make bench-inputs            prints it
    make bench-inputs FULL=1     writes detectors/INPUTS.md
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr

from detectors import (
    Budget,
    Dispersion,
    InputsEverywhere,
    InputShift,
    Shares,
    dispersion_of_shares,
    rows_a_unit,
    season_of_shares,
    two_components,
)
from detectors.input_shift import TOLERANCE
from detectors.multiplicity import WEEK_SECONDS
from detectors.scatter import HOURS_A_DAY
from detectors.shares import ODDS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

N_SLICES: Final = 200
N_FEATURES: Final = 20
N_MOVED: Final = 40
ROWS_AN_HOUR: Final = 10_000
SEASON: Final = 0.2  # standard deviations, up and down in a day, for everyone
JITTER: Final = 0.1  # of each stream's hours
STRAY: Final = 0.05  # standard deviations: of a share of one half, as much as is tolerated
SESSION: Final = 6  # rows
WEEK: Final = 168
ONSET: Final = 48  # hours
LEVELS: Final = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
WATCHING: Final = ("everyone", "slices", "inputs")
JUDGED_STREAMS: Final = 60  # of the quiet ones, by the peers
FROZEN_MARGIN: Final = 1.1  # on the dispersion,
FROZEN_ERROR: Final = 0.84  # and standard errors of the reference that are tolerated
REFERENCE_SAMPLE: Final = 2_000  # rows of a stream that the peers compare with
MIN_ROWS: Final = 30
SHARE_OF_LARGE: Final = 0.6  # of the streams that move, those with so many rows an hour


@dataclass(frozen=True, slots=True)
class Shift:
    """What happens to a stream: its mean moves by so many of its standard deviations, or widens."""

    words: str
    mean: float = 0.0
    scale: float = 1.0


SHIFTS: Final = (
    Shift("mean + 0.3 sd", 0.3),
    Shift("mean + 0.5 sd", 0.5),
    Shift("scale × 1.5", 0.0, 1.5),
    Shift("mean + 1 sd", 1.0),
)


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens all the time, and is no shift."""

    season: float = SEASON
    jitter: float = JITTER
    stray: float = 0.0
    session: int = 1


WEATHERS: Final = {
    "season and jitter": Weather(),
    "jitter alone": Weather(season=0.0),
    "neither": Weather(season=0.0, jitter=0.0),
    "both, all streams astray": Weather(stray=STRAY),
    "both, in sessions of six": Weather(session=SESSION),
}


class World:
    """Streams, and what their hours look like."""

    def __init__(
        self, seed: int, shift: Shift | None, weather: Weather = Weather(), n_moved: int = N_MOVED
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.weather = weather
        weight = 1.0 / np.arange(1, N_SLICES + 1)
        self.rows = ROWS_AN_HOUR * weight / weight.sum()
        self.mean = self.rng.normal(0.0, 0.5, (N_SLICES, N_FEATURES))
        spread = np.sqrt(1.0 + 0.25)
        self.cuts = spread * np.array([-1.2816, -0.5244, 0.0, 0.5244, 1.2816])
        self.phase = self.rng.uniform(0, 2 * np.pi, N_FEATURES)
        self.astray = weather.stray * self.rng.choice([-1.0, 1.0], self.mean.shape)
        self.shift = shift
        large = self.rows >= MIN_ROWS
        n_large = round(SHARE_OF_LARGE * n_moved)
        streams = np.concatenate(
            [
                self.rng.choice(np.flatnonzero(np.repeat(of, N_FEATURES)), n, replace=False)
                for of, n in ((large, n_large), (~large, n_moved - n_large))
            ]
        )
        self.moved = np.zeros((N_SLICES, N_FEATURES), np.bool_)
        if shift is not None:
            self.moved.reshape(-1)[streams] = True

    def hour(self, hour: int) -> tuple[Floats, Floats, Ints]:
        """Mean and scale of each stream in an hour, and how many rows each slice has."""
        season = self.weather.season * np.sin(2 * np.pi * hour / 24 + self.phase)
        mean = self.mean + season + self.rng.normal(0.0, self.weather.jitter, self.mean.shape)
        scale = np.ones_like(mean)
        if hour >= WEEK:
            mean = mean + self.astray
        if self.shift is not None and hour >= WEEK + ONSET:
            mean = mean + self.shift.mean * self.moved
            scale = np.where(self.moved, self.shift.scale, scale)
        return mean, scale, self.rng.poisson(self.rows)

    def shares(self, hours: range) -> Iterator[Shares]:
        """Counts above each cut and outside of them, hour by hour; row 0 is everyone."""
        for hour in hours:
            mean, scale, n = self.hour(hour)
            below = ndtr((self.cuts - mean[..., None]) / scale[..., None])
            edges = np.concatenate(
                [np.zeros((*mean.shape, 1)), below, np.ones((*mean.shape, 1))], -1
            )
            sessions = n // self.weather.session
            counts = self.rng.multinomial(sessions[:, None], np.diff(edges, axis=-1))
            counts, n = counts * self.weather.session, sessions * self.weather.session
            above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1][..., 1:]
            outside = n[:, None, None] - above[..., :1] + above[..., -1:]
            asked = np.concatenate([above, outside], axis=-1)
            hits = asked.reshape(N_SLICES, -1).astype(np.float64)
            rows = np.repeat(n[:, None].astype(np.float64), hits.shape[1], axis=1)
            yield Shares(*(np.concatenate([of.sum(axis=0)[None], of]) for of in (hits, rows)))


SIGNALS: Final = np.repeat(np.arange(N_FEATURES), LEVELS.size + 1)
OUTSIDE: Final = np.array([[LEVELS.size, 0, LEVELS.size - 1]])  # of one feature
OUTSIDE_OF_ALL: Final = np.concatenate([OUTSIDE + s * (LEVELS.size + 1) for s in range(N_FEATURES)])
ORDERS: Final = np.array([0] + [1] * N_SLICES)
PROMISED: Final = float(Budget(1.0).hazard("inputs", ORDERS, WEEK_SECONDS, WATCHING).sum())


@dataclass(frozen=True, slots=True)
class Found:
    """What a method said of one world."""

    n_false: float  # alarms on streams that had not moved
    delays: list[float]  # hours, of those that had and were found
    n_moved: int
    delays_of_large: list[float]  # of those of slices with 30 rows an hour or more
    n_moved_of_large: int
    n_everywhere: int = 0  # alarms of everyone's inputs, which are false but where they moved


def ours(world: World, weeks: int, budget: float = 1.0) -> Found:
    """Our fleets: hourly looks, at the inputs' part of one false alert a week."""
    fleet, everywhere, season = _learnt(world)
    n_false = n_everywhere = 0
    first: dict[tuple[int, int], float] = {}
    for hour, shares in enumerate(world.shares(range(WEEK, WEEK * (1 + weeks)))):
        hazard = Budget(budget).hazard("inputs", ORDERS, 3600.0, WATCHING)
        spend = np.full(len(everywhere), hazard[0])
        hazard[0] = 0.0
        usual = season[hour % HOURS_A_DAY]
        told = everywhere.update(_complements(shares), spend, season=usual).streams
        assert told is not None
        n_true = int((world.moved.sum(axis=0)[told] == N_SLICES).sum()) if hour >= ONSET else 0
        n_everywhere, n_false = n_everywhere + n_true, n_false + told.size - n_true
        found = fleet.update(shares, hazard, season=usual)
        assert found.streams is not None
        for slice_, stream in zip(found.slices.tolist(), found.streams.tolist(), strict=True):
            if hour >= ONSET and world.moved[slice_ - 1, stream]:
                first.setdefault((slice_ - 1, stream), float(hour + 1 - ONSET))
            else:
                n_false += 1
        if world.shift is not None:
            fleet.hold(found.slices, found.streams)
            everywhere.hold(told)
    return replace(_found(world, n_false, first), n_everywhere=n_everywhere)


def frozen(world: World, weeks: int) -> Found:
    """The e-SR procedure on each stream's five cuts, against its reference and nothing else."""
    cuts = np.flatnonzero(np.tile(np.arange(LEVELS.size + 1) < LEVELS.size, N_FEATURES))
    shape = (N_SLICES, N_FEATURES, LEVELS.size)

    def on_cuts(shares: Shares) -> tuple[Floats, Floats]:
        return shares.hits[1:, cuts].reshape(shape), shares.rows[1:, cuts].reshape(shape)

    hits, rows = map(np.stack, zip(*map(on_cuts, world.shares(range(WEEK))), strict=True))
    share = hits.sum(axis=0) / rows.sum(axis=0)
    variance = share * (1.0 - share)
    scatter = ((hits - rows * share) ** 2).sum(axis=(0, 3)) / (rows * variance).sum(axis=(0, 3))
    dispersion = np.maximum(FROZEN_MARGIN * scatter, 1.0)[..., None]
    error = np.sqrt(dispersion * variance / rows.sum(axis=0))
    slack = FROZEN_ERROR * error + TOLERANCE
    evidence = np.zeros((2 * len(ODDS), *shape))
    spend = 1.0 / (WEEK * evidence.size)
    n_false, first = 0.0, dict[tuple[int, int], float]()
    for hour, shares in enumerate(world.shares(range(WEEK, WEEK * (1 + weeks)))):
        x, n = (of / dispersion for of in on_cuts(shares))
        sides = ((x, share + slack), (n - x, 1.0 - share + slack))
        for k, (odds, (on, null)) in enumerate(product(ODDS, sides)):
            log_e = on * np.log(odds) - n * np.log1p((odds - 1.0) * np.minimum(null, 1.0))
            evidence[k] = (evidence[k] + spend) * np.exp(np.minimum(log_e, 300.0))
        crossed = evidence.sum(axis=(0, 3)) >= 1.0
        evidence[:, crossed] = 0.0
        for slice_, feature in np.argwhere(crossed).tolist():
            if hour >= ONSET and world.moved[slice_, feature]:
                first.setdefault((slice_, feature), float(hour + 1 - ONSET))
            else:
                n_false += 1
    return _found(world, n_false, first)


def _found(world: World, n_false: float, first: dict[tuple[int, int], float]) -> Found:
    """`first` is when a stream, by slice and feature, was found."""
    large = world.rows >= MIN_ROWS
    return Found(
        n_false,
        list(first.values()),
        int(world.moved.sum()),
        [delay for (slice_, _), delay in first.items() if large[slice_]],
        int(world.moved[large].sum()),
    )


def _learnt(world: World) -> tuple[InputShift, InputsEverywhere, Floats]:
    hours = list(world.shares(range(WEEK)))
    hits, rows = (np.stack([getattr(h, name) for h in hours], axis=1) for name in ("hits", "rows"))
    season, raised = season_of_shares(np.arange(WEEK), Shares(hits[0], rows[0]))
    n = N_SLICES + 1
    slices, units = np.repeat(np.arange(n), WEEK), np.tile(np.arange(WEEK), n)
    typical = rows_a_unit(slices, rows[:, :, 0].reshape(-1), n)
    found = []
    for s in range(N_FEATURES):
        part = np.flatnonzero(s == SIGNALS)
        of_signal = Shares(*(of[:, :, part].reshape(-1, part.size) for of in (hits, rows)))
        usual = season[np.arange(WEEK) % HOURS_A_DAY][:, part]
        *both, n_units = dispersion_of_shares(
            slices, units, np.arange(WEEK), of_signal, n, usual, OUTSIDE
        )
        found.append([two_components(of, typical, n_units, WEEK, raised=raised) for of in both])
    own, rest = (Dispersion(*np.stack(of, axis=-1)) for of in zip(*found, strict=True))
    total = Shares(hits.sum(axis=1), rows.sum(axis=1))
    fleet = InputShift(SIGNALS, outside=OUTSIDE_OF_ALL)
    everywhere = InputsEverywhere(SIGNALS, outside=OUTSIDE_OF_ALL)
    fleet.grow(own, rest, total)
    parts = _complements(total)
    everywhere.grow(own.repeated(len(parts.rows)), parts)
    return fleet, everywhere, season


def _complements(shares: Shares) -> Shares:
    """Everyone, and everyone without each of the ten largest slices."""
    return Shares(
        *(np.concatenate([of[:1], of[0] - of[1:11]]) for of in (shares.hits, shares.rows))
    )


ESR: Final = "e-SR, frozen, 1"
OURS: Final[dict[str, Callable[[World, int], Found]]] = {
    f"`InputShift`, {PROMISED:.2f}": ours,
    "`InputShift`, 1": partial(ours, budget=1.0 / PROMISED),
    ESR: frozen,
}

Rule = Callable[[pd.Series, list[pd.Series], pd.Series], bool]  # reference, its days, today


def evidently(name: str, threshold: float) -> Rule:
    """One of Evidently's tests, at its default threshold."""
    module = importlib.import_module("evidently.legacy.calculations.stattests")
    kinds = importlib.import_module("evidently.legacy.core")
    test = getattr(module, name)

    def rule(reference: Any, _: Any, today: Any) -> bool:
        return bool(test(reference, today, kinds.ColumnType.Numerical, threshold).drifted)

    return rule


def nannyml(method: str) -> Rule:
    """NannyML's calculator with its default threshold, by days; fitted to the reference's days."""
    module = importlib.import_module("nannyml")
    fitted: dict[int, Any] = {}  # the reference at hand

    def rule(reference: Any, days: Any, today: Any) -> bool:
        if id(reference) not in fitted:
            fitted.clear()
            calculator = module.UnivariateDriftCalculator(
                column_names=["x"],
                timestamp_column_name="at",
                continuous_methods=[method],
                chunk_period="D",
            )
            fitted[id(reference)] = calculator.fit(_dated(days, 1))
        found = fitted[id(reference)].calculate(_dated([today], 1 + len(days)))
        told = found.filter(period="analysis").to_df()
        return bool(told["x", method, "alert"].iloc[0])

    return rule


def _dated(days: list[pd.Series], first: int) -> pd.DataFrame:
    """Days of January from the first on, each with its values."""
    at = [np.full(day.size, f"2026-01-{first + k:02}", "M8[ns]") for k, day in enumerate(days)]
    return pd.DataFrame({"at": np.concatenate(at), "x": np.concatenate(days)})


def peers() -> dict[str, Rule]:
    """By what they are called; those that are installed."""
    rules: dict[str, Rule] = {}
    for library, made in (
        (
            "Evidently",
            {
                "PSI ≥ 0.1": partial(evidently, "psi_stat_test", 0.1),
                "KS p < 0.05": partial(evidently, "ks_stat_test", 0.05),
                "normed Wasserstein ≥ 0.1": partial(evidently, "wasserstein_stat_test", 0.1),
            },
        ),
        (
            "NannyML",
            {
                "KS": partial(nannyml, "kolmogorov_smirnov"),
                "Wasserstein": partial(nannyml, "wasserstein"),
            },
        ),
    ):
        try:
            rules |= {f"{library}, {name}, daily": make() for name, make in made.items()}
        except ImportError:
            print(f"{library} is not installed: its rules are left out")
    return rules


def judged(world: World, rules: dict[str, Rule], weeks: int) -> dict[str, Found]:
    """What the peers say of the moved streams and of some of the others, day by day."""
    quiet = world.rng.permutation(np.flatnonzero(~world.moved.reshape(-1)))[:JUDGED_STREAMS]
    streams = [*np.flatnonzero(world.moved.reshape(-1)).tolist(), *quiet.tolist()]
    days = [_day(world, day, streams) for day in range(7 * (1 + weeks))]
    factor = (N_SLICES * N_FEATURES - int(world.moved.sum())) / quiet.size
    found = {}
    for name, rule in rules.items():
        n_false, first = 0.0, dict[tuple[int, int], float]()
        for k, stream in enumerate(streams):
            before = [pd.Series(day[k]) for day in days[:7]]
            whole = np.concatenate([day[k] for day in days[:7]])
            if whole.size > REFERENCE_SAMPLE:
                whole = world.rng.choice(whole, REFERENCE_SAMPLE, replace=False)
            reference = pd.Series(whole)
            enough = [day[k].size >= MIN_ROWS for day in days[7:]]
            said = [
                bool(ok) and rule(reference, before, pd.Series(day[k]))
                for ok, day in zip(enough, days[7:], strict=True)
            ]
            if world.moved.reshape(-1)[stream]:
                n_false += sum(said[: ONSET // 24])
                late = [
                    24.0 * (i + 1) - ONSET for i, s in enumerate(said) if s and i >= ONSET // 24
                ]
                if late:
                    first[divmod(stream, N_FEATURES)] = late[0]
            else:
                n_false += sum(said) * factor
        found[name] = _found(world, n_false, first)
    return found


def _day(world: World, day: int, streams: list[int]) -> list[Floats]:
    values: list[list[Floats]] = [[] for _ in streams]
    for hour in range(24 * day, 24 * day + 24):
        mean, scale, n = world.hour(hour)
        for k, stream in enumerate(streams):
            s, f = divmod(stream, N_FEATURES)
            size = min(int(n[s]), 200)  # a day of 4,800 rows is as good as one of more
            values[k].append(world.rng.normal(mean[s, f], scale[s, f], size))
    return [np.concatenate(of) for of in values]


def table(n_null: int, n_moved: int, peer_seeds: int) -> Iterator[str]:
    """The rows, in Markdown."""
    yield (
        f"| method | false alarms a week, {n_null} quiet fortnights | "
        + " | ".join(f"{shift.words}: recall, median h" for shift in SHIFTS)
        + " | false alarms in those weeks |"
    )
    yield "|---" * (3 + len(SHIFTS)) + "|"
    for words, weather in WEATHERS.items():
        for name, method in OURS.items():
            quiet = [method(World(seed, None, weather), 2).n_false / 2 for seed in range(n_null)]
            moved = [
                [method(World(100 + seed, shift, weather), 1) for seed in range(n_moved)]
                for shift in SHIFTS
            ]
            yield _row(f"{name} promised a week, hourly: {words}", quiet, moved)
    rules = peers()
    null = [judged(World(seed, None), rules, 1) for seed in range(peer_seeds)]
    drift = [
        [judged(World(100 + seed, shift), rules, 1) for seed in range(peer_seeds)]
        for shift in SHIFTS
    ]
    for name in rules:
        of = [[found[name] for found in kind] for kind in drift]
        yield _row(name, [found[name].n_false for found in null], of)


def _row(name: str, quiet: list[float], moved: list[list[Found]]) -> str:
    cells = [f"{np.mean(quiet):,.2f}" if np.mean(quiet) < 10 else f"{np.mean(quiet):,.0f}"]
    for kind in moved:
        whole = _recall([f.delays for f in kind], [f.n_moved for f in kind])
        large = _recall([f.delays_of_large for f in kind], [f.n_moved_of_large for f in kind])
        cells.append(f"{whole}; large {large}")
    false = np.mean([found.n_false for kind in moved for found in kind])
    cells.append(f"{false:,.1f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def _recall(delays: list[list[float]], n_moved: list[int]) -> str:
    found = [delay for some in delays for delay in some]
    return f"{len(found) / sum(n_moved):.2f}, {np.median(found):.0f}" if found else "0"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="write detectors/INPUTS.md")
    full = parser.parse_args().full
    lines = list(table(*((6, 4, 1) if full else (1, 1, 1))))
    if full:
        head = (__doc__ or "").split("\n\n    make")[0]
        title, body = head.split("\n\n", 1)
        root = Path(__file__).parents[2]
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],  # whichever git is there
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        made = f"By `make bench-inputs FULL=1` at commit `{commit}`; seeds are fixed."
        page = [f"# Input shift, measured\n\n{title}\n\n{body}\n\n{made}\n", *lines]
        (root / "detectors" / "INPUTS.md").write_text("\n".join(page) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
