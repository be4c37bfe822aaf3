"""The commands as a person runs them: what they print, where, and with which exit code."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.clock import SystemClock
from service.database import Database
from service.demo.server import serving
from service.errors import InvalidRequest
from service.keys import Keys, Scope
from service.monitors import put_monitors, read_monitors
from service.terminal import progress

START = datetime(2026, 3, 2, tzinfo=UTC)


def slicewatch(
    directory: Path, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with its data in `directory`."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "SLICEWATCH_DATA_DIR": str(directory), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of `url`."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def url(directory: Path) -> Iterator[str]:
    """A service that runs, for all tests of this file that want one."""
    with serving(directory) as service:
        yield service.url


def key_of(directory: Path, tenant: str) -> str:
    """A new key to everything of a tenant of the running service."""
    database = Database.in_directory(directory)
    try:
        return Keys(database, SystemClock()).create(tenant, Scope)
    finally:
        database.close()


def write_rows(path: Path, n: int = 40) -> None:
    """`n` predictions a minute apart, each labelled an hour later; every fifth is wrong."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["id", "spoken_at", "model", "attributes.floor", "output", "truth", "label_time"]
        )
        for i in range(n):
            at = START + timedelta(minutes=i)
            truth = "no" if i % 5 == 0 else "yes"
            late = at + timedelta(hours=1)
            rows.writerow(
                [f"p{i}", at.isoformat(), "m", str(i % 2), "yes", truth, late.isoformat()]
            )


def test_keys_are_made_listed_rotated_and_revoked(tmp_path: Path) -> None:
    made = slicewatch(
        tmp_path, "keys", "create", "--tenant", "acme", "--scope", "ingest", "--scope", "read"
    )
    assert made.returncode == 0
    (key,) = made.stdout.splitlines()  # alone on standard output
    assert key.startswith("sw_")

    key_id = key.split("_")[1]
    listed = slicewatch(tmp_path, "keys", "list")
    assert listed.stdout.split("\t")[:3] == [key_id, "acme", "ingest,read"]
    assert key.split("_", 2)[2] not in listed.stdout

    rotated = slicewatch(tmp_path, "keys", "rotate", key_id)
    (replacement,) = rotated.stdout.splitlines()
    assert slicewatch(tmp_path, "keys", "revoke", key_id).returncode == 0

    keys = Keys(Database.in_directory(tmp_path), SystemClock())
    assert keys.authenticate(f"Bearer {replacement}").tenant == "acme"
    live = {k.id: k.is_live(SystemClock().now()) for k in keys.list()}
    assert live == {key_id: False, replacement.split("_")[1]: True}


def test_a_problem_is_one_line_on_standard_error(tmp_path: Path) -> None:
    done = slicewatch(tmp_path, "keys", "revoke", "0123456789abcdef")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "slicewatch: key: no such key\n"


def test_a_bad_setting_is_named_and_not_echoed(tmp_path: Path) -> None:
    done = slicewatch(tmp_path, "keys", "list", SLICEWATCH_PORT="hunter2")
    assert done.returncode == 1
    assert "setting port:" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "rows.csv", "--key", "k", "--map", "spoken_at"),
        ("replay", "rows.csv", "--key", "k", "--speed", "0"),
        ("replay", "rows.csv", "--key", "k", "--speed", "fast"),
        ("backtest", "no-such-file.csv"),
        ("backtest", "rows.csv", "--format", "xml"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_2(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    write_rows(tmp_path / "rows.csv")
    done = slicewatch(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")


def test_backtest_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv")
    done = slicewatch(
        tmp_path, "backtest", "rows.csv", "--map", "spoken_at=time", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer.keys() == {"rows", "labels", "seconds", "alerts"}
    assert (answer["rows"], answer["labels"], answer["alerts"]) == (40, 40, [])


def test_backtest_says_in_words_what_it_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv")
    done = slicewatch(tmp_path, "backtest", "rows.csv", "--map", "spoken_at=time")
    assert done.stdout.startswith("40 rows, 40 labels in ")
    assert "0 alerts" in done.stdout


def test_a_bad_row_is_told_on_standard_error_and_costs_no_other(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", n=10)
    with (tmp_path / "rows.csv").open("a") as file:
        file.write(",2026-03-02T00:00:00Z,m,1,yes,no,\n" * 7)
    done = slicewatch(
        tmp_path, "backtest", "rows.csv", "--map", "spoken_at=time", "--format", "json"
    )
    assert json.loads(done.stdout)["rows"] == 10
    assert "row 10 left out: id: " in done.stderr
    assert "and 2 more rows left out" in done.stderr


def test_replay_sends_each_row_once_however_often_it_is_run(
    tmp_path: Path, directory: Path, url: str
) -> None:
    write_rows(tmp_path / "rows.csv")
    arguments = ("replay", "rows.csv", "--map", "spoken_at=time", "--batch", "30")
    environment = {"SLICEWATCH_URL": url, "SLICEWATCH_KEY": key_of(directory, "replay")}
    first = slicewatch(tmp_path, *arguments, **environment)
    again = slicewatch(tmp_path, *arguments, **environment)
    recut = slicewatch(tmp_path, *arguments[:-1], "7", **environment)
    assert first.stdout == "accepted 80, duplicates 0, rejected 0 in 3 requests\n", first.stderr
    assert again.stdout == first.stdout  # the same answers to the same Idempotency-Keys
    assert recut.stdout == "accepted 0, duplicates 80, rejected 0 in 12 requests\n"


def test_replay_holds_the_stream_back_to_its_speed(
    tmp_path: Path, directory: Path, url: str
) -> None:
    write_rows(tmp_path / "rows.csv", n=3)  # 62 minutes to the last label
    started = time.monotonic()
    done = slicewatch(
        tmp_path,
        *("replay", "rows.csv", "--map", "spoken_at=time", "--batch", "1", "--speed", "3720"),
        SLICEWATCH_URL=url,
        SLICEWATCH_KEY=key_of(directory, "speed"),
    )
    assert done.stdout.startswith("accepted 6,")
    assert time.monotonic() - started > 1.0  # 62 minutes at 3,720 a second


def test_replay_says_that_the_key_is_unknown(tmp_path: Path, url: str) -> None:
    write_rows(tmp_path / "rows.csv")
    done = slicewatch(
        tmp_path,
        *("replay", "rows.csv", "--map", "spoken_at=time", "--key", "sw_no", "--url", url),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such key" in done.stderr


def test_apply_states_each_model_of_the_file(tmp_path: Path, directory: Path, url: str) -> None:
    (tmp_path / "monitors.yaml").write_text(
        "model: first\ndimensions: [floor]\n---\nmonitors:\n  - {model: second, order: 1}\n"
    )
    key = key_of(directory, "apply")
    done = slicewatch(tmp_path, "apply", "-f", "monitors.yaml", "--url", url, SLICEWATCH_KEY=key)
    assert done.stdout == "first: applied\nsecond: applied\n", done.stderr
    assert list(_refusals(tmp_path / "monitors.yaml", url)) == ["first: 401"]


def test_serve_on_a_port_that_is_taken_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = slicewatch(tmp_path, "serve", "--port", port)
    assert done.returncode == 3  # uvicorn's: it did not start
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def _refusals(path: Path, url: str) -> Any:
    try:
        yield from put_monitors(read_monitors(path), url, "sw_no")
    except InvalidRequest as error:
        yield error.detail[:10]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "states no monitor"),
        ("model: [", "not YAML at line 1"),
        ("- 7", "monitor 1: must be a mapping"),
        ("order: 2", "monitor 1: model: Field required"),
        ("{model: m, order: 9}", "monitor 1 (m): order: "),
        ("{model: m, flor: 7}", "monitor 1 (m): flor: "),
        ("{model: m, false_alerts: {per: soon}}", "monitor 1 (m): false_alerts.per: "),
        ("[{model: m}, {model: m}]", "model m is stated twice"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_mistake_in_a_monitors_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "monitors.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as raised:
        read_monitors(path)
    assert raised.value.detail.startswith(f"{path}: {complaint}")


@pytest.mark.parametrize(
    "text",
    [
        "model: m\norder: 1",
        "[{model: m, order: 1}]",
        "monitors: [{model: m, order: 1}]",
        "---\nmodel: m\norder: 1\n---\n",
    ],
)
def test_a_monitors_file_may_be_written_in_four_ways(tmp_path: Path, text: str) -> None:
    path = tmp_path / "monitors.yaml"
    path.write_text(text)
    (monitor,) = read_monitors(path)
    assert (monitor.model, monitor.order) == ("m", 1)


def test_progress_without_a_terminal_is_ten_plain_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        with progress("sent", 1000, Console(file=log)) as advance:
            for _ in range(100):
                advance(10)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 10
    assert (lines[0], lines[-1]) == ("sent: 100 of 1,000 rows", "sent: 1,000 of 1,000 rows")


def test_help_imports_none_of_the_heavy_parts(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom service.__main__ import app\n"
        "heavy = {'numpy', 'pyarrow', 'sqlalchemy', 'fastapi', 'pydantic'} & sys.modules.keys()\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr


def endpoints(directory: Path, url: str, key: str, *arguments: str) -> Any:
    return slicewatch(directory, "endpoints", *arguments, SLICEWATCH_URL=url, SLICEWATCH_KEY=key)


def test_endpoints_are_made_listed_paused_resumed_rotated_and_deleted(
    tmp_path: Path, directory: Path, url: str
) -> None:
    key = key_of(directory, "hooks")
    made = endpoints(
        tmp_path, url, key, "create", "https://hooks.example/", "--severity", "critical",
        "--slice", "floor=7,accent=scottish",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    id_, secret = made.stdout.split()
    assert secret.startswith("whsec_")
    assert endpoints(tmp_path, url, key, "list").stdout == (
        f"{id_}\tactive\tstandard\thttps://hooks.example/\n"
    )
    assert endpoints(tmp_path, url, key, "pause", id_).returncode == 0
    assert "\tpaused\t" in endpoints(tmp_path, url, key, "list").stdout
    assert endpoints(tmp_path, url, key, "resume", id_).returncode == 0
    rotated = endpoints(tmp_path, url, key, "rotate", id_).stdout.strip()
    assert rotated.startswith("whsec_") and rotated != secret
    assert endpoints(tmp_path, url, key, "delete", id_).returncode == 0
    assert endpoints(tmp_path, url, key, "list").stdout == ""


def test_a_test_of_an_endpoint_says_what_was_answered(
    tmp_path: Path, directory: Path, url: str
) -> None:
    key = key_of(directory, "hooks")
    id_ = endpoints(tmp_path, url, key, "create", "https://nowhere.invalid/").stdout.split()[0]
    tried = endpoints(tmp_path, url, key, "test", id_)
    assert tried.returncode == 1
    assert tried.stdout.startswith("url: the name does not resolve after ")
    assert "endpoint.test" in endpoints(tmp_path, url, key, "deliveries", id_).stdout
    span = ("--since", "2020-01-01T00:00:00Z", "--until", "2120-01-01T00:00:00Z")
    again = endpoints(tmp_path, url, key, "replay", id_, *span, "--state", "waiting")
    assert again.stdout == "1 deliveries go out again\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("test", "ep_none"), "slicewatch: 404 no such endpoint\n"),
        (("create", "ftp://hooks.example/"), "slicewatch: 422 url: must be https\n"),
        (("create", "https://10.0.0.1/"), "slicewatch: 422 url: the address is not public\n"),
    ],
)
def test_what_the_service_refuses_is_told_in_its_words(
    tmp_path: Path, directory: Path, url: str, arguments: tuple[str, ...], complaint: str
) -> None:
    answer = endpoints(tmp_path, url, key_of(directory, "hooks"), *arguments)
    assert (answer.returncode, answer.stderr) == (1, complaint)
