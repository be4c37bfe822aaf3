"""Advice: what to look at first, of alerts on losses and of those on what moves them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from service.alerts.public import public_alert
from service.evidence.advice import what_changed, what_to_do
from service.evidence.document import NOTHING
from service.monitor.findings import Kind
from tests.builders import an_alert

LOSSES = (Kind.ERROR_RATE, Kind.DISPARITY)


def evidence(kind: Kind, **changes: Any) -> dict[str, Any]:
    effect = an_alert().effect
    if kind not in LOSSES:
        effect = replace(
            effect,
            metric="share_of_rows",
            because=None,
            feature="snr_db",
            moved="share above 12.5: 10 % → 31 %",
        )
    return {**public_alert(an_alert(kind=kind, effect=effect, **changes)), **NOTHING}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in LOSSES])
def test_what_is_not_of_losses_is_not_said_to_be_served_worse(kind: Kind) -> None:
    first, *others = what_to_do({**evidence(kind), "rows_an_hour": 40.0})
    assert others
    assert not any("are served at" in line for line in (first, *others))
    assert first not in what_to_do({**evidence(Kind.DISPARITY), "rows_an_hour": 40.0})


@pytest.mark.parametrize("kind", LOSSES)
def test_whoever_is_served_worse_is_to_be_protected(kind: Kind) -> None:
    assert "are served at WER 19.3 %" in what_to_do({**evidence(kind), "rows_an_hour": 40.0})[-1]


def test_what_moved_is_what_changed() -> None:
    assert what_changed(evidence(Kind.INPUT_SHIFT)) == ["snr_db: share above 12.5: 10 % → 31 %"]
    assert what_changed(evidence(Kind.DISPARITY)) == []


def test_nothing_is_to_be_done_about_what_is_over() -> None:
    assert len(what_to_do({**evidence(Kind.SILENCE), "state": "resolved"})) == 1
