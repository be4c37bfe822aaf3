"""Rules of the house that hold for every file, checked on the source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("service/**/*.py"), *ROOT.glob("detectors/**/*.py")])

# They run what they read. `literal_eval` and `yaml.safe_load` do not, and are allowed.
FORBIDDEN_MODULES = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__"})
FORBIDDEN_YAML = frozenset(
    {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
)


def offences(source: str) -> Iterator[str]:
    """What in a module can run what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                        yield f"line {node.lineno}: import {alias.name}"
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"line {node.lineno}: from {module}"
                if module == "yaml" and FORBIDDEN_YAML & {alias.name for alias in names}:
                    yield f"line {node.lineno}: from yaml"
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {name}()"
            case ast.Attribute(value=ast.Name(id="yaml"), attr=name) if name in FORBIDDEN_YAML:
                yield f"line {node.lineno}: yaml.{name}"
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                yield f"line {node.value.lineno}: allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    assert list(offences(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal",
        "from pickle import loads",
        "eval('1')",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nload = yaml.unsafe_load",
        "from yaml import full_load",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_rule_sees_each_offence(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize("source", ["import yaml\nyaml.safe_load(text)", "ast.literal_eval(text)"])
def test_the_rule_lets_the_safe_ones_pass(source: str) -> None:
    assert not list(offences(source))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_gives(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "needs a docstring"
    assert docstring.splitlines()[0].endswith((".", "?")), "its first line is a sentence"


def unnamed_transactions(source: str) -> Iterator[int]:
    """Lines where a transaction is opened on behalf of everyone."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Attribute(attr="database" | "_database"), attr="read" | "write"
                ),
                args=[],
            ):
                yield node.lineno


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("service/**/routes.py"), ROOT / "service/notify/endpoints.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_whoever_answers_requests_names_the_tenant_to_the_database(path: Path) -> None:
    """So that row-level security stands behind its queries."""
    assert list(unnamed_transactions(path.read_text())) == []


def test_the_rule_sees_a_transaction_without_a_tenant() -> None:
    source = "with running.database.read() as connection:\n    pass"
    assert list(unnamed_transactions(source)) == [1]
    assert list(unnamed_transactions(source.replace("()", "(tenant)"))) == []
