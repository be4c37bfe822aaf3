"""Requests and responses that come apart are one prediction, across requests and restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.engine.fold import Fold, Receipt
from service.engine.ports import TICK, Entry
from service.ingest.events import INPUT, OUTPUT, EventBatch
from service.ingest.halves import WAIT_SECONDS, Halves
from service.limits import HALVES
from tests.doors import a_client, an_app, n_rows
from tests.rows import LATER, SECOND, a_batch, a_prediction, an_entry, both

Row = dict[str, Any]


def asked(id_: str, **features: Any) -> Row:
    row = a_prediction(id_, features=features or {"x": 1.0}, attributes={"floor": "7"})
    return {k: v for k, v in row.items() if k != "output"} | {"kind": INPUT}


def said(id_: str, output: str = "yes") -> Row:
    return a_prediction(id_, output=output, at=row_time()) | {"kind": OUTPUT}


def row_time() -> int:
    return int(a_prediction("")["time"]) + SECOND


def receipt(fold: Fold, rows: list[Row]) -> Receipt:
    found = fold.apply(an_entry(rows)).receipt
    assert found is not None
    return found


def n_predictions(fold: Fold) -> int:
    known = fold.model("acme", "m")
    assert known is not None and known[0].monitor is not None
    return known[0].monitor.n_predictions


def learnt() -> Fold:
    """A fold whose model is past learning."""
    fold = Fold()
    fold.apply(an_entry([both(f"first-{i}", truth="a") for i in range(1_001)]))
    return fold


@pytest.mark.parametrize("make", [Fold, learnt])
@pytest.mark.parametrize("first", [asked, said])
def test_two_halves_are_one_prediction_whichever_comes_first(make: Any, first: Any) -> None:
    fold = make()
    before = n_predictions(fold) if make is learnt else 0
    second = said if first is asked else asked
    assert receipt(fold, [first("a")]) == Receipt(1, 0, 0)
    assert receipt(fold, [both("other", truth="a")]) == Receipt(1, 0, 0)
    assert n_predictions(fold) == before + 1
    assert receipt(fold, [second("a")]) == Receipt(1, 0, 0)
    assert n_predictions(fold) == before + 2


@pytest.mark.parametrize("make", [Fold, learnt])
def test_a_half_sent_again_is_a_duplicate_before_and_after_it_met(make: Any) -> None:
    fold = make()
    receipt(fold, [asked("a")])
    assert receipt(fold, [asked("a"), asked("b"), asked("b")]) == Receipt(1, 2, 0)
    receipt(fold, [said("a"), said("b")])
    assert receipt(fold, [asked("a"), said("b"), said("c")]) == Receipt(1, 2, 0)


def test_the_whole_has_the_time_of_its_request_and_what_both_say() -> None:
    halves = Halves()
    met = halves.meet(a_batch([said("a"), asked("a", x=2.0, y="z")]), LATER)
    assert met.rows.tolist() == [1]
    whole = met.wholes
    assert whole.time.tolist() == [row_time() - SECOND]
    assert whole.output.text is not None and whole.output.text.tolist() == ["yes"]
    assert set(whole.features) == {"x", "y"}
    assert whole.attributes["floor"].tolist() == ["7"]


@pytest.mark.parametrize("cuts", [1, 2, 3, 7])
def test_cuts_between_requests_do_not_matter(cuts: int) -> None:
    rows = [
        asked("a"),
        asked("b"),
        said("a"),
        said("c"),
        both("d", truth="a"),
        said("b"),
        asked("c"),
    ]
    whole = learnt()
    whole.apply(an_entry(rows))
    parts = learnt()
    for at in range(0, len(rows), cuts):
        parts.apply(an_entry(rows[at : at + cuts]))
    assert n_predictions(parts) == n_predictions(whole) == 1_001 + 4


def test_a_half_waits_across_a_snapshot() -> None:
    fold = learnt()
    receipt(fold, [asked("a")])
    again = Fold.restore(fold.save())
    assert again.digest() == fold.digest()
    for each in (fold, again):
        receipt(each, [said("a")])
    assert n_predictions(again) == n_predictions(fold) == 1_002
    assert again.digest() == fold.digest()


def test_a_half_whose_other_never_comes_goes_on_alone() -> None:
    fold = learnt()
    receipt(fold, [asked("a"), said("b")])
    for seconds, expected in ((WAIT_SECONDS - 1, 1_001), (WAIT_SECONDS, 1_003)):
        at = LATER + seconds * SECOND
        fold.apply(Entry("", TICK, at.to_bytes(8, "big"), at))
        assert n_predictions(fold) == expected
    assert receipt(fold, [said("a")]) == Receipt(0, 1, 0)


def test_one_too_many_lets_the_oldest_go_and_is_counted() -> None:
    fold = learnt()
    rows = [asked(f"w{i}") for i in range(HALVES.limit)]
    assert fold.apply(an_entry(rows)).overflowed == {}
    assert fold.apply(an_entry([asked("more")])).overflowed == {HALVES.name: 1}
    known = fold.model("acme", "m")
    assert known is not None and len(known[0].halves) == HALVES.limit
    assert n_predictions(fold) == 1_002


def test_many_meet_as_one_by_one() -> None:
    """The same pairs are found whether halves come together or each on its own."""
    draw = np.random.default_rng(7)
    rows = [asked(f"r{i % 40}") for i in range(200)] + [said(f"r{i % 40}") for i in range(100)]
    rows = [rows[i] for i in draw.permutation(len(rows))]
    together, apart = Halves(), Halves()
    wholes = [together.meet(a_batch(rows), LATER).wholes]
    singles = [apart.meet(a_batch([row]), LATER).wholes for row in rows]
    assert ids(wholes) == ids(singles)
    assert len(together) == len(apart)


def ids(batches: list[EventBatch]) -> list[str]:
    return [id_ for batch in batches for id_ in batch.ids]


def test_a_pair_over_http_survives_a_restart_between_its_halves(tmp_path: Path) -> None:
    with an_app(tmp_path) as app:
        client = a_client(app)
        post(client, "request", {"instances": [[1.0, 2.0]]})
    with an_app(tmp_path) as app:
        client = a_client(app)
        assert n_rows(client, "iris") == 0
        post(client, "response", {"predictions": [1]})
        assert n_rows(client, "iris") == 1


def post(client: TestClient, side: str, payload: Any) -> None:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "one",
        "ce-type": f"org.kubeflow.serving.inference.{side}",
        "ce-source": "/iris",
        "ce-inferenceservicename": "iris",
        "content-type": "application/json",
    }
    answer = client.post("/v1/cloudevents", content=json.dumps(payload), headers=headers)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
