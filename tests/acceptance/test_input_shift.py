"""Inputs that move: a new sound on floor 7 is found before anyone is heard to suffer from it.

The control and the world in which it comes everywhere are made of the demo's own recordings, so
every acoustic figure in them was measured.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from service.backtest import backtest
from service.clock import SystemClock
from service.replay import Source
from tests.hospital import ONSET
from tests.rows import SECOND

ONSET_AT = datetime.fromtimestamp(ONSET // SECOND).astimezone()
LABELS = ("truth", "label_time", "inclusion_probability")

Alert = dict[str, Any]


@cache
def recorded() -> pa.Table:
    with (files("service.demo") / "hospital.parquet").open("rb") as file:
        return pq.read_table(file)


def alerts_of(table: pa.Table, directory: Path) -> list[Alert]:
    path = directory / "rows.parquet"
    pq.write_table(table, path)
    judged = backtest(Source((path,)), SystemClock())
    alerts: list[Alert] = msgspec.json.decode(judged.to_json())["alerts"]
    return alerts


def heard_as(table: pa.Table, rows: Any, others: Any) -> pa.Table:
    """The table with what was heard and recognised at `rows` replaced by that at `others`."""
    places = np.arange(table.num_rows)
    places[rows] = others
    heard = [n for n in table.column_names if n.startswith("features.")]
    for name in [*heard, "output", "confidence"]:
        column = table[name].take(pa.array(places))
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def drawn_like(table: pa.Table, rows: Any, pool: Any) -> Any:
    """For each of `rows` one of the pool, of the same accent and device."""
    rng = np.random.default_rng(5)
    columns = (table[f"attributes.{name}"].to_pylist() for name in ("accent", "device"))
    kinds = np.array(["/".join(pair) for pair in zip(*columns, strict=True)])
    others = np.empty(rows.size, np.intp)
    for kind in np.unique(kinds[rows]):
        mine = kinds[rows] == kind
        others[mine] = rng.choice(pool[kinds[pool] == kind], int(mine.sum()))
    return others


def is_after(table: pa.Table) -> Any:
    return pc.greater_equal(table["time"], pa.scalar(ONSET_AT)).to_numpy()


def is_floor_7(table: pa.Table) -> Any:
    return pc.equal(table["attributes.floor"], "7").to_numpy(zero_copy_only=False)


def test_the_new_sound_is_found_on_floor_7_within_six_hours_and_named(tmp_path: Path) -> None:
    alerts = alerts_of(recorded(), tmp_path)
    assert all(alert["slice"].get("floor") == "7" for alert in alerts)
    [shift] = [a for a in alerts if a["kind"] == "input_shift"]
    assert shift["slice"] == {"floor": "7"}
    harm = min((a for a in alerts if a["kind"] == "disparity"), key=lambda a: a["detected_at"])
    found_at, suffered_at = (datetime.fromisoformat(a["detected_at"]) for a in (shift, harm))
    assert ONSET_AT < found_at < ONSET_AT + timedelta(hours=6)
    assert found_at < suffered_at
    earliest, latest = map(datetime.fromisoformat, shift["onset_interval"])
    assert earliest <= ONSET_AT < latest

    pulse = re.search(r"pulses at ([\d.]+) Hz", shift["summary"])
    comb = re.search(r"comb spacing (\d+) Hz", shift["summary"])
    assert pulse is not None
    assert float(pulse[1]) == pytest.approx(5.5, rel=0.10)
    assert comb is not None
    assert float(comb[1]) == pytest.approx(620, rel=0.03)

    effect = shift["effect"]
    assert effect["because"] is None
    assert effect["labels"] == 0
    assert effect["rows"] >= 20
    assert re.match(r"share (above|at) .+: \d+ % → \d+ %$", effect["moved"])
    assert effect["feature"] in shift["summary"]
    assert abs(effect["after"] - effect["before"]) > 0.3
    assert abs(effect["rest_after"] - effect["rest_before"]) < 0.05


def test_without_any_label_the_shift_is_found_all_the_same(tmp_path: Path) -> None:
    alerts = alerts_of(recorded().drop_columns(list(LABELS)), tmp_path)
    assert [(a["kind"], a["slice"]) for a in alerts] == [("input_shift", {"floor": "7"})]
    found_at = datetime.fromisoformat(alerts[0]["detected_at"])
    assert ONSET_AT < found_at < ONSET_AT + timedelta(hours=6)


def test_where_nothing_changes_no_input_is_said_to_have_moved(tmp_path: Path) -> None:
    table = recorded()
    rows = np.flatnonzero(is_after(table) & is_floor_7(table))
    calm = np.flatnonzero(~is_after(table) & is_floor_7(table))
    quiet = heard_as(table, rows, drawn_like(table, rows, calm)).drop_columns(list(LABELS))
    assert alerts_of(quiet, tmp_path) == []


def test_a_sound_that_comes_to_every_floor_is_told_as_everywhere(tmp_path: Path) -> None:
    table = recorded()
    hit = is_after(table) & ~is_floor_7(table)
    rows = np.flatnonzero(hit)
    noisy = np.flatnonzero(is_after(table) & is_floor_7(table))
    everywhere = heard_as(table, rows, drawn_like(table, rows, noisy)).drop_columns(list(LABELS))
    alerts = alerts_of(everywhere, tmp_path)
    assert [a["slice"] for a in alerts if a["explained_by"] is None] == [{}]
    assert alerts[0]["slice"] == {}
    assert "everywhere" in alerts[0]["summary"]
    assert "pulses at 5.5 Hz" in alerts[0]["summary"]
