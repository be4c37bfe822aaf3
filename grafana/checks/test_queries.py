"""Every query of boards and rules, put to a real Prometheus that scraped a real run."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from grafana.checks.conftest import read
from grafana.checks.drawing import answer
from grafana.checks.prometheus import SCRAPE_SECONDS, interpolated
from grafana.checks.seeded import Seeded
from grafana.house import Json, panels
from tests.unit.test_runbook import rules

_SELECTOR = re.compile(r"\b(?:slicewatch_\w+|\w+:slicewatch_\w+:\w+|up)(?:\{[^}]*\})?")
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")

# No model of this run is worse for everyone or has an alert of another kind, and nothing failed.
NONE_IN_THIS_RUN = ('kind="error_rate"', "kind!~", "quarantined")


def empty(board: Json, run: Seeded) -> list[str]:
    """The queries that nothing comes back for."""
    return [
        *(
            f"{panel['title']} {target['refId']}"
            for panel in panels(board)
            for target in panel["targets"]
            if not answer(target, run, {})
        ),
        *(
            annotation["name"]
            for annotation in board["annotations"].get("list", [])
            if not _over_the_run(annotation["expr"], run)
        ),
        *(
            variable["name"]
            for variable in board["templating"]["list"]
            if variable["type"] == "query" and not _values(variable["query"]["query"], run)
        ),
    ]


def _over_the_run(expression: str, run: Seeded) -> list[dict[str, Any]]:
    # an annotation that says "a minute ago" is asked as of this run, which is shorter
    asked = interpolated(expression).replace("offset 1m", "offset 2s")
    return run.prometheus.range(asked, run.began_at, run.ended_at, SCRAPE_SECONDS)


def _values(query: str, run: Seeded) -> set[str]:
    """What a variable offers."""
    match = _LABEL_VALUES.fullmatch(query)
    assert match is not None, query
    series = run.prometheus.series(interpolated(match[1]), run.began_at, run.ended_at)
    return {labels[match[2]] for labels in series if match[2] in labels}


def test_every_query_parses_and_returns_data(board: Json, run: Seeded) -> None:
    assert empty(board, run) == []


def test_variables_offer_what_is_there(run: Seeded) -> None:
    offered = {
        variable["name"]: _values(variable["query"]["query"], run)
        for variable in read("oncall")["templating"]["list"]
        if variable["type"] == "query"
    }
    assert (offered["tenant"], offered["metric"]) == ({"acme"}, {"wer"})
    assert offered["model"] == {"transcribe-medical"}
    assert {"everyone", "floor=7", "accent=indian, floor=7"} <= offered["slice"]


def test_a_metric_that_does_not_exist_returns_nothing(run: Seeded) -> None:
    board = read("oncall")
    target = next(panels(board))["targets"][0]
    target["expr"] = (
        target["expr"].replace("alert_info", "alert_inform").replace("vector(0)", "up{}<0")
    )
    assert empty(board, run) == ["Open incidents A"]


def test_a_query_that_does_not_parse_is_an_error(run: Seeded) -> None:
    with pytest.raises(ValueError, match="parse error"):
        run.prometheus.instant("sum by tenant (up)", run.ended_at)


def test_every_rule_is_healthy(run: Seeded) -> None:
    loaded = run.prometheus.rules()
    assert len(loaded) == len(rules("alerts.yaml")) + len(rules("recording.yaml"))
    assert {rule["health"] for rule in loaded} == {"ok"}


def test_what_every_rule_asks_for_is_there(run: Seeded) -> None:
    for rule in (*rules("alerts.yaml"), *rules("recording.yaml")):
        for selector in _SELECTOR.findall(rule["expr"]):
            if not any(kind in selector for kind in NONE_IN_THIS_RUN):
                assert run.prometheus.series(selector, run.began_at, run.ended_at), selector


def test_the_alert_fires_for_the_true_slice_and_no_other_does(run: Seeded) -> None:
    firing = [
        alert["labels"]
        for rule in run.prometheus.rules()
        for alert in rule.get("alerts", [])
        if alert["state"] == "firing"
    ]
    assert sorted((labels["alertname"], labels["slice"]) for labels in firing) == [
        ("SlicewatchChangeFound", "floor=7"),  # its inputs, which moved first
        ("SlicewatchSliceDegraded", "floor=7"),
    ]


def test_the_board_names_the_true_slice_first_within_one_scrape_of_the_alert(run: Seeded) -> None:
    """Of the table "Who is hurt", at every scrape since the API first had the alert."""
    table = next(panel for panel in panels(read("oncall")) if panel["title"].startswith("Who"))
    sorted_by = interpolated(table["targets"][0]["expr"])
    scrapes = [
        at
        for series in run.prometheus.instant('up{job="slicewatch"}[10m]', run.ended_at)
        for at, _ in series["values"]
    ]
    # a scrape that began with the alert a moment old may have missed its publication
    since = [at for at in scrapes if at > run.alert_seen_at + 0.2]
    assert run.alert_seen_at > 0 and len(since) > 10
    for at in since:
        incidents = run.prometheus.instant(sorted_by, at + 0.1)
        worst = max(incidents, key=lambda series: float(series["value"][1]))
        assert worst["metric"]["slice"] == "floor=7"
    first = since[0]
    print(f"the board named floor=7 first {first - run.alert_seen_at:.2f} s behind the API")
    assert first - run.alert_seen_at <= SCRAPE_SECONDS + 0.5


def test_the_page_of_a_real_run_passes_promtool(run: Seeded) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=run.metrics_page, capture_output=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
