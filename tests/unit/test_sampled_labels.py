"""Labels that are drawn by risk: what they say of everybody, and what only of whom was drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detectors import Summary
from detectors.summary import EXPOSURE, JUDGED, LABELS, LOSS
from service.alerts.alert import Alert
from service.engine.fold import Fold
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Value
from service.monitor.slices import Slices
from tests.rows import SECOND, START, a_configuration, by_time, fired, fold_in
from tests.streams import at_most

MINUTE = 60 * SECOND
RISKY = 0.1  # of the rows
RATES = (0.3, 0.03)  # of errors: the risky, the rest
CHANCES = (0.6, 0.1)  # of a label, once the reference is complete; until then all are labelled
REFERENCE = 2_000
N_ROWS = 14_000


@dataclass(frozen=True, slots=True)
class Sampled:
    """Classifications on four floors; from the reference on labels are drawn by risk."""

    n: int = N_ROWS
    seed: int = 1
    ratio: float = 1.0  # of floor 3's errors, from half-way on
    says_stratum: bool = False
    says_chance: bool = False
    all_until: int = REFERENCE  # rows that are labelled whatever their stratum

    def rows(self) -> EventBatch:
        n, draw = self.n, np.random.default_rng(self.seed)
        floor, stratum = draw.integers(4, size=n), (draw.random(n) >= RISKY).astype(np.intp)
        rate = np.array(RATES)[stratum]
        rate = np.where((floor == 2) & (np.arange(n) > n // 2), self.ratio * rate, rate)
        wrong = draw.random(n) < rate
        chance = np.where(np.arange(n) < self.all_until, 1.0, np.array(CHANCES)[stratum])
        drawn = np.flatnonzero(draw.random(n) < chance)
        time = START + np.arange(n) * MINUTE
        predictions = EventBatch(
            ids=[f"p{i}" for i in range(n)],
            kind=np.full(n, PREDICTION, np.uint8),
            time=time,
            model=Categories(np.zeros(n, np.int32), ["m"]),
            version=Categories.absent(n),
            attributes={"floor": Categories(floor.astype(np.int32), ["1", "2", "3", "4"])},
            output=Value(text=Categories(np.zeros(n, np.int32), ["yes"])),
        )
        labels = EventBatch(
            ids=[f"p{i}" for i in drawn],
            kind=np.full(drawn.size, LABEL, np.uint8),
            time=time[drawn] + 30 * MINUTE,
            model=Categories(np.zeros(drawn.size, np.int32), ["m"]),
            version=Categories.absent(drawn.size),
            truth=Value(text=Categories(wrong[drawn].astype(np.int32), ["yes", "no"])),
            inclusion_probability=chance[drawn] if self.says_chance else None,
            stratum=(
                Categories(stratum[drawn].astype(np.int32), ["risky", "rest"])
                if self.says_stratum
                else None
            ),
        )
        return by_time(EventBatch.concatenate([predictions, labels]))


def alerts_of(sampled: Sampled, fold: Fold | None = None, budget: float = 1.0) -> list[Alert]:
    fold = fold or Fold()
    stated = {"reference": {"rows": REFERENCE}, "false_alerts": {"at_most": budget, "per": "7d"}}
    fold.apply(a_configuration(stated))
    return fired(fold_in(fold, sampled.rows(), 5_000))


def test_labels_drawn_by_risk_keep_the_promise_where_their_stratum_or_chance_is_told() -> None:
    # Three models, 9.7 days each, at 0.1 false alerts a week.
    promised = 3 * N_ROWS * 60 / 604_800 * 0.1

    def n_alerts(**told: bool) -> int:
        return sum(len(alerts_of(Sampled(seed=seed, **told), budget=0.1)) for seed in (1, 2, 3))

    assert n_alerts() > at_most(promised)  # nothing told: everybody seems to err twice as often
    assert n_alerts(says_stratum=True) <= at_most(promised)
    assert n_alerts(says_chance=True) <= at_most(promised)
    assert n_alerts(says_chance=True, says_stratum=True) <= at_most(promised)


def test_a_slice_that_gets_worse_is_found_by_strata_and_no_later_than_by_chances() -> None:
    found = {}
    for name in ("says_stratum", "says_chance"):
        sampled = replace(Sampled(ratio=3.2), **{name: True})
        alerts = [a for a in alerts_of(sampled) if a.explained_by is None]
        assert [alert.slice for alert in alerts] == [(("floor", "3"),)]
        found[name] = alerts[0].detected_at
    assert START + N_ROWS // 2 * MINUTE < found["says_stratum"] <= found["says_chance"]


def test_a_tick_is_divided_by_what_its_weights_are_beyond_the_references_own() -> None:
    def spread(sampled: Sampled) -> npt.NDArray[np.float64]:
        fold = Fold()
        alerts_of(sampled, fold)
        known = fold.model("acme", "m")
        assert known is not None
        monitor = known[0].monitor
        assert monitor is not None
        assert monitor.watch is not None
        since = START + sampled.n // 2 * MINUTE
        sums = monitor.history.cells_between(monitor.slices.n_cells, since=since)
        found = monitor.watch.outcomes(Summary(sums), monitor.slices).spread
        assert found is not None
        return found

    assert spread(Sampled(n=6_000, says_chance=True)).min() > 3.0  # behind one labelled in full
    assert spread(Sampled(n=6_000, says_chance=True, all_until=0)).tolist() == [1.0] * 5


def test_a_stratum_makes_no_slice_and_published_rates_are_weighted_all_the_same() -> None:
    fold = Fold()
    alerts_of(Sampled(says_chance=True, says_stratum=True), fold)
    known = fold.model("acme", "m")
    assert known is not None
    monitor = known[0].monitor
    assert monitor is not None
    assert monitor.slices.dimensions == ["floor"]
    assert len(monitor.slices) == 5
    assert monitor.watch is not None
    cells = monitor.history.cells_between(monitor.slices.n_cells)
    total = cells.sum(axis=0)
    true_rate = RISKY * RATES[0] + (1 - RISKY) * RATES[1]
    assert abs(total[LOSS] / total[EXPOSURE] - true_rate) < 0.01
    assert total[JUDGED] == total[LABELS] < total[EXPOSURE]
    again = Fold.restore(fold.save())
    assert again.digest() == fold.digest()


def test_cells_of_one_combination_are_parted_by_stratum_and_share_their_slices() -> None:
    slices = Slices(["floor"], 1)
    batch = Sampled(n=2_500, says_stratum=True).rows()
    labels = np.flatnonzero(batch.kind == LABEL)
    cells = slices.assign(batch.take(labels))
    assert np.unique(slices.levels[cells][:, -1]).size == 2
    assert slices.names == [()]  # these labels name no floor
