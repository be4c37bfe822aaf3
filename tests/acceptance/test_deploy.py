"""deploy/README.md, step by step, as a person would run it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from service.check import check
from service.database import Database
from tests.postgres import Postgres

pytestmark = pytest.mark.fault

README: Final = Path(__file__).parents[2] / "deploy" / "README.md"


def steps() -> str:
    """The blocks of the page, in order, as one script."""
    blocks = re.findall(r"^```(.*?)\n(.*?)^```", README.read_text(), re.M | re.S)
    assert {kind for kind, _ in blocks} == {"sh", "sh postgresql"}
    return "\n".join(block for _, block in blocks)


def run(script: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it in bash, and end what it left running."""
    text = f"set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
        timeout=600,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_each_step_of_the_page_does_what_it_says(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.database()
    done = run(steps(), tmp_path, PORT=free_port(), POSTGRESQL_URL=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"accepted":1,"duplicates":0,"rejected":0,"errors":[]}' in done.stdout
    assert done.stdout.count("rows of acme\t1 = 1 + 0 + 0") == 4
    digests = re.findall(r"^digest\t(\w{64})$", done.stdout, re.M)
    assert len(digests) == 4 and len(set(digests)) == 1
    assert "keys rotate" in done.stdout and done.stdout.count('"model":"triage"') == 2
    database = Database(url)
    checked = check(database)
    database.close()
    assert checked.faults == [] and checked.digest == digests[0]
    assert (tmp_path / "from-postgresql.backup").exists()


def test_a_step_that_fails_fails_here(tmp_path: Path) -> None:
    assert run("slicewatch restore nothing.backup", tmp_path).returncode != 0
