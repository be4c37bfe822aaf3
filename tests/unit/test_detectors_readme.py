"""The README of the detectors holds: its example runs, and every public name has its row."""

from __future__ import annotations

import doctest
from pathlib import Path

import detectors

README = Path(detectors.__file__).with_name("README.md")


def test_the_example_runs() -> None:
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 8
    assert not result.failed


def test_every_public_name_has_a_row() -> None:
    rows = [line.split("|")[1] for line in README.read_text().splitlines() if line.startswith("|")]
    told = "".join(rows) + README.read_text().split("## What they stand on")[1]
    assert not [name for name in detectors.__all__ if f"`{name}`" not in told]
    fleets = {name for name in detectors.__all__ if hasattr(getattr(detectors, name), "restore")}
    assert all(f" `{name}` " in rows for name in fleets - {"Detector"})
