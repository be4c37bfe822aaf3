"""Mix: who is in a slice is not how well they are served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.engine.fold import Fold
from service.ingest.events import PREDICTION, Categories
from tests import hospital
from tests.rows import DAY, START, fold_in

CHANGE = START + 8 * DAY


@pytest.mark.parametrize(("dimension", "value"), [("accent", "indian"), ("device", "handheld")])
def test_a_floor_that_others_come_to_is_not_said_to_be_served_worse(
    dimension: str, value: str
) -> None:
    """From the change on most recordings of a value are made on floor 3, as good or bad as ever."""
    rows = hospital.quiet()
    floor, who = rows.attributes["floor"], rows.attributes[dimension]
    moves = (rows.kind == PREDICTION) & (rows.time >= CHANGE)
    moves &= (who.codes == who.values.index(value)) & (np.arange(len(rows)) % 4 > 0)
    codes = np.where(moves, floor.values.index("3"), floor.codes).astype(np.int32)
    moved = replace(rows, attributes={**rows.attributes, "floor": Categories(codes, floor.values)})
    kinds = {t.alert.kind.value for t in fold_in(Fold(), moved)}
    assert not kinds & {"disparity", "error_rate", "labels"}
