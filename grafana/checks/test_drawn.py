"""Panels as Grafana's own components draw them in a browser, from what a real run left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from grafana.checks.conftest import read
from grafana.checks.drawing import DRAWN_ALONE, Drawn, bundle, draw
from grafana.checks.seeded import Seeded
from grafana.house import Json, panels

PICTURES = Path(__file__).parents[1] / "pictures"
CHOSEN = {"slice": "floor=7"}  # on the board of one slice; All on the others


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("drawn")
    bundle(directory)
    yield directory


@pytest.fixture(scope="session")
def drawn(run: Seeded, workshop: Path, pytestconfig: pytest.Config) -> Callable[[str], Drawn]:
    """A board as drawn, once; its picture is kept where the pictures are to be taken anew."""
    pictures = PICTURES if pytestconfig.getoption("--pictures") else workshop

    @cache
    def of(name: str) -> Drawn:
        chosen = CHOSEN if name == "slice" else {}
        return draw(read(name), run, workshop, chosen, pictures / f"{name}.png")

    return of


@pytest.mark.parametrize("name", ["oncall", "model", "slice", "pipeline"])
def test_every_panel_is_drawn_with_its_data(name: str, drawn: Callable[[str], Drawn]) -> None:
    made = drawn(name)
    assert made.errors == []
    expected = [p["title"] for p in panels(read(name)) if p["type"] in DRAWN_ALONE]
    assert list(made.panels) == expected
    for title, panel in made.panels.items():
        if panel["type"] == "timeseries":
            assert panel["painted"] > 3_000, title  # axes alone are some 2,000 pixels
        else:
            assert any(c.isdigit() for c in panel["text"].removeprefix(title)), title


def test_the_first_row_for_those_on_call_says_it_all(drawn: Callable[[str], Drawn]) -> None:
    made = drawn("oncall")
    cells = made.panels["Who is hurt, worst first"]["text"].splitlines()
    first = cells[cells.index("floor=7") :]
    assert first[1].startswith("2026-03-0")  # since when
    assert "→" in first[2] and "→" in first[3]  # its loss, and the rest's
    assert "points" in first[4]
    assert made.panels["Evidence, slice by slice"]["text"].splitlines()[1] == "floor=7"


def test_rows_of_a_table_of_several_queries_are_joined(drawn: Callable[[str], Drawn]) -> None:
    cells = drawn("model").panels["Slices, worst first"]["text"].splitlines()
    row = cells[cells.index("floor=7") :][:12]
    assert row[-1] == "transcribe-medical" and "none" not in row


def test_a_component_that_cannot_draw_is_told(run: Seeded, workshop: Path) -> None:
    board: Json = read("oncall")
    board["uid"] = "broken"
    next(panels(board))["options"]["reduceOptions"]["calcs"] = ["noSuchReducer"]
    board["panels"] = board["panels"][:1]
    board["panels"][0]["transformations"] = [{"id": "noSuchTransformer", "options": {}}]
    assert draw(board, run, workshop, {}, workshop / "broken.png").errors != []
