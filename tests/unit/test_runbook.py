"""The rules, their links, their tests and the runbook, held against each other."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"
RUNBOOK = (GRAFANA / "RUNBOOK.md").read_text()


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((GRAFANA / "rules" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}


def sections() -> dict[str, str]:
    """What stands under each heading of the runbook."""
    parts = re.split(r"^## (.+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert list(sections()) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_meaning_impact_three_checks_and_remedy(alert: str) -> None:
    text = sections()[alert]
    titles = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
    assert titles == ["Meaning", "Impact", "First checks", "Remedy"]
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) == 3


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_severity_words_and_links(alert: str) -> None:
    rule = ALERTS[alert]
    annotations = rule["annotations"]
    assert {"summary", "description", "dashboard_url", "runbook_url"} <= set(annotations)
    link = "{{ $externalLabels.runbook_url }}#" + alert.lower()
    assert annotations["runbook_url"] == link
    # what Slicewatch found carries its own severity
    assert "severity" in rule.get("labels", {}) or "severity, alert) (" in rule["expr"]


@pytest.mark.parametrize("alert", ALERTS)
def test_a_dashboard_that_an_alert_links_to_is_there(alert: str) -> None:
    uid = re.search(r"/d/([\w-]+)", ALERTS[alert]["annotations"]["dashboard_url"])
    assert uid is not None
    assert (GRAFANA / "dashboards" / f"{uid[1]}.json").exists()


def test_every_alert_is_tested_to_fire_and_to_stay_silent() -> None:
    seen: dict[str, set[bool]] = defaultdict(set)
    for path in (GRAFANA / "rules" / "tests").glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                seen[case["alertname"]].add(bool(case["exp_alerts"]))
    assert {alert: seen[alert] for alert in ALERTS} == {alert: {True, False} for alert in ALERTS}
