"""The boards: the same code gives the same bytes, and keeps the rules of the house."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from grafana.build import DIRECTORY, built
from grafana.house import expressions, metrics, offences, panels
from service.metrics import FAMILIES, Metrics
from tests.unit.test_runbook import GRAFANA, rules


def exported() -> set[str]:
    """The names of all samples that the service exports or a rule records."""
    names = {sample for family in FAMILIES for sample in family.samples}
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        names |= {f"{family.name}{suffix}" for suffix in suffixes.get(family.type, ("",))}
    return names | {rule["record"] for rule in rules("recording.yaml")}


BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))
}


def test_rebuilding_gives_the_same_bytes() -> None:
    on_disk = {path.name: path.read_text() for path in DIRECTORY.iterdir()}
    assert on_disk == built(), "`make format` builds them anew"


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_keeps_the_rules_of_the_house(name: str) -> None:
    assert list(offences(BOARDS[name], exported())) == []
    assert BOARDS[name]["uid"] == name


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_lie_over_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def planted(fault: str) -> dict[str, Any]:
    """The board for those on call, with one thing wrong."""
    board = copy.deepcopy(BOARDS["slicewatch-oncall"])
    panel = next(panels(board))
    target = panel["targets"][0]
    match fault:
        case "metric":
            target["expr"] = target["expr"].replace("alert_info", "alert_inform")
        case "range":
            target["expr"] = "rate(slicewatch_rows_received_total[5m])"
        case "description":
            del panel["description"]
        case "unit":
            del panel["fieldConfig"]["defaults"]["unit"]
        case "datasource":
            target["datasource"]["uid"] = "prometheus-1"
        case "uid":
            board["uid"] = "new"
        case "all":
            board["templating"]["list"][1]["includeAll"] = False
        case "runbook":
            board["links"] = [link for link in board["links"] if "runbook" not in link["url"]]
    return board


@pytest.mark.parametrize(
    "fault", ["metric", "range", "description", "unit", "datasource", "uid", "all", "runbook"]
)
def test_each_rule_sees_its_fault(fault: str) -> None:
    assert len(list(offences(planted(fault), exported()))) == 1


def test_no_rule_asks_for_what_is_not_exported() -> None:
    for name in ("alerts.yaml", "recording.yaml"):
        for rule in rules(name):
            assert metrics(rule["expr"]) <= exported(), rule
    assert any(metrics(expression) for _, expression in expressions(BOARDS["slicewatch-model"]))


def test_provisioning_names_what_is_there() -> None:
    for path in (GRAFANA / "provisioning").rglob("*.yaml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/slicewatch.yaml").read_text())
    assert provider["providers"][0]["allowUiUpdates"] is False
    assert provider["providers"][0]["type"] == "file"
