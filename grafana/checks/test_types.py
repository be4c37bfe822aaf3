"""Boards against the types of @grafana/schema, and typos that they must catch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grafana.build import DIRECTORY
from grafana.checks.conftest import read, written
from grafana.house import Json, panels

HERE = Path(__file__).parent


def checked(*boards: Path) -> tuple[int, str]:
    """Exit code, and what does not fit."""
    done = subprocess.run(
        ["node", "types.mjs", *map(str, boards)], cwd=HERE, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_every_board_fits_the_types() -> None:
    assert checked(*sorted(DIRECTORY.glob("*.json"))) == (0, "4 boards, 0 faults\n")


def panel(board: Json, type_: str) -> Json:
    return next(panel for panel in panels(board) if panel["type"] == type_)


def renamed(where: Json, name: str, typo: str) -> None:
    where[typo] = where.pop(name)


Fault = Callable[[Json], Any]

FAULTS: dict[str, Fault] = {
    "colour for color": lambda b: renamed(panel(b, "stat")["options"], "colorMode", "colourMode"),
    "no such mode": lambda b: panel(b, "stat")["options"].update(colorMode="values"),
    "no such placement": lambda b: panel(b, "timeseries")["options"]["legend"].update(
        placement="below"
    ),
    "no such line": lambda b: panel(b, "timeseries")["fieldConfig"]["defaults"]["custom"].update(
        lineInterpolation="smoothest"
    ),
    "width as text": lambda b: panel(b, "timeseries")["fieldConfig"]["defaults"]["custom"].update(
        lineWidth="2"
    ),
    "no such override": lambda b: panel(b, "table")["fieldConfig"]["overrides"][0].update(
        properties=[{"id": "custom.widht", "value": 3}]
    ),
    "wrong override": lambda b: panel(b, "table")["fieldConfig"]["overrides"][0].update(
        properties=[{"id": "custom.width", "value": "wide"}]
    ),
    "no such standard option": lambda b: renamed(
        panel(b, "bargauge")["fieldConfig"]["defaults"], "unit", "units"
    ),
    "no such part of a board": lambda b: renamed(b, "refresh", "refreshes"),
    "no such part of a query": lambda b: renamed(
        panel(b, "table")["targets"][0], "expr", "expression"
    ),
    "no such part of a variable": lambda b: renamed(
        b["templating"]["list"][1], "includeAll", "allIncluded"
    ),
}


def test_each_typo_is_caught(tmp_path: Path) -> None:
    paths = {}
    for number, (name, plant) in enumerate(FAULTS.items()):
        board = read("oncall")
        plant(board)
        board["uid"] = f"fault-{number}"
        paths[name] = written(board, tmp_path)
    code, printed = checked(*paths.values())
    assert code == 1
    missed = [name for name, path in paths.items() if f"{path.name} " not in printed]
    assert missed == []


@pytest.mark.parametrize("type_", ["news", "row-of-ducks"])
def test_a_panel_of_a_kind_without_types_is_an_error(tmp_path: Path, type_: str) -> None:
    board = read("oncall")
    panel(board, "stat")["type"] = type_
    done = subprocess.run(
        ["node", "types.mjs", str(written(board, tmp_path))], cwd=HERE, capture_output=True
    )
    assert done.returncode != 0
