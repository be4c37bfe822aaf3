"""SingleStream: river's detectors, row for row, and only what rose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from river import drift

from detectors.single_stream import PARAMETERS, ParameterError, Rows, SingleStream, check

Floats = npt.NDArray[np.float64]

# As river is used by itself; what each is fed for a loss.
RIVER: dict[str, Callable[..., Any]] = {
    "ADWIN": drift.ADWIN,
    "PageHinkley": lambda **parameters: drift.PageHinkley(mode="up", **parameters),
    "KSWIN": lambda **parameters: drift.KSWIN(**{"seed": 0, **parameters}),
    "DDM": drift.binary.DDM,
    "EDDM": drift.binary.EDDM,
    "FHDDM": drift.binary.FHDDM,
    "HDDMA": drift.binary.HDDMA,
    "HDDMW": drift.binary.HDDMW,
}
FED: dict[str, Callable[[float], float]] = {
    "EDDM": lambda loss: float(loss >= 0.5),
    "FHDDM": lambda loss: 1.0 - loss,
}
STATED: dict[str, dict[str, Any]] = {
    "ADWIN": {"delta": 0.01, "clock": 8, "grace_period": 50, "min_window_length": 10},
    "PageHinkley": {"threshold": 8.0, "delta": 0.01, "alpha": 0.999, "min_instances": 50},
    "KSWIN": {"alpha": 0.02, "window_size": 60, "stat_size": 25, "seed": 7},
    "DDM": {"warm_start": 60, "drift_threshold": 2.5},
    "EDDM": {"warm_start": 20, "beta": 0.85},
    "FHDDM": {"sliding_window_size": 80, "confidence_level": 0.01, "short_window_size": 30},
    "HDDMA": {"drift_confidence": 0.01},
    "HDDMW": {"drift_confidence": 0.01, "lambda_val": 0.1},
}
every_detector = pytest.mark.parametrize("name", RIVER)


def rising(n: int, seed: int = 0, low: float = 0.1, high: float = 0.9) -> Floats:
    """Zeros and ones whose rate is low and high by turns, a fifth of the rows each."""
    rate = np.where(np.arange(n) * 5 // n % 2 == 1, high, low)
    return (np.random.default_rng(seed).random(n) < rate).astype(np.float64)


def found_at(fleet: SingleStream, losses: Floats, slice_: int = 3) -> list[int]:
    """The rows at which the fleet finds something, fed one by one."""
    return [
        row
        for row, loss in enumerate(losses)
        if len(fleet.update(Rows(np.array([slice_]), np.array([loss]))))
    ]


def river_finds_at(name: str, losses: Floats, parameters: dict[str, Any]) -> list[int]:
    detector, fed = RIVER[name](**parameters), FED.get(name, float)
    found = []
    for row, loss in enumerate(losses.tolist()):
        detector.update(fed(loss))
        if detector.drift_detected:
            found.append(row)
    return found


@every_detector
@pytest.mark.parametrize("stated", [False, True], ids=["defaults", "stated"])
def test_rises_are_found_at_the_row_at_which_river_finds_them(name: str, stated: bool) -> None:
    n = 700 if name == "KSWIN" else 5_000
    parameters = STATED[name] if stated else {}
    errors = rising(n)
    fractions = np.random.default_rng(1).random(n) * (0.3 + 0.7 * errors)
    for losses in (errors, fractions):
        found = found_at(SingleStream(name, **parameters), losses)
        directly = river_finds_at(name, losses, parameters)
        # these two tell falls as well
        assert set(found) <= set(directly) if name in ("ADWIN", "KSWIN") else found == directly
        assert found or losses is fractions


def test_adwin_and_kswin_tell_each_rise_and_no_fall() -> None:
    up_and_down = np.repeat([0.0, 1.0, 0.0, 1.0, 0.0], 300)
    for name in ("ADWIN", "KSWIN"):
        directly = river_finds_at(name, up_and_down, {})
        rises = [row for row in directly if up_and_down[row] == 1.0]
        assert len(rises) < len(directly)
        assert found_at(SingleStream(name), up_and_down) == rises


@every_detector
def test_a_loss_that_falls_is_not_told(name: str) -> None:
    assert found_at(SingleStream(name), np.repeat([1.0, 0.0], 300)) == []


def test_the_fall_of_fhddms_input_is_the_rise_of_the_loss() -> None:
    losses = np.repeat([0.0, 1.0], 300)
    assert river_finds_at("FHDDM", losses, {}) != []  # the oracle is fed 1 - loss
    detector = drift.binary.FHDDM()
    for loss in losses.tolist():
        detector.update(loss)  # type: ignore[no-untyped-call]
        assert not detector.drift_detected  # and river, fed as its documentation says, is not moved


def test_slices_are_independent_and_told_in_order_once_an_update() -> None:
    fleet = SingleStream("DDM")
    losses = np.concatenate([rising(1_000, seed) for seed in (1, 2)])
    found = fleet.update(Rows(np.repeat([9, 4], 1_000), losses))
    assert found.slices.tolist() == [4, 9]
    assert found.own_reference.tolist() == [1.0, 1.0]
    assert found.rest is None
    assert len(found_at(SingleStream("DDM"), losses[:1_000])) > 1


@pytest.mark.parametrize("name", [name for name in RIVER if name != "KSWIN"])
def test_what_was_before_the_watch_is_learnt_and_not_told(name: str) -> None:
    losses, n = rising(5_000), 1_500  # it has risen once by then
    throughout, warmed = SingleStream(name), SingleStream(name)
    warmed.warm_up(Rows(np.full(n, 3), losses[:n]))
    found = found_at(throughout, losses)
    assert found[0] < n
    assert found_at(warmed, losses[n:]) == [row - n for row in found if row >= n]


def test_warming_up_goes_through_the_last_window_only_where_no_more_is_remembered() -> None:
    losses = rising(900)
    whole, part = SingleStream("KSWIN"), SingleStream("KSWIN")
    whole.warm_up(Rows(np.zeros(900, np.intp), losses))
    part.warm_up(Rows(np.zeros(100, np.intp), losses[-100:]))
    assert whole.save()["bodies"].tobytes() == part.save()["bodies"].tobytes()


def test_a_state_of_another_river_is_laid_aside() -> None:
    fleet, again = SingleStream("DDM"), SingleStream("DDM")
    found_at(fleet, rising(100))
    state = fleet.save()
    again.restore(state)
    assert len(again) == 1
    again.restore({**state, "river": np.frombuffer(b"0.25.0", np.uint8)})
    assert len(again) == 0
    assert found_at(again, rising(1_000)) == found_at(SingleStream("DDM"), rising(1_000))


@pytest.mark.parametrize(
    ("name", "parameters", "problem"),
    [
        ("Adwin", {}, "must be one of ADWIN, PageHinkley, KSWIN"),
        ("NoDrift", {}, "must be one of"),
        ("ADWIN", {"gamma": 1}, "ADWIN takes delta, clock, max_buckets"),
        ("PageHinkley", {"mode": "down"}, "PageHinkley takes min_instances, delta"),
        ("HDDMA", {"two_sided_test": True}, "HDDMA takes drift_confidence and nothing else"),
        ("KSWIN", {"window": [1]}, "KSWIN takes alpha, window_size"),
        ("ADWIN", {"delta": 0}, "delta: must be a number from 1e-12 to 0.5"),
        ("ADWIN", {"delta": float("nan")}, "delta: must be a number"),
        ("ADWIN", {"delta": float("inf")}, "delta: must be a number"),
        ("ADWIN", {"delta": "0.1"}, "delta: must be a number"),
        ("ADWIN", {"delta": True}, "delta: must be a number"),
        ("ADWIN", {"clock": 1.5}, "clock: must be a whole number from 1 to 10000"),
        ("ADWIN", {"clock": 10**30}, "clock: must be a whole number"),
        ("KSWIN", {"window_size": 50}, "stat_size: must be at most half of window_size"),
        ("FHDDM", {"short_window_size": 101}, "short_window_size: must be at most sliding"),
        ("EDDM", {"beta": 0.96}, "beta: must be a number from 0.01 to 0.95"),
    ],
)
def test_what_a_detector_does_not_take_is_refused_by_name(
    name: str, parameters: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ParameterError, match=problem):
        SingleStream(name, **parameters)


@every_detector
def test_both_ends_of_every_bound_make_a_detector_that_runs(name: str) -> None:
    losses = Rows(np.zeros(60, np.intp), rising(60))
    for parameter, bounds in PARAMETERS[name].items():
        for value in (bounds.least, bounds.most):
            stated = {parameter: int(value) if bounds.is_whole else value}
            try:
                check(name, stated)
            except ParameterError as error:
                assert "must be at most" in str(error)  # it depends on another parameter
            else:
                SingleStream(name, **stated).update(losses)


def test_river_is_loaded_by_who_asks_for_it() -> None:
    loaded = "import sys, service.app; print('river' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
