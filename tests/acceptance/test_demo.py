"""`slicewatch demo`: it finds the slice, tells of it, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

DEMO = [sys.executable, "-m", "service", "demo"]


def environment(tmp_path: Path) -> dict[str, str]:
    """An empty home, and a place for temporary directories that can be looked into."""
    return {"PATH": os.defpath, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def services_in(tmp_path: Path) -> list[str]:
    """The command lines of processes that work in the demo's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(tmp_path) in os.readlink(process / "cwd"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it ended, or is not ours
    return found


def test_the_demo_finds_floor_7_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--once"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^(CRITICAL|WARNING)  disparity  floor=7", done.stdout, re.MULTILINE)
    assert re.search(r"came and were verified: [1-9]", done.stdout)
    assert re.search(r"look at    http://127\.0\.0\.1:\d+/alerts/al_\w+", done.stdout)
    assert "nothing here says anything about real people" in done.stdout
    assert len(re.findall(r"sw_[0-9a-f]{16}_", done.stdout)) == 1  # the key, once
    assert list(tmp_path.iterdir()) == []
    assert services_in(tmp_path) == []


def test_the_demo_stays_up_and_each_place_to_look_answers(tmp_path: Path) -> None:
    demo = subprocess.Popen(DEMO, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    printed = ""
    while "Up until Ctrl-C." not in printed:
        line = demo.stdout.readline()
        assert line, printed
        printed += line
    key = next(line for line in printed.splitlines() if line.startswith("sw_"))
    places = set(re.findall(r"http://127\.0\.0\.1:\d+/[^\s']+", printed))
    assert len(places) >= 5
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(headers=headers, trust_env=False, follow_redirects=True) as http:
        assert {place: http.get(place).status_code for place in places} == dict.fromkeys(
            places, 200
        )
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30)
    assert demo.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stops_in_the_middle_and_leaves_nothing_behind(
    tmp_path: Path, how: signal.Signals
) -> None:
    demo = subprocess.Popen(DEMO, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("14 days"):  # the replay is under way
            break
    demo.send_signal(how)
    rest, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert rest.endswith("Stopped.\n")
    assert list(tmp_path.iterdir()) == []
    assert services_in(tmp_path) == []
