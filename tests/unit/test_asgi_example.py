"""The middleware in deploy/examples, in an app that a real client asks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from service.client import Client
from tests.counting import counting_server

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "asgi_middleware.py"


def middleware() -> Any:
    spec = importlib.util.spec_from_file_location("asgi_middleware", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PredictionMiddleware


async def transcribe(request: Request) -> PlainTextResponse:
    if request.query_params.get("fails"):
        raise RuntimeError("the model fell over")
    if not request.query_params.get("quiet"):
        request.state.prediction = {"id": request.query_params["id"], "output": "stable"}
    return PlainTextResponse("stable")


def test_what_an_endpoint_predicted_is_sent_and_its_answer_is_untouched() -> None:
    with counting_server(0) as (url, rows), Client(url, "sw_k_s", model="m") as client:
        app = Starlette(
            routes=[Route("/", transcribe)],
            middleware=[Middleware(middleware(), client=client)],
        )
        web = TestClient(app)
        assert web.get("/?id=u1", headers={"X-Floor": "7"}).text == "stable"
        assert web.get("/?id=u2&quiet=1").text == "stable"
        with pytest.raises(RuntimeError, match="fell over"):
            web.get("/?id=u3&fails=1")
        assert client.flush()
    assert list(rows) == ["u1"]
    assert rows["u1"]["attributes"] == {"floor": "7"}


def test_a_service_that_is_down_costs_the_app_nothing() -> None:
    with counting_server(0) as (url, _):
        pass
    client = Client(url, "sw_k_s", model="m")
    app = Starlette(
        routes=[Route("/", transcribe)], middleware=[Middleware(middleware(), client=client)]
    )
    assert TestClient(app).get("/?id=u1").status_code == 200
    client.close(timeout_seconds=0.1)
    assert client.counts.dropped == 1
