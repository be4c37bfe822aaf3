"""What a running service leaves behind: one line an event, and no secret and no payload in any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.figures import Figures
from tests.server import Server, ended

pytestmark = pytest.mark.fault

TOKEN: Final = "marker-of-the-metrics-token"
PAYLOAD: Final = "marker-of-a-payload"
INJECTED: Final = 'x\n{"level": "critical", "event": "forged"}\r\u2028\u0085forged\x1b[31m'


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def exercised(server: Server) -> str:
    """Do a bit of everything with markers in it; gives the endpoint's signing secret."""
    hook = {"url": "https://receiver.invalid/hook"}
    as_json = {"content-type": "application/json"}
    made = server.post("/v1/endpoints", json.dumps(hook), **as_json).json()
    server.post(f"/v1/endpoints/{made['id']}/test", "")
    rows = [
        {"id": f"r{n}", "model": "m", "output": f"{PAYLOAD} {n}", "truth": "y",
         "attributes": {"floor": INJECTED}}
        for n in range(50)
    ]  # fmt: skip
    rows.append({"id": INJECTED, "model": INJECTED, "output": PAYLOAD})
    server.post("/v1/events", json.dumps(rows))
    server.post("/v1/events", PAYLOAD)
    server.post("/v1/endpoints", json.dumps({"url": f"ftp://{PAYLOAD}"}), **as_json)
    for path in (f"/v1/models/{PAYLOAD}%0aforged", "/v1/alerts/%0d%0aforged"):
        server.client.get(server.url + path, headers={"authorization": f"Bearer {server.key}"})
    server.client.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    server.client.get(f"{server.url}/v1/alerts", headers={"authorization": f"Bearer {PAYLOAD}"})
    secret: str = made["secret"]
    return secret


def test_no_secret_is_written_anywhere_but_where_it_must_be_and_no_payload_is_logged(
    tmp_path: Path, figures: Figures
) -> None:
    server = Server(tmp_path, metrics_token=TOKEN)
    with ended(server):
        server.start()
        signing = exercised(server)
        assert server.stop() == 0
    log = "".join(server.log)
    secret = server.key.split("_", 2)[2]
    kept = files(tmp_path)
    wrong = [
        path for path, body in kept.items() if secret.encode() in body or b"marker-of-the" in body
    ]
    logged = [what for what in (secret, TOKEN, PAYLOAD, signing) if what in log]
    figures(
        "secrets and payloads",
        files=len(kept),
        log_lines=len(server.log),
        secrets_written=len(wrong),
        logged=len(logged),
    )
    assert wrong == [] and logged == []
    assert any(PAYLOAD.encode() in body for body in kept.values())  # the control: it is seen


def test_a_log_line_is_one_json_object_whatever_was_sent(tmp_path: Path, figures: Figures) -> None:
    server = Server(tmp_path)
    with ended(server):
        server.start()
        exercised(server)
        page = server.client.get(f"{server.url}/metrics").text
        assert server.stop() == 0
    lines = [line for line in server.log if not line.startswith("listening on ")]
    parsed = [json.loads(line) for line in lines]
    figures(
        "log and label injection", lines=len(lines), forged=sum("forged" in str(p) for p in parsed)
    )
    assert parsed and all(isinstance(line, dict) and "event" in line for line in parsed)
    assert not any(line["event"] == "forged" for line in parsed)
    for line in page.splitlines():  # each a comment, or a name and a number
        assert line.startswith("#") or float(line.rpartition(" ")[2]) is not None
    assert "\x1b" not in page and "\u2028" not in page
