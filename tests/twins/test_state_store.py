"""The laws of a StateStore, over every implementation."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from service.alerts.alert import Alert, Transition
from service.database import Database
from service.engine.ports import Snapshot
from service.engine.state_store import SqlStateStore
from service.errors import Conflict
from service.monitor.findings import State
from service.tables import alerts, deliveries, snapshots, transitions
from tests.builders import NOW, ManualClock, a_transition

DELIVERY = {
    "tenant": "acme",
    "id": "msg_1",
    "endpoint_id": "ep_1",
    "type": "alert.firing",
    "sequence": 1,
    "body": "{}",
    "state": "waiting",
    "n_attempts": 0,
    "next_attempt_at": 0,
    "n_replays": 0,
    "created_at": 0,
}


class Enqueued:
    """Stands where the outbox does, and notes what it was told, and when."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.fails_on = ""  # the id of an alert
        self.fails_in_the_database = False

    def __call__(self, connection: Connection, transition: Transition, now: int) -> int:
        assert connection.in_transaction()
        if self.fails_in_the_database:
            connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")
        if transition.alert.id == self.fails_on:
            connection.execute(insert(deliveries), DELIVERY)
            raise ZeroDivisionError
        self.told.append((transition.alert.id, transition.alert.revision, now))
        return 1


@pytest.fixture
def enqueued() -> Enqueued:
    return Enqueued()


@pytest.fixture
def store(database: Database, enqueued: Enqueued) -> SqlStateStore:
    return SqlStateStore(database, ManualClock(NOW), enqueued)


def transition(
    revision: int, id_: str = "al_1", tenant: str = "acme", state: State = State.FIRING
) -> Transition:
    return a_transition(id=id_, tenant=tenant, state=state, revision=revision)


def n_rows(database: Database, table: object) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0  # type: ignore[arg-type]


def test_each_claim_is_newer(store: SqlStateStore) -> None:
    assert [store.claim() for _ in range(3)] == [1, 2, 3]


def test_who_was_claimed_from_can_commit_no_more(
    store: SqlStateStore, database: Database, enqueued: Enqueued
) -> None:
    older = store.claim()
    newer = store.claim()
    with pytest.raises(Conflict):
        store.commit(older, [transition(1)], Snapshot(1, b"state"))
    assert n_rows(database, alerts) == n_rows(database, transitions) == 0
    assert store.snapshots() == [] and enqueued.told == []
    assert store.commit(newer, [transition(1)]) == 1


def test_a_transition_is_stored_with_its_alert_and_enqueued(
    store: SqlStateStore, database: Database, enqueued: Enqueued
) -> None:
    assert store.commit(store.claim(), [transition(1), transition(2)]) == 2
    with database.read() as connection:
        alert = connection.execute(select(alerts)).one()
        bodies = connection.scalars(
            select(transitions.c.body).order_by(transitions.c.revision)
        ).all()
    assert (alert.tenant, alert.id, alert.state, alert.revision) == ("acme", "al_1", "firing", 2)
    assert [msgspec.json.decode(body, type=Alert) for body in bodies] == [
        transition(1).alert,
        transition(2).alert,
    ]
    assert alert.body == bodies[1]
    assert enqueued.told == [("al_1", 1, NOW), ("al_1", 2, NOW)]


def test_a_replayed_transition_changes_nothing_and_tells_no_one(
    store: SqlStateStore, database: Database, enqueued: Enqueued
) -> None:
    epoch = store.claim()
    store.commit(epoch, [transition(1), transition(2, state=State.RESOLVED)])
    told = list(enqueued.told)
    assert store.commit(epoch, [transition(1)]) == 0
    assert store.commit(epoch, [transition(2, state=State.RESOLVED), transition(3)]) == 1
    assert enqueued.told == [*told, ("al_1", 3, NOW)]
    with database.read() as connection:
        assert connection.scalar(select(alerts.c.revision)) == 3


def test_an_older_revision_never_replaces_a_newer(store: SqlStateStore, database: Database) -> None:
    store.commit(store.claim(), [transition(2, state=State.RESOLVED), transition(1)])
    with database.read() as connection:
        alert = connection.execute(select(alerts.c.revision, alerts.c.state)).one()
    assert tuple(alert) == (2, "resolved")
    assert n_rows(database, transitions) == 2


def test_tenants_do_not_share_alert_ids(store: SqlStateStore, database: Database) -> None:
    both = [transition(1), transition(1, tenant="other")]
    assert store.commit(store.claim(), both) == 2
    assert n_rows(database, alerts) == 2


def test_without_its_deliveries_nothing_is_stored(
    store: SqlStateStore, database: Database, enqueued: Enqueued
) -> None:
    epoch = store.claim()
    enqueued.fails_in_the_database = True
    with pytest.raises(DBAPIError):
        store.commit(epoch, [transition(1)], Snapshot(1, b"state"))
    assert n_rows(database, alerts) == n_rows(database, transitions) == 0
    assert store.snapshots() == []


def test_a_transition_that_our_code_fails_on_costs_no_other_and_is_tried_again(
    store: SqlStateStore, database: Database, enqueued: Enqueued
) -> None:
    epoch = store.claim()
    enqueued.fails_on = "al_2"
    three = [transition(1, id_) for id_ in ("al_1", "al_2", "al_3")]
    assert store.commit(epoch, three, Snapshot(1, b"state")) == 2
    assert n_rows(database, alerts) == n_rows(database, transitions) == 2
    assert n_rows(database, deliveries) == 0  # nothing of it stayed
    assert len(store.snapshots()) == 1
    enqueued.fails_on = ""
    assert store.commit(epoch, three) == 1
    assert [told[0] for told in enqueued.told] == ["al_1", "al_3", "al_2"]


def test_the_two_newest_snapshots_are_kept(store: SqlStateStore, database: Database) -> None:
    epoch = store.claim()
    for offset in (3, 7, 9, 12):
        store.commit(epoch, [], Snapshot(offset, b"state %d" % offset))
    assert store.snapshots() == [Snapshot(12, b"state 12"), Snapshot(9, b"state 9")]
    assert n_rows(database, snapshots) == 2


def test_a_snapshot_replaces_one_at_its_offset(store: SqlStateStore) -> None:
    epoch = store.claim()
    store.commit(epoch, [], Snapshot(3, b"old"))
    store.commit(epoch, [], Snapshot(3, b"new"))
    assert store.snapshots() == [Snapshot(3, b"new")]


@pytest.mark.parametrize(
    "change", [{"body": b"state 8"}, {"body": b"state"}, {"crc32": 1}, {"version": 99}]
)
def test_a_snapshot_that_fails_its_check_is_left_out(
    store: SqlStateStore, database: Database, change: dict[str, object]
) -> None:
    epoch = store.claim()
    store.commit(epoch, [], Snapshot(7, b"state 7"))
    store.commit(epoch, [], Snapshot(9, b"state 9"))
    with database.write() as connection:
        connection.execute(update(snapshots).where(snapshots.c.offset == 9).values(change))
    assert store.snapshots() == [Snapshot(7, b"state 7")]


def test_a_snapshot_moved_to_another_offset_is_left_out(
    store: SqlStateStore, database: Database
) -> None:
    store.commit(store.claim(), [], Snapshot(7, b"state 7"))
    with database.write() as connection:
        connection.execute(update(snapshots).values(offset=9))
    assert store.snapshots() == []
