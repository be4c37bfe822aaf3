"""Input shift through the fold: every kind of signal, told in words, without a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from detectors import InputsEverywhere, Shares, dispersion_of_shares
from detectors.scatter import Dispersion
from detectors.shares import Due, gather
from service.alerts.alert import Alert
from service.engine.fold import Fold
from service.ingest.events import EventBatch, Value, Vectors
from tests.rows import HOUR, SECOND, START, a_batch, a_configuration, a_prediction, fired, fold_in

N, ONSET, APART = 6_000, 3_500, 60 * SECOND
Draw = dict[str, Any]


def rows(kind: str, moves: bool = True, until: int = N, everyone: bool = False) -> EventBatch:
    """Four floors; from row 3,500 on something is other on the third."""
    rng = np.random.default_rng(7)
    made = []
    for i in range(N):
        floor = str(rng.integers(1, 5))
        hit = moves and ONSET <= i < until and (everyone or floor == "3")
        at = START + i * APART
        stated = drawn(rng, kind, hit)
        made.append(a_prediction(f"r{i}", at, attributes={"floor": floor}, **stated))
    batch = a_batch(made)
    if kind == "embedding":
        length = 12
        values = rng.normal(size=(N, length))
        hit_rows = (np.arange(N) >= ONSET) & np.array(
            [r["attributes"]["floor"] == "3" for r in made]
        )
        values[hit_rows & moves, :3] += 2.0
        flat = values.astype(np.float32).reshape(-1)
        batch.features["embedding"] = Value(vector=Vectors(np.arange(N + 1) * length, flat))
    return batch


def drawn(rng: np.random.Generator, kind: str, hit: bool) -> Draw:
    x, u = float(rng.normal()), float(rng.random())
    if kind == "numeric":
        return {"features": {"level": x + (1.5 if hit else 0.0)}}
    if kind == "categorical":
        return {"features": {"codec": "opus" if u < (0.2 if hit else 0.7) else "pcm"}}
    if kind == "never seen":
        return {"features": {"codec": "flac" if hit and u < 0.4 else "opus" if x > 0 else "pcm"}}
    if kind == "boolean":
        return {"features": {"muted": bool(u < (0.6 if hit else 0.1))}}
    if kind == "missing":
        return {"features": {} if hit and u < 0.5 else {"level": x}}
    if kind == "count":
        return {"features": {"retries": float(rng.poisson(2.0 if hit else 0.3))}}
    if kind == "output":
        return {"output": "yes" if u < (0.8 if hit else 0.3) else "no"}
    if kind == "length":
        return {"output": "word " * int(rng.integers(20, 40) - (15 if hit else 0)) + str(u)}
    if kind == "confidence":
        return {"confidence": min(max(0.8 + 0.05 * x - (0.15 if hit else 0.0), 0.0), 1.0)}
    return {}


def alerts_of(batch: EventBatch) -> list[Alert]:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 2_000}}))
    return fired(fold_in(fold, batch, size=400))


@pytest.mark.parametrize(
    ("kind", "feature", "words"),
    [
        ("numeric", "level", "share above the reference's P"),
        ("categorical", "codec", "share of "),
        ("never seen", "codec", "share of values never seen in the reference: 0 % →"),
        ("boolean", "muted", "share of "),
        ("missing", "level", "share without a value: 0 % →"),
        ("count", "retries", "share at "),
        ("output", "output", "share of "),
        ("length", "output length", "share above the reference's P"),
        ("confidence", "confidence", "share above the reference's P"),
        ("embedding", "embedding", ""),
    ],
)
def test_each_kind_of_signal_is_found_where_it_moved_and_told_in_words(
    kind: str, feature: str, words: str
) -> None:
    alerts = alerts_of(rows(kind))
    assert [(alert.kind.value, alert.slice) for alert in alerts] == [
        ("input_shift", (("floor", "3"),))
    ]
    effect = alerts[0].effect
    assert effect.feature == feature
    assert effect.moved is not None
    assert words in effect.moved
    assert alerts[0].onset_interval[0] <= START + ONSET * APART <= alerts[0].onset_interval[1]
    assert alerts[0].detected_at < START + ONSET * APART + 14 * HOUR


@pytest.mark.parametrize("kind", ["numeric", "categorical", "missing", "embedding", "count"])
def test_where_nothing_moves_nothing_is_told(kind: str) -> None:
    assert alerts_of(rows(kind, moves=False)) == []


def test_what_moves_for_everyone_is_told_once_and_as_everywhere() -> None:
    alerts = alerts_of(rows("numeric", everyone=True))
    assert [alert.slice for alert in alerts] == [()]
    assert alerts[0].summary.startswith("Inputs changed everywhere since ")
    assert alerts[0].effect.rest_after is None


def test_an_input_that_is_what_it_was_ends_its_alert() -> None:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 2_000}}))
    transitions = fold_in(fold, rows("numeric", until=4_500), size=400)
    said = [t.type for t in transitions if t.alert.kind == "input_shift"]
    assert said[0] == "alert.firing"
    assert said[-1] == "alert.resolved"
    assert "is back" in transitions[-1].alert.summary


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_mean_of_the_evidence_is_at_most_what_was_spent(share: float) -> None:
    """Over a binomial share that is known: the mean is a sum over all outcomes, not a sample."""
    n = 40
    x = np.arange(n + 1.0)
    known = Due(np.full((n + 1, 1), share), np.full((n + 1, 1), share), np.ones((n + 1, 1)))
    shares = Shares(x[:, None], np.full((n + 1, 1), float(n)))
    ones = np.ones((n + 1, 1))
    spent = np.zeros((6, n + 1, 1))
    gather(spent, shares, known, ones, 0.0, ones)
    mean = (spent[:, :, 0] * binom.pmf(x, n, share)).sum(axis=1)
    assert (mean <= 1.0 + 1e-9).all()
    assert mean.max() > 0.99


def test_what_every_row_has_can_rise_no_further_and_is_evidence_of_nothing() -> None:
    """However long one looks: hazards that are spent on it alone would come to an alarm one day."""
    fleet = InputsEverywhere(np.zeros(1, np.intp))
    always = Shares(np.full((1, 1), 500.0), np.full((1, 1), 500.0))
    fleet.grow(Dispersion(np.ones((1, 1)), np.zeros((1, 1))), always)
    for _ in range(200):
        assert not len(fleet.update(always, np.full(1, 0.1)))
    assert fleet.meter.max() < 0.01


def test_sessions_that_are_all_one_thing_scatter_as_far_as_they_are_long() -> None:
    rng = np.random.default_rng(2)
    n_units, size = 4_000, 6
    hits = size * (rng.random((n_units, 1)) < 0.3).astype(np.float64)
    own, rest, _ = dispersion_of_shares(
        np.zeros(n_units, np.intp),
        np.arange(n_units),
        np.arange(n_units) // 20,
        Shares(hits, np.full((n_units, 1), float(size))),
        1,
    )
    assert own[0] == pytest.approx(size, rel=0.05)
    assert rest[0] == pytest.approx(size, rel=0.1)
