"""Sessions: a cookie stands for a key, as long as both go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from service.database import Database
from service.errors import Unauthorized
from service.evidence.sessions import SESSION_SECONDS, Sessions
from service.keys import Key, Keys, Scope
from service.limits import SESSIONS
from service.tables import sessions as table
from tests.builders import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.in_directory(tmp_path)
    database.create_tables()
    yield database
    database.close()


@pytest.fixture
def keys(database: Database, clock: ManualClock) -> Keys:
    return Keys(database, clock)


@pytest.fixture
def sessions(database: Database, clock: ManualClock, keys: Keys) -> Sessions:
    return Sessions(database, clock, keys)


def a_key(keys: Keys, tenant: str = "acme") -> Key:
    return keys.authenticate(f"Bearer {keys.create(tenant, [Scope.READ])}")


def test_a_session_stands_for_its_key_until_it_is_signed_out(
    keys: Keys, sessions: Sessions
) -> None:
    key, other = a_key(keys), a_key(keys, "other")
    token, theirs = sessions.begin(key), sessions.begin(other)
    assert (sessions.key_of(token).id, sessions.key_of(theirs).tenant) == (key.id, "other")
    sessions.end(token)
    with pytest.raises(Unauthorized):
        sessions.key_of(token)
    assert sessions.key_of(theirs).id == other.id


def test_a_session_ends_after_twelve_hours_and_with_its_key(
    keys: Keys, sessions: Sessions, clock: ManualClock
) -> None:
    key = a_key(keys)
    token = sessions.begin(key)
    clock.advance(SESSION_SECONDS - 1)
    assert sessions.key_of(token).id == key.id
    clock.advance(1)
    with pytest.raises(Unauthorized):
        sessions.key_of(token)
    token = sessions.begin(key)
    keys.revoke(key.id)
    with pytest.raises(Unauthorized, match="revoked"):
        sessions.key_of(token)


def test_a_link_works_once_and_is_no_session(keys: Keys, sessions: Sessions) -> None:
    link = sessions.link(a_key(keys))
    with pytest.raises(Unauthorized):
        sessions.key_of(link)
    token = sessions.exchange(link)
    assert sessions.key_of(token).tenant == "acme"
    with pytest.raises(Unauthorized):
        sessions.exchange(link)
    with pytest.raises(Unauthorized):
        sessions.exchange(token)


def test_a_token_of_one_tenant_proves_nothing_of_another(keys: Keys, sessions: Sessions) -> None:
    _, secret = sessions.begin(a_key(keys)).split(".")
    for token in (f"other.{secret}", secret, f"acme.{secret}x", "", "acme.", f"acme.{secret}\n"):
        with pytest.raises(Unauthorized):
            sessions.key_of(token)


def test_the_oldest_of_too_many_sessions_gives_way_and_is_counted(
    database: Database, keys: Keys, clock: ManualClock
) -> None:
    gone: list[int] = []
    sessions, key = Sessions(database, clock, keys, gone.append), a_key(keys)
    tokens = []
    for _ in range(SESSIONS.limit + 2):
        clock.advance(1)
        tokens.append(sessions.begin(key))
    assert sum(gone) == 2
    for token in tokens[:2]:
        with pytest.raises(Unauthorized):
            sessions.key_of(token)
    assert all(sessions.key_of(token) for token in tokens[2:])


def test_only_the_hash_of_a_token_is_stored(
    database: Database, keys: Keys, sessions: Sessions, tmp_path: Path
) -> None:
    secret = sessions.begin(a_key(keys)).split(".")[1]
    with database.read() as connection:
        assert len(connection.scalars(select(table.c.token_sha256)).all()) == 1
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())
