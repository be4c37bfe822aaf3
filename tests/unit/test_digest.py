"""The digest: a tenant's day, once, to those who asked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from service.engine.coverage import not_watched
from service.engine.fold import Fold
from service.engine.ports import BATCH, Entry
from service.ingest.frame import to_frame
from service.monitor.findings import Severity, State
from service.notify import digest
from service.notify.telling import tell
from service.notify.wants import EndpointSettings
from service.tables import deliveries
from tests.builders import NOW, an_alert
from tests.house import House
from tests.rows import HOUR, START, Stream, a_reference

DAY = 24 * HOUR
UNWATCHED = [{"model": "translate", "reason": "no label has come"}]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def sent(house: House, now: int = NOW, **unwatched: Any) -> list[dict[str, Any]]:
    with house.database.write() as connection:
        n = digest.send(connection, now, unwatched)
        query = select(deliveries.c.body).where(deliveries.c.type == digest.TYPE)
        bodies = [json.loads(body) for body in connection.execute(query).scalars()]
    assert n <= len(bodies)
    return bodies


def endpoint(house: House, tenant: str = "acme", also: tuple[str, ...] = (digest.TYPE,)) -> None:
    stated = {"url": "https://hooks.example/", "also": list(also)}
    house.endpoints.create(tenant, EndpointSettings.model_validate(stated))


def test_it_says_what_is_open_what_ended_and_what_could_not_be_watched() -> None:
    open_ = [
        an_alert(id="al_mild", severity=Severity.WARNING),
        an_alert(id="al_old", onset=NOW - DAY),
        an_alert(id="al_new", onset=NOW),
    ]
    ended = [an_alert(id="al_over", state=State.RESOLVED)]
    document = digest.digest(open_, ended, UNWATCHED, NOW - DAY, NOW)
    assert [each["id"] for each in document["open"]] == ["al_new", "al_old", "al_mild"]
    assert [each["id"] for each in document["ended"]] == ["al_over"]
    assert (document["n_open"], document["n_ended"]) == (3, 1)
    assert document["not_watched"] == UNWATCHED
    assert (document["since"], document["until"]) == (
        "2026-11-17T11:06:40Z",
        "2026-11-18T11:06:40Z",
    )


def test_it_is_short_whatever_is_open() -> None:
    many = [an_alert(id=f"al_{i}") for i in range(5000)]
    document = digest.digest(many, many, UNWATCHED * 1000, NOW - DAY, NOW)
    assert (document["n_open"], len(document["open"])) == (5000, digest.LISTED)
    assert len(json.dumps(document)) < 64 * 1024


def test_people_read_it_in_words() -> None:
    document = digest.digest([an_alert()], [], UNWATCHED, NOW - DAY, NOW)
    told = tell({"type": digest.TYPE, "timestamp": "", "data": document})
    assert told.title == "Slicewatch, 2026-11-17 11:06 to 2026-11-18 11:06 UTC"
    assert told.text == "1 open, 0 ended, 1 models not watched."
    assert ("Not watched", "translate: no label has come") in told.facts


def test_it_goes_to_those_who_asked_and_tells_each_tenant_its_own(house: House) -> None:
    endpoint(house)
    endpoint(house, also=())
    endpoint(house, tenant="other")
    house.happen({"id": "al_1"}, {"id": "al_part", "explained_by": "al_1"})
    house.happen({"id": "al_2", "tenant": "other"})
    bodies = sent(house, acme=UNWATCHED)
    assert sorted([each["id"] for each in body["data"]["open"]] for body in bodies) == [
        ["al_1"],
        ["al_2"],
    ]
    assert sorted(len(body["data"]["not_watched"]) for body in bodies) == [0, 1]


def test_a_day_is_told_once(house: House) -> None:
    endpoint(house)
    assert len(sent(house)) == len(sent(house)) == len(sent(house, NOW + HOUR)) == 1
    assert len(sent(house, NOW + DAY)) == 2


def test_what_ended_is_told_on_its_day_alone(house: House) -> None:
    endpoint(house)
    over = {"type_": "alert.resolved", "state": State.RESOLVED, "revision": 2, "at": NOW - HOUR}
    house.happen({"id": "al_1"}, {"id": "al_1", **over})
    first, second = sent(house), sent(house, NOW + DAY)
    assert [body["data"]["n_ended"] for body in first] == [1]
    assert sorted(body["data"]["n_ended"] for body in second) == [0, 1]


def test_a_model_that_nothing_can_be_said_of_is_named_with_the_reason() -> None:
    fold = Fold()
    rows = Stream().rows()
    fold.apply(Entry("acme", BATCH, to_frame(rows.take(np.arange(50))), START))
    name = next(iter(fold.tenants["acme"].models))
    learning = "what it is made of is still being learnt"
    assert not_watched(fold, START) == {"acme": [{"model": name, "reason": learning}]}
    fold.apply(Entry("acme", BATCH, to_frame(rows), START))
    last = fold.tenants["acme"].models[name].last_row_at
    gathering = "its reference is not complete"
    assert not_watched(fold, last) == {"acme": [{"model": name, "reason": gathering}]}
    fold.apply(a_reference(rows))
    assert not_watched(fold, last) == {}
    (stale,) = not_watched(fold, last + 2 * DAY)["acme"]
    assert stale["reason"].startswith("no row since 2")
