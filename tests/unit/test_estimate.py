"""What confidence says of slices without labels, what that is worth, and where it sends labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_array_equal

from service.engine.fold import Fold
from service.engine.views import SliceQuery, model_json, slices_json
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Floats, Value
from service.monitor.estimate import DAY as MICROS_A_DAY
from service.monitor.estimate import DISTRUSTED, RAISED, RETAINED_DAYS, Estimate
from service.monitor.label_plan import label_plan
from service.monitor.loss_map import ROOM
from service.monitor.monitor import Monitor
from service.monitor.scores import N_BELOW, N_BINS, NO_SCORE, learn_scores, stated_loss
from tests import hospital
from tests.doors import a_client, an_app
from tests.hospital import MODEL, ONSET
from tests.rows import (
    DAY,
    HOUR,
    SECOND,
    START,
    a_configuration,
    an_entry,
    by_time,
    fired,
    fold_in,
    in_requests,
)

CONFIG: dict[str, Any] = {
    "loss": "zero_one",
    "dimensions": ["floor"],
    "reference": {"rows": 2_000},
    "publish_min_rows": 0,
}
ONSET_AT = 0.5  # of the stream


@dataclass(frozen=True, slots=True)
class Sure:
    """Classifications whose confidence is a probability, on four floors; half of them labelled.

    From the middle on, on floor 2, the model may be less sure, and it may be wrong as often as
    `wrong_times` what it says.
    """

    n: int = 12_000
    seed: int = 1
    believed: float = 1.0  # times how often it is wrong: below 1 it is too sure of everything
    less_sure: float = 0.0  # by so much, on floor 2
    wrong_times: float = 1.0
    labelled: float = 0.5

    def rows(self) -> EventBatch:
        draw = np.random.default_rng(self.seed)
        floor = draw.integers(4, size=self.n)
        hurt = (floor == 2) & (np.arange(self.n) >= ONSET_AT * self.n)
        wrong = draw.uniform(0.0, 0.3, self.n) + np.where(hurt, self.less_sure, 0.0)
        is_wrong = draw.random(self.n) < wrong * np.where(hurt, self.wrong_times, 1.0)
        predictions = self._predictions(floor, 1.0 - self.believed * wrong)
        given = np.flatnonzero(draw.random(self.n) < self.labelled)
        delay = draw.integers(4 * HOUR, size=given.size)
        labels = EventBatch(
            ids=[predictions.ids[i] for i in given.tolist()],
            kind=np.full(given.size, LABEL, np.uint8),
            time=predictions.time[given] + delay,
            model=Categories(np.zeros(given.size, np.int32), ["m"]),
            version=Categories.absent(given.size),
            truth=Value(text=Categories(is_wrong[given].astype(np.int32), ["yes", "no"])),
        )
        return by_time(EventBatch.concatenate([predictions, labels]))

    def _predictions(self, floor: npt.NDArray[np.int64], confidence: Floats) -> EventBatch:
        same = np.zeros(self.n, np.int32)
        return EventBatch(
            ids=[f"p{i}" for i in range(self.n)],
            kind=np.full(self.n, PREDICTION, np.uint8),
            time=START + np.arange(self.n) * 90 * SECOND,  # 12.5 days of 12,000
            model=Categories(same, ["m"]),
            version=Categories(same, ["1"]),
            attributes={"floor": Categories(floor.astype(np.int32), ["0", "1", "2", "3"])},
            output=Value(text=Categories(same, ["yes"])),
            confidence=confidence,
        )


def folded(rows: EventBatch, config: dict[str, Any] | None = None, size: int = 500) -> Fold:
    fold = Fold()
    fold.apply(a_configuration(CONFIG if config is None else config))
    fold_in(fold, rows, size)
    return fold


def monitor_of(fold: Fold, model: str = "m") -> Monitor:
    known = fold.model("acme", model)
    assert known is not None
    assert known[0].monitor is not None
    return known[0].monitor


def told(fold: Fold, model: str = "m", **query: Any) -> dict[str, dict[str, Any]]:
    """The slices as they are shown, by their values."""
    shown = slices_json(fold, "acme", model, SliceQuery(**query), 0, 200)
    return {",".join(each["slice"].values()): each for each in shown}


def coverage(monitor: Monitor, name: tuple[tuple[str, str], ...]) -> float:
    index = monitor.slices.find(name)
    assert index is not None
    return float(monitor.estimate.coverage(monitor.slices)[index])


def test_confidence_that_is_a_probability_says_itself_what_is_lost() -> None:
    fold = folded(Sure().rows())
    estimate = monitor_of(fold).estimate
    assert estimate.map is not None
    assert estimate.map.method == "cbpe"
    for name, each in told(fold).items():
        low, high = each["estimated_loss_interval"]
        assert low < each["estimated_loss"] < high
        assert each["estimated_loss"] == pytest.approx(0.15, rel=0.05), name
        assert each["estimate_coverage"] >= DISTRUSTED, name


def test_confidence_that_labels_do_not_bear_out_is_read_by_what_such_rows_lost() -> None:
    fold = folded(Sure(believed=0.4).rows())
    estimate = monitor_of(fold).estimate
    assert estimate.map is not None
    assert estimate.map.method == "dle"
    for name, each in told(fold).items():
        low, high = each["estimated_loss_interval"]
        assert low < 0.15 < high, name
        assert high - low < 0.15, name
        assert each["estimate_coverage"] >= DISTRUSTED, name


def test_a_slice_of_less_sure_predictions_gets_more_labels_and_no_alert_of_its_loss() -> None:
    # its last labels are of before the onset: nothing but confidence speaks of it
    rows = Sure(less_sure=0.3, seed=2).rows()
    given_after = (rows.kind == LABEL) & (rows.time >= START + 6 * DAY)
    calm = folded(Sure(seed=2).rows())
    fold = Fold()
    fold.apply(a_configuration(CONFIG))
    found = fold_in(fold, rows.take(np.flatnonzero(~given_after)))
    assert not [a for a in fired(found) if a.kind in ("disparity", "error_rate")]
    since = START + 9 * DAY
    hurt, other = (told(fold, since=since)[floor] for floor in ("2", "1"))
    assert hurt["estimated_loss"] == pytest.approx(
        0.45, rel=0.1
    )  # though none was so unsure before
    assert hurt["estimated_loss_interval"][0] > other["estimated_loss_interval"][1]

    plan, before = (label_plan(monitor_of(f), 500, 86_400) for f in (fold, calm))
    floors = [monitor_of(fold).slices.find((("floor", str(k)),)) for k in range(4)]
    assert 0 < plan.suspicion[floors[2]] <= RAISED
    assert before.suspicion[monitor_of(calm).slices.find((("floor", "2"),))] < 0.05
    chances = plan.chance[[np.flatnonzero(row)[0] for row in _cells(monitor_of(fold), floors)]]
    assert chances[2] > 1.5 * chances[[0, 1, 3]].max()


def _cells(monitor: Monitor, slices: list[int | None]) -> npt.NDArray[np.float64]:
    membership = monitor.slices.membership()[np.array(slices, np.intp), :].toarray()
    rows = monitor.history.cells_between(monitor.slices.n_cells)[:, 0]
    return np.asarray(membership * rows)


def test_a_model_that_is_wrong_and_as_sure_as_ever_is_told_by_the_audit_alone() -> None:
    fold = folded(Sure(wrong_times=2.5).rows())
    slices = told(fold, since=START + 9 * DAY)
    assert slices["2"]["loss"] > 1.8 * slices["2"]["estimated_loss"]  # blind to it
    assert slices["2"]["estimate_coverage"] < DISTRUSTED
    assert min(slices[floor]["estimate_coverage"] for floor in ("0", "1", "3")) >= DISTRUSTED
    known = fold.model("acme", "m")
    assert known is not None
    about = model_json("m", known[0])["estimate"]
    assert about["distrusted"][0] == {"floor": "2"}
    assert "Distrust it of floor=2" in about["summary"]
    assert monitor_of(fold).estimate.map is not None


def test_on_the_hospitals_worst_floor_the_estimate_says_too_little_and_is_distrusted() -> None:
    fold, floor = Fold(), (("floor", "7"),)
    quiet = None
    for request in in_requests(hospital.story(), 1_000):
        fold.apply(an_entry(request))
        monitor = monitor_of(fold, MODEL) if fold.model("acme", MODEL) else None
        if quiet is None and monitor is not None and monitor.clock.now > ONSET:
            quiet = coverage(monitor, floor)
    assert quiet is not None
    assert quiet >= DISTRUSTED
    hit, spared = (told(fold, MODEL, since=ONSET + DAY)[name] for name in ("7", "1"))
    assert hit["estimated_loss"] > 1.25 * hit["reference_loss"]  # it does see that they are worse
    assert hit["estimated_loss_interval"][1] < hit["loss"]  # and not how much
    assert hit["estimate_coverage"] < DISTRUSTED
    assert spared["estimate_coverage"] >= DISTRUSTED
    both = told(fold, MODEL)["indian,7"]  # an intersection has the worst of what holds it
    assert both["estimate_coverage"] == hit["estimate_coverage"]
    known = fold.model("acme", MODEL)
    assert known is not None
    about = model_json(MODEL, known[0])["estimate"]
    assert about["method"] == "dle"  # WER is no probability
    assert about["distrusted"][0] == {"floor": "7"}  # before all others
    assert msgspec.json.decode(msgspec.json.encode(about)) == about


def state_of(fold: Fold) -> str:
    return repr(plain(monitor_of(fold).estimate.save()))


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def test_cuts_and_a_restart_in_between_change_nothing_of_it() -> None:
    rows = Sure(n=6_000, wrong_times=2.0).rows()
    states = [state_of(folded(rows, size=size)) for size in (37, 1_000, 20_000)]
    restarted = Fold()
    restarted.apply(a_configuration(CONFIG))
    for request in in_requests(rows, 700):
        restarted.apply(an_entry(request))
        restarted = Fold.restore(restarted.save())
    states.append(state_of(restarted))
    assert len(set(states)) == 1
    assert "'cbpe'" in states[0]


def test_where_there_is_no_confidence_nothing_is_estimated_and_nothing_kept() -> None:
    fold = folded(replace(Sure(n=4_000).rows(), confidence=None))
    for each in told(fold).values():
        assert each["estimated_loss"] is each["estimated_loss_interval"] is None
        assert each["estimate_coverage"] is None
    monitor = monitor_of(fold)
    assert monitor.estimate.days == {}
    assert "bin" not in monitor.join.save()["pending"]["columns"]
    known = fold.model("acme", "m")
    assert known is not None
    assert model_json("m", known[0])["estimate"] is None


def test_counts_are_kept_for_a_fortnight_in_whatever_order_rows_come() -> None:
    draw = np.random.default_rng(3)
    times = START + draw.integers(30 * DAY, size=3_000)
    cells, bins = draw.integers(40, size=3_000), draw.integers(ROOM, size=3_000).astype(np.uint8)
    states = []
    for order in (np.argsort(times), np.argsort(-times), draw.permutation(3_000)):
        estimate = Estimate(None)
        for some in np.array_split(order, 7):
            estimate.count(times[some], cells[some], bins[some])
        states.append(plain(estimate.save()["days"]))
        assert len(estimate.days) == RETAINED_DAYS
    assert states[0] == states[1] == states[2]
    retained = times // MICROS_A_DAY > times.max() // MICROS_A_DAY - RETAINED_DAYS
    assert sum(sum(counts) for _, _, counts in states[0]) == np.count_nonzero(retained)


def test_bins_are_quantiles_and_rows_without_confidence_have_none() -> None:
    rows = Sure(n=2_000).rows()
    scores = learn_scores("zero_one", rows)
    assert scores is not None
    predicted = rows.take(np.flatnonzero(rows.kind == PREDICTION))
    bins = scores.bins_of("zero_one", predicted)
    n = np.bincount(bins, minlength=N_BINS + 1)
    assert n[NO_SCORE] == 0
    assert n[1 + N_BELOW :].min() > 100
    unsure = replace(predicted, confidence=np.full(len(predicted), 0.2))
    assert_array_equal(scores.bins_of("zero_one", unsure), 1)  # less sure than anyone was before
    labels = rows.take(np.flatnonzero(rows.kind == LABEL))
    assert_array_equal(scores.bins_of("zero_one", labels), NO_SCORE)
    assert learn_scores("zero_one", predicted.take(np.arange(50))) is None


def test_what_confidence_states_is_the_expected_loss() -> None:
    p = np.array([0.5, 0.8, 1.0])
    right, wrong = p, 1 - p
    assert stated_loss("zero_one", p) == pytest.approx(wrong)
    assert stated_loss("brier", p) == pytest.approx(right * (1 - p) ** 2 + wrong * p**2)
    assert stated_loss("log_loss", p) == pytest.approx([np.log(2), 0.500402, 0.0], abs=1e-5)


def test_probabilities_that_are_the_output_are_their_own_confidence() -> None:
    draw = np.random.default_rng(5)
    rows = Sure(n=6_000, labelled=1.0).rows()
    n = len(rows)
    chance = {f"p{i}": float(p) for i, p in enumerate(draw.random(6_000))}
    p = np.array([chance[id_] for id_ in rows.ids])
    truth = {id_: float(draw.random() < c) for id_, c in chance.items()}
    said = np.where(rows.kind == PREDICTION, p, np.nan)
    outcome = np.where(rows.kind == LABEL, [truth[id_] for id_ in rows.ids], np.nan)
    rows = replace(rows, confidence=None, output=Value(said), truth=Value(outcome))
    assert n == 12_000
    fold = folded(rows, CONFIG | {"loss": "brier"})
    estimate = monitor_of(fold).estimate
    assert estimate.map is not None
    assert estimate.map.method == "cbpe"
    everyone = told(fold)[""]
    assert everyone["estimated_loss"] == pytest.approx(1 / 6, rel=0.05)  # of p (1 - p), uniform
    assert everyone["loss"] == pytest.approx(1 / 6, rel=0.05)


def test_the_estimate_is_told_by_the_api_and_on_the_models_page(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{i}", "model": "m", "attributes": {"floor": str(i % 4)}, "output": "a",
         "time": 1_790_000_000 + 60 * i, "truth": "a" if i % 9 else "b",
         "confidence": 0.99 if i % 9 and i % 5 else 0.55}
        for i in range(3_000)
    ]  # fmt: skip
    with an_app(tmp_path) as app:
        api = a_client(app)
        assert api.put("/v1/models/m", json={"reference": {"rows": 1_500}}).status_code == 200
        assert api.post("/v1/events", json=rows).status_code == 200
        slices = api.get("/v1/models/m/slices?order=1").json()["slices"]
        assert len(slices) == 4
        for each in slices:
            assert each["estimated_loss"] == pytest.approx(1 / 9, abs=0.04)
            assert len(each["estimated_loss_interval"]) == 2
            assert "estimate_coverage" in each
        about = api.get("/v1/models/m").json()["estimate"]
        assert about["method"] in ("cbpe", "dle")
        page = api.get("/models/m", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "Estimated without labels" in page.text
        described = api.get("/openapi.json").json()["paths"]["/v1/models/{model}/slices"]
        assert "estimated_loss_interval" in described["get"]["description"]
