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

pytestmark = pytest.mark.fault

README: Final = Path(__file__).parents[2] / "deploy" / "README.md"


def steps(kind: str = "sh") -> str:
    """The blocks of the page, in order, as one script."""
    return "\n".join(re.findall(rf"^```{kind}\n(.*?)^```", README.read_text(), re.M | re.S))


def run(script: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it in bash, and end what it left running."""
    text = f"set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_each_step_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    done = run(steps(), tmp_path, PORT=free_port())
    assert done.returncode == 0, done.stdout + done.stderr
    assert '{"accepted":1,"duplicates":0,"rejected":0,"errors":[]}' in done.stdout
    assert done.stdout.count("rows of acme\t1 = 1 + 0 + 0") == 3
    digests = re.findall(r"^digest\t(\w{64})$", done.stdout, re.M)
    assert len(digests) == 3 and len(set(digests)) == 1
    assert "keys rotate" in done.stdout and '"model":"triage"' in done.stdout
    assert (tmp_path / "moving.backup").exists()


def test_a_step_that_fails_fails_here(tmp_path: Path) -> None:
    assert run("slicewatch restore nothing.backup", tmp_path).returncode != 0
