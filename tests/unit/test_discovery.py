"""Discovery: slices that no one watches are found, adopted, and tested on later rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from detectors.slice_search import worst_combinations
from service.alerts.alert import Alert, Transition
from service.engine.discovery import Discovery, Due, worst_of
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import ADOPT, Entry
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Value
from service.monitor.discovered import MAX_AT_ONCE, Condition
from service.schedule import Job, Schedule
from tests.api import services
from tests.builders import ManualClock
from tests.doors import a_client, an_app
from tests.rows import LATER, SECOND, START, a_configuration, a_reference, fired, fold_in
from tests.versions import monitor_of

HIDDEN = (
    Condition("attributes.site", value="east"),
    Condition("features.snr_db", below=10.0),
)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Rows of four watched floors; those of an unwatched site with a low SNR may err more."""

    n: int = 6_000
    seed: int = 1
    bad_rate: float = 0.1
    first: int = 0  # the place of its first row in the stream

    def rows(self) -> EventBatch:
        n, draw = self.n, np.random.default_rng(self.seed)
        floor, site = draw.integers(4, size=n), draw.integers(3, size=n)
        snr = draw.uniform(0.0, 40.0, n)
        bad = (site == 1) & (snr < 10.0)
        wrong = draw.random(n) < np.where(bad, self.bad_rate, 0.1)
        none = np.zeros(n, np.int32)
        return EventBatch(
            ids=[f"p{self.first + i}" for i in range(n)],
            kind=np.full(n, PREDICTION | LABEL, np.uint8),
            time=START + (self.first + np.arange(n)) * 60 * SECOND,
            model=Categories(none, ["m"]),
            version=Categories.absent(n),
            attributes={
                "floor": Categories(floor.astype(np.int32), ["1", "2", "3", "4"]),
                "site": Categories(site.astype(np.int32), ["west", "east", "north"]),
            },
            features={"snr_db": Value(number=snr)},
            output=Value(text=Categories(none, ["yes"])),
            truth=Value(text=Categories(wrong.astype(np.int32), ["yes", "no"])),
        )


def a_fold() -> Fold:
    fold = Fold()
    stated = {"dimensions": ["floor"], "loss": "zero_one", "reference": {"rows": 3_000}}
    fold.apply(a_configuration(stated))
    fold_in(fold, Hidden().rows())
    return fold


def adopt(fold: Fold, *found: tuple[Condition, ...]) -> None:
    fold.apply(Entry("acme", ADOPT, msgspec.json.encode({"model": "m", "slices": found}), LATER))


def later(fold: Fold, bad_rate: float, size: int = 500) -> list[Transition]:
    rows = Hidden(n=8_000, seed=2, bad_rate=bad_rate, first=6_000).rows()
    return fold_in(fold, rows, size)


def of_sites(transitions: list[Transition]) -> list[Alert]:
    """Alerts of slices that are not watched: floors may have their false ones."""
    return [a for a in fired(transitions) if "site" in dict(a.slice)]


def due() -> Due:
    monitor = monitor_of(a_fold())
    assert monitor.watch is not None
    return Due(
        loss="zero_one",
        normaliser="plain",
        cap=monitor.cap,
        slices=monitor.slices.save(),
        rates=monitor.watch.rates.predict(monitor.slices.levels),
        told=[],
        dimensions=("floor",),
        order=2,
    )


def test_what_loses_more_than_its_due_is_found_beyond_the_watched_dimensions() -> None:
    known = due()
    found = worst_of(Hidden(seed=3, bad_rate=0.4).rows(), known)
    assert len(found) == 1
    fields = {condition.field: condition for condition in found[0]}
    assert set(fields) == {"attributes.site", "features.snr_db"}
    assert fields["attributes.site"].value == "east"
    below = fields["features.snr_db"].below
    assert below is not None
    assert 7.0 < below < 17.0  # a quantile near to 10 dB
    assert worst_of(Hidden(seed=3).rows(), known) == []


def test_chance_alone_names_nothing() -> None:
    draw = np.random.default_rng(1)
    names = 0
    for _ in range(20):
        holds = draw.random((60, 2_000)) < 0.2
        lost = (draw.random(2_000) < 0.1).astype(np.float64)
        due = np.full(2_000, 0.1)
        names += len(worst_combinations(holds, np.arange(60), lost, due, min_score=5.0))
    assert names == 0


def test_an_adopted_slice_is_tested_on_later_rows_alone() -> None:
    fold = a_fold()
    adopt(fold, HIDDEN)
    discovered = monitor_of(fold).discovered
    assert discovered.sums.sum() == 0
    alerts = of_sites(later(fold, 0.4))
    assert [alert.slice for alert in alerts] == [(("features.snr_db", "< 10"), ("site", "east"))]
    effect = alerts[0].effect
    assert effect.before < 0.12
    assert effect.after > 0.25
    assert "found by search" in alerts[0].summary


def test_an_adopted_slice_that_is_as_due_raises_nothing() -> None:
    fold = a_fold()
    adopt(fold, HIDDEN, (Condition("attributes.site", value="west"),))
    assert of_sites(later(fold, 0.1)) == []


def test_adoption_is_replayed_restored_and_cut_to_the_same_state() -> None:
    one, other = a_fold(), a_fold()
    for fold in (one, other):
        adopt(fold, HIDDEN)
        adopt(fold, HIDDEN)  # told again: nothing new
    other = Fold.restore(other.save())
    first, second = later(one, 0.4), later(other, 0.4, size=97)
    assert [t.alert.id for t in first] == [t.alert.id for t in second]
    assert one.digest() == other.digest()
    assert len(monitor_of(one).discovered.slices) == 1


def test_a_new_reference_begins_anew_with_what_adopted_slices_have_learnt() -> None:
    fold = a_fold()
    adopt(fold, HIDDEN)
    later(fold, 0.4)
    discovered = monitor_of(fold).discovered
    assert discovered.fleet.open.tolist() == [False, True]
    fold.apply(a_reference(Hidden(seed=5, bad_rate=0.4).rows()))
    assert discovered.fleet.open.tolist() == [False, True]
    assert np.ptp(discovered.fleet.shape / discovered.fleet.rate) < 1e-12
    assert discovered.fleet.meter.sum() == 0


def test_the_oldest_quiet_slice_gives_way() -> None:
    fold = a_fold()
    for k in range(MAX_AT_ONCE + 3):
        adopt(fold, (Condition("attributes.site", value=f"s{k}"),))
    discovered = monitor_of(fold).discovered
    assert sum(discovered.active) == MAX_AT_ONCE
    assert discovered.active[:4] == [False, False, False, True]


def test_the_nightly_job_has_the_days_slice_adopted_through_the_journal(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = [
        {"id": f"p{i}", "model": "m", "time": 1_790_000_000 + 60 * i, "output": "a",
         "attributes": {"floor": str(i % 4), "site": "east" if i % 3 else "west"},
         "truth": "b" if draw.random() < (0.4 if i > 2_000 and i % 3 == 0 else 0.1) else "a"}
        for i in range(4_000)
    ]  # fmt: skip
    with an_app(tmp_path) as app:
        api, running = a_client(app), services(app)
        stated = {"dimensions": ["floor"], "loss": "zero_one", "reference": {"rows": 2_000}}
        assert api.put("/v1/models/m", json=stated).status_code == 200
        for start in (0, 2_000):
            sent = api.post("/v1/events", json=rows[start : start + 2_000])
            assert sent.json()["accepted"] == 2_000
        counted: list[tuple[str, int]] = []
        discovery = Discovery(
            SqlEventLog(running.database),
            lambda function: running.engine.ask_and_wait(function, 10.0),
            lambda entry: running.engine.submit_and_wait(entry, 10.0),
            on_found=lambda tenant, n: counted.append((tenant, n)),
        )
        clock = ManualClock(running.clock.now())
        job = Job("discovery-now", 60, discovery.search)  # beside the service's own
        schedule = Schedule(running.database, [job], clock, running.metrics, holder="test")
        assert schedule.look(job)
        found = monitor_slices(api.get("/v1/models/m").json())
        assert found == []  # under publish_min_rows: no row has come since
        assert counted == [("acme", 1)]
        more = [{**row, "id": f"q{i}"} for i, row in enumerate(rows[:600])]
        assert api.post("/v1/events", json=more).status_code == 200
        assert monitor_slices(api.get("/v1/models/m").json()) == [{"site": "west"}]


def monitor_slices(model: dict[str, list[dict[str, dict[str, str]]]]) -> list[dict[str, str]]:
    return [each["slice"] for each in model["discovered"]]
