"""The outbox: who is told of what, once; claimed by one worker, recorded under its lease."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from sqlalchemy import select

from service.alerts.matcher import Matcher
from service.database import Database
from service.errors import Conflict, NotFound
from service.monitor.findings import Kind, Severity
from service.notify import lanes, outbox
from service.notify.egress import Answer
from service.notify.endpoints import Endpoint, Endpoints, EndpointState, live_secrets
from service.notify.lanes import Attempt, Lane, Leased, Verdict
from service.notify.outbox import DeliveryState
from service.notify.wants import EndpointSettings
from service.notify.webhook import body_for
from service.notify.worker import JITTER, judge, retry_after_seconds
from service.seal import Seal
from service.tables import attempts, deliveries
from tests.builders import NOW, ManualClock, a_transition, an_alert

URL = "https://hooks.example/"
SECOND = 1_000_000
LEASE = 30 * SECOND
DISABLE_AFTER = 5 * 86_400 * SECOND
SCHEDULE = (0, 5, 300, 1800)
DELIVERED = Verdict(DeliveryState.DELIVERED, NOW)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def endpoints(database: Database, clock: ManualClock) -> Endpoints:
    return Endpoints(database, clock, Seal())


def create(endpoints: Endpoints, tenant: str = "acme", **filters: object) -> Endpoint:
    settings = {"url": URL, "filters": filters}
    return endpoints.create(tenant, EndpointSettings.model_validate(settings))


def enqueue(database: Database, type_: str = "alert.firing", now: int = NOW, **changes: Any) -> int:
    with database.write() as connection:
        return outbox.enqueue(connection, a_transition(type_, **changes), now)


def due(database: Database, now: int = NOW) -> list[Lane]:
    with database.read() as connection:
        return lanes.due(connection, now, 100)


def claim(database: Database, wanted: Lane, now: int = NOW) -> Leased | None:
    with database.write() as connection:
        return next(iter(lanes.claim_all(connection, [wanted], now, now + LEASE)), None)


def claim_only(database: Database, now: int = NOW) -> Leased:
    (wanted,) = due(database, now)
    leased = claim(database, wanted, now)
    assert leased is not None
    return leased


def record(database: Database, leased: Leased, verdict: Verdict, status: int | None = 204) -> bool:
    with database.write() as connection:
        attempt = Attempt(NOW, status, "", 0.1)
        return lanes.record(connection, leased, attempt, verdict, DISABLE_AFTER) is not None


def state_of(database: Database, id_: str) -> str:
    with database.read() as connection:
        query = select(deliveries.c.state).where(deliveries.c.id == id_)
        return str(connection.scalar(query))


def states(database: Database) -> list[str]:
    """Of every delivery, in the order of what they tell of."""
    with database.read() as connection:
        query = select(deliveries.c.state).order_by(deliveries.c.alert_id, deliveries.c.sequence)
        return list(connection.execute(query).scalars())


# Who is told


def test_each_active_endpoint_of_the_tenant_is_told_once(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    create(endpoints)
    create(endpoints, tenant="other")
    assert enqueue(database) == 2
    assert enqueue(database) == 0  # a replay of the journal tells no one again
    assert enqueue(database, type_="alert.revised", revision=2) == 2


def test_a_transition_that_another_alert_heads_is_told_to_no_one(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    assert enqueue(database, notify=False) == 0


@pytest.mark.parametrize("state", [EndpointState.PAUSED, EndpointState.DISABLED])
def test_an_endpoint_that_is_not_active_is_told_nothing(
    database: Database, endpoints: Endpoints, state: EndpointState
) -> None:
    endpoint = create(endpoints)
    endpoints.set_state("acme", endpoint.id, state)
    assert enqueue(database) == 0


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"models": ["transcribe-medical"]}, True),
        ({"models": ["other", "transcribe-medical"]}, True),
        ({"models": ["other"]}, False),
        ({"models": []}, False),
        ({"kinds": ["disparity"]}, True),
        ({"kinds": ["error_rate"]}, False),
        ({"severities": ["warning", "critical"]}, True),
        ({"severities": ["info"]}, False),
        ({"slices": [{"floor": "7"}]}, True),
        ({"slices": [{"floor": "8"}]}, False),
        ({"slices": [{"floor": "8"}, {"accent": "scottish"}]}, True),
        ({"slices": [{"floor": "7", "accent": "welsh"}]}, False),
        ({"slices": [{"device": "tablet"}]}, False),
        ({"models": ["transcribe-medical"], "kinds": ["silence"]}, False),
    ],
)
def test_filters_match_where_each_list_does(filters: dict[str, object], matches: bool) -> None:
    assert Matcher.model_validate(filters).match(an_alert()) is matches


def test_the_filters_of_an_endpoint_decide(database: Database, endpoints: Endpoints) -> None:
    create(endpoints, kinds=[Kind.SILENCE])
    assert enqueue(database) == 0


def test_who_heard_of_an_alert_hears_its_end_though_it_no_longer_matches(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints, severities=[Severity.CRITICAL])
    assert enqueue(database) == 1
    end: dict[str, Any] = {"revision": 2, "severity": Severity.INFO}
    assert enqueue(database, "alert.resolved", **end) == 1
    assert enqueue(database, "alert.resolved", id="al_2", **end) == 0


def test_the_stored_body_is_the_one_to_sign(database: Database, endpoints: Endpoints) -> None:
    create(endpoints)
    enqueue(database)
    assert claim_only(database).body == body_for(a_transition())


def test_deliveries_roll_back_with_what_they_tell_of(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    with pytest.raises(RuntimeError), database.write() as connection:
        assert outbox.enqueue(connection, a_transition(), NOW) == 1
        raise RuntimeError("the commit it was part of")
    assert due(database) == []


# Claims


def test_of_two_workers_one_gets_a_delivery(database: Database, endpoints: Endpoints) -> None:
    create(endpoints)
    enqueue(database)
    (wanted,) = due(database)
    first, second = claim(database, wanted), claim(database, wanted)
    assert first is not None
    assert second is None


def test_an_endpoint_has_one_delivery_in_flight_and_the_oldest_goes_first(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    for i in (1, 2):
        enqueue(database, now=NOW - 10 + i, id=f"al_{i}")
    first = claim_only(database)
    assert json.loads(first.body)["data"]["id"] == "al_1"
    assert due(database) == []
    assert record(database, first, DELIVERED)
    assert json.loads(claim_only(database).body)["data"]["id"] == "al_2"


def test_endpoints_do_not_wait_for_each_other(database: Database, endpoints: Endpoints) -> None:
    for tenant in ("acme", "acme", "other"):
        create(endpoints, tenant=tenant)
    enqueue(database)
    enqueue(database, tenant="other")
    assert len(due(database)) == 3


def test_news_of_an_alert_goes_out_in_order_while_it_is_fresh(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    enqueue(database)
    enqueue(database, "alert.revised", revision=2)
    enqueue(database, "alert.resolved", revision=3)
    for type_ in ("alert.firing", "alert.revised", "alert.resolved"):
        leased = claim_only(database)
        assert json.loads(leased.body)["type"] == type_
        record(database, leased, DELIVERED)


def test_an_alert_s_newest_state_stands_for_what_failed_before(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    enqueue(database)
    first = claim_only(database)
    record(database, first, Verdict(DeliveryState.WAITING, NOW + 60 * SECOND), status=500)
    assert due(database) == []
    enqueue(database, "alert.revised", revision=2)
    enqueue(database, "alert.resolved", revision=3)
    newest = claim_only(database)
    assert json.loads(newest.body)["type"] == "alert.resolved"
    assert states(database) == ["superseded", "superseded", "waiting"]
    record(database, newest, DELIVERED)
    assert due(database, NOW + 3600 * SECOND) == []


def test_after_a_minute_of_waiting_how_things_stand_is_told_and_not_how_they_came_about(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    enqueue(database, now=NOW - lanes.COALESCE_AFTER)
    enqueue(database, "alert.resolved", now=NOW - 1, revision=2)
    enqueue(database, id="al_2")
    told = []
    while waiting := due(database):
        leased = claim(database, waiting[0])
        assert leased is not None
        told.append((json.loads(leased.body)["data"]["id"], json.loads(leased.body)["type"]))
        record(database, leased, DELIVERED)
    assert told == [("al_1", "alert.resolved"), ("al_2", "alert.firing")]


def test_a_replayed_range_is_sent_whole_and_in_order(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint = create(endpoints)
    for revision, type_ in enumerate(("alert.firing", "alert.revised", "alert.resolved"), 1):
        enqueue(database, type_, revision=revision)
        record(database, claim_only(database), DELIVERED)
    later = NOW + 3600 * SECOND
    with database.write() as connection:
        span = {"since": NOW, "until": NOW + 1, "now": later}
        failed = outbox.replay_range(
            connection, "acme", endpoint.id, states=[DeliveryState.FAILED], **span
        )
        n = outbox.replay_range(
            connection, "acme", endpoint.id, states=[DeliveryState.DELIVERED], **span
        )
    assert (failed, n) == (0, 3)
    for sequence in (1, 2, 3):
        leased = claim_only(database, later + 120 * SECOND)
        assert json.loads(leased.body)["data"]["sequence"] == sequence
        record(database, leased, DELIVERED)


def test_a_lease_that_ran_out_is_claimed_again_and_its_holder_can_record_no_more(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    enqueue(database)
    lost = claim_only(database)
    assert due(database, NOW + LEASE - 1) == []
    held = claim_only(database, NOW + LEASE)
    assert (held.id, held.body) == (lost.id, lost.body)
    assert not record(database, lost, Verdict(DeliveryState.FAILED, NOW))
    assert record(database, held, DELIVERED)
    assert state_of(database, held.id) == "delivered"
    with database.read() as connection:
        assert len(connection.execute(select(attempts)).all()) == 1


def test_what_waits_for_a_paused_endpoint_waits_until_it_is_resumed(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint = create(endpoints)
    enqueue(database)
    (wanted,) = due(database)
    endpoints.set_state("acme", endpoint.id, EndpointState.PAUSED)
    assert due(database) == []
    assert claim(database, wanted) is None  # paused between the look and the claim
    endpoints.set_state("acme", endpoint.id, EndpointState.ACTIVE)
    assert len(due(database)) == 1


def test_gone_disables_the_endpoint(database: Database, endpoints: Endpoints) -> None:
    endpoint = create(endpoints)
    enqueue(database)
    leased = claim_only(database)
    record(database, leased, Verdict(DeliveryState.FAILED, NOW, gone=True), status=410)
    assert endpoints.get("acme", endpoint.id).state is EndpointState.DISABLED
    assert "410" in endpoints.get("acme", endpoint.id).state_reason
    assert enqueue(database, revision=2) == 0


def test_a_deleted_endpoint_takes_its_deliveries_and_what_was_in_flight_with_it(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint = create(endpoints)
    enqueue(database)
    leased = claim_only(database)
    endpoints.delete("acme", endpoint.id)
    assert not record(database, leased, DELIVERED)
    with database.read() as connection:
        assert connection.execute(select(deliveries)).all() == []
        assert connection.execute(select(attempts)).all() == []


def test_finished_deliveries_are_forgotten_with_age_and_waiting_ones_are_not(
    database: Database, endpoints: Endpoints
) -> None:
    create(endpoints)
    enqueue(database)
    enqueue(database, id="al_2")
    with database.read() as connection:
        assert outbox.waiting(connection) == (2, NOW)
    record(database, claim_only(database), DELIVERED)
    with database.write() as connection:
        assert outbox.forget(connection, NOW, 10) == 0
        assert outbox.forget(connection, NOW + 1, 10) == 1
        assert outbox.waiting(connection)[0] == 1


# Tests and replays


def test_each_test_is_a_delivery_of_its_own(database: Database, endpoints: Endpoints) -> None:
    endpoint = create(endpoints)
    with database.write() as connection:
        ids = {outbox.enqueue_test(connection, "acme", endpoint.id, NOW) for _ in range(3)}
    assert len(ids) == 3
    assert json.loads(claim_only(database).body)["type"] == "endpoint.test"


def test_a_replay_sends_the_same_id_and_bytes_on_a_fresh_schedule(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint = create(endpoints)
    enqueue(database)
    first = claim_only(database)
    record(database, first, Verdict(DeliveryState.FAILED, NOW), status=500)
    with database.write() as connection:
        outbox.replay(connection, "acme", endpoint.id, first.id, NOW)
    second = claim_only(database)
    assert (second.id, second.body, second.n_attempts) == (first.id, first.body, 0)
    record(database, second, DELIVERED)
    with database.read() as connection:
        tried = outbox.attempts_of(connection, "acme", [first.id])[first.id]
    assert [(each.number, each.status) for each in tried] == [(1, 500), (2, 204)]


def test_a_replay_of_what_is_not_there_is_not_found(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint, other = create(endpoints), create(endpoints, tenant="other")
    enqueue(database)
    id_ = claim_only(database).id
    for tenant, endpoint_id, delivery in (
        ("acme", endpoint.id, "msg_none"),
        ("other", other.id, id_),
        ("other", endpoint.id, id_),
    ):
        with pytest.raises(NotFound), database.write() as connection:
            outbox.replay(connection, tenant, endpoint_id, delivery, NOW)


def test_tests_and_replays_ask_for_an_active_endpoint(
    database: Database, endpoints: Endpoints
) -> None:
    endpoint = create(endpoints)
    endpoints.set_state("acme", endpoint.id, EndpointState.PAUSED)
    with pytest.raises(Conflict, match="paused"), database.write() as connection:
        outbox.enqueue_test(connection, "acme", endpoint.id, NOW)
    with pytest.raises(Conflict, match="paused"), database.write() as connection:
        outbox.replay(connection, "acme", endpoint.id, "msg_1", NOW)


# Secrets


def test_a_rotation_signs_with_both_for_a_day_and_then_with_the_new_one(
    endpoints: Endpoints, clock: ManualClock
) -> None:
    endpoint = create(endpoints)
    old = endpoint.secrets[0].secret
    new = endpoints.rotate("acme", endpoint.id).secrets[0].secret
    stored = endpoints.get("acme", endpoint.id).secrets
    day = 86_400 * SECOND
    assert new != old
    assert live_secrets(stored, clock.now() + day - 1) == [new, old]
    assert live_secrets(stored, clock.now() + day) == [new]


def test_a_second_rotation_in_a_day_ends_the_oldest(endpoints: Endpoints) -> None:
    endpoint = create(endpoints)
    second = endpoints.rotate("acme", endpoint.id).secrets[0].secret
    third = endpoints.rotate("acme", endpoint.id).secrets
    assert [each.secret for each in third][1] == second
    assert len(third) == 2


# Verdicts


def verdict(status: int | None, n_attempts: int = 0, retry_after: str | None = None) -> Verdict:
    answer = Answer(status, "" if status else "no answer", retry_after)
    return judge(answer, n_attempts, SCHEDULE, NOW, random.Random(1))


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(status: int) -> None:
    assert verdict(status) == Verdict(DeliveryState.DELIVERED, NOW)


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 302, 307, 308, 400, 404, 429, 500])
def test_all_else_is_tried_again(status: int | None) -> None:
    assert verdict(status).state is DeliveryState.WAITING


def test_410_ends_it() -> None:
    assert verdict(410) == Verdict(DeliveryState.FAILED, NOW, gone=True)


def test_delays_follow_the_schedule_within_the_jitter_until_it_is_used_up() -> None:
    for n_before, delay in enumerate(SCHEDULE[1:]):
        after = verdict(500, n_before).next_attempt_at - NOW
        assert (1 - JITTER) * delay * SECOND <= after <= (1 + JITTER) * delay * SECOND
    assert verdict(500, len(SCHEDULE) - 1).state is DeliveryState.FAILED


def test_jitter_spreads_the_delays() -> None:
    rng = random.Random(7)
    drawn = {judge(Answer(500), 1, SCHEDULE, NOW, rng).next_attempt_at for _ in range(50)}
    assert len(drawn) == 50


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_and_never_shortens_the_schedule(status: int) -> None:
    assert verdict(status, 0, "3600").next_attempt_at == NOW + 3600 * SECOND
    assert verdict(status, 1, "1").next_attempt_at >= NOW + (1 - JITTER) * 300 * SECOND


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("999999999999999999", 86_400),
        ("Wed, 18 Nov 2026 11:07:40 GMT", 60),
        ("Wed, 18 Nov 2026 11:06:40 GMT", 0),
        ("Wed, 18 Nov 2020 11:06:40 GMT", 0),
        ("Wed, 18 Nov 9999 11:06:40 GMT", 86_400),
        ("-1", 0),
        ("1.5", 0),
        ("soon", 0),
        ("٧", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_a_day(header: str | None, seconds: int) -> None:
    assert retry_after_seconds(header, NOW) == seconds
