"""`slicewatch report`: a card of every slice, by the API, as Markdown and as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from typer.testing import CliRunner

from service.__main__ import app as commands
from service.clock import SystemClock
from service.database import Database
from service.errors import InvalidRequest
from service.keys import Keys, Scope
from service.report import Card, Source, _trends, instant_of, make
from service.report_forms import escaped, groups, html, in_short, left_out, markdown
from tests.rows import START, Stream, in_requests
from tests.server import Server, ended

NOW = datetime(2026, 11, 22, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)>|`*x*`"


def payload(stream: Stream) -> Iterator[str]:
    """The rows of a stream as requests; labels name their truth."""
    for request in in_requests(stream.rows(), 2_000):
        lines = []
        for i, id_ in enumerate(request.ids):
            row: dict[str, Any] = {"id": id_, "model": "m", "time": int(request.time[i]) / 1e6}
            if request.kind[i] == 1:
                row["output"] = "yes"
                row["attributes"] = {
                    name: column.values[column.codes[i]]
                    for name, column in request.attributes.items()
                }
            else:
                assert request.truth.text is not None
                row["truth"] = request.truth.text.values[request.truth.text.codes[i]]
            lines.append(msgspec.json.encode(row).decode())
        yield "\n".join(lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("report"))
    with ended(server):
        server.start()
        bearer = {"authorization": f"Bearer {server.key}"}
        config: dict[str, Any] = {"dimensions": ["floor", "accent", "wing"], "loss": "zero_one"}
        config |= {"reference": {"rows": 2_000}}
        server.client.put(
            f"{server.url}/v1/models/m", json=config, headers=bearer
        ).raise_for_status()
        stream = Stream(6_000, bad={"floor": "3"}, bad_rate=0.5, onset=0.5, apart=180_000_000)
        for body in payload(stream):
            server.post("/v1/events", body).raise_for_status()
        rare = [
            {"id": f"h{i}", "model": "m", "time": START / 1e6 + i, "output": "yes"}
            | {"truth": "no" if i == 0 else "yes", "attributes": {"wing": HOSTILE}}
            for i in range(4)
        ]
        unlabelled = [{"id": "u", "model": "m", "time": START / 1e6, "output": "yes"}]
        unlabelled[0]["attributes"] = {"wing": "unlabelled"}
        server.post("/v1/events", msgspec.json.encode(rare + unlabelled).decode())
        yield server


@pytest.fixture(scope="module")
def card(server: Server) -> Card:
    with Source(server.url, server.key) as source:
        return make(source, "m", None, None, NOW)


def row_of(card: Card, slice_: str) -> Any:
    return card.slices.set_index("slice").loc[slice_]


def test_a_card_has_every_slice_with_its_figures(card: Card, server: Server) -> None:
    bearer = {"authorization": f"Bearer {server.key}"}
    told = server.client.get(f"{server.url}/v1/models/m/slices?limit=2000", headers=bearer).json()
    by_name = {", ".join(f"{d}={v}" for d, v in s["slice"].items()): s for s in told["slices"]}
    assert set(card.slices["slice"]) == set(by_name) - {""}
    floor = row_of(card, "floor=3")
    theirs = by_name["floor=3"]
    assert (floor["rows"], floor["labels"]) == (theirs["rows"], theirs["labels"])
    assert floor["loss"] == pytest.approx(theirs["loss"])
    assert [floor["disparity_lower"], floor["disparity_upper"]] == theirs["disparity_interval"]


def test_who_got_worse_is_rising_and_worse_than_the_rest(card: Card) -> None:
    assert card.worse.iloc[0]["slice"].split(", ")[-1] == "floor=3"
    assert row_of(card, "floor=3")["trend_lower"] > 0
    steady = row_of(card, "floor=1")
    assert steady["trend_lower"] < 0 < steady["trend_upper"]
    assert any("floor=3 since 2026-03-0" in sentence for sentence in in_short(card))


def test_what_could_not_be_judged_is_listed_with_the_reason_and_in_no_table(card: Card) -> None:
    said = "\n".join(left_out(card))
    reason = "too few labels: it may be as well served as all, or half as well"
    assert f"{reason}: wing={HOSTILE}" in said
    assert "no labels: wing=unlabelled" in said
    shown = pd.concat([slices for _, slices in groups(card)])
    assert set(shown["slice"]) | set(card.not_judged["slice"]) == set(card.slices["slice"])
    assert not set(shown["slice"]) & set(card.not_judged["slice"])


def test_a_key_without_admin_is_told_how_many_slices_it_may_not_see(server: Server) -> None:
    database = Database.in_directory(server.directory / "data")
    reader = Keys(database, SystemClock()).create("acme", [Scope.READ])
    database.close()
    with Source(server.url, reader) as source:
        seen = make(source, "m", None, None, NOW)
    assert seen.n_hidden >= 2
    assert not seen.slices["slice"].str.contains("wing").any()
    assert any("slices with fewer than 20 predictions" in sentence for sentence in left_out(seen))


def test_a_span_holds_what_is_inside_it(server: Server, card: Card) -> None:
    since = datetime.fromtimestamp(START / 1e6, UTC)
    with Source(server.url, server.key) as source:
        day = make(source, "m", since, since + timedelta(days=1), NOW)
        assert day.whole["rows"] == 480 + 5 < card.whole["rows"]
        assert day.alerts == []
        with pytest.raises(InvalidRequest, match="--from: must be before"):
            make(source, "m", since, since, NOW)
        with pytest.raises(InvalidRequest, match="no rows between"):
            make(source, "m", since - timedelta(days=9), since - timedelta(days=8), NOW)
        with pytest.raises(InvalidRequest, match="no such model"):
            make(source, "none", None, None, NOW)


def test_both_forms_hold_every_slice_and_show_names_literally(card: Card) -> None:
    page, text = html(card), markdown(card)
    assert HOSTILE not in page and HOSTILE not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    for slice_ in card.judged["slice"]:
        assert str(escape(slice_)) in page
        assert escaped(slice_) in text
    assert not re.search(r"<script|src=\"|url\(|@import", page)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"}
    assert widths == {10, 7}  # cells of the two kinds of table: a name adds none


def test_the_command_prints_markdown_and_writes_html_to_a_file_named_so(
    server: Server, tmp_path: Path
) -> None:
    env = {"SLICEWATCH_URL": server.url, "SLICEWATCH_KEY": server.key}
    printed = CliRunner().invoke(commands, ["report", "m", "--from", "2026-03-03"], env=env)
    assert printed.exit_code == 0, printed.output
    assert printed.output.startswith("# Service card: m\n\n2026-03-03 00:00 to ")
    file = tmp_path / "card.html"
    written = CliRunner().invoke(commands, ["report", "m", "-o", str(file)], env=env)
    assert (written.exit_code, written.output) == (0, "")
    assert file.read_text().startswith("<!doctype html>")
    for bad in (["m", "--from", "yesterday"], ["m", "--format", "pdf"]):
        assert CliRunner().invoke(commands, ["report", *bad], env=env).exit_code == 2
    refused = CliRunner().invoke(commands, ["report", "none"], env=env)
    assert refused.exit_code == 1 and "no such model" in refused.output


def test_a_trend_finds_a_known_slope_and_covers_it_at_its_rate() -> None:
    # Loss rises 0.02 a week over 8 half-weeks with noise of known spread: 95 % of the intervals
    # hold it. Of 400 trials 380 are expected, and 362 or fewer with probability under 1e-4.
    draw, covered = np.random.default_rng(5), 0
    for _ in range(400):
        noise = draw.normal(0, 0.01, 8)
        parts: list[list[dict[str, Any]]] = [
            [{"slice": {"a": "b"}, "loss": x, "loss_interval": [x - 0.0196, x + 0.0196]}]
            for x in 0.1 + 0.01 * np.arange(8) + noise
        ]
        trend = _trends(parts, timedelta(days=3.5)).loc["a=b"]
        covered += bool(trend["trend_lower"] <= 0.02 <= trend["trend_upper"])
    assert covered > 362


def test_an_instant_without_an_offset_is_utc() -> None:
    assert instant_of("2026-03-02") == datetime(2026, 3, 2, tzinfo=UTC)
    assert instant_of("2026-03-02T01:00:00+01:00") == datetime(2026, 3, 2, tzinfo=UTC)
