"""The real application asked by a test client, for tests of its routes."""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI
from starlette.testclient import TestClient

from service.keys import Scope
from service.services import Services


def services(app: FastAPI) -> Services:
    """The running parts behind an application."""
    return cast(Services, app.state.services)


def client(app: FastAPI, *scopes: Scope, tenant: str = "acme") -> TestClient:
    """A client with a new key of these scopes."""
    key = services(app).keys.create(tenant, scopes)
    return TestClient(
        app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False
    )
