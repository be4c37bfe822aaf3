"""Null weeks: what a model's detectors would do if weeks like its reference went on for ever.

Who came is drawn from the reference: whole hours, with every session that began in them, in the
day's order where it has each more than once; from a short one whose rows all name a session,
twelfths of its sessions. What each session lost is what another of like size lost, at rates that
the reference leaves possible: the scatter is the reference's own, and no slice's luck in it is
taken for what it is like. Each round of weeks has a drawn reference of its own to learn from, so
what is learnt errs against what is watched as far as the real one may; and a week before those that
count, so that evidence stands as after any week.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import f as f_distribution

from detectors import Budget, Calibration
from detectors.calibration import peaks_of, settle
from detectors.multiplicity import WEEK_SECONDS
from service.ingest.events import Floats, Hashes, Ints
from service.monitor.config import MonitorConfig
from service.monitor.slices import Slices
from service.monitor.watch import MIN_TICK_LABELS, Labelled, Watch

Indices = npt.NDArray[np.intp]

ROUNDS: Final = 12
WEEKS_A_ROUND: Final = 2
SLICE_WEEKS: Final = 30_000  # about four seconds of one core; more slices see fewer weeks,
FEWEST_WEEKS: Final = 1  # but of each round so many
TICKS_A_WEEK: Final = 168  # fewer where labels are; of six hours they raise half as many alarms
FEWEST_BLOCKS: Final = 12  # to draw from
DAY_HOURS: Final = 24
CHANCE: Final = 0.01  # that hours of the day differ so much where they are alike
NEIGHBOURS: Final = 10  # on either side at least, whose losses a session's may be like,
ALIKE: Final = 1.25  # and all of a size within this ratio: a size's scatter is not another's
UNIT_BUDGET: Final = Budget(1.0)
TYPICAL_FACTOR: Final = 3.0  # by which hazards turn out to be raised, and the slices' part, about
LEAST: Final = 1e-300  # of evidence, for its logarithm
SEED: Final = 0  # the same reference always gives the same calibration


def learn_watch(reference: Labelled, slices: Slices, config: MonitorConfig) -> Watch:
    """The watch that a reference gives, calibrated where that is asked for and can be done."""
    budget = Budget(config.alerts_a_week)
    weeks = None
    if config.false_alerts.mode == "calibrated":
        weeks = calibrate(reference, slices, config.alerts_a_week)
    if weeks is None:
        return Watch.fit(reference, slices, config.tolerance, budget)
    watch = Watch.fit(reference, slices, config.tolerance, budget, is_proven=False)
    watch.calibrate(weeks.calibration, weeks.own, weeks.rest)
    return watch


def n_hours(parts: list[Labelled]) -> int:
    """In how many hours these rows were made."""
    return int(np.unique(np.concatenate([np.unique(part.hour) for part in parts])).size)


def can_be_drawn_from(parts: list[Labelled]) -> bool:
    """Whether these rows have as many hours in which a session began as weeks are drawn from."""
    if n_hours(parts) < FEWEST_BLOCKS:
        return False
    columns = ([getattr(part, name) for part in parts] for name in ("cluster", "hour"))
    _, _, began = _begun(*map(np.concatenate, columns))
    return bool(np.unique(began).size >= FEWEST_BLOCKS)


def calibrate(reference: Labelled, slices: Slices, alerts_a_week: float = 1.0) -> NullWeeks | None:
    """Calibrate on weeks drawn from a reference; None where it has too few blocks to draw from.

    They are run at about the hazards that `alerts_a_week` comes to, once raised: a suspicious slice
    does not learn, and the more is spent, the sooner it is one.
    """
    watch = Watch.fit(reference, slices, 0.0, UNIT_BUDGET, is_proven=False)
    sessions = Sessions.of(reference, watch.scale)
    if sessions.n_blocks < FEWEST_BLOCKS:
        return None
    hours = int(reference.hour.max() - reference.hour.min()) + 1
    n_drawn = max(1, round(sessions.n_blocks * 168 / hours))
    n_weeks = min(WEEKS_A_ROUND, max(FEWEST_WEEKS, SLICE_WEEKS // (ROUNDS * len(slices))))
    n_labels = len(reference) * 168 // hours  # in a week
    n_ticks = min(TICKS_A_WEEK, max(1, n_labels // MIN_TICK_LABELS))
    seconds = WEEK_SECONDS / n_ticks
    spend = UNIT_BUDGET.hazard("slices", slices.orders()[1:], seconds, ("slices",))
    run_at = TYPICAL_FACTOR * alerts_a_week
    hazard = np.concatenate([[0.0], run_at * spend])
    scatter = Scatter.of(sessions, watch.rates.predict(slices.levels))
    rng = np.random.default_rng(SEED)
    peaks, settled = [], []
    for _ in range(ROUNDS):
        truth = watch.rates.draw(rng, slices.levels, float(watch.disparity.own.dispersion[0]))
        drawn = sessions.draw(rng, sessions.n_blocks)
        learnt = Watch.fit(
            drawn.labelled(scatter.draw(rng, drawn, truth)),
            slices,
            0.0,
            UNIT_BUDGET,
            is_proven=False,
            least=watch.least,
        )
        rates = learnt.rates.predict(slices.levels)
        for n in range(1 + n_weeks):
            week = sessions.draw(rng, n_drawn)
            lost = scatter.draw(rng, week, truth) * learnt.scale
            due = week.exposure * rates[week.cell] * learnt.scale
            observed, expected = (week.by_tick(sums, n_ticks, slices) for sums in (lost, due))
            if n == 0:  # it begins without evidence, and has fewer alarms than any later one
                settle(learnt.disparity, observed, expected, hazard)
                begun = learnt.disparity.save()
                settled.append((begun["own.evidence"], begun["evidence"]))
                continue
            learnt.disparity.restore(begun)
            own, rest = peaks_of(learnt.disparity, observed, expected, hazard)
            peaks.append((own[1:], rest[1:]))
    return NullWeeks.of(peaks, settled, run_at)


@dataclass(frozen=True, slots=True)
class NullWeeks:
    """What the fleet of a model did in null weeks.

    Attributes
    ----------
    calibration : Calibration
    own, rest : float64, shape (n_slices, K)
        The evidence at which slices stand once such a week has gone by, against the own reference
        and against the rest, per false alert a week that hazards come to: geometric means.

    Notes
    -----
    A detector that begins at nothing has fewer alarms in its first weeks than in any later one, and
    finds later what happens in them; one that begins as any week does spends what was promised from
    the first day on. Lucas and Crosier, "Fast initial response for CUSUM quality control schemes",
    Technometrics 24(3), 1982.
    """

    calibration: Calibration
    own: Floats
    rest: Floats

    @classmethod
    def of(
        cls,
        peaks: list[tuple[Floats, Floats]],
        settled: list[tuple[Floats, Floats]],
        alerts_a_week: float,
    ) -> NullWeeks:
        """By each week's peaks, and the evidence after a week of each round, all at this budget."""
        own, rest = (
            np.exp(np.mean([np.log(np.maximum(each, LEAST)) for each in kind], axis=0))
            for kind in zip(*settled, strict=True)
        )
        calibration = Calibration.of_peaks(peaks, alerts_a_week)
        return cls(calibration, own / alerts_a_week, rest / alerts_a_week)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Labelled rows summed by session and cell, shape (n,) each; sessions lie in blocks.

    A block is an hour. Of fewer hours than are needed, where all sessions are told, it is as many
    sessions as make `FEWEST_BLOCKS` of them, as they came: what is drawn is independent by session
    either way. Rows without one may hang together for as long as an hour, and shorter stretches of
    them would hide it.
    """

    row: Indices  # which of the reference's own it is
    session: Indices
    cell: Indices
    block: Indices  # in which the session began
    exposure: Floats  # weighted
    loss: Floats  # weighted, capped
    clock: Indices  # hour of the day of each block, shape (n_blocks,)

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return self.clock.size

    @classmethod
    def of(cls, rows: Labelled, scale: float) -> Sessions:
        """The sessions of rows whose weights are to be multiplied by `scale`."""
        first, session, began = _begun(rows.cluster, rows.hour)
        hours, block = np.unique(began, return_inverse=True)
        clock = (hours % DAY_HOURS).astype(np.intp)
        if hours.size < FEWEST_BLOCKS <= first.size and rows.cluster.all():
            block = np.argsort(np.argsort(first)) * FEWEST_BLOCKS // first.size
            clock = np.zeros(FEWEST_BLOCKS, np.intp)
        n_cells = int(rows.cell.max()) + 1
        keys, pair = np.unique(session * n_cells + rows.cell, return_inverse=True)
        weight = rows.evidence_weight * scale
        return cls(
            row=np.arange(keys.size),
            session=keys // n_cells,
            cell=keys % n_cells,
            block=block[keys // n_cells],
            exposure=np.bincount(pair, weight * rows.exposure).astype(np.float64),
            loss=np.bincount(pair, weight * rows.capped).astype(np.float64),
            clock=clock,
        )

    def draw(self, rng: np.random.Generator, n: int) -> Sessions:
        """So many blocks, drawn; hours of the day follow each other if all came more than once."""
        by_clock = np.argsort(self.clock, kind="stable")
        present, counts = np.unique(self.clock, return_counts=True)
        if counts.min() < 2:
            return self.take(rng.integers(0, self.n_blocks, n))
        slot = np.arange(n) % present.size
        start = np.cumsum(counts) - counts
        return self.take(by_clock[start[slot] + rng.integers(0, counts[slot])])

    def take(self, blocks: Indices) -> Sessions:
        """These blocks, each as often as it is given; every one is a block of its own."""
        order = np.argsort(self.block, kind="stable")
        counts = np.bincount(self.block, minlength=self.n_blocks)
        start = np.cumsum(counts) - counts
        n = counts[blocks]
        place = np.repeat(np.arange(blocks.size), n)
        within = np.arange(place.size) - np.repeat(np.cumsum(n) - n, n)
        rows = order[start[blocks][place] + within]
        session = self.session[rows]  # whose rows follow each other
        is_first = (np.diff(session, prepend=-1) != 0) | (np.diff(place, prepend=-1) != 0)
        return replace(
            self,
            row=self.row[rows],
            session=np.cumsum(is_first) - 1,
            cell=self.cell[rows],
            block=place,
            exposure=self.exposure[rows],
            loss=self.loss[rows],
            clock=self.clock[blocks],
        )

    def labelled(self, loss: Floats) -> Labelled:
        """Rows to learn from: one for a session and cell, with this loss; blocks are hours."""
        names: Hashes = self.session.astype(np.uint64) + np.uint64(1)
        hour = self.block.astype(np.int64)
        ones = np.ones(loss.size)
        versions, masks = np.zeros(loss.size, np.int16), np.zeros(loss.size, np.uint64)
        exposure, bins = self.exposure.copy(), np.zeros(loss.size, np.uint8)
        return Labelled(
            self.cell, hour, names, ones, loss, loss, exposure, ones, versions, masks, bins
        )

    def by_tick(self, values: Floats, n_ticks: int, slices: Slices) -> Floats:
        """Sums per tick and slice, shape (n_ticks, n_slices): a week's blocks dealt evenly."""
        tick = self.block * n_ticks // self.n_blocks  # rises along rows, for blocks were taken
        start = np.searchsorted(tick, np.arange(n_ticks + 1))
        cells = csr_array((values, self.cell, start), shape=(n_ticks, slices.n_cells))
        return np.ascontiguousarray((slices.membership() @ cells.T).toarray().T)


def _begun(cluster: Hashes, hour: Ints) -> tuple[Indices, Indices, Ints]:
    """The first row of each session, the session of each row, and the hour that each began in."""
    name = np.where(cluster != 0, cluster, hour.astype(np.uint64))
    _, first, session = np.unique(name, return_index=True, return_inverse=True)
    began: Ints = np.full(first.size, int(hour.max()))
    np.minimum.at(began, session, hour)
    return first, session, began


@dataclass(frozen=True, slots=True)
class Scatter:
    """How losses scatter around what is due: as those of the reference's own sessions do."""

    sessions: Sessions  # the reference's own
    rhythm: Floats  # by how much more is lost at each hour of the day, shape (24,)
    session: float  # variance of the ratio that all of a session's cells share
    due: Floats  # of a session's rows of one cell, rising, shape (n,)
    ratio: Floats  # what they lost over that, the shared ratio taken out, shape (n,)

    @classmethod
    def of(cls, sessions: Sessions, rates: Floats) -> Scatter:
        """The shared ratio's variance by moments: products of residuals within sessions."""
        due = np.maximum(sessions.exposure * rates[sessions.cell], 1e-12)
        rhythm = _rhythm(sessions, due)
        due *= rhythm[sessions.clock[sessions.block]]
        whole, lost = (np.bincount(sessions.session, values) for values in (due, sessions.loss))
        pairs = float((whole**2).sum() - (due**2).sum())  # of different cells
        products = float(((lost - whole) ** 2).sum() - ((sessions.loss - due) ** 2).sum())
        shared = max(0.0, products / pairs) if pairs > 1e-6 * float((whole**2).sum()) else 0.0
        common = (1 + shared * lost) / (1 + shared * whole)
        order = np.argsort(due, kind="stable")
        ratio = (sessions.loss / (due * common[sessions.session]))[order]
        level = float(due.sum() / max((due[order] * ratio).sum(), 1e-12))
        return cls(sessions, rhythm, shared, due[order], level * ratio)

    def draw(self, rng: np.random.Generator, sessions: Sessions, rates: Floats) -> Floats:
        """Losses at these rates, one for a session and cell: each as another's of like size.

        `sessions` are drawn from the reference's own.
        """
        own, n = self.sessions, self.due.size
        due = own.exposure * rates[own.cell] * self.rhythm[own.clock[own.block]]
        here, smaller, larger = (
            np.searchsorted(self.due, due * ratio) for ratio in (1.0, 1 / ALIKE, ALIKE)
        )
        lowest = np.minimum(smaller, here - NEIGHBOURS)
        highest = np.maximum(larger, here + NEIGHBOURS)
        lowest, highest = np.clip(lowest, 0, n - 1), np.clip(highest, 1, n)
        other = rng.integers(lowest[sessions.row], highest[sessions.row])
        losses: Floats = due[sessions.row] * self.ratio[other]
        if self.session > 0:
            shape = 1 / self.session
            shared = rng.gamma(shape, self.session, int(sessions.session.max()) + 1)
            losses *= shared[sessions.session]
        return losses


def _rhythm(sessions: Sessions, due: Floats) -> Floats:
    """What each hour of the day multiplies losses by; 1, unless hours differ more than days do.

    A day's swing taken for hours that fall as they may would have them add up for days on end.
    Told by an analysis of variance over blocks, and held towards 1 by what chance explains of it.
    """
    flat = np.ones(DAY_HOURS)
    block = sessions.block
    lost, expected = (
        np.bincount(block, values, minlength=sessions.n_blocks) for values in (sessions.loss, due)
    )
    present, hour = np.unique(sessions.clock, return_inverse=True)
    within = sessions.n_blocks - present.size
    if present.size < 2 or within < present.size:
        return flat
    level = lost.sum() / expected.sum()
    of_hour = np.bincount(hour, lost) / np.bincount(hour, expected) / level
    ratio = lost / expected / level
    days = float((expected * (ratio - of_hour[hour]) ** 2).sum()) / within
    hours = float((expected * (of_hour[hour] - 1.0) ** 2).sum()) / (present.size - 1)
    if hours <= days * f_distribution.isf(CHANCE, present.size - 1, within):
        return flat
    flat[present] = 1.0 + (1.0 - days / hours) * (of_hour - 1.0)
    return flat
