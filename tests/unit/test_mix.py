"""Mix: who is in a slice is not how well they are served."""

from __future__ import annotations

import pytest

from service.engine.fold import Fold
from tests import hospital
from tests.hospital import percent_on_floor_3
from tests.rows import DAY, START, fold_in

CHANGE = START + 8 * DAY


@pytest.mark.parametrize(
    ("dimension", "value", "told"),
    [
        ("accent", "indian", ["accent=indian: 23 %"]),
        ("device", "handheld", []),  # with 7 % more to be expected, there is nothing to tell
    ],
)
def test_a_floor_that_others_come_to_is_not_said_to_be_served_worse(
    dimension: str, value: str, told: list[str]
) -> None:
    """From the change on most recordings of a value are made on floor 3, as good or bad as ever."""
    rows = hospital.moving(dimension, value, CHANGE)
    alerts = [t.alert for t in fold_in(Fold(), rows)]
    assert not {alert.kind.value for alert in alerts} & {"disparity", "error_rate", "labels"}
    compositions = [alert for alert in alerts if alert.kind == "composition"]
    assert [alert.effect.moved for alert in compositions] == [
        f"{before} → {percent_on_floor_3(rows, dimension, value, alert.onset, alert.detected_at)} %"
        for before, alert in zip(told, compositions, strict=True)
    ]
    assert {alert.slice for alert in compositions} <= {(("floor", "3"),)}
