"""The hour of the week: learnt after three of them, shrunk, and then no reason for an alarm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.testing import assert_allclose

from detectors import ErrorRate, Outcomes, Season
from detectors.season import HOURS_A_WEEK, PRIOR
from tests.streams import at_most

Floats = npt.NDArray[np.float64]


def rhythm(hours: npt.NDArray[np.int64]) -> Floats:
    """Half as much again by day as by night, less at weekends; 1 on average."""
    day = np.where(hours % 24 < 12, 0.8, 1.2)
    weekend = np.where(hours % HOURS_A_WEEK >= 120, 0.8, 1.08)
    return np.asarray(day * weekend)


def test_until_three_weeks_were_seen_every_hour_is_like_another() -> None:
    season, hours = Season(), np.arange(3 * HOURS_A_WEEK)
    season.learn(hours[:-1], rhythm(hours[:-1]) * 50, np.full(hours.size - 1, 50.0))
    assert season.factors(hours).tolist() == [1.0] * hours.size
    season.learn(hours[-1:], rhythm(hours[-1:]) * 50, np.full(1, 50.0))
    assert season.factors(hours).std() > 0.1


def test_an_hour_is_held_to_one_by_its_prior_and_a_level_is_no_season() -> None:
    # Twice what was due in every hour but one, which had 1.5 times: 0.75 of the usual.
    season, hours = Season(dispersion=2.0), np.arange(4 * HOURS_A_WEEK)
    due = np.full(hours.size, 10.0)
    seen = np.where(hours % HOURS_A_WEEK == 7, 1.5, 2.0) * due
    season.learn(hours, seen, due)
    level = seen.sum() / due.sum()
    one_hour = (2 * PRIOR + 4 * 15.0 / level) / (2 * PRIOR + 4 * 10.0)
    assert_allclose(season.factors(np.array([7])), one_hour)
    assert_allclose(season.factors(np.array([8])), 1.0, atol=0.01)


def test_what_the_hour_does_raises_no_alarm_once_it_is_known_and_does_without() -> None:
    # 100 slices for 20 weeks behind the three that taught; hazards as of one alarm a week in all.
    rng = np.random.default_rng(60)
    n, due = 100, 4.0
    hours = np.arange(23 * HOURS_A_WEEK)
    stream = rng.poisson(due * rhythm(hours)[:, None], (hours.size, n)).astype(np.float64)
    season = Season()
    taught = hours < 3 * HOURS_A_WEEK
    season.learn(hours[taught], stream[taught].sum(axis=1), np.full(taught.sum(), n * due))

    def n_alarms(factor: Floats) -> int:
        fleet = ErrorRate()
        fleet.grow(np.ones(n), np.full(n, 2_000.0), np.full(n, 2_000.0))
        hazard = np.full(n, 1 / HOURS_A_WEEK / n)
        return sum(
            len(fleet.update(Outcomes(stream[hour], np.full(n, due * factor[hour])), hazard))
            for hour in hours[~taught].tolist()
        )

    assert n_alarms(season.factors(hours)) <= at_most(20.0)
    assert n_alarms(np.ones(hours.size)) > at_most(20.0)


def test_a_restored_season_goes_on_as_it_was() -> None:
    season, hours = Season(3.0), np.arange(4 * HOURS_A_WEEK)
    season.learn(hours, rhythm(hours) * 20, np.full(hours.size, 20.0))
    again = Season()
    again.restore(season.save())
    assert again.factors(hours).tolist() == season.factors(hours).tolist()
    season.learn(hours[:1], np.full(1, 99.0), np.ones(1))
    assert again.factors(hours).tolist() != season.factors(hours).tolist()  # and is its own
