"""A thousand slices for a week: ours, an ADWIN a slice, and the hourly tests that people write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN
from scipy.stats import norm

from detectors import (
    Budget,
    Disparity,
    Outcomes,
    Units,
    dispersion_own,
    dispersion_share,
    fit_cell_rates,
)
from detectors.reference import least_dispersion, shrink_dispersion
from detectors.streams import Fleet, Traffic, season, step, traffic, zipf_fleet
from service.monitor.config import MonitorConfig
from service.monitor.null_weeks import learn_watch
from service.monitor.slices import Slices
from service.monitor.watch import Labelled, Watch
from tests.benchmarks.bench_detectors.page import Effort, Floats, Table, delays, generator, number

Indices = npt.NDArray[np.intp]

SLICES: Final = 1_000
TICKS_AN_HOUR: Final = 6
TICK_SECONDS: Final = 3600 / TICKS_AN_HOUR
TICKS: Final = 168 * TICKS_AN_HOUR
CHANGE: Final = 48 * TICKS_AN_HOUR
LABELS_AN_HOUR: Final = 20_000.0
SESSION: Final = 8
CORRELATION: Final = 0.27  # within a session: variance over mean is 1 + 7 × 0.27 = 2.9
MOST: Final = 0.999  # no error is certain
LEAST: Final = 30  # rows in an hour below which nobody would test
BAND_NAMES: Final = ("5-50", "50-300", "300+")
BANDS: Final = ((5, 50, 3), (50, 300, 4), (300, SLICES, 3))  # ranks, and how many go bad


@dataclass(frozen=True, slots=True)
class World:
    """What one week is like."""

    name: str
    bad: float = 1.0  # ratio of the ten bad slices from the change on
    common: Floats | None = None  # ratio of everybody, by tick
    labels_an_hour: float = LABELS_AN_HOUR
    reference_hours: int = 168
    session: int = 1
    with_peers: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Week:
    """One replicate: a reference, a week, and which slices went bad in it."""

    reference: Traffic
    traffic: Traffic
    bad: Indices
    session: int  # rows in each
    rates: Floats  # of each slice, while nothing happens
    world: World


@dataclass(frozen=True, slots=True)
class Alarms:
    """Every alarm of a method in a week, in order: tick and slice, shape (n,)."""

    ticks: Indices
    slices: Indices


Method = Callable[[Week], Alarms]


def draw(world: World, labels_an_hour: float, rng: np.random.Generator) -> Week:
    """A replicate of a world."""
    fleet = zipf_fleet(rng, SLICES, labels_an_hour)
    bad = np.concatenate([rng.choice(np.arange(lo, hi), n, False) for lo, hi, n in BANDS])
    ratios = np.ones((TICKS, SLICES))
    ratios[:, bad] = step(TICKS, CHANGE, world.bad)[:, None]
    if world.common is not None:
        ratios *= world.common[:, None]
    return Week(
        _rows(world, fleet, np.ones((world.reference_hours * TICKS_AN_HOUR, SLICES)), rng),
        _rows(world, fleet, ratios, rng),
        bad if world.bad > 1 else bad[:0],
        world.session,
        fleet.rates,
        world,
    )


def _rows(world: World, fleet: Fleet, ratios: Floats, rng: np.random.Generator) -> Traffic:
    rows = rng.poisson(fleet.rows_an_hour / TICKS_AN_HOUR, ratios.shape)
    correlation = CORRELATION if world.session > 1 else 0.0
    return traffic(rng, rows, fleet.rates * ratios, world.session, correlation)


def ours(budget: float = 1.0, is_told_dispersion: bool = True) -> Method:
    """`Disparity`, set up from the reference as the service does it."""

    def method(week: Week) -> Alarms:
        levels = np.arange(SLICES, dtype=np.int32)[:, None]
        seen = week.reference.errors.sum(axis=0).astype(np.float64)
        exposure = week.reference.rows.sum(axis=0).astype(np.float64)
        rates = fit_cell_rates(levels, seen, exposure).predict(levels)
        own, share = _dispersion(week.reference, rates)
        fleet = Disparity()
        if not is_told_dispersion:
            own, share = np.ones_like(own), np.ones_like(share)
        fleet.grow(own, share, _with_root(seen), _with_root(exposure * rates))
        orders = np.ones(SLICES, np.intp)
        spend = Budget(budget).hazard("slices", orders, TICK_SECONDS, ("slices",))
        return _alarms(fleet, week.traffic, rates, np.concatenate([[0.0], spend]))

    return method


def informed(week: Week) -> Alarms:
    """Of a Shiryaev-Roberts test that knows every rate and ratio, of slices and of everybody.

    Nothing finds sooner at so few false alarms where errors are independent: Pollak and
    Tartakovsky, "Optimality properties of the Shiryaev-Roberts procedure", Statistica Sinica 2009.
    """
    common = np.ones(TICKS) if week.world.common is None else week.world.common
    hazard = 1.0 / (TICKS * SLICES)
    evidence = np.zeros(SLICES)
    ticks, slices = [], []
    errors = week.traffic.errors
    for tick, rows in enumerate(week.traffic.rows):
        wrong = errors[tick]
        due, ratio = week.rates * common[tick], week.world.bad
        worse = np.minimum(due * ratio, MOST)
        log_e = wrong * np.log(worse / due) + (rows - wrong) * np.log((1 - worse) / (1 - due))
        evidence = (evidence + hazard) * np.exp(log_e)
        crossed = np.flatnonzero(evidence >= 1.0)
        evidence[crossed] = 0.0
        ticks.extend([tick] * crossed.size)
        slices.extend(crossed.tolist())
    return Alarms(np.array(ticks, np.intp), np.array(slices, np.intp))


def _alarms(
    fleet: Disparity,
    traffic: Traffic,
    rates: Floats,
    hazard: Floats,
    hazard_rest: Floats | None = None,
) -> Alarms:
    """The fleet through a week, as the service feeds it."""
    ticks, slices = [], []
    errors = traffic.errors.astype(np.float64)
    for tick, rows in enumerate(traffic.rows):
        outcomes = Outcomes(_with_root(errors[tick]), _with_root(rows * rates))
        crossed = fleet.update(outcomes, hazard, hazard_rest=hazard_rest).slices
        ticks.extend([tick] * crossed.size)
        slices.extend((crossed - 1).tolist())
    return Alarms(np.array(ticks, np.intp), np.array(slices, np.intp))


def calibrated(budget: float = 1.0) -> Method:
    """`Disparity` as the service sets it up by default: its hazards from null weeks."""

    def method(week: Week) -> Alarms:
        slices, cells = _catalogue()
        watch = Watch.restore(_learnt(week), 0.0, Budget(budget))
        hazards = watch.hazards(slices, TICK_SECONDS, ("slices",))
        for hazard in hazards:
            hazard[0] = 0.0
        return _alarms(watch.disparity, week.traffic, watch.rates_of(slices)[cells], *hazards)

    return method


@lru_cache(maxsize=1)  # for each budget in turn
def _learnt(week: Week) -> dict[str, Any]:
    slices, cells = _catalogue()
    return learn_watch(_labelled(week, cells), slices, MonitorConfig()).save()


def _catalogue() -> tuple[Slices, Indices]:
    """The slices as values of one dimension, in order, and the cell of each."""
    slices = Slices(["slice"], order=1)
    codes = [slices._values[0]._admit(f"slice-{slice_}") for slice_ in range(SLICES)]
    levels = np.stack([np.array(codes, np.int32), np.zeros(SLICES, np.int32)], axis=1)
    return slices, slices.cells_of(levels)


def _labelled(week: Week, cells: Indices) -> Labelled:
    """The reference's rows as the service has them; sessions are told."""
    reference, session = week.reference, week.session
    n_rows = reference.rows.T.ravel()
    place = np.repeat(np.arange(n_rows.size), n_rows)
    slice_, tick = np.divmod(place, len(reference.rows))
    wrong, ones = reference.wrong.astype(np.float64), np.ones(place.size)
    name = 1 + np.arange(place.size) // session if session > 1 else np.zeros(place.size)
    return Labelled(
        cell=cells[slice_],
        hour=tick // TICKS_AN_HOUR,
        cluster=name.astype(np.uint64),
        weight=ones,
        loss=wrong,
        capped=wrong,
        exposure=ones,
        evidence_weight=ones,
        version=np.zeros(place.size, np.int16),
        mask=np.zeros(place.size, np.uint64),
        bin=np.zeros(place.size, np.uint8),
    )


def _dispersion(reference: Traffic, rates: Floats) -> tuple[Floats, Floats]:
    """Scatter of slices around the reference by the hour, the root's before them."""
    observed = _hourly(reference.errors).astype(np.float64)
    expected = _hourly(reference.rows) * rates
    hour, slice_ = np.nonzero(expected)
    n_hours = len(observed)
    whole_observed, whole_expected = observed.sum(axis=1), expected.sum(axis=1)
    hours = np.arange(n_hours)
    units = Units(
        slices=np.concatenate([np.zeros(n_hours, np.intp), slice_ + 1]),
        units=np.concatenate([hours, hour]),
        observed=np.concatenate([whole_observed, observed[hour, slice_]]),
        expected=np.concatenate([whole_expected, expected[hour, slice_]]),
        period=hours,
        unit_observed=whole_observed,
        unit_expected=whole_expected,
    )
    own, n_units = dispersion_own(units, 1 + SLICES)
    share = dispersion_share(units, 1 + SLICES)
    weight = reference.rows.sum(axis=0)
    least = least_dispersion(np.concatenate([[rates @ weight / weight.sum()], rates]))
    measured = zip((own, share), least, strict=True)
    own, share = (
        shrink_dispersion(one, n_units, float(n_hours), least=floor) for one, floor in measured
    )
    return own, share


def adwins(delta: float = 0.002) -> Method:
    """An ADWIN of river for each slice, fed its reference week and then its week, upwards only."""

    def method(week: Week) -> Alarms:
        ticks, slices = [], []
        for slice_ in range(SLICES):
            detector = ADWIN(delta=delta)  # type: ignore[no-untyped-call]
            _, before = week.reference.of_slice(slice_)
            for value in before.astype(np.float64).tolist():
                detector.update(value)  # type: ignore[no-untyped-call]
            tick, wrong = week.traffic.of_slice(slice_)
            mean = detector.estimation
            for at, value in enumerate(wrong.astype(np.float64).tolist()):
                detector.update(value)  # type: ignore[no-untyped-call]
                if detector.drift_detected and detector.estimation > mean:
                    ticks.append(tick[at])
                    slices.append(slice_)
                mean = detector.estimation
        order = np.argsort(ticks, kind="stable")
        return Alarms(np.array(ticks, np.intp)[order], np.array(slices, np.intp)[order])

    return method


def hourly(kind: str, looks: int = 1) -> Method:
    """A two-sample test of each slice with `LEAST` rows in the hour, Bonferroni, upwards.

    `kind` is "reference" (chi-square against the slice's own past), "rest" (against the rest of
    the hour) or "did" (the difference of both differences); `looks` is what Bonferroni's
    correction counts beside the slices.
    """
    threshold = float(norm.isf(0.05 / SLICES / looks))
    two_sided = float(norm.isf(0.025 / SLICES / looks))

    def method(week: Week) -> Alarms:
        x, n = _hourly(week.traffic.errors), _hourly(week.traffic.rows)
        x0, n0 = week.reference.errors.sum(axis=0), week.reference.rows.sum(axis=0)
        rest = _sums(x, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            if kind == "did":
                rest0 = _sums(x0[None], n0[None])
                gap = x / n - rest[0] / rest[1] - x0 / n0 + rest0[0] / rest0[1]
                parts = ((x, n), rest, (x0, n0), rest0)
                z = gap / np.sqrt(sum(_variance(*part) for part in parts))
                over = (z > threshold) & (n >= LEAST)
            else:
                x1, n1 = (x0, n0) if kind == "reference" else rest
                pooled = (x + x1) / (n + n1)
                z = (x / n - x1 / n1) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n1))
                over = (z > two_sided) & (n >= LEAST)  # chi-square is z squared
        hours, slices = np.nonzero(over)
        return Alarms(hours * TICKS_AN_HOUR + TICKS_AN_HOUR - 1, slices)

    return method


def _sums(x: npt.NDArray[np.int64], n: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Counts of everybody else, for each slice."""
    return x.sum(axis=1, keepdims=True) - x, n.sum(axis=1, keepdims=True) - n


def _variance(x: Floats, n: Floats) -> Floats:
    p = (x + 0.5) / (n + 1)
    variance: Floats = p * (1 - p) / n
    return variance


def _hourly(per_tick: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sums: npt.NDArray[np.int64] = per_tick.reshape(-1, TICKS_AN_HOUR, SLICES).sum(axis=1)
    return sums


def _with_root(per_slice: Floats) -> Floats:
    return np.concatenate([[per_slice.sum()], per_slice])


OURS: Final = "**`Disparity`**, 1 a week"
CALIBRATED: Final = "**`Disparity`**, calibrated, 1 a week"
METHODS: Final[Mapping[str, Method]] = {
    "river ADWIN a slice, delta 0.002": adwins(),
    "hourly chi², own reference, Bonferroni": hourly("reference"),
    "hourly chi², the rest, Bonferroni": hourly("rest"),
    "hourly difference in differences, Bonferroni": hourly("did"),
    "the same, Bonferroni over the week": hourly("did", 168),
    OURS: ours(),
    "**`Disparity`**, 10 a week": ours(10.0),
    CALIBRATED: calibrated(),
    "**`Disparity`**, calibrated, 10 a week": calibrated(10.0),
}
OF_OURS: Final = tuple(name for name in METHODS if "Disparity" in name)
BLIND: Final = "`Disparity` told dispersion 1"
INFORMED: Final = "rates and ratio known, 1 a week"
RHYTHM: Final = season(TICKS, 24 * TICKS_AN_HOUR, 0.25)
WORLDS: Final = (
    World("(i) ten slices ×2", 2.0),
    World("(ii) all ×1.3 and ten ×2.5", 2.5 / 1.3, step(TICKS, CHANGE, 1.3)),
    World("(iii) season ±25 % and ten ×2", 2.0, RHYTHM),
    World("(iv) nothing", 1.0),
    World("(v) all ×1.5", 1.0, step(TICKS, CHANGE, 1.5)),
    World("(vi) season ±25 %", 1.0, RHYTHM, with_peers=False),
    World("(vii) ten ×2, reference of 17 hours", 2.0, reference_hours=17),
    World("(viii) ten ×2, 4,000 labels an hour", 2.0, labels_an_hour=4_000.0),
    World("(ix) ten ×2, sessions of 8", 2.0, session=SESSION),
    World("(x) sessions of 8", 1.0, session=SESSION, with_peers=False),
)


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did in one world."""

    world: str
    method: str
    false_a_week: float
    precision: float
    recall: float
    row: tuple[str, ...]


def scores(effort: Effort, world: int) -> list[Score]:
    """Each method in a world; the slow ones on fewer weeks."""
    of = WORLDS[world]
    methods = dict(METHODS) if of.with_peers else {name: METHODS[name] for name in OF_OURS}
    if of.session > 1:
        methods[BLIND] = ours(is_told_dispersion=False)
    elif of.bad > 1:
        methods[INFORMED] = informed
    judged: dict[str, list[tuple[Week, Alarms]]] = {name: [] for name in methods}
    for replicate in range(effort.weeks):
        week = draw(of, effort.traffic * of.labels_an_hour, generator(25, world, replicate))
        for name, method in methods.items():
            if replicate < _n_weeks(effort, name):
                judged[name].append((week, method(week)))
    return [_score(of, name, weeks) for name, weeks in judged.items()]


def _n_weeks(effort: Effort, method: str) -> int:
    if "calibrated" in method:
        return effort.calibrated_weeks
    return effort.weeks if "Disparity" in method or method == INFORMED else effort.peer_weeks


def _score(world: World, name: str, weeks: list[tuple[Week, Alarms]]) -> Score:
    false, found = 0, []
    for week, alarms in weeks:
        true = np.isin(alarms.slices, week.bad) & (alarms.ticks >= CHANGE)
        false += int((~true).sum())
        first = np.full(week.bad.size, np.nan)
        for k, slice_ in enumerate(week.bad):
            at = alarms.ticks[true & (alarms.slices == slice_)]
            if at.size:
                first[k] = (at[0] + 1 - CHANGE) / TICKS_AN_HOUR
        found.append(first)
    hours = np.array(found)
    n_found = int((~np.isnan(hours)).sum())
    precision = n_found / (n_found + false) if n_found + false else np.nan
    recall = n_found / hours.size if hours.size else np.nan
    a_week = false / len(weeks)
    row = (
        world.name,
        name,
        str(len(weeks)),
        number(a_week) if false else f"< {number(3 / len(weeks))}",
        number(precision),
        number(recall),
        _found_delays(hours),
        *_bands(hours),
    )
    return Score(world.name, name, a_week, precision, recall, row)


def _found_delays(hours: Floats) -> str:
    known = hours[~np.isnan(hours)]
    return delays(known, np.nan, 1) if known.size else "–"


def _bands(hours: Floats) -> list[str]:
    """Recall and median hours by the rank of the slice."""
    if not hours.size:
        return ["–"] * len(BANDS)
    cells, start = [], 0
    for _, _, n in BANDS:
        band = hours[:, start : start + n]
        known = band[~np.isnan(band)]
        median = f", {np.median(known):.1f} h" if known.size else ""
        cells.append(f"{known.size / band.size:.2f}{median}")
        start += n
    return cells


def table(all_scores: list[Score]) -> Table:
    """Every method in every world."""
    return Table(
        "2.5 A thousand slices for a week",
        f"{SLICES:,} disjoint slices, traffic as one over their rank, {LABELS_AN_HOUR:,.0f} "
        "labels an hour, base rates Beta of mean 0.05 and sd 0.02, a reference week, ticks of ten "
        "minutes, changes at hour 48; three bad slices of traffic rank 5 to 50, four of 50 to "
        "300, three beyond. Each alarm elsewhere or before counts as false, repeated ones too; "
        "precision is found / (found + false), delays (median / 90 %) are of what was found.",
        (
            "world",
            "method",
            "weeks",
            "false a week",
            "precision",
            "recall",
            "delay, h",
            *(f"rank {name}: recall, median" for name in BAND_NAMES),
        ),
        [score.row for score in all_scores],
        "ADWINs are fed the reference week too, and a fall is not counted against them. The hourly "
        f"tests leave out a slice with fewer than {LEAST} rows in the hour. Calibrated hazards are "
        "of null weeks drawn from the reference, as the service draws them by default. With rates "
        "and ratio known, a Shiryaev-Roberts test of each slice is the best that can be had.",
    )
