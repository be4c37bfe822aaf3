"""What each sender sends decodes to the columns that the contract's own JSON gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from service.ingest.cloudevents import decode_cloudevents
from service.ingest.documents import documents_to_batch
from service.ingest.events import EventBatch
from service.ingest.halves import join_halves
from service.ingest.json_rows import decode_json, to_json_rows
from service.ingest.otlp import decode_otlp
from tests.doors import otlp_request

SENT: Final = Path(__file__).parents[1] / "data" / "senders"
NOW: Final = 1_795_341_700_000_000  # a while behind all of their times
MAX_ROWS: Final = 100


def of_contract(name: str) -> list[dict[str, Any]]:
    batch, rejected = decode_json((SENT / name).read_bytes(), NOW, MAX_ROWS)
    assert not rejected
    return rows(batch)


def rows(batch: EventBatch) -> list[dict[str, Any]]:
    """Rows as JSON has them: equal where the columns are, in whatever order values came."""
    return to_json_rows(batch.canonical())


@pytest.mark.parametrize(
    "name",
    sorted(
        path.name
        for path in SENT.iterdir()
        if path.name.startswith(("fluent", "vector", "syslog-ng"))
    ),
)
def test_a_shippers_body_gives_the_contracts_rows(name: str) -> None:
    batch, rejected = decode_json((SENT / name).read_bytes(), NOW, MAX_ROWS)
    assert not rejected
    assert rows(batch) == of_contract("contract.ndjson")


def test_the_collectors_logs_give_the_contracts_rows() -> None:
    documents = decode_otlp((SENT / "collector.json").read_bytes(), True, {})
    batch, rejected = documents_to_batch(documents, NOW, MAX_ROWS)
    assert not rejected
    assert rows(batch) == of_contract("contract.ndjson")


def test_protobuf_gives_what_json_gives() -> None:
    request = otlp_request(
        [
            {
                "event": "slicewatch.prediction",
                "time": 1_795_341_600_120_000_000,
                "attributes": {
                    "id": "utt-1",
                    "attributes.floor": 7,
                    "features.snr_db": 11.2,
                    "output": "the patient was stable",
                },
            },
            {
                "event": "slicewatch.prediction",
                "time": 1_795_341_601_000_000_000,
                "body": {
                    "id": "utt-2",
                    "attributes": {"floor": "3"},
                    "features": {"snr_db": 20},
                    "output": "discharged today",
                },
            },
        ],
        {"service.name": "transcribe-medical", "service.version": "2026-10"},
    )
    documents = decode_otlp(request.SerializeToString(), False, {})
    batch, _ = documents_to_batch(documents, NOW, MAX_ROWS)
    assert rows(batch) == of_contract("contract.ndjson")


@pytest.mark.parametrize("server", ["kserve-v1", "kserve-v2", "seldon"])
@pytest.mark.parametrize("order", [("request", "response"), ("response", "request")])
def test_request_and_response_are_one_prediction_whichever_comes_first(
    server: str, order: tuple[str, str]
) -> None:
    halves = [read_http(SENT / f"{server}-{side}.http") for side in order]
    assert rows(join_halves(EventBatch.concatenate(halves))) == of_contract(f"{server}.ndjson")


def read_http(path: Path) -> EventBatch:
    """The rows of a recorded request."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    documents = decode_cloudevents(body, headers["content-type"], headers)
    batch, rejected = documents_to_batch(documents, NOW, MAX_ROWS)
    assert not rejected
    return batch


def test_every_fixture_is_told_of() -> None:
    told = (SENT / "README.md").read_text()
    for path in SENT.iterdir():
        kind = path.name.partition("-")[0]
        assert path.suffix in (".md", ".ndjson") or kind in told
