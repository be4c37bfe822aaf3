"""Keys, and the dependency that asks for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from service import problems
from service.auth import Scope, Tenant, requires
from service.database import Database
from service.errors import Conflict, InvalidRequest, NotFound, Unauthorized
from service.keys import Keys
from service.metrics import Metrics
from service.tables import keys as table
from tests.builders import ManualClock

DAY = 86_400  # seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keys(database: Database, clock: ManualClock) -> Keys:
    return Keys(database, clock)


def key_id(key: str) -> str:
    return key.split("_")[1]


def test_a_key_proves_its_tenant_and_scopes(keys: Keys) -> None:
    key = keys.create("acme", [Scope.READ, Scope.INGEST])
    assert re.fullmatch(r"sw_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", key)
    proven = keys.authenticate(f"Bearer {key}")
    assert proven.tenant == "acme"
    assert proven.scopes == {Scope.READ, Scope.INGEST}
    assert keys.authenticate(f"bearer  {key}") == proven


def test_no_two_keys_are_alike(keys: Keys) -> None:
    made = {keys.create("acme", [Scope.READ]) for _ in range(20)}
    assert len(made) == len({key_id(key) for key in made}) == 20


def test_only_the_hash_of_a_secret_is_stored(
    keys: Keys, tmp_path: Path, database: Database
) -> None:
    secret = keys.create("acme", [Scope.READ]).split("_", 2)[2]
    with database.read() as connection:
        stored = connection.scalar(select(table.c.secret_sha256))
    assert stored == hashlib.sha256(secret.encode()).digest()
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda key: None,
        lambda key: "",
        lambda key: key,
        lambda key: f"Basic {key}",
        lambda key: f"Bearer {key}x",
        lambda key: f"Bearer {key[:-1]}",
        lambda key: f"Bearer {key}\n",
        lambda key: f"Bearer {key[:-1]}{'A' if key[-1] != 'A' else 'B'}",
        lambda key: f"Bearer sw_{'0' * 16}_{key.split('_', 2)[2]}",
        lambda key: f"Bearer {key.upper()}",
        lambda key: f"Bearer {key} {key}",
    ],
)
def test_what_is_not_a_key_proves_nothing(keys: Keys, change: object) -> None:
    key = keys.create("acme", [Scope.READ])
    with pytest.raises(Unauthorized):
        keys.authenticate(change(key))  # type: ignore[operator]


def test_a_revoked_key_stops_at_once_here_and_within_a_second_elsewhere(
    keys: Keys, database: Database, clock: ManualClock
) -> None:
    key = keys.create("acme", [Scope.READ])
    elsewhere = Keys(database, clock)
    keys.authenticate(f"Bearer {key}")
    elsewhere.authenticate(f"Bearer {key}")
    keys.revoke(key_id(key))
    with pytest.raises(Unauthorized, match="revoked"):
        keys.authenticate(f"Bearer {key}")
    clock.advance(1)
    with pytest.raises(Unauthorized, match="revoked"):
        elsewhere.authenticate(f"Bearer {key}")


def test_a_clock_set_back_does_not_keep_a_revoked_key_alive(
    keys: Keys, database: Database, clock: ManualClock
) -> None:
    key = keys.create("acme", [Scope.READ])
    elsewhere = Keys(database, clock)
    elsewhere.authenticate(f"Bearer {key}")
    clock.advance(-DAY)
    keys.revoke(key_id(key))
    with pytest.raises(Unauthorized):
        elsewhere.authenticate(f"Bearer {key}")


def test_two_keys_live_during_a_rotation_and_one_after(keys: Keys, clock: ManualClock) -> None:
    old = keys.create("acme", [Scope.READ])
    new = keys.rotate(key_id(old))
    assert keys.authenticate(f"Bearer {old}").tenant == "acme"
    assert keys.authenticate(f"Bearer {new}").scopes == {Scope.READ}
    with pytest.raises(Conflict):
        keys.rotate(key_id(old))
    clock.advance(DAY)
    with pytest.raises(Unauthorized):
        keys.authenticate(f"Bearer {old}")
    keys.authenticate(f"Bearer {new}")


def test_keys_are_listed_by_tenant_without_secrets(keys: Keys) -> None:
    first, _ = keys.create("acme", [Scope.READ]), keys.create("other", [Scope.ADMIN])
    listed = keys.list("acme")
    assert [key.id for key in listed] == [key_id(first)]
    assert first.split("_", 2)[2] not in repr(listed)
    assert len(keys.list()) == 2


def test_what_cannot_be_a_key_is_refused(keys: Keys) -> None:
    for tenant in ("", "a b", "ä", "x" * 64, "-a", "a\n"):
        with pytest.raises(InvalidRequest, match="tenant"):
            keys.create(tenant, [Scope.READ])
    with pytest.raises(InvalidRequest, match="scopes"):
        keys.create("acme", [])
    with pytest.raises(NotFound):
        keys.revoke("0" * 16)


@pytest.fixture
def client(keys: Keys) -> Iterator[TestClient]:
    class OnlyKeys:
        def __init__(self) -> None:
            self.keys = keys

    app = FastAPI()
    app.state.services = OnlyKeys()
    problems.install(app, Metrics())
    reads = Depends(requires(Scope.READ, Scope.ADMIN))  # a default: annotations see no locals

    @app.get("/whose")
    async def whose(tenant: Tenant = reads) -> dict[str, str]:
        return {"tenant": tenant}

    with TestClient(app) as client:
        yield client


def test_any_one_of_the_scopes_opens_a_route(client: TestClient, keys: Keys) -> None:
    for scope in (Scope.READ, Scope.ADMIN):
        key = keys.create("acme", [scope])
        answer = client.get("/whose", headers={"authorization": f"Bearer {key}"})
        assert answer.json() == {"tenant": "acme"}


def test_a_key_without_the_scope_is_forbidden(client: TestClient, keys: Keys) -> None:
    key = keys.create("acme", [Scope.INGEST])
    answer = client.get("/whose", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "the key needs one of the scopes admin, read"


def test_no_key_is_unauthorized_and_says_what_is_asked_for(client: TestClient) -> None:
    answer = client.get("/whose")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["status"] == 401


def test_a_route_must_ask_for_a_scope() -> None:
    with pytest.raises(ValueError, match="scope"):
        requires()


def test_the_openapi_page_says_which_routes_ask_for_a_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["paths"]["/whose"]["get"]["security"] == [{"HTTPBearer": []}]
