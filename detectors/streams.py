"""Synthetic streams whose change points are known: a generator in, arrays out.

rng = np.random.default_rng(1)
fleet = zipf_fleet(rng, 1000, rows_an_hour=20_000)
rows = rng.poisson(fleet.rows_an_hour / 6, (1008, 1000))     # a week of ten-minute ticks
rates = fleet.rates * season(1008, 144, swing=0.25)[:, None]
week = traffic(rng, rows, rates)                             # week.errors: (1008, 1000)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

GARBAGE_RATE: Final = 0.9  # of an utterance that was not understood at all


def step(n_ticks: int, change_at: int, ratio: float) -> Floats:
    """A multiplier that is 1 before a change point and `ratio` from it on.

    Returns
    -------
    float64, shape (n_ticks,)

    Examples
    --------
    >>> step(5, 3, 2.0)
    array([1., 1., 1., 2., 2.])
    """
    return np.where(np.arange(n_ticks) < change_at, 1.0, ratio)


def season(n_ticks: int, ticks_a_day: int, swing: float) -> Floats:
    """A daily rhythm: a multiplier between 1 - swing and 1 + swing, 1 on average.

    Returns
    -------
    float64, shape (n_ticks,)

    Examples
    --------
    >>> season(4, 4, 0.25).round(2)
    array([1.  , 1.25, 1.  , 0.75])
    """
    rhythm: Floats = 1.0 + swing * np.sin(2 * np.pi * np.arange(n_ticks) / ticks_a_day)
    return rhythm


def bernoulli(
    rng: np.random.Generator,
    rate: float,
    n_events: int,
    n_streams: int,
    ratio: float = 1.0,
    change_at: int = 0,
) -> Bools:
    """Errors of independent streams, all of one rate, `ratio` times that from one event on.

    Parameters
    ----------
    rate : float
        Chance of an error before the change.
    ratio : float
        How many times as likely an error is from event `change_at` on.

    Returns
    -------
    bool, shape (n_events, n_streams)

    Examples
    --------
    >>> errors = bernoulli(np.random.default_rng(1), 0.1, 20_000, 3, ratio=2.0, change_at=10_000)
    >>> errors[:10_000].mean().round(2), errors[10_000:].mean().round(2)
    (np.float64(0.1), np.float64(0.2))
    """
    rates = np.minimum(rate * step(n_events, change_at, ratio), 1.0).astype(np.float32)
    errors: Bools = rng.random((n_events, n_streams), np.float32) < rates[:, None]
    return errors


@dataclass(frozen=True, slots=True)
class Fleet:
    """Disjoint slices of one model, the largest first.

    Attributes
    ----------
    rows_an_hour : float64, shape (n_slices,)
        Labelled rows that are expected of each.
    rates : float64, shape (n_slices,)
        Chance of an error in each.
    """

    rows_an_hour: Floats
    rates: Floats


def zipf_fleet(
    rng: np.random.Generator,
    n_slices: int,
    rows_an_hour: float,
    mean: float = 0.05,
    sd: float = 0.02,
) -> Fleet:
    """Slices with traffic as one over their rank, and base rates from a Beta of `mean` and `sd`.

    Examples
    --------
    >>> fleet = zipf_fleet(np.random.default_rng(1), 1000, 20_000)
    >>> fleet.rows_an_hour[[0, 9, 999]].round(1)
    array([2671.8,  267.2,    2.7])
    >>> fleet.rates.mean().round(2)
    np.float64(0.05)
    """
    weight = 1.0 / np.arange(1, n_slices + 1)
    concentration = mean * (1 - mean) / sd**2 - 1
    rates = rng.beta(mean * concentration, (1 - mean) * concentration, n_slices)
    return Fleet(rows_an_hour * weight / weight.sum(), rates)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows of disjoint slices over time.

    Attributes
    ----------
    rows : int64, shape (n_ticks, n_slices)
    wrong : bool, shape (n_rows,)
        Each row's outcome, slice by slice and within a slice in order.
    """

    rows: Counts
    wrong: Bools

    @property
    def errors(self) -> Counts:
        """How many rows of each tick and slice are wrong, int64, shape (n_ticks, n_slices)."""
        ends = np.concatenate([[0], np.cumsum(self.rows.T.ravel())])
        so_far = np.concatenate([[0], np.cumsum(self.wrong)])
        counts: Counts = np.diff(so_far[ends]).reshape(self.rows.T.shape).T
        return counts

    def of_slice(self, slice_: int) -> tuple[Counts, Bools]:
        """The tick and the outcome of each row of a slice, in order; shape (n_rows of it,)."""
        sizes = self.rows.sum(axis=0)
        start = int(sizes[:slice_].sum())
        tick = np.repeat(np.arange(len(self.rows)), self.rows[:, slice_])
        return tick, self.wrong[start : start + int(sizes[slice_])]


def traffic(
    rng: np.random.Generator,
    rows: Counts,
    rates: Floats,
    session: int = 1,
    correlation: float = 0.0,
) -> Traffic:
    """Rows with these rates; in sessions of `session` rows they err together.

    Parameters
    ----------
    rows : int64, shape (n_ticks, n_slices)
        Rounded up to whole sessions at random, so that as many are expected.
    rates : float64, shape (n_ticks, n_slices), or what broadcasts to it
        Chance of an error, cut to [0, 1].
    session, correlation : int, float
        Beta-binomial errors: two rows of one session correlate by so much, and the variance of
        counts over their mean is (1 - p) (1 + (session - 1) correlation).

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> rows = np.full((500, 2), 80)
    >>> alone = traffic(rng, rows, np.array([0.05, 0.1])).errors
    >>> alone.mean(axis=0).round(0), (alone.var(axis=0) / alone.mean(axis=0)).round(1)
    (array([4., 8.]), array([0.9, 0.9]))
    >>> together = traffic(rng, rows, np.array([0.05, 0.1]), session=8, correlation=0.2).errors
    >>> together.mean(axis=0).round(0), (together.var(axis=0) / together.mean(axis=0)).round(1)
    (array([4., 8.]), array([2.3, 2.2]))
    """
    whole = np.floor(rows / session + rng.random(rows.shape)).astype(np.int64)
    rate = np.clip(np.broadcast_to(rates, rows.shape), 0.0, 1.0)
    of_session = np.repeat(rate.T.ravel(), whole.T.ravel())
    if correlation > 0:
        concentration = (1 - correlation) / correlation
        inside = np.clip(of_session, 1e-9, 1 - 1e-9)
        of_session = rng.beta(inside * concentration, (1 - inside) * concentration)
    of_row = np.repeat(of_session, session)
    return Traffic(whole * session, rng.random(of_row.size) < of_row)


def label_delays(
    rng: np.random.Generator, wrong: Bools, mean_wrong: float, mean_right: float
) -> Floats:
    """How long each row waits for its label, exponential; errors may be found sooner.

    Parameters
    ----------
    wrong : bool, any shape
    mean_wrong, mean_right : float
        Mean delay of errors and of the others, in whatever unit of time is wanted.

    Returns
    -------
    float64, of the same shape

    Examples
    --------
    >>> wrong = np.arange(10_000) < 5_000
    >>> delays = label_delays(np.random.default_rng(1), wrong, 6.0, 24.0)
    >>> delays[wrong].mean().round(0), delays[~wrong].mean().round(0)
    (np.float64(6.0), np.float64(24.0))
    """
    delays: Floats = rng.exponential(np.where(wrong, mean_wrong, mean_right))
    return delays


@dataclass(frozen=True, slots=True)
class Utterances:
    """Recognised speech: edits and reference words of each utterance.

    Attributes
    ----------
    words, errors : int64, shape (n_sessions, session, n_streams)
        One speaker's utterances are one session.
    """

    words: Counts
    errors: Counts


def utterances(
    rng: np.random.Generator,
    n_sessions: int,
    n_streams: int,
    rate: float = 0.094,
    session: int = 10,
    garbage: float = 0.01,
    ratio: float = 1.0,
    change_at: int = 0,
) -> Utterances:
    """Word errors as recognisers make them: in clumps, by speaker, and now and then all wrong.

    Parameters
    ----------
    rate : float
        Word error rate of an average speaker, without garbage and before the change.
    session : int
        Utterances of one speaker.
    garbage : float
        Share of utterances in which nearly every word is wrong.
    ratio : float
        How many times the rate is from session `change_at` on.

    Notes
    -----
    Lengths are log-normal (median 8 words), a speaker's rate is log-normal around the mean, an
    utterance's is Beta around its speaker's: variance over mean as on real recognitions, where
    utterances of one speaker are dependent (Liu and Peng, arXiv 1912.09508).

    Examples
    --------
    >>> speech = utterances(np.random.default_rng(1), 2000, 1)
    >>> (speech.errors.sum() / speech.words.sum()).round(2)
    np.float64(0.1)
    """
    shape = (n_sessions, session, n_streams)
    words = np.maximum(np.rint(rng.lognormal(np.log(8.0), 0.7, shape)), 1).astype(np.int64)
    spread = 0.35
    speaker = rng.lognormal(-(spread**2) / 2, spread, (n_sessions, 1, n_streams))
    mean = rate * step(n_sessions, change_at, ratio)[:, None, None] * speaker
    mean = np.broadcast_to(np.minimum(mean, 0.9), shape)
    concentration = 5.0
    own = rng.beta(mean * concentration, (1 - mean) * concentration)
    own[rng.random(shape) < garbage] = GARBAGE_RATE
    return Utterances(words, rng.binomial(words, own))
