"""The README's claims about the repository, held against it.

Run as a program, it writes the section "The files" anew.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import typer.core
import typer.main

from service.__main__ import app
from service.client import Client
from service.clock import SystemClock
from service.ingest.events import LABEL, PREDICTION
from service.ingest.json_rows import decode_json
from service.monitors import read_monitors

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PACKAGES = ("service", "detectors")


def file_list() -> str:
    """The section "The files" as it should read: each module with its docstring's first line."""
    lines = ["| file | |", "|---|---|"]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py"), key=_place):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = docstring.splitlines()[0].replace("|", "\\|")
            lines.append(f"| `{path.relative_to(ROOT)}` | {first} |")
    return "\n".join(lines)


def _place(path: Path) -> tuple[Path, bool, str]:
    return path.parent, path.name != "__init__.py", path.name


def section(title: str) -> str:
    """What stands under a heading."""
    _, found, rest = README.partition(f"\n## {title}\n")
    assert found, f"the README has no section {title!r}"
    return rest.partition("\n## ")[0]


def rewrite_file_list() -> None:
    """Put the list as it should read into the README."""
    heading = "\n## The files\n"
    before, _, after = README.partition(heading + section("The files"))
    (ROOT / "README.md").write_text(f"{before}{heading}\n{file_list()}\n{after}")


def test_the_file_list_is_the_modules_first_docstring_lines() -> None:
    table = "\n".join(line for line in section("The files").splitlines() if line.startswith("|"))
    assert table == file_list(), "`make format` writes it anew"


def test_the_events_it_shows_are_accepted() -> None:
    shown = "\n".join(re.findall(r"^\{.*\}$", README, re.MULTILINE)).encode()
    batch, rejected = decode_json(shown, SystemClock().now(), max_rows=10)
    assert (batch.kind.tolist(), rejected) == ([PREDICTION, LABEL], [])


def test_the_monitors_it_shows_are_valid(tmp_path: Path) -> None:
    shown = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown
    for text in shown:
        (tmp_path / "monitors.yaml").write_text(text)
        assert read_monitors(tmp_path / "monitors.yaml")


def test_the_python_it_shows_calls_methods_that_are_there() -> None:
    shown = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for text in (each for each in shown if "service.client" in each):
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert methods
        assert all(hasattr(Client, method) for method in methods)


def test_every_make_target_it_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_command_it_names_is_there() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    commands = set(group.commands)
    named = set(re.findall(r"\bslicewatch ([a-z]+)", README))
    assert named
    assert named <= commands


def test_every_path_in_backquotes_that_looks_like_ours_is_there() -> None:
    for path in re.findall(r"`((?:service|detectors|tests)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", ["demo", "test", "check", "venv", "bench", "format"])
def test_every_make_target_says_what_it_does(target: str) -> None:
    answer = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"^  make {target} +\w", answer.stdout, re.MULTILINE)


if __name__ == "__main__":
    rewrite_file_list()
