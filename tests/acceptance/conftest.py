"""What the fault lanes share: how large a run is, and where its figures go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.figures import Figures


@pytest.fixture(scope="session")
def is_full() -> bool:
    """This is the long lane, `make soak`: more of everything, and for longer."""
    return os.environ.get("SLICEWATCH_LANE") == "full"


@pytest.fixture
def figures(capsys: pytest.CaptureFixture[str], is_full: bool) -> Figures:
    """Prints the figures of a row of the matrix, and keeps them for RESULTS.md where asked to.

    figures("kill -9 under load", kills=30, acked=20_000, lost=0, double=0)
    """

    def tell(row: str, **numbers: object) -> None:
        said = " ".join(f"{name}={value}" for name, value in numbers.items())
        with capsys.disabled():
            print(f"\n{row}: {said}")  # noqa: T201 - what a person reads of a run
        if path := os.environ.get("SLICEWATCH_FIGURES"):
            line = {"row": row, "lane": "N" if is_full else "C", "figures": said}
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return tell
