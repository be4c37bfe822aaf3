"""What the checks share: one seeded run, and the boards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafana.build import DIRECTORY
from grafana.checks.seeded import Seeded, seeded
from grafana.house import Json


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="take grafana/pictures anew")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    with seeded(tmp_path_factory.mktemp("seeded")) as made:
        yield made


@pytest.fixture(params=["oncall", "model", "slice", "pipeline"])
def board(request: pytest.FixtureRequest) -> Json:
    return read(request.param)


def read(name: str) -> Json:
    """A board as it is committed."""
    board: Json = json.loads((DIRECTORY / f"slicewatch-{name}.json").read_text())
    return board


def written(board: Json, directory: Path) -> Path:
    """The board as a file."""
    path = directory / f"{board['uid']}.json"
    path.write_text(json.dumps(board))
    return path
