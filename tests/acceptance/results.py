"""Writes the figures of a run into RESULTS.md, with the commit and the date; `make test-faults`.

    python tests/acceptance/results.py FIGURES.jsonl

Rows that the run did not have stay as they are.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# Results of the fault lanes

Written by `make test-faults WRITE=1` (lane C) and `make soak WRITE=1` (lane N); each row is of the
commit beside it. A row's test holds the promise and has a control that fails without the guard;
what is here is what it printed.

| what | lane | figures | commit | date |
|---|---|---|---|---|
"""
TAIL = """
Not run, and why:

- **A real power cut.** Nothing here can take a machine's power. Beneath SQLite a VFS forgets what
  was not synced; what PostgreSQL keeps through a power cut is its own promise, and its tests run
  without fsync.
- **Kafka.** There is no log on Kafka in this version, so nothing is promised of one.
- **Migrations from each released schema.** There is one schema so far. Tables from before
  migrations, those of a newer program, and a migration killed half-way are in
  `tests/twins/test_migrations.py`.
- **The soak in CI.** It warms up for four minutes and looks for five:
  `make soak SLICEWATCH_SOAK=memory`.
- **Full disks and inodes without root.** They mount a small file system; elsewhere they are
  skipped.
- In `make check`, and so without figures here: tenancy by routes and keys
  (`tests/acceptance/test_tenancy.py`), clock steps and daylight saving
  (`tests/unit/test_schedule.py`), pages in a real browser, and the ban on pickle and its like
  (`tests/unit/test_house.py`).
"""
ROW = re.compile(r"^\| (?P<row>[^|]+) \| (?P<lane>[CN]) \| .* \|$")


def written(path: Path) -> dict[tuple[str, str], str]:
    """The rows of a page, by what and lane."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(m["row"], m["lane"]): line for line in lines if (m := ROW.match(line))}


def rows(figures: Path, commit: str, date: str) -> dict[tuple[str, str], str]:
    """The rows of a run."""
    found = {}
    for line in map(json.loads, figures.read_text().splitlines()):
        what, lane = line["row"].replace("|", "/"), line["lane"]
        text = line["figures"].replace("|", "/")
        found[what, lane] = f"| {what} | {lane} | {text} | {commit} | {date} |"
    return found


def main(figures: Path) -> None:
    """Bring RESULTS.md up to date."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    date = git("log", "-1", "--format=%cs")
    table = written(RESULTS) | rows(figures, commit, date)
    RESULTS.write_text(HEAD + "".join(f"{table[key]}\n" for key in sorted(table)) + TAIL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
