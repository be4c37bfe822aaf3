"""Fixtures of every test: the two databases, so that what asks for `database` runs on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.database import Database
from tests.postgres import Postgres, name_of, programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A private PostgreSQL server, started when a test first asks for it."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with Postgres.started() as server:
        yield server


@pytest.fixture(scope="session")
def with_tables(postgres: Postgres) -> str:
    """The name of a database with its tables, to make others of: migrating each takes longer."""
    url = postgres.database()
    database = Database(url)
    database.create_tables()
    database.close()
    return name_of(url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without rows, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'slicewatch.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.database(request.getfixturevalue("with_tables"))
    yield url
    server.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with its tables."""
    database = Database(database_url)
    database.create_tables()
    yield database
    database.close()
