"""Our fleets on single streams: each replicate is a slice, each setting a copy of all of them."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from scipy.stats import gamma

from detectors import ErrorRate, Outcomes, fit_cell_rates
from detectors.reference import least_dispersion
from tests.benchmarks.bench_detectors.page import Bools, Floats

Baseline = Literal["known", "plug-in", "95 % limit", "learned"]

KNOWN: Final = 1e8  # errors after which nothing is left to learn


def learned_rates(errors: Floats, n_rows: int) -> Floats:
    """Each replicate's rate from its own reference, fitted as a model of one cell.

    Parameters
    ----------
    errors : float64, shape (n,)
        Errors among the `n_rows` of each reference.
    """
    levels = np.zeros((1, 1), np.int32)
    exposure = np.array([float(n_rows)])
    distinct, which = np.unique(errors, return_inverse=True)
    fits = [fit_cell_rates(levels, np.array([x]), exposure).predict(levels)[0] for x in distinct]
    rates: Floats = np.array(fits)[which]
    return rates


def fleet_of(
    baseline: Baseline, errors: Floats, n_rows: int, truth: float
) -> tuple[ErrorRate, Floats]:
    """A fleet, a slice a replicate, and the rate that each expects of its rows.

    Parameters
    ----------
    errors : float64, shape (n,)
        Errors in each reference of `n_rows`.
    truth : float
        The rate that "known" is told.
    """
    fleet = ErrorRate()
    ones = np.ones(errors.size)
    if baseline == "learned":
        rates = learned_rates(errors, n_rows)
        least, _ = least_dispersion(rates)  # of independent errors, as the service has it
        fleet.grow(least, errors, n_rows * rates)
        return fleet, rates
    if baseline == "known":
        rates = truth * ones
    elif baseline == "plug-in":
        rates = np.maximum(errors, 0.5) / n_rows
    else:
        rates = np.asarray(gamma.ppf(0.95, errors + 0.5)) / n_rows
    fleet.grow(ones, KNOWN * ones, KNOWN * ones)
    return fleet, rates


def watch(
    fleet: ErrorRate,
    rates: Floats,
    errors: Bools,
    hazard_an_event: Floats,
    events_a_tick: int,
    count_from: int = 0,
) -> tuple[Floats, Floats]:
    """Feed streams to a fleet in ticks.

    Parameters
    ----------
    fleet, rates : of n slices, as `fleet_of` gives them
    errors : bool, shape (n_events, n)
    hazard_an_event : float64, shape (n_settings,)
        What each copy of the streams may spend on an event.
    count_from : int
        Alarms before this event are not counted; it begins a tick.

    Returns
    -------
    alarms, first : float64, shape (n_settings, n)
        How many alarms there were, and how many events after `count_from` the first came; NaN
        without one.
    """
    n, settings = errors.shape[1], hazard_an_event.size
    copies = _copies(fleet, settings)
    due = np.tile(rates, settings)
    hazard = np.repeat(hazard_an_event, n)
    alarms, first = np.zeros(settings * n), np.full(settings * n, np.nan)
    for start in range(0, len(errors), events_a_tick):
        tick = errors[start : start + events_a_tick]
        size = len(tick)
        observed = np.tile(tick.sum(axis=0, dtype=np.float64), settings)
        crossed = copies.update(Outcomes(observed, size * due), size * hazard).slices
        if start < count_from:
            continue
        alarms[crossed] += 1
        new = crossed[np.isnan(first[crossed])]
        first[new] = start + size - count_from
    return alarms.reshape(settings, n), first.reshape(settings, n)


def _copies(fleet: ErrorRate, settings: int) -> ErrorRate:
    copies = ErrorRate(fleet.tolerance)
    copies.restore(
        {name: np.concatenate([array] * settings) for name, array in fleet.save().items()}
    )
    return copies
