"""The laws that every public fleet of `detectors` keeps, found by introspection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import detectors
from detectors import (
    Detections,
    Detector,
    Disparity,
    Dispersion,
    ErrorRate,
    Everyone,
    InputsEverywhere,
    InputShift,
    Outcomes,
    OwnInputs,
    Recovery,
    ShapeError,
    Shares,
)
from detectors.contract import State
from detectors.shares import Learnt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

N_SLICES, N_TICKS = 12, 60


@dataclass(frozen=True, slots=True)
class World:
    """Twelve slices, row 0 the whole model; all get worse and some more, so there are alarms."""

    dispersion: Floats  # shape (n,), and all that follow
    dispersion_share: Floats
    reference: Outcomes
    ratio: Floats  # how much worse an open incident is
    hazard: Floats
    ticks: list[Outcomes]

    def take(self, rows: Rows) -> World:
        return World(
            self.dispersion[rows],
            self.dispersion_share[rows],
            _take(self.reference, rows),
            self.ratio[rows],
            self.hazard[rows],
            [_take(tick, rows) for tick in self.ticks],
        )


def _take(outcomes: Outcomes, rows: Rows) -> Outcomes:
    return Outcomes(outcomes.observed[rows], outcomes.expected[rows])


def a_world(seed: int = 0, worse: bool = True, hazard: float = 1e-3) -> World:
    rng = np.random.default_rng(seed)
    due = rng.uniform(4.0, 12.0, N_SLICES - 1)
    dispersion = rng.uniform(1.0, 4.0, N_SLICES)
    some = np.arange(N_SLICES - 1) % 3 == 0
    ratio = np.where(some, 6.0, 3.0) if worse else np.ones(N_SLICES - 1)

    def drawn(rate: Floats) -> Outcomes:
        x = rng.poisson(rate).astype(np.float64)
        return Outcomes(np.append(x.sum(), x), np.append(due.sum(), due))

    first, second = N_TICKS // 3, N_TICKS - N_TICKS // 3
    calm, then = [drawn(due) for _ in range(first)], [drawn(due * ratio) for _ in range(second)]
    long = rng.poisson(due * 20).astype(np.float64)
    return World(
        dispersion=dispersion,
        dispersion_share=np.maximum(1.0, dispersion * 0.7),
        reference=Outcomes(np.append(long.sum(), long), np.append(due.sum(), due) * 20),
        ratio=rng.uniform(1.3, 4.0, N_SLICES),
        hazard=np.full(N_SLICES, hazard),
        ticks=calm + then,
    )


def _error_rate(world: World) -> ErrorRate:
    fleet = ErrorRate()
    fleet.grow(world.dispersion, world.reference.observed, world.reference.expected)
    return fleet


def _everyone(world: World) -> Everyone:
    fleet = Everyone()
    fleet.grow(world.dispersion, world.reference.observed, world.reference.expected)
    return fleet


def _disparity(world: World) -> Disparity:
    fleet = Disparity()
    reference = world.reference
    fleet.grow(world.dispersion, world.dispersion_share, reference.observed, reference.expected)
    return fleet


def _recovery(world: World) -> Recovery:
    fleet = Recovery()
    fleet.grow(world.dispersion.size)
    fleet.open(np.arange(world.dispersion.size), world.ratio)
    return fleet


SIGNALS = np.array([0, 0, 1])  # which signal each of three indicators is of
ROWS_A_LOSS = 25.0  # rows asked for each loss that is due: shares of 4 %, and of 12 or 24 after


def _shares(outcomes: Outcomes) -> Shares:
    """The same world as inputs: losses are hits of two indicators; of a third few rows have any."""
    rows = np.repeat(ROWS_A_LOSS * outcomes.expected[:, None], SIGNALS.size, axis=1)
    hits = np.stack([outcomes.observed, 2.0 * outcomes.observed, 0.5 * outcomes.observed], axis=1)
    return Shares(hits, rows)


def _dispersion(of: Floats) -> Dispersion:
    return Dispersion(np.stack([of, 1.2 * of], axis=1), np.zeros((of.size, 2)))


def _own_inputs(world: World) -> OwnInputs:
    fleet = OwnInputs(SIGNALS)
    fleet.grow(_dispersion(world.dispersion), _shares(world.reference))
    return fleet


def _input_shift(world: World) -> InputShift:
    fleet = InputShift(SIGNALS)
    both = (_dispersion(world.dispersion), _dispersion(world.dispersion_share))
    fleet.grow(*both, _shares(world.reference))
    return fleet


def _inputs_everywhere(world: World) -> InputsEverywhere:
    fleet = InputsEverywhere(SIGNALS)
    fleet.grow(_dispersion(world.dispersion), _shares(world.reference))
    return fleet


@dataclass(frozen=True, slots=True)
class Case:
    """How the laws reach one fleet."""

    build: Callable[[World], Any]
    second: str = "hazard"  # what `update` takes beside the outcomes: a column of the world
    needs_root: bool = False  # row 0 must be the whole model, so it stays where it is
    answers_for_all: bool = False  # one answer from all streams, given as slice 0
    statistics: tuple[str, ...] = ()  # parts of the state that only add up
    asked: Callable[[Outcomes], Any] = lambda outcomes: outcomes  # a tick as the fleet takes it


CASES: dict[type, Case] = {
    ErrorRate: Case(_error_rate, statistics=("shape", "rate")),
    Everyone: Case(_everyone, answers_for_all=True, statistics=("shape", "rate")),
    Disparity: Case(
        _disparity, needs_root=True, statistics=("own.shape", "own.rate", "shape", "rate")
    ),
    Recovery: Case(_recovery, second="dispersion"),
    OwnInputs: Case(_own_inputs, needs_root=True, statistics=("hits", "rows"), asked=_shares),
    InputShift: Case(
        _input_shift,
        needs_root=True,
        statistics=("own.hits", "own.rows", "hits", "rows", "rest_hits", "rest_rows"),
        asked=_shares,
    ),
    InputsEverywhere: Case(
        _inputs_everywhere,
        needs_root=True,
        answers_for_all=True,
        statistics=("hits", "rows"),
        asked=_shares,
    ),
}

OUTSIDE: dict[str, str] = {
    "SingleStream": "is fed rows in their order and not sums: its laws are with its own tests",
}

EXEMPT: dict[tuple[str, type], str] = {
    ("statistics", Recovery): "it keeps no statistics, only evidence: see the law of evidence",
    ("row", Everyone): "its answer is one for all streams, so a stream alone is another question",
    ("row", InputsEverywhere): "as for Everyone",
    ("evidence", InputShift): "the rest's movement is measured tick by tick, so cuts matter",
}


def under(law: str) -> pytest.MarkDecorator:
    """Each fleet that the law applies to."""
    fleets = [fleet for fleet in CASES if (law, fleet) not in EXEMPT]
    return pytest.mark.parametrize("fleet", fleets, ids=lambda fleet: fleet.__name__)


Answers = list[Detections]


def feed(case: Case, fleet: Any, world: World, ticks: list[Outcomes]) -> Answers:
    return [fleet.update(case.asked(tick), getattr(world, case.second)) for tick in ticks]


def alarms(answers: Answers) -> list[tuple[int, int]]:
    return [(tick, int(s)) for tick, answer in enumerate(answers) for s in answer.slices]


def merged(ticks: list[Outcomes], cuts: list[int]) -> list[Outcomes]:
    """The same stream with a tick only at the cuts."""
    parts = [
        ticks[since:until] for since, until in zip([0, *cuts], [*cuts, len(ticks)], strict=True)
    ]
    return [
        Outcomes(
            np.sum([tick.observed for tick in part], axis=0),
            np.sum([tick.expected for tick in part], axis=0),
        )
        for part in parts
    ]


def arrays_of(thing: object) -> Iterator[npt.NDArray[Any]]:
    """Every array that an object holds, however deep."""
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from arrays_of(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from arrays_of(value)
    elif isinstance(thing, Detections):
        yield from arrays_of([thing.slices, thing.own_reference, thing.rest, thing.streams])
    elif isinstance(thing, Dispersion):
        yield from arrays_of([thing.within, thing.between])
    elif isinstance(thing, Learnt) or type(thing) in CASES:
        yield from arrays_of(vars(thing))


def held(thing: object) -> int:
    """Bytes and things that an object holds."""
    if isinstance(thing, np.ndarray):
        return int(thing.nbytes)
    if isinstance(thing, Dispersion):
        return held([thing.within, thing.between])
    if isinstance(thing, dict | list | tuple | set):
        return len(thing) + sum(map(held, thing.values() if isinstance(thing, dict) else thing))
    return held(vars(thing)) if hasattr(thing, "__dict__") else 1


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_every_public_fleet_is_under_the_laws() -> None:
    public = [getattr(detectors, name) for name in detectors.__all__]
    fleets = {
        thing.__name__
        for thing in public
        if inspect.isclass(thing)
        and thing is not Detector
        and all(hasattr(thing, method) for method in ("update", "save", "restore"))
    }
    assert fleets - set(OUTSIDE) == {fleet.__name__ for fleet in CASES}


@under("alarm")
def test_the_world_of_these_laws_makes_each_fleet_speak(fleet: type) -> None:
    case, world = CASES[fleet], a_world()
    assert alarms(feed(case, case.build(world), world, world.ticks))


@under("statistics")
@pytest.mark.parametrize("cuts", [[30], [1, 2, 30, 55], list(range(4, 60, 4))], ids=len)
def test_statistics_do_not_depend_on_where_the_stream_is_cut(fleet: type, cuts: list[int]) -> None:
    case, world = CASES[fleet], a_world(worse=False, hazard=1e-12)
    whole, cut = case.build(world), case.build(world)
    before = case.build(world).save()
    feed(case, whole, world, world.ticks)
    feed(case, cut, world, merged(world.ticks, cuts))
    for name in case.statistics:
        grown, other = whole.save()[name] - before[name], cut.save()[name] - before[name]
        assert_allclose(grown, other, rtol=1e-9, err_msg=name)
        assert grown.max() > 1.0


@under("evidence")
def test_evidence_against_a_known_baseline_does_not_depend_on_where_the_stream_is_cut(
    fleet: type,
) -> None:
    """But for what the hazard adds between cuts: here it is 0, and there is evidence to begin with.

    A baseline that is still learnt is known better from cut to cut, so its evidence does depend.
    """
    case, world = CASES[fleet], a_world(worse=False, hazard=0.0)
    known, begun = 1e8, 1e-40

    def begin() -> Any:
        fleet_ = case.build(world)
        if isinstance(fleet_, Recovery):
            fleet_.patience = np.inf  # its hazard
        state = fleet_.save()
        for name in state:
            if name.endswith(("shape", "rate")):
                state[name] = np.full_like(state[name], known)
            if name.endswith(("hits", "rows")):
                state[name] *= known
            if name.endswith("evidence"):
                state[name] = np.full_like(state[name], begun)
        fleet_.restore(state)
        return fleet_

    ticks = world.ticks[:2]
    whole, cut = begin(), begin()
    feed(case, whole, world, ticks)
    feed(case, cut, world, merged(ticks, []))
    for name, evidence in whole.save().items():
        if name.endswith("evidence"):
            nats, others = np.log(evidence / begun), np.log(cut.save()[name] / begun)
            assert_allclose(nats, others, rtol=1e-4, atol=1e-3, err_msg=name)
            assert np.abs(nats).max() > 1.0


@under("permutation")
def test_permuting_slices_permutes_the_answer(fleet: type) -> None:
    case, world = CASES[fleet], a_world()
    order = np.random.default_rng(1).permutation(N_SLICES)
    if case.needs_root:
        order = np.append(0, order[order != 0])
    permuted_world = world.take(order)
    straight, permuted = case.build(world), case.build(permuted_world)
    answers = feed(case, straight, world, world.ticks)
    others = feed(case, permuted, permuted_world, permuted_world.ticks)

    place = {int(s): s_ for s_, s in enumerate(order)}
    moved = [(t, s if case.answers_for_all else place[s]) for t, s in alarms(answers)]
    assert sorted(moved) == sorted(alarms(others))
    for name, array in straight.save().items():
        expected = array[order] if array.shape[0] == N_SLICES else array
        assert_allclose(expected, permuted.save()[name], rtol=1e-12, err_msg=name)


@under("row")
@pytest.mark.parametrize("row", [1, 5, N_SLICES - 1])
def test_a_row_of_a_fleet_equals_a_fleet_of_that_row_alone(fleet: type, row: int) -> None:
    case, world = CASES[fleet], a_world()
    rows = np.array([0, row] if case.needs_root else [row])
    small_world = world.take(rows)
    large, small = case.build(world), case.build(small_world)
    for tick, small_tick in zip(world.ticks, small_world.ticks, strict=True):
        (answer,), (alone,) = (
            feed(case, large, world, [tick]),
            feed(case, small, small_world, [small_tick]),
        )
        told, told_alone = answer.slices == row, alone.slices == rows.size - 1
        assert_allclose(answer.own_reference[told], alone.own_reference[told_alone], rtol=1e-9)
        for name, array in large.save().items():
            expected = array[rows] if len(array) == N_SLICES else array
            assert_allclose(expected, small.save()[name], rtol=1e-9, err_msg=name)


@under("restore")
@pytest.mark.parametrize("cut", [0, 19, 33, N_TICKS - 1])
def test_a_restored_fleet_goes_on_bit_for_bit(fleet: type, cut: int) -> None:
    case, world = CASES[fleet], a_world()
    first = case.build(world)
    feed(case, first, world, world.ticks[:cut])
    second = fleet()
    second.restore(first.save())

    answers = feed(case, first, world, world.ticks[cut:])
    others = feed(case, second, world, world.ticks[cut:])
    for answer, other in zip(answers, others, strict=True):
        for left, right in zip(arrays_of(answer), arrays_of(other), strict=True):
            assert_array_equal(left, right)
    assert same(first.save(), second.save())


@under("empty")
def test_an_update_without_rows_changes_nothing(fleet: type) -> None:
    case, world = CASES[fleet], a_world()
    watching = case.build(world)
    feed(case, watching, world, world.ticks[:30])
    before = watching.save()
    nothing = Outcomes(np.zeros(N_SLICES), np.zeros(N_SLICES))
    (answer,) = feed(case, watching, world, [nothing])
    assert not len(answer)
    assert same(before, watching.save())


@under("memory")
def test_memory_does_not_grow_with_the_stream(fleet: type) -> None:
    case, world = CASES[fleet], a_world()
    watching = case.build(world)
    feed(case, watching, world, world.ticks[:5])
    before = held(watching)
    feed(case, watching, world, world.ticks * 10)
    assert held(watching) == before


@under("aliasing")
def test_inputs_are_not_written_to_and_outputs_are_no_views_of_state(fleet: type) -> None:
    case, world = CASES[fleet], a_world()
    inputs = [world.dispersion, world.dispersion_share, world.ratio, world.hazard]
    for outcomes in [world.reference, *world.ticks]:
        inputs += [outcomes.observed, outcomes.expected]
    for array in inputs:
        array.flags.writeable = False  # a write would raise

    watching = case.build(world)
    answers = feed(case, watching, world, world.ticks)
    restored = fleet()
    saved = watching.save()
    restored.restore(saved)
    for state in [*arrays_of(watching), *arrays_of(restored)]:
        assert not any(np.shares_memory(state, array) for array in inputs)
        assert not any(np.shares_memory(state, array) for array in arrays_of(answers))
        assert not any(np.shares_memory(state, array) for array in arrays_of(saved))


@under("shape")
@pytest.mark.parametrize("n", [1, N_SLICES - 1, N_SLICES + 1])
def test_another_number_of_slices_than_are_watched_is_refused(fleet: type, n: int) -> None:
    case, world = CASES[fleet], a_world()
    watching = case.build(world)
    before = watching.save()
    with pytest.raises(ShapeError):
        feed(case, watching, world, [Outcomes(np.ones(n), np.ones(n))])
    assert same(before, watching.save())
