"""Who runs the service: tenants are limited and disabled, and what anyone did is written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from service.__main__ import app as commands
from service.app import create_app
from service.keys import Scope
from service.limits import MANAGEMENT_BODY
from service.services import Services
from service.settings import Settings
from service.tenants import Tenants

ROW = '{"id": "r%d", "model": "m", "output": "yes"}'


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setenv("SLICEWATCH_DATA_DIR", str(tmp_path))  # for the commands
    monkeypatch.chdir(tmp_path)
    return create_app(Settings(data_dir=tmp_path))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture
def running(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


def key(running: Services, tenant: str = "acme", *scopes: Scope) -> dict[str, str]:
    made = running.keys.create(tenant, scopes or list(Scope))
    return {"authorization": f"Bearer {made}"}


def run(*arguments: str) -> list[list[str]]:
    """The columns of each line that a command prints."""
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 0, done.output
    return [line.split("\t") for line in done.stdout.splitlines()]


def send(client: TestClient, headers: dict[str, str], n: int = 1) -> Any:
    body = "\n".join(ROW % i for i in range(n))
    return client.post("/v1/events", content=body, headers=headers)


def forget_cached(running: Services) -> None:
    running.keys._cache.clear()  # as a second later


# Tenants


def test_a_tenant_comes_to_be_with_its_first_key(running: Services, client: TestClient) -> None:
    key(running), key(running), key(running, "other")
    listed = Tenants(running.database, running.clock).list()
    assert [(each.tenant, each.n_keys) for each in listed] == [("acme", 2), ("other", 1)]
    assert [line[:2] for line in run("tenants", "list")] == [
        ["acme", "2 keys"],
        ["other", "1 keys"],
    ]


def test_a_tenant_over_its_quota_is_answered_429_with_whole_seconds_and_others_are_not(
    running: Services, client: TestClient
) -> None:
    noisy, quiet = key(running), key(running, "quiet")
    run("tenants", "limit", "acme", "--rows", "1")
    forget_cached(running)
    assert send(client, noisy, 30).status_code == 200
    refused = send(client, noisy)
    assert refused.status_code == 429
    assert refused.headers["retry-after"].isdigit() and int(refused.headers["retry-after"]) >= 19
    assert send(client, quiet).status_code == 200
    run("tenants", "limit", "acme")  # as the settings have it, again
    forget_cached(running)
    running.quotas.charge("acme", n_rows=-20)
    assert send(client, noisy).status_code == 200


def test_a_disabled_tenants_keys_open_nothing_until_it_is_enabled(
    running: Services, client: TestClient
) -> None:
    headers, other = key(running), key(running, "other")
    run("tenants", "disable", "acme")
    forget_cached(running)
    assert send(client, headers).status_code == 403
    assert client.get("/v1/alerts", headers=headers).status_code == 403
    assert client.get("/v1/alerts", headers=other).status_code == 200
    run("tenants", "enable", "acme")
    forget_cached(running)
    assert send(client, headers).status_code == 200


@pytest.mark.parametrize("command", ["disable", "enable", "limit"])
def test_a_tenant_that_is_not_there_is_a_problem(app: FastAPI, command: str) -> None:
    done = CliRunner().invoke(commands, ["tenants", command, "nobody"])
    assert done.exit_code == 1 and "no such tenant" in done.stderr


# Audit


def audited(client: TestClient, headers: dict[str, str]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = client.get("/v1/audit", headers=headers).json()["audit"]
    return lines


def test_what_a_key_managed_is_written_down_with_who_what_when_and_from_where(
    running: Services, client: TestClient
) -> None:
    headers = key(running)
    client.put("/v1/models/triage", json={"loss": "zero_one"}, headers=headers)
    (line,) = audited(client, headers)
    assert line["who"] == headers["authorization"].split("_")[1]
    assert line["what"] == "PUT /v1/models/{model:path}"
    assert (line["object"], line["status"], line["where"]) == ("triage", 200, "testclient")
    assert line["at"].endswith("Z")


def test_what_was_refused_is_written_down_too_and_reading_and_sending_are_not(
    running: Services, client: TestClient
) -> None:
    admin, reader = key(running), key(running, "acme", Scope.READ, Scope.INGEST)
    assert client.delete("/v1/endpoints/ep_1", headers=reader).status_code == 403
    assert client.get("/v1/alerts", headers=reader).status_code == 200
    assert send(client, reader).status_code == 200
    assert client.delete("/v1/endpoints/ep_1").status_code == 401
    (line,) = audited(client, admin)
    assert (line["what"], line["status"]) == ("DELETE /v1/endpoints/{endpoint_id}", 403)


def test_nothing_that_was_sent_is_in_the_log(running: Services, client: TestClient) -> None:
    headers = key(running)
    client.put("/v1/models/m", json={"loss": "canary"}, headers=headers)
    client.put("/v1/models/m?q=canary", json={"loss": "wer"}, headers=headers)
    assert len(audited(client, headers)) == 2
    assert "canary" not in str(audited(client, headers))


def test_a_tenant_sees_its_own_lines_alone_and_needs_admin(
    running: Services, client: TestClient
) -> None:
    ours, theirs = key(running), key(running, "other")
    client.put("/v1/models/m", json={}, headers=ours)
    assert len(audited(client, ours)) == 1 and audited(client, theirs) == []
    reader = key(running, "acme", Scope.READ)
    assert client.get("/v1/audit", headers=reader).status_code == 403


def test_commands_are_written_down_and_listed(running: Services, client: TestClient) -> None:
    (made,) = run("keys", "create", "--tenant", "acme", "--scope", "read")[-1:]
    key_id = made[0].split("_")[1]
    run("keys", "rotate", key_id)
    run("keys", "revoke", key_id)
    run("tenants", "disable", "acme")
    lines = run("audit", "--tenant", "acme")
    assert [line[3] for line in lines] == [
        "tenants disable",
        "keys revoke",
        "keys rotate",
        "keys create",
    ]
    assert {line[4] for line in lines[1:]} == {key_id}
    assert all(line[2].startswith("command:") and line[5] == "local" for line in lines)
    assert run("audit", "--tenant", "other") == []


# Bodies that are not rows


def test_a_body_that_is_not_rows_is_small_whether_its_length_is_told_or_not(
    running: Services, client: TestClient
) -> None:
    headers = {**key(running), "content-type": "application/json"}
    large = b'{"loss": "' + b"x" * MANAGEMENT_BODY.limit + b'"}'
    told = client.put("/v1/models/m", content=large, headers=headers)
    chunked = client.put("/v1/models/m", content=iter([large]), headers=headers)
    assert told.status_code == chunked.status_code == 413
    assert told.headers["content-type"] == "application/problem+json"
    counted = running.metrics.registry.get_sample_value(
        "slicewatch_overflow_total", {"cap": "management_body"}
    )
    assert counted == 2
    rows = client.post(
        "/v1/events", content=b" " * len(large) + (ROW % 1).encode(), headers=headers
    )
    assert rows.status_code == 200  # rows have a cap of their own
