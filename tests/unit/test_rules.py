"""The rules, by Prometheus' own tool: they parse, they fire, and they stay silent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from service.limits import caps
from service.metrics import Metrics
from service.settings import Settings
from tests.unit.test_runbook import GRAFANA

RULES = sorted((GRAFANA / "rules").glob("*.yaml"))
TESTS = sorted((GRAFANA / "rules" / "tests").glob("*.yaml"))

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*arguments: object, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code, and what it printed."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=stdin, capture_output=True, timeout=60
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_rules_and_configuration_parse() -> None:
    assert promtool("check", "rules", *RULES)[0] == 0
    assert promtool("check", "config", GRAFANA / "prometheus.yml")[0] == 0


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent(path: Path) -> None:
    code, printed = promtool("test", "rules", path)
    assert code == 0, printed


@pytest.mark.parametrize(
    ("test", "rule", "broken"),
    [
        ("found", ', head=""})', "})"),
        ("blind", "> 300", "> 3000"),
        ("pipeline", "> 0.05", "> 0.005"),
    ],
)
def test_a_rule_that_is_wrong_is_found_out(
    tmp_path: Path, test: str, rule: str, broken: str
) -> None:
    shutil.copytree(GRAFANA / "rules", tmp_path / "rules")
    alerts = tmp_path / "rules" / "alerts.yaml"
    assert rule in alerts.read_text()
    alerts.write_text(alerts.read_text().replace(rule, broken))
    assert promtool("test", "rules", tmp_path / "rules" / "tests" / f"{test}.yaml")[0] != 0


def test_the_page_passes_promtool() -> None:
    metrics = Metrics(caps(Settings()))
    metrics.rows_accepted.labels("acme").inc()
    code, printed = promtool("check", "metrics", stdin=metrics.page("")[0])
    assert (code, printed) == (0, "")
